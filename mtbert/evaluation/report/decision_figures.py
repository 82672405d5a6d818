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
