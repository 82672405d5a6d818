"""Figures of a study of sharing: affinities between tasks, their course, and what sharing gains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .figures import COLOURS, _line, _panels, _styles, heat_map

VERDICTS = {"gains": COLOURS[2], "loses": COLOURS[5], "undecided": "#777777"}


def affinity(found: Mapping[str, Any]) -> Figure:
    """Draw the mean look-ahead affinity of each pair of tasks in thousandths, beside its spread."""
    side = 2.6 + 0.55 * len(found["tasks"])
    figure, panels = _panels(2, side + 1.2, side)
    for axes, key in zip(panels, ("mean", "spread"), strict=True):
        values = 1000 * np.asarray(found["affinity"][key], dtype=np.float64)
        limit = max(float(np.nan_to_num(np.abs(values)).max(initial=0.0)), 1e-6)
        heat_map(axes, values, found["tasks"], limit, "affinity · 1000", 2 if limit < 10 else 1)
        what = "mean" if key == "mean" else "standard deviation over measurements"
        axes.set(title=f"Look-ahead affinity: {what}", xlabel="task whose loss falls", ylabel="task of the step")
    return figure


def cosines(found: Mapping[str, Any]) -> Figure:
    """Draw the mean cosine of each pair of tasks' gradients, beside its spread."""
    side = 2.6 + 0.55 * len(found["tasks"])
    figure, panels = _panels(2, side + 1.2, side)
    for axes, key in zip(panels, ("mean", "spread"), strict=True):
        heat_map(axes, found["cosines"][key], found["tasks"], 1.0, "cosine")
        what = "mean" if key == "mean" else "standard deviation over measurements"
        axes.set(title=f"Gradient cosines: {what}", xlabel="task", ylabel="task")
    return figure


def cosine_course(found: Mapping[str, Any]) -> Figure:
    """Draw each task's mean cosine with the other tasks, by step."""
    figure, (axes,) = _panels(1, 7.5, 4)
    for (task, course), style in zip(found["course"].items(), _styles()):
        if course:
            _line(axes, course, task, style, "step")
    axes.axhline(0, color="black", linewidth=0.8)
    title = "Gradient cosines by step (below 0: the tasks conflict)"
    axes.set(title=title, xlabel="step", ylabel="mean cosine with the other tasks")
    if any(found["course"].values()):
        figure.legend(loc="outside right upper", fontsize="small")
    return figure


def sharing(found: Mapping[str, Any]) -> Figure:
    """Draw what each task gains or loses by sharing, in points with 95 % intervals."""
    return _intervals(found["tasks"], "What sharing gains: one joint model − a model of each task")


def adapters(found: Mapping[str, Any]) -> Figure:
    """Draw what each task gains or loses by adapters, in points with 95 % intervals."""
    return _intervals(found["tasks"], "What adapters gain: with them − without them")


def form_differences(found: Mapping[str, Any]) -> Figure:
    """Draw the difference of each form's mean from that of one form, in points with 95 % intervals."""
    rows = {}
    for name, row in found["differences"].items():
        verdict = "undecided"
        if row["low"] > 0 or row["high"] < 0:
            verdict = "gains" if row["low"] > 0 else "loses"
        rows[name] = {**row, "verdict": verdict}
    return _intervals(rows, f"Mean over tasks: each form − {found['against']}", "form")


def _intervals(rows: Mapping[str, Any], title: str, what: str = "task") -> Figure:
    figure, (axes,) = _panels(1, 7, 1.6 + 0.34 * max(1, len(rows)))
    for place, row in enumerate(rows.values()):
        middle, low, high = (100 * row[key] for key in ("difference", "low", "high"))
        colour = VERDICTS[row["verdict"]]
        axes.plot([low, high], [place, place], "-", color=colour, linewidth=2)
        axes.plot([middle], [place], "o", color=colour)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set(title=title, xlabel="points, with 95 % intervals (grey: undecided)", ylabel=what)
    return figure
