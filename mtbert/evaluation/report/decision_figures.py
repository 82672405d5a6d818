"""Figures of fitted decisions: precision-recall curves, and reliability before and after the temperature."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

from matplotlib.figure import Figure

from .figures import COLOURS, DASHES, MARKERS


def precision_recall(labels: Mapping[str, Any], title: str) -> Figure:
    """Draw the precision-recall curve of each label, with a mark where its threshold decides."""
    figure = Figure(figsize=(6, 4.6), layout="constrained")
    axes = figure.subplots()
    for (label, found), (colour, dash, marker) in zip(
        labels.items(), zip(cycle(COLOURS), cycle(DASHES), cycle(MARKERS))
    ):
        curve, decided = found["curve"], found["with"]
        axes.plot(curve["recall"], curve["precision"], dash, color=colour, label=label)
        if None not in (decided["recall"], decided["precision"]):
            axes.plot([decided["recall"]], [decided["precision"]], marker, color=colour, markersize=8)
    axes.set(
        title=f"{title}: precision and recall", xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02)
    )
    axes.grid(alpha=0.3)
    if len(labels) <= 8:
        axes.legend()
    else:
        figure.legend(loc="outside right upper", fontsize="small")
    return figure


def reliability_before_and_after(found: Mapping[str, Any], title: str) -> Figure:
    """Draw accuracy against confidence by bins, before and after the temperature."""
    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], ":", color="black", label="perfectly calibrated")
    for side, colour, dash, marker in (("before", COLOURS[1], "--", "s"), ("after", COLOURS[0], "-", "o")):
        bins = found[side]["bins"]
        points = [[interval[key] for interval in bins] for key in ("confidence", "accuracy")]
        label = f"{side}: ECE {found[side]['ece']:.3f}"
        axes.plot(*points, dash, color=colour, marker=marker, label=label)
    axes.set(title=f"{title}: reliability", xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    return figure


def precision_recall_curves(labels: Mapping[str, Any], title: str) -> Figure:
    """Draw the precision-recall curve of each label (see `threshold_curves.label_curves`)."""
    figure, axes = _shares(f"{title}: precision and recall", "recall", "precision")
    styles = zip(cycle(COLOURS), cycle(DASHES))
    for (label, found), (colour, dash) in zip(labels.items(), styles):
        name = f"{label[:24]}{'…' if len(label) > 24 else ''}, AP {found['average_precision']:.2f}"
        axes.plot(found["curve"]["recall"], found["curve"]["precision"], dash, color=colour, label=name)
    axes.legend(fontsize="small", loc="lower left")
    return figure


def by_threshold(found: Mapping[str, Any], title: str) -> Figure:
    """Draw precision, recall and F1 of a label by the threshold of its probability."""
    figure, axes = _shares(f"{title}: by threshold", "threshold of the probability", "value")
    for key, colour, dash in zip(("precision", "recall", "f1"), COLOURS, DASHES, strict=False):
        values = [float("nan") if value is None else value for value in found[key]]
        axes.plot(found["threshold"], values, dash, color=colour, label="F1" if key == "f1" else key)
    axes.legend(fontsize="small")
    return figure


def by_confidence(found: Mapping[str, Any], title: str) -> Figure:
    """Draw the accuracy and the share of the rows whose confidence reaches a threshold."""
    figure, axes = _shares(f"{title}: by confidence", "threshold of the confidence", "share")
    accuracy = [float("nan") if value is None else value for value in found["accuracy"]]
    axes.plot(found["threshold"], accuracy, DASHES[0], color=COLOURS[0], label="accuracy of the answered rows")
    axes.plot(found["threshold"], found["share"], DASHES[1], color=COLOURS[1], label="share of rows answered")
    axes.legend(fontsize="small", loc="lower left")
    return figure


def _shares(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Any]:
    """A figure with axes of two shares, from 0 to 1."""
    figure = Figure(figsize=(5, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xlim=(0, 1.02), ylim=(0, 1.02))
    axes.grid(alpha=0.5)
    return figure, axes
