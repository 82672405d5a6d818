"""Arrange the numbers of a report into sections with notes, tables and figures. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..metrics import METRICS
from . import figures
from .decisions import decision_section
from .parts import Picture, Section, Table, as_table, example_table, shown

LENGTHS = {"length": "length in words", "length_difference": "difference of a pair's lengths in words"}


def sections(numbers: Mapping[str, Any]) -> list[Section]:
    """Return the sections of the whole page.

    Args:
        numbers: the result of `analyse_run`, with two more keys: `comparison`, the result of `compare_runs`, if two
            runs are compared; and `run`: `name`, `against` (None, or the other run's name), `split`, `notes`
            (sentences), `examples` (number of rows in a table of examples), `seed` and `resamples` of the bootstrap.
    """
    parts = [_overview(numbers)]
    if numbers.get("comparison"):
        parts += _comparison(numbers["comparison"], numbers["run"])
    for name, task in numbers["tasks"].items():
        parts += _task(name, task, numbers["run"])
    return [*parts, *_training(numbers)]


def _overview(numbers: Mapping[str, Any]) -> Section:
    run, recorded, rows, notes = numbers["run"], numbers["recorded"], [], list(numbers["run"]["notes"])
    for name, task in numbers["tasks"].items():
        row = {"task": name, "problem type": task["problem_type"], "rows": task["rows"], "main metric": task["main"]}
        score = task["scores"].get(task["main"])
        rows.append({**row, "score": score})
        if run["split"] == "dev" and recorded:
            rows[-1]["at the run's end"] = recorded.get(f"eval_{name}_{task['main']}")
        notes += _undefined(name, task["scores"])
        if not task["rows"]:
            notes.append(f"{name}: the {run['split']} split has no labelled row, so that nothing can be scored.")
    for name, value in numbers["averages"].items():
        rows.append({"task": name, "score": value})
        if run["split"] == "dev" and recorded:
            rows[-1]["at the run's end"] = recorded.get(f"eval_{name}")
    notes.append(
        "overall is the mean over tasks with every correlation r as (1 + r)/2; raw_mean takes them as they are."
    )
    return Section("Scores", notes=tuple(notes), items=(as_table(f"Scores of the {run['split']} split", rows),))


def _undefined(name: str, scores: Mapping[str, float]) -> list[str]:
    notes = []
    for key in scores:
        metric = key.removesuffix("_undefined")
        if metric == "msle" != key:
            notes.append(f"{name}: msle is undefined, since a score is −1 or less.")
        elif metric != key:
            cause = "predictions or labels are constant, or there are fewer than 2 rows"
            notes.append(f"{name}: {metric} is undefined and counts as 0 ({cause}).")
    return notes


def _task(name: str, task: Mapping[str, Any], run: Mapping[str, Any]) -> list[Section]:
    if not task["rows"]:
        return [Section(f"Task {name}", notes=("No row has a label.",))]
    most, items = run["examples"], []
    scores = [{"metric": key, "score": value} for key, value in task["scores"].items() if key in METRICS]
    items.append(as_table("Scores by every metric that suits the task", scores))
    if "within_one" in task:
        items.append(_within_one(task["within_one"]))
    parts = [Section(f"Task {name}", notes=tuple(_undefined(name, task["scores"])), items=tuple(items))]
    out_of_sample = run["split"] != "train"
    for table in task.get("tables", ()):
        items = [as_table(table["title"], table["rows"])]
        parts.append(Section(f"{name}: {table['title']}", 3, tuple(table["notes"]), tuple(items)))
    if "classes" in task:
        parts.append(_classes(name, name, task["classes"], most, out_of_sample))
    for label, decisions in task.get("labels", {}).items():
        parts.append(_classes(f"{name}, label {label}", f"{name}.{label}", decisions, most, out_of_sample))
    if "calibration" in task:
        parts.append(_calibration(name, task["calibration"]))
    if "decisions" in task:
        parts.append(decision_section(name, task["decisions"]))
    if "points" in task:
        points = task["points"]
        picture = Picture(f"{name}.scatter", figures.scatter(points["label"], points["predicted"], name), "")
        outliers = example_table("Residuals beyond 3 robust standard deviations", task["outliers"], most)
        note = (
            "z is the residual's distance from the median residual in units of 1.4826 · the median absolute deviation "
            "(Leys et al., 2013). Such labels may be wrong; or the model is."
        )
        parts.append(Section(f"{name}: predicted against true", 3, (note,), (picture, outliers)))
    if "signed_error" in task:
        parts.append(_signed_errors(name, task["signed_error"]))
    parts.append(Section(f"{name}: worst errors", 3, items=(example_table("Largest losses", task["worst"], most),)))
    parts.append(_lengths(name, task))
    if "attention" in task:
        parts.append(_attention(name, task["attention"]))
    return [*parts, *(_group(name, column, groups, task["main"]) for column, groups in task["groups"].items())]


def _within_one(shares: Mapping[str, float]) -> Table:
    if "within_one_point" in shares:
        return as_table("Near the label", [{"": "|predicted − true| ≤ 1", "share of rows": shares["within_one_point"]}])
    rows = [{"": key.replace("_", " "), "share of rows": share} for key, share in shares.items()]
    return as_table("Near the label, where the order of the classes has a meaning", rows)


def _signed_errors(name: str, found: Mapping[str, Any]) -> Section:
    picture = Picture(f"{name}.signed_error", figures.signed_errors(found, LENGTHS, f"{name}: signed error"), "")
    notes = ["The signed error is predicted − true: above 0, the model's scores, or ranks, are too high."]
    left_out = found["length"]["points_left_out"]
    if left_out:
        shown_rows = len(found["length"]["points"]["length"])
        notes.append(f"The points are {shown_rows:,} rows, evenly chosen; {left_out:,} are left out. Means are of all.")
    tables = [as_table(f"Mean signed error by {LENGTHS[key]}", measure["bins"]) for key, measure in found.items()]
    return Section(f"{name}: signed error by length", 3, tuple(notes), (picture, *tables))


def _classes(title: str, file: str, found: Mapping[str, Any], most: int, out_of_sample: bool) -> Section:
    picture = Picture(
        f"{file}.confusion",
        figures.confusion(found["counts"], found["rates"], found["names"], title),
        "Left: rows. Right: share of each true class; a class without rows is grey.",
    )
    items: list[Table | Picture] = [picture, as_table("Each class against the rest", found["per_class"])]
    for key in ("false_positives", "false_negatives"):
        for name, rows in found[key].items():
            if rows:
                items.append(as_table(f"{key.replace('_', ' ').capitalize()} of {name!r}, the surest first", rows))
    items.append(example_table("Suspected wrong labels, the lowest self-confidence first", found["suspects"], most))
    note = (
        "Suspected labels by confident learning (Northcutt, Jiang and Chuang, 2021): another class reaches its own "
        "threshold, the mean probability that the model gives it where it is the label. Self-confidence is the "
        "probability of the label given."
    )
    notes = [note]
    if not out_of_sample:
        notes.append("The model was trained on these rows; confident learning wants rows that it was not trained on.")
    return Section(f"{title}: classes", 3, tuple(notes), tuple(items))


def _calibration(name: str, found: Mapping[str, Any]) -> Section:
    caption = (
        f"ECE {shown(found['ece'])}, largest gap {shown(found['mce'])}; 15 bins of equal width (Guo et al., 2017). "
        "The model is too sure where the bars stay below the diagonal."
    )
    picture = Picture(f"{name}.reliability", figures.reliability(found, name), caption)
    return Section(f"{name}: calibration", 3, items=(picture, as_table("Bins", found["bins"])))


def _lengths(name: str, task: Mapping[str, Any]) -> Section:
    items: list[Table | Picture] = []
    error = "mean |predicted − true|" if task["problem_type"] == "regression" else "error rate"
    for key, what in LENGTHS.items():
        if key in task:
            by_length = task[key]
            rank = "undefined" if "spearman_undefined" in by_length else shown(by_length["spearman"])
            caption = f"Spearman's correlation of {what} and error: {rank}."
            figure = figures.by_length(by_length, f"{name}: error by {what.partition(' in ')[0]}", what, error)
            items.append(Picture(f"{name}.{key}", figure, caption))
            items.append(as_table(f"Rows by {what}", by_length["bins"]))
    return Section(f"{name}: error by length", 3, items=tuple(items))


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
    items: list[Table | Picture] = [as_table(f"Mean over {found['rows']:,} rows", rows)]
    if found["examples"]:
        figure = figures.attention(found["examples"], f"{name}: weights of the head's attention")
        items.append(Picture(f"{name}.attention", figure, "Evenly chosen rows; report.json has all their weights."))
    return Section(f"{name}: what the head reads", 3, (note,), tuple(items))


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
    return Section(f"{name}: groups by {column}", 3, tuple(notes), items)


def _training(numbers: Mapping[str, Any]) -> list[Section]:
    curves, notes = numbers["curves"], []
    items: list[Picture | Table] = []
    for name, task_curves in curves["tasks"].items():
        if task_curves["loss"] or task_curves["dev"] or task_curves["train"]:
            items.append(Picture(f"{name}.curves", figures.learning_curves(task_curves, name), ""))
    best = {name: task_curves["best"] for name, task_curves in curves["tasks"].items()}
    best["overall"] = curves["overall"]["best"]
    rows = [
        {"": name, "epoch": point["epoch"], "step": point["step"], "dev score": point["value"]}
        for name, point in best.items()
        if point
    ]
    if rows:
        items.append(as_table("Where the dev score is best", rows))
    if not items:
        notes.append("The run's trainer_state.json holds no course.")
    parts = [Section("Training", notes=tuple(notes), items=tuple(items))]
    if numbers["pretraining"]:
        parts.append(_pretraining(numbers["pretraining"]))
    if numbers["sampling"]:
        parts.append(_sampling(numbers["sampling"]))
    if numbers["conflicts"]:
        conflicts = numbers["conflicts"]
        items = []
        if conflicts["course"]:
            items.append(Picture("gradients_cosines", figures.cosines(conflicts), "Means over the logged steps."))
        if conflicts["conflicts"] or conflicts["norms"]:
            items.append(Picture("gradients_course", figures.gradient_course(conflicts), ""))
        parts.append(Section("Gradient conflicts", 3, items=tuple(items)))
    return [*parts, _cost(numbers["cost"])]


def _pretraining(losses: Mapping[str, Any]) -> Section:
    note = "The train loss is the mean since the value before it, with dropout; the masks of dev texts never change."
    caption, best = "", losses["best"]
    if best is not None:
        caption = f"Lowest dev loss: {shown(best['value'])}, after epoch {best['epoch']:g}."
    picture = Picture("pretraining", figures.pretraining_losses(losses), caption)
    return Section("Pre-training", 3, (note,), (picture,))


def _sampling(table: Sequence[Mapping[str, Any]]) -> Section:
    tasks, rows = list(table[0]["sampled"]), []
    for epoch in table:
        row: dict[str, Any] = {"epoch": epoch["epoch"]}
        for task in tasks:
            if "planned" in epoch:
                if epoch["probability"] is not None:
                    row[f"p({task})"] = epoch["probability"][task]
                row[f"planned {task}"] = epoch["planned"][task]
            row[f"sampled {task}"] = epoch["sampled"][task]
        rows.append(row)
    note = (
        "Sampled rows are counted whenever the run logs, and count for the epoch in which they are logged; where logs "
        "do not fall on the ends of epochs, planned and sampled rows differ by less than one logging interval."
    )
    items = (Picture("sampling", figures.sampling(table, tasks), ""), as_table("Rows of each epoch", rows))
    return Section("What was sampled", 3, (note,), items)


def _cost(cost: Mapping[str, Any]) -> Section:
    names = {
        "seconds": "training with its evaluations (s)",
        "evaluation_seconds": "evaluations in it (s)",
        "steps": "steps",
        "examples": "examples",
        "examples_per_second": "examples per second, without evaluations",
        "steps_per_second": "steps per second, without evaluations",
        "device": "device",
        "processes": "processes",
        "threads": "threads of each",
        "precision": "mixed precision",
        "kwh": "energy (kWh)",
        "co2_kg": "emissions (kg CO₂ equivalent)",
    }
    rows = [{"": name, "value": cost[key]} for key, name in names.items() if key in cost]
    notes = ["Of a run that was resumed, the seconds are those since its last start, but steps and examples are all."]
    if "kwh" in cost:
        notes.append("Energy and emissions as estimated by codecarbon during training.")
    else:
        notes.append("Energy was not measured; install codecarbon and add it to training.report_to to have it.")
    return Section("Time and energy", 3, tuple(notes), (as_table("Cost", rows),))


def _comparison(found: Mapping[str, Any], run: Mapping[str, Any]) -> list[Section]:
    rows, forest = [], {}
    for name, task in found["tasks"].items():
        interval, test = task["bootstrap"], task["mcnemar"] or {}
        row = {"task": name, "metric": task["metric"], "rows": task["rows"], **interval}
        rows.append({**row, "right in A only": test.get("only_a", ""), "right in B only": test.get("only_b", "")})
        rows[-1]["McNemar p"] = test.get("p", "")
        forest[f"{name}: {task['metric']}"] = interval
    rows.append({"task": "overall", **found["overall"]})
    forest["overall"] = found["overall"]
    notes = [
        f"A is {run['name']}, B is {run['against']}. The interval of A − B is the 95 % percentile interval of "
        f"{run['resamples']:,} bootstrap resamples, paired over rows, seed {run['seed']}; one that holds 0 shows no "
        "difference. McNemar's p is the exact binomial one. Both are about these rows and these two checkpoints: other "
        "seeds of training are another matter."
    ]
    if found["left_out"]:
        notes.append(f"Not compared, since not in both runs or without labels: {', '.join(found['left_out'])}.")
    items = (as_table("Differences", rows), Picture("differences", figures.differences(forest), ""))
    result = [Section("Comparison of two runs", notes=tuple(notes), items=items)]
    for name, task in found["tasks"].items():
        rows = [{**row, "better": {"a": "A", "b": "B"}.get(row["better"], "neither")} for row in task["flips"]]
        table = example_table("Rows that differ, the largest change first", rows, 2 * run["examples"])
        result.append(Section(f"{name}: what flipped", 3, items=(table,)))
    return result
