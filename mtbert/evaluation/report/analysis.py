"""All numbers of a report, as JSON-ready trees: of each task, of a run's course, and of two runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...data.sampling import Plan
from ...errors import InputError
from ..metrics import all_metrics, averages, score_task
from . import classification, comparison, course, regression, slices
from .rows import TaskRows


def analyse_run(
    tasks: Mapping[str, TaskRows],
    metrics: Mapping[str, str],
    run: course.RunLog,
    plan: Plan | course.StagedPlan | None = None,
    examples: int = 10,
) -> dict[str, Any]:
    """Everything about one run.

    Args:
        tasks: task → its rows, with the predictions of the run's model.
        metrics: task → its main metric, of every task of the model.
        run: what the run left.
        plan: what its steps held; None if that is not known.
        examples: how many rows a table of examples shows.

    Returns:
        `tasks` (see `analyse_task`), `averages` over tasks, `recorded` (the scores that the run itself found at its
        end), `curves`, `sampling`, `conflicts`, `cost` (see `course`).
    """
    found = {name: analyse_task(rows, metrics[name], examples) for name, rows in tasks.items()}
    main = {name: (each["main"], each["scores"][each["main"]]) for name, each in found.items() if each["scores"]}
    names = list(metrics)
    return {
        "tasks": found,
        "averages": averages(main),
        "recorded": dict(run.scores),
        "curves": course.learning_curves(run.log, metrics),
        "sampling": course.sampling(run.log, names, plan),
        "conflicts": course.conflicts(run.log, names),
        "cost": course.cost(run.log, run.record, run.folder),
    }


def analyse_task(rows: TaskRows, metric: str, examples: int = 10) -> dict[str, Any]:
    """Everything about one task's predictions.

    Returns:
        `problem_type`, `main` (the main metric), `rows`, `scores` by every metric that suits; of a single-label or
        binary classification `classes` (see `_decisions`) and `calibration`; of a multi-label one `labels`, label →
        the same, and `calibration` of all single decisions; of a regression `points` and `outliers`. Of each `worst`,
        `length` and, for pairs, `length_difference`, and `groups`, column → `by_group`. Without labelled rows `scores`
        is empty and the rest absent.
    """
    task = rows.task
    found: dict[str, Any] = {"problem_type": task.problem_type, "main": metric, "rows": len(rows), "scores": {}}
    if not len(rows):
        return found
    found["scores"] = score_task(task, rows.logits, rows.labels, metric, all_metrics(task))
    if rows.regression:
        found |= _regression(rows)
    elif rows.multi_label:
        found |= _multi_label(rows, examples)
    else:
        everyone = np.arange(len(rows))
        found["classes"] = _decisions(
            rows, everyone, rows.labels, rows.predicted, rows.probabilities, task.labels, examples
        )
        confidence = rows.probabilities[everyone, rows.predicted]
        found["calibration"] = classification.calibration(confidence, rows.right)
    found["worst"] = _worst(rows, examples)
    found["length"] = slices.by_length(rows.lengths.sum(axis=1), rows.errors)
    if task.texts == 2:
        found["length_difference"] = slices.by_length(np.abs(np.diff(rows.lengths, axis=1)[:, 0]), rows.errors)
    found["groups"] = {name: slices.by_group(rows, values, metric) for name, values in rows.groups.items()}
    return found


def _decisions(
    rows: TaskRows,
    own: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    names: tuple[str, ...],
    examples: int,
) -> dict[str, Any]:
    """Decisions for one of several classes.

    Args:
        own: (decisions,) which rows they are about.
        labels, predicted: (decisions,) class ids.
        probabilities: (decisions, classes).

    Returns:
        `names`, `counts` and `rates` (a confusion matrix), `per_class`, `suspects`, and `false_positives` and
        `false_negatives`: class (of two, the second only) → the surest examples.
    """
    counts = classification.confusion(labels, predicted, len(names))
    found: dict[str, Any] = {
        "names": list(names),
        "counts": counts.tolist(),
        "rates": classification.shares(counts).tolist(),
        "per_class": classification.class_rates(labels, predicted, names),
    }
    suspected, instead = classification.suspects(labels, probabilities)
    found["suspects"] = [
        rows.example(own[i], label=names[labels[i]], suggested=names[j], self_confidence=probabilities[i, labels[i]])
        for i, j in zip(suspected, instead, strict=True)
    ]
    for key, side, other in (("false_positives", predicted, labels), ("false_negatives", labels, predicted)):
        found[key] = {}
        for j in range(1 if len(names) == 2 else 0, len(names)):
            wrong = np.flatnonzero((side == j) & (other != j))
            confidence = probabilities[wrong, predicted[wrong]]
            order = np.argsort(-confidence, kind="stable")[:examples]
            found[key][names[j]] = [
                rows.example(
                    own[i], label=names[labels[i]], predicted=names[predicted[i]], confidence=float(confidence[k])
                )
                for k, i in zip(order, wrong[order], strict=True)
            ]
    return found


def _multi_label(rows: TaskRows, examples: int) -> dict[str, Any]:
    labels = {}
    for column, name in enumerate(rows.task.labels):
        own = np.flatnonzero(~np.isnan(rows.labels[:, column]))
        p = rows.probabilities[own, column]
        both = np.stack([1 - p, p], axis=1)
        gold, predicted = rows.labels[own, column].astype(np.int64), rows.predicted[own, column]
        labels[name] = _decisions(rows, own, gold, predicted, both, (f"not {name}", name), examples)
    known = ~np.isnan(rows.labels)
    confidence = np.maximum(rows.probabilities, 1 - rows.probabilities)[known]
    calibration = classification.calibration(confidence, (rows.predicted == rows.labels)[known])
    return {"labels": labels, "calibration": calibration}


def _regression(rows: TaskRows) -> dict[str, Any]:
    far, z = regression.outliers(rows.labels, rows.predicted)
    outliers = [rows.example(i, z=float(value)) for i, value in zip(far, z, strict=True)]
    return {"points": {"label": rows.labels.tolist(), "predicted": rows.predicted.tolist()}, "outliers": outliers}


def _worst(rows: TaskRows, examples: int) -> list[dict[str, Any]]:
    """The wrong rows with the largest loss (or error)."""
    order = np.argsort(-rows.losses, kind="stable")
    order = [i for i in order if rows.errors[i] > 0][:examples]
    if rows.regression:
        return [rows.example(i, error=float(rows.predicted[i] - rows.labels[i])) for i in order]
    return [rows.example(i, loss=float(rows.losses[i])) for i in order]


def compare_runs(
    a: Mapping[str, TaskRows],
    b: Mapping[str, TaskRows],
    metrics: Mapping[str, str],
    seed: int = 0,
    resamples: int = comparison.RESAMPLES,
) -> dict[str, Any]:
    """Two runs on the same rows.

    Args:
        a, b: task → its rows with the predictions of each run; tasks that one lacks are left out.
        metrics: task → its main metric.
        seed, resamples: of the bootstrap.

    Returns:
        `tasks`: task → `metric`, `bootstrap`, `mcnemar` (None for a regression) and `flips`; `overall`: its difference
        with an interval; `left_out`: tasks that are not in both or have no labelled row.

    Raises:
        ValueError: the rows of a task are not the same, or no task is in both.
    """
    common = [name for name in a if name in b and len(a[name])]
    left_out = sorted({*a, *b} - set(common))
    if not common:
        raise InputError(f"the two runs have no task with labelled rows in common: {sorted(a)} and {sorted(b)}")
    found, distributions = {}, {}
    for number, name in enumerate(common):
        comparison.check_same_rows(a[name], b[name])
        drawn = comparison.bootstrap(a[name], b[name], metrics[name], [seed, number], resamples)
        distributions[name] = (metrics[name], drawn)
        tested = None if a[name].regression else comparison.mcnemar(a[name].right, b[name].right)
        found[name] = {
            "metric": metrics[name],
            "rows": len(a[name]),
            "bootstrap": {key: value for key, value in drawn.items() if key != "distribution"},
            "mcnemar": tested,
            "flips": comparison.flips(a[name], b[name]),
        }
    return {"tasks": found, "overall": comparison.overall(distributions), "left_out": left_out}
