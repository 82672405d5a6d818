"""The section of a report on a task's fitted decisions: what was fitted, and its cross-fitted figures and curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import decision_figures
from .parts import Picture, Section, Table, as_table

NOTE = (
    "Every figure here is cross-fitted: each row was decided by a temperature, threshold or quantile that was fitted "
    "without its fold. The figures of the other sections use the fit on all rows, and are too good where these rows "
    "are the rows that it was fitted on. docs/decisions.md says what each figure promises."
)
MOST_LABELS = 24  # curves of a figure; with more, they are those of the labels with the most rows


def decision_section(name: str, figures: Mapping[str, Any]) -> Section:
    """Return the section "Decisions" of a task.

    Args:
        name: the task.
        figures: see `mtbert.evaluation.calibration.calibrate_task`.
    """
    rows, folds = figures["rows"], len(figures["folds"])
    notes = [f"Fitted on {rows:,} rows of the {figures['split']} split; {folds} folds, seed {figures['seed']}.", NOTE]
    if figures["approximate"]:
        notes.append(f"Note that {figures['approximate']}.")
    notes += [f"Note: {note}." for note in figures["notes"]]
    items: list[Table | Picture] = [as_table("Fitted on all rows", _fitted(figures["calibration"]))]
    if "reliability" in figures:
        sides = ("before", "after")
        items.append(
            as_table(
                "Probabilities, before and after the temperature",
                [
                    {"": side, "log loss": figures["nll"][side], "ECE": figures["reliability"][side]["ece"]}
                    for side in sides
                ],
            )
        )
        figure = decision_figures.reliability_before_and_after(figures["reliability"], name)
        items.append(Picture(f"{name}.reliability_fitted", figure, "Of the most probable label, cross-fitted."))
    if "thresholds" in figures:
        items += _thresholds(name, figures)
    items += _sets(figures)
    return Section(f"{name}: decisions", 3, tuple(notes), tuple(items))


def _fitted(calibration: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = {
        "temperature": "temperature",
        "coverage": "coverage of sets or intervals",
        "quantile": "quantile of the nonconformity score",
        "abstain_below": "abstain below the confidence",
    }
    rows = [{"": what, "value": calibration[key]} for key, what in names.items() if calibration.get(key) is not None]
    return rows or [{"": "nothing", "value": None}]


def _thresholds(name: str, figures: Mapping[str, Any]) -> list[Table | Picture]:
    rows = []
    for label, found in figures["thresholds"].items():
        row = {"label": label, "rows": found["rows"], "threshold": found["threshold"]}
        for side in ("without", "with"):
            row |= {f"{rate} {side}": found[side][rate] for rate in ("precision", "recall", "f1")}
        rows.append(row)
    most = sorted(figures["thresholds"].items(), key=lambda item: -item[1]["rows"])[:MOST_LABELS]
    figure = decision_figures.precision_recall(dict(most), name)
    caption = "Precision and recall at every threshold of the cross-fitted probabilities; marks: the decisions taken."
    table = as_table("Labels, without and with their thresholds", rows)
    return [table, Picture(f"{name}.precision_recall", figure, caption)]


def _sets(figures: Mapping[str, Any]) -> list[Table | Picture]:
    items: list[Table | Picture] = []
    if "sets" in figures:
        sets = {key: value for key, value in figures["sets"].items() if key != "sizes"}
        items.append(as_table("Sets of labels: asked and measured coverage", [sets]))
        sizes = [{"labels in the set": int(size), "share of rows": n} for size, n in figures["sets"]["sizes"].items()]
        items.append(as_table("Sizes of the sets", sizes))
    if "intervals" in figures:
        items.append(as_table("Intervals: asked and measured coverage", [figures["intervals"]]))
    if "abstention" in figures:
        items.append(as_table("Abstention: share of rows, and accuracy of the rest", [figures["abstention"]]))
    return items
