"""Arrange the numbers of the training, and of a comparison of two runs, into chapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import figures, study_figures
from .parts import Item, Matrix, Picture, Section, as_table, example_table, shown


def training_sections(numbers: Mapping[str, Any]) -> list[Section]:
    """Return the chapter of the training."""
    curves, notes, items = numbers["curves"], [], list[Item]()
    best = {name: task_curves["best"] for name, task_curves in curves["tasks"].items()}
    best["overall"] = curves["overall"]["best"]
    rows = [
        {"": name, "epoch": point["epoch"], "step": point["step"], "dev score": point["value"]}
        for name, point in best.items()
        if point
    ]
    if rows:
        items.append(as_table("Where the dev score is best", rows))
    losses = []
    for name, task_curves in curves["tasks"].items():
        ends = {"training loss": task_curves["loss"], "dev loss": task_curves["dev"].get("loss", ())}
        row = {f"{what}, {end}": course[i]["value"] for what, course in ends.items() if course for end, i in _ENDS}
        losses += [{"task": name, **row}] if row else []
    if losses:
        items.append(as_table("Losses at the start and at the end", losses))
    if not items:
        notes.append("The run's trainer_state.json holds no course.")
    cost = numbers["cost"]
    aside = f"{cost['steps']:,} steps" if cost.get("steps") else ""
    parts = [Section("Training", notes=tuple(notes), items=tuple(items), aside=aside)]
    if numbers["pretraining"]:
        parts.append(_pretraining(numbers["pretraining"]))
    if numbers["sampling"]:
        parts.append(_sampling(numbers["sampling"]))
    if numbers["conflicts"]:
        parts.append(_conflicts(numbers["conflicts"]))
    if numbers.get("affinity"):
        parts.append(_affinity(numbers["affinity"]))
    return [*parts, _cost(cost)]


_ENDS = (("first", 0), ("last", -1))


def _conflicts(conflicts: Mapping[str, Any]) -> Section:
    items: list[Item] = []
    if conflicts["course"]:
        caption = "Mean cosine of two tasks' gradients over the logged steps; below 0 they conflict"
        items.append(_heat(caption, conflicts["tasks"], conflicts["cosines"], 1.0))
        items.append(Picture("gradients_cosines", figures.cosines(conflicts), "", on_page=False))
    if conflicts["conflicts"] or conflicts["norms"]:
        items.append(Picture("gradients_course", figures.gradient_course(conflicts), ""))
    return Section("Gradient conflicts", 3, items=tuple(items))


def _affinity(found: Mapping[str, Any]) -> Section:
    """Return the section of the affinities that the run measured (see `task_affinity.summarise`)."""
    values = 1000 * np.asarray(found["affinity"]["mean"], dtype=np.float64)
    largest = max(float(np.nan_to_num(np.abs(values)).max(initial=0.0)), 1e-6)
    caption = "Look-ahead affinity · 1000: how far a step of the row's task lowers the loss of the column's task"
    items: list[Item] = [_heat(caption, found["tasks"], values.tolist(), largest)]
    items.append(_heat("Mean cosine of two tasks' gradients", found["tasks"], found["cosines"]["mean"], 1.0))
    if any(found["course"].values()):
        items.append(Picture("affinity_cosines", study_figures.cosine_course(found), ""))
    note = f"Measured {found['measurements']:,} times during training (Fifty et al., 2021)."
    return Section("Affinity of the tasks", 3, (note,), tuple(items))


def _heat(caption: str, tasks: Sequence[str], values: Sequence[Sequence[float]], limit: float) -> Matrix:
    digits = 1 if limit >= 10 else 2
    cells = tuple(tuple("–" if v is None or np.isnan(v) else f"{v:.{digits}f}" for v in row) for row in values)
    shades = tuple(tuple(float("nan") if v is None else v / limit for v in row) for row in values)
    return Matrix(caption, "task", "task", tuple(tasks), tuple(tasks), cells, shades)


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
    items = (Picture("sampling", figures.sampling(table, tasks), ""), as_table("Rows of each epoch", rows, folded=True))
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


def comparison_sections(found: Mapping[str, Any], run: Mapping[str, Any]) -> list[Section]:
    """Return the chapters of a comparison (see `compare_runs`)."""
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
    overall = found["overall"]
    aside = f"A − B overall {overall['difference']:+.3f}".replace("-", "−")
    result = [Section("Comparison of two runs", notes=tuple(notes), items=items, aside=aside)]
    for name, task in found["tasks"].items():
        rows = [{**row, "better": {"a": "A", "b": "B"}.get(row["better"], "neither")} for row in task["flips"]]
        table = example_table("Rows that differ, the largest change first", rows, 2 * run["examples"])
        result.append(Section(f"What flipped: {name}", 3, items=(table,)))
    return result
