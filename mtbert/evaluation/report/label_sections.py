"""The sections of a task's labels: one table of all labels, confusions, curves by threshold, and mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import decision_figures, figures
from .parts import Item, Matrix, Picture, Section, Table, as_table, example_table

MOST_IN_MATRIX = 30  # labels of a confusion matrix on the page
MOST_CONFUSIONS = 10  # pairs of labels in the table of confusions
MOST_CURVES = 8  # labels of a figure of curves


def label_section(name: str, task: Mapping[str, Any], facts: Mapping[str, Any]) -> Section:
    """Return the section "Labels" of a task: the table, the confusion matrix, and the most frequent confusions.

    Args:
        name: the task.
        task: its analysis.
        facts: what is known of its data; may be empty.
    """
    curves = task.get("decision_curves", {}).get("labels", {})
    train = facts.get("labels", {}).get("counts", {})
    rows = []
    for label, rates in _rates(task):
        row: dict[str, Any] = {"label": label}
        if train:
            row["training rows"] = train.get(label)
        row |= {"rows": rates["rows"], "predicted": rates["predicted"]}
        row |= {key: rates[key] for key in ("precision", "recall", "f1")}
        if curves:
            curve = curves.get(label, {})
            row["average precision"] = curve.get("average_precision")
        row |= {"false positives": rates["false_positives"], "false negatives": rates["false_negatives"]}
        rows.append(row)
    items: list[Item] = [as_table("Each label against the rest", rows)]
    if "classes" in task:
        items += _confusions(name, task["classes"])
    for label, decisions in task.get("labels", {}).items():
        figure = figures.confusion(
            decisions["counts"], decisions["rates"], decisions["names"], f"{name}, label {label}"
        )
        items.append(Picture(f"{name}.{label}.confusion", figure, "", on_page=False))
    return Section("Labels", 3, items=tuple(items))


def _rates(task: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if "classes" in task:
        for rates in task["classes"]["per_class"]:
            yield rates["class"], rates
    for label, decisions in task.get("labels", {}).items():
        yield label, decisions["per_class"][1]


def _confusions(name: str, found: Mapping[str, Any]) -> list[Item]:
    names, counts, rates = tuple(found["names"]), found["counts"], found["rates"]
    items: list[Item] = []
    if len(names) <= MOST_IN_MATRIX:
        items.append(
            Matrix(
                "Rows by true and predicted label; the shade is the share of the true label",
                "true",
                "predicted",
                names,
                names,
                tuple(tuple(f"{count:,}" for count in row) for row in counts),
                tuple(tuple(row) for row in rates),
            )
        )
    wrong = [
        {"true": names[i], "predicted": names[j], "rows": count, "share of the true label": rates[i][j]}
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
        if i != j and count
    ]
    wrong.sort(key=lambda row: -row["rows"])
    if len(names) > 2 and wrong:
        items.append(example_table("The most frequent confusions", wrong, MOST_CONFUSIONS))
    figure = figures.confusion(counts, rates, names, name)
    return [*items, Picture(f"{name}.confusion", figure, "", on_page=False)]


def curve_section(name: str, found: Mapping[str, Any]) -> Section:
    """Return the section "Thresholds" of a task.

    Args:
        name: the task.
        found: result of `threshold_curves.decision_curves`.
    """
    drawn = {label: curves for label, curves in found["labels"].items() if curves["rows"]}
    most = dict(sorted(drawn.items(), key=lambda item: -item[1]["rows"])[:MOST_CURVES])
    notes, items = [], list[Item]()
    if len(most) < len(drawn):
        notes.append(f"The curves are those of the {len(most)} labels with the most rows.")
    if most:
        caption = "Of each label against the rest; AP is the average precision."
        items.append(Picture(f"{name}.curves_pr", decision_figures.precision_recall_curves(most, name), caption))
    if "confidence" in found:
        caption = "If only rows whose confidence reaches the threshold are answered."
        figure = decision_figures.by_confidence(found["confidence"], name)
        items.append(Picture(f"{name}.curves_confidence", figure, caption))
    if most and ("confidence" not in found or len(found["labels"]) == 1):
        label = next(iter(most))
        curves = most[label]
        caption = f"Of the label {label}, which has the most rows." if len(drawn) > 1 else ""
        figure = decision_figures.by_threshold(curves["by_threshold"], f"{name}: {label}"[:60])
        items.append(Picture(f"{name}.curves_threshold", figure, caption))
        rows = [
            {
                "label": label,
                "best threshold": curves["best"]["threshold"],
                "F1 there": curves["best"]["f1"],
                "F1 at 0.5": _at_half(curves["by_threshold"]),
            }
            for label, curves in drawn.items()
        ]
        items.append(as_table("Thresholds with the best F1 on these rows, which flatters them", rows, folded=True))
    return Section("Thresholds", 3, tuple(notes), tuple(items))


def _at_half(curves: Mapping[str, Sequence[float]]) -> float:
    return curves["f1"][min(range(len(curves["threshold"])), key=lambda i: abs(curves["threshold"][i] - 0.5))]


def mistakes(task: Mapping[str, Any], most: int) -> list[Table]:
    """Return a table of the wrong decisions of which the model is surest; of multi-label tasks, two tables."""
    if "classes" in task:
        rows = [row for examples in task["classes"]["false_negatives"].values() for row in examples]
        rows += [row for examples in task["classes"]["false_positives"].values() for row in examples]
        once = {(row["row"], row["label"], row["predicted"]): row for row in rows}
        surest = sorted(once.values(), key=lambda row: -row["confidence"])[:most]
        return [as_table("The surest mistakes", surest, folded=True)] if surest else []
    tables = []
    for key, title in (("false_positives", "Wrongly given labels"), ("false_negatives", "Missed labels")):
        rows = []
        for label, decisions in task.get("labels", {}).items():
            rows += [
                {**_without_sides(row), "label": label, "confidence": row["confidence"]}
                for row in decisions[key][label]
            ]
        surest = sorted(rows, key=lambda row: -row["confidence"])[:most]
        if surest:
            tables.append(as_table(f"{title}, the surest first", surest, folded=True))
    return tables


def _without_sides(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("label", "predicted", "confidence")}


def suspects(task: Mapping[str, Any], most: int) -> Table:
    """Return the table of labels that are probably wrong, of all labels together."""
    if "classes" in task:
        rows = task["classes"]["suspects"]
    else:
        rows = [row for decisions in task["labels"].values() for row in decisions["suspects"]]
        rows = sorted(rows, key=lambda row: row["self_confidence"])
    return example_table("Suspected wrong labels, the lowest self-confidence first", rows, most, folded=True)
