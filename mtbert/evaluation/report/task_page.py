"""Arrange the numbers of one task into a chapter: scores, labels, curves, calibration, errors, lengths, groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..metrics import METRICS
from . import figures
from .decisions import decision_section
from .label_sections import curve_section, label_section, mistakes, suspects
from .parts import Item, Picture, Section, Table, Tokens, as_table, example_table, shown

LENGTHS = {"length": "length in words", "length_difference": "difference of a pair's lengths in words"}
DEEPEST_TOKEN = 60  # percent of the accent colour behind the token with the largest weight


def task_sections(
    name: str, task: Mapping[str, Any], numbers: Mapping[str, Any], facts: Mapping[str, Any]
) -> list[Section]:
    """Return the chapter of a task.

    Args:
        name: the task.
        task: its analysis.
        numbers: as for `page.sections`.
        facts: what is known of its data (see `data_facts`); may be empty.
    """
    if not task["rows"]:
        return [Section(name, notes=("No row has a label.",), aside="no labelled row")]
    run, most = numbers["run"], numbers["run"]["examples"]
    scores = {key: value for key, value in task["scores"].items() if key in METRICS}
    items: list[Item] = [Table("Scores by every metric that suits the task", tuple(scores), (tuple(scores.values()),))]
    if "within_one" in task:
        items.append(_within_one(task["within_one"]))
    aside = f"{task['main']} {shown(task['scores'][task['main']])}, {task['rows']:,} rows"
    parts = [Section(name, 2, tuple(undefined_notes(name, task["scores"])), tuple(items), aside)]
    for table in task.get("tables", ()):
        parts.append(Section(table["title"], 3, tuple(table["notes"]), (as_table(table["title"], table["rows"]),)))
    if "classes" in task or "labels" in task:
        parts.append(label_section(name, task, facts))
    if "decision_curves" in task:
        parts.append(curve_section(name, task["decision_curves"]))
    if "calibration" in task:
        parts.append(_calibration(name, task["calibration"]))
    if "decisions" in task:
        parts.append(decision_section(name, task["decisions"]))
    if "points" in task:
        parts.append(_points(name, task, most))
    if "signed_error" in task:
        parts.append(_signed_errors(name, task["signed_error"]))
    parts.append(_errors(task, most, run["split"] != "train"))
    parts.append(_lengths(name, task))
    if "attention" in task:
        parts.append(_attention(name, task["attention"]))
    parts += [_group(name, column, groups, task["main"]) for column, groups in task["groups"].items()]
    return [*parts, *_learning(name, numbers["curves"]["tasks"].get(name))]


def undefined_notes(name: str, scores: Mapping[str, float]) -> list[str]:
    """Return a sentence for each score of a task that is undefined."""
    notes = []
    for key in scores:
        metric = key.removesuffix("_undefined")
        if metric == "msle" != key:
            notes.append(f"{name}: msle is undefined, since a score is −1 or less.")
        elif metric != key:
            cause = "predictions or labels are constant, or there are fewer than 2 rows"
            notes.append(f"{name}: {metric} is undefined and counts as 0 ({cause}).")
    return notes


def _within_one(shares: Mapping[str, float]) -> Table:
    if "within_one_point" in shares:
        return as_table("Near the label", [{"": "|predicted − true| ≤ 1", "share of rows": shares["within_one_point"]}])
    rows = [{"": key.replace("_", " "), "share of rows": share} for key, share in shares.items()]
    return as_table("Near the label, where the order of the classes has a meaning", rows)


def _points(name: str, task: Mapping[str, Any], most: int) -> Section:
    points = task["points"]
    picture = Picture(f"{name}.scatter", figures.scatter(points["label"], points["predicted"], name), "")
    outliers = example_table("Residuals beyond 3 robust standard deviations", task["outliers"], most, folded=True)
    note = (
        "z is the residual's distance from the median residual in units of 1.4826 · the median absolute deviation "
        "(Leys et al., 2013). Such labels may be wrong; or the model is."
    )
    return Section("Predicted against true", 3, (note,), (picture, outliers))


def _signed_errors(name: str, found: Mapping[str, Any]) -> Section:
    picture = Picture(f"{name}.signed_error", figures.signed_errors(found, LENGTHS, f"{name}: signed error"), "")
    notes = ["The signed error is predicted − true: above 0, the model's scores, or ranks, are too high."]
    left_out = found["length"]["points_left_out"]
    if left_out:
        shown_rows = len(found["length"]["points"]["length"])
        notes.append(f"The points are {shown_rows:,} rows, evenly chosen; {left_out:,} are left out. Means are of all.")
    tables = [
        as_table(f"Mean signed error by {LENGTHS[key]}", measure["bins"], folded=True) for key, measure in found.items()
    ]
    return Section("Signed error by length", 3, tuple(notes), (picture, *tables))


def _calibration(name: str, found: Mapping[str, Any]) -> Section:
    caption = (
        f"ECE {shown(found['ece'])}, largest gap {shown(found['mce'])}; 15 bins of equal width (Guo et al., 2017). "
        "The model is too sure where the bars stay below the diagonal."
    )
    picture = Picture(f"{name}.reliability", figures.reliability(found, name), caption)
    return Section("Calibration", 3, items=(picture, as_table("Bins", found["bins"], folded=True)))


def _errors(task: Mapping[str, Any], most: int, out_of_sample: bool) -> Section:
    items: list[Item] = [example_table("Largest losses", task["worst"], most), *mistakes(task, most)]
    notes = []
    if "classes" in task or "labels" in task:
        items.append(suspects(task, most))
        notes.append(
            "Suspected labels by confident learning (Northcutt, Jiang and Chuang, 2021): another class reaches its own "
            "threshold, the mean probability that the model gives it where it is the label. Self-confidence is the "
            "probability of the label given."
        )
        if not out_of_sample:
            notes.append(
                "The model was trained on these rows; confident learning wants rows that it was not trained on."
            )
    return Section("Worst errors", 3, tuple(notes), tuple(items))


def _lengths(name: str, task: Mapping[str, Any]) -> Section:
    pictures: list[Item] = []
    tables: list[Item] = []
    error = "mean |predicted − true|" if task["problem_type"] == "regression" else "error rate"
    for key, what in LENGTHS.items():
        if key in task:
            by_length = task[key]
            rank = "undefined" if "spearman_undefined" in by_length else shown(by_length["spearman"])
            caption = f"Spearman's correlation of {what} and error: {rank}."
            figure = figures.by_length(by_length, f"{name}: error by {what.partition(' in ')[0]}", what, error)
            pictures.append(Picture(f"{name}.{key}", figure, caption))
            tables.append(as_table(f"Rows by {what}", by_length["bins"], folded=True))
    return Section("Error by length", 3, items=(*pictures, *tables))


def _attention(name: str, found: Mapping[str, Any]) -> Section:
    note = (
        "The head's attention weighs the hidden states of a row's tokens; its query is the pooled output. Entropy is "
        "−Σ w ln w / ln(length): 1 if all tokens have equal weights, 0 if one has all. Weights are means over heads."
    )
    names = {"first": "first token", "separators": "separators", "rest": "all other tokens"}
    rows = [
        {"": what, "weight": found[key], "with equal weights": found["uniform"][key]} for key, what in names.items()
    ]
    rows.append({"": "entropy", "weight": found["entropy"], "with equal weights": 1.0})
    items: list[Item] = [as_table(f"Mean over {found['rows']:,} rows", rows)]
    if found["examples"]:
        items.append(_tokens(found["examples"]))
        figure = figures.attention(found["examples"], f"{name}: weights of the head's attention")
        items.append(Picture(f"{name}.attention", figure, "", on_page=False))
    return Section("What the head reads", 3, (note,), tuple(items))


def _tokens(examples: Any) -> Tokens:
    rows = []
    for example in examples:
        top = max(example["weights"]) or 1.0
        pairs = zip(example["tokens"], example["weights"], strict=True)
        tokens = [(token, round(DEEPEST_TOKEN * weight / top)) for token, weight in pairs][: figures.MOST_TOKENS]
        left_out = len(example["tokens"]) - len(tokens)
        tokens += [(f"… and {left_out} more tokens", 0)] if left_out else []
        head = f"Row {example['row']}: true {example['label']}, predicted {example['predicted']}"
        rows.append((head, tuple(tokens)))
    return Tokens("Evenly chosen rows; report.json has all their weights", tuple(rows))


def _group(name: str, column: str, found: Mapping[str, Any], metric: str) -> Section:
    value = "accuracy" if "accuracy" in found["groups"][0] else metric
    notes = [
        "Gaps of small groups are mostly chance: compare with the intervals. The gap of a selection rate is the "
        "demographic parity difference; the larger of the gaps of the two false rates is the equalized odds "
        "difference (Hardt, Price and Srebro, 2016)."
    ]
    if value == metric and value != "accuracy":
        notes = ["Gaps of small groups are mostly chance. bias is the mean of predicted − true."]
    if found["left_out"]:
        notes.append(f"{found['left_out']} smaller groups are left out.")
    undefined = [group["group"] for group in found["groups"] if f"{metric}_undefined" in group]
    if undefined:
        notes.append(f"{metric} is undefined and stands as 0 in: {', '.join(undefined)}; no gap counts it.")
    rows = [{key: cell for key, cell in group.items() if not key.endswith("_undefined")} for group in found["groups"]]
    picture = Picture(f"{name}.by.{column}", figures.groups(found, value, f"{name}: {value} by {column}"), "")
    items = (picture, as_table(f"Groups of {column}", rows), as_table("Gaps between groups", found["gaps"]))
    return Section(f"Groups by {column}", 3, tuple(notes), items)


def _learning(name: str, curves: Mapping[str, Any] | None) -> list[Section]:
    if curves is None or not (curves["loss"] or curves["dev"] or curves["train"]):
        return []
    return [
        Section("Learning curves", 3, items=(Picture(f"{name}.curves", figures.learning_curves(curves, name), ""),))
    ]
