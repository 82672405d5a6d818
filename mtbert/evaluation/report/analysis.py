"""Compute all numbers of a report as JSON-ready trees: of each task, of training, and of a comparison of two runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...data.sampling import Plan
from ...errors import InputError
from ...modeling.decoding import confidence as confidence_of
from ..metrics import all_metrics, averages, part_tables, score_task
from . import attention, classification, comparison, course, distances, regression, slices, threshold_curves
from .baselines import score_interval
from .cautions import ranked_cautions
from .rows import TaskRows


def analyse_run(
    tasks: Mapping[str, TaskRows],
    metrics: Mapping[str, str],
    run: course.RunLog,
    plan: Plan | course.StagedPlan | None = None,
    examples: int = 10,
    pretraining: Mapping[str, Any] | None = None,
    data: Mapping[str, Mapping[str, Any]] | None = None,
    setup: Mapping[str, Any] | None = None,
    seed: int = 0,
    resamples: int = comparison.RESAMPLES,
) -> dict[str, Any]:
    """Analyse one run.

    Args:
        tasks: task name → its rows with the predictions of the run's model.
        metrics: task name → main metric, for every task of the model.
        run: the run's log and record.
        plan: the rows of the run's steps; None if unknown.
        examples: number of rows in a table of examples.
        pretraining: the losses of the run's pre-training (see `pretraining_losses`), if it had one.
        data: facts about the data of the tasks (see `data_facts`).
        setup: how the model was trained: `split`, the evaluated one (default: dev), and what the first screen names,
            such as `recipe`, `encoder`, `commit` and `chosen_on_dev`, whether dev scores chose the checkpoint.
        seed, resamples: seed and number of resamples of the scores' intervals.

    Returns:
        `tasks` (see `analyse_task`; with rows, `interval` and `baseline` of the main score, see `score_interval`),
        `averages` over tasks, `recorded` (the scores that the run computed at its end), `curves`, `sampling`,
        `conflicts` and `cost` (see `course`), `affinity` (see `course.affinity`), `pretraining`, `data` and `setup`, as
        given, and `cautions` (see `ranked_cautions`).
    """
    analyses = {name: analyse_task(rows, metrics[name], examples) for name, rows in tasks.items()}
    data = {name: data[name] for name in tasks if name in data} if data else {}
    for number, (name, rows) in enumerate(tasks.items()):
        if len(rows):
            labels = data.get(name, {}).get("labels")
            found = score_interval(rows, metrics[name], labels, [seed, number], resamples)
            analyses[name] |= {"baseline": found.pop("baseline"), "interval": found}
    main = {}
    for name, analysis in analyses.items():
        if analysis["scores"]:
            main[name] = (analysis["main"], analysis["scores"][analysis["main"]])
    names = list(metrics)
    numbers = {
        "tasks": analyses,
        "averages": averages(main),
        "recorded": dict(run.scores),
        "curves": course.learning_curves(run.log, metrics),
        "sampling": course.sampling(run.log, names, plan),
        "conflicts": course.conflicts(run.log, names),
        "cost": course.cost(run.log, run.record, run.folder),
        "affinity": course.affinity(run.folder),
        "pretraining": pretraining,
        "data": data,
        "setup": {"split": "dev", "measured": run.record.get("measured", {}), **(setup or {})},
    }
    return {**numbers, "cautions": ranked_cautions(numbers)}


def analyse_task(rows: TaskRows, metric: str, examples: int = 10) -> dict[str, Any]:
    """Analyse the predictions of one task.

    Returns:
        - `problem_type`, `main` (the main metric), `rows`, and `scores` by every metric that suits the task;
        - for a single-label or binary classification: `classes` (see `_decisions`) and `calibration`;
        - for a multi-label classification: `labels` (label → as `classes`) and `calibration` over all decisions;
        - for a regression: `points` and `outliers`; for it and an ordinal task `signed_error` (see `signed_errors`);
        - `decision_curves` of a classification (see `threshold_curves.decision_curves`), and `calibrated`, whether its
          probabilities are;
        - `within_one`, the shares of rows that are right or nearly so (see `within_one`), for tasks that have them;
        - `worst`, `length`, for pairs `length_difference`, and `groups` (column → result of `by_group`);
        - `attention`, for a head that has one (see `attention_shares`).
        - for a task that labels parts of rows: `tables` of these (see `part_tables`).

        Without labelled rows `scores` is empty and the keys after it are absent.
    """
    task = rows.task
    analysis: dict[str, Any] = {"problem_type": task.problem_type, "main": metric, "rows": len(rows), "scores": {}}
    if not len(rows):
        return analysis
    analysis["scores"] = score_task(task, rows.logits, rows.labels, metric, all_metrics(task))
    if rows.regression:
        analysis |= _regression(rows)
    elif rows.multi_label:
        analysis |= _multi_label(rows, examples)
    elif rows.of_parts:
        analysis["tables"] = part_tables(task, rows.predicted, rows.labels)
    else:
        everyone = np.arange(len(rows))
        analysis["classes"] = _decisions(
            rows, everyone, rows.labels, rows.predicted, rows.probabilities, task.classes, examples
        )
        confidence = confidence_of(task, rows.probabilities, rows.predicted)
        analysis["calibration"] = classification.calibration(confidence, rows.right)
    if not rows.regression and not rows.of_parts:
        analysis["decision_curves"] = threshold_curves.decision_curves(rows)
        analysis["calibrated"] = task.calibration is not None
    if task.kind.ordered:
        analysis["signed_error"] = distances.signed_errors(rows)
    near = distances.within_one(rows)
    if near is not None:
        analysis["within_one"] = near
    analysis["worst"] = _worst(rows, examples)
    analysis["length"] = slices.by_length(rows.lengths.sum(axis=1), rows.errors)
    if task.texts == 2:
        analysis["length_difference"] = slices.by_length(np.abs(np.diff(rows.lengths, axis=1)[:, 0]), rows.errors)
    read = attention.attention_shares(rows)
    if read is not None:
        analysis["attention"] = read
    analysis["groups"] = {name: slices.by_group(rows, values, metric) for name, values in rows.groups.items()}
    return analysis


def _decisions(
    rows: TaskRows,
    own: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    names: tuple[str, ...],
    examples: int,
) -> dict[str, Any]:
    """Analyse decisions for one of several classes.

    Args:
        rows: the task's rows.
        own: the row of each decision, shape (decisions,).
        labels, predicted: class ids, shape (decisions,).
        probabilities: shape (decisions, classes).
        names: names of the classes.
        examples: number of examples per class.

    Returns:
        `names`; `counts` and `rates` (the confusion matrix); `per_class`; `suspects`; `false_positives` and
        `false_negatives`: class → the examples with the highest confidence (of two classes, the second only).
    """
    counts = classification.confusion(labels, predicted, len(names))
    analysis: dict[str, Any] = {
        "names": list(names),
        "counts": counts.tolist(),
        "rates": classification.shares(counts).tolist(),
        "per_class": classification.class_rates(labels, predicted, names),
    }
    suspected, instead = classification.suspects(labels, probabilities)
    analysis["suspects"] = [
        rows.example(own[i], label=names[labels[i]], suggested=names[j], self_confidence=probabilities[i, labels[i]])
        for i, j in zip(suspected, instead, strict=True)
    ]
    for key, side, other in (("false_positives", predicted, labels), ("false_negatives", labels, predicted)):
        analysis[key] = {}
        for j in range(1 if len(names) == 2 else 0, len(names)):
            wrong = np.flatnonzero((side == j) & (other != j))
            confidence = probabilities[wrong, predicted[wrong]]
            order = np.argsort(-confidence, kind="stable")[:examples]
            analysis[key][names[j]] = [
                rows.example(
                    own[i], label=names[labels[i]], predicted=names[predicted[i]], confidence=float(confidence[k])
                )
                for k, i in zip(order, wrong[order], strict=True)
            ]
    return analysis


def _multi_label(rows: TaskRows, examples: int) -> dict[str, Any]:
    labels = {}
    for column, name in enumerate(rows.task.classes):
        labelled = np.flatnonzero(~np.isnan(rows.labels[:, column]))
        positive = rows.probabilities[labelled, column]
        both = np.stack([1 - positive, positive], axis=1)
        true, predicted = rows.labels[labelled, column].astype(np.int64), rows.predicted[labelled, column]
        labels[name] = _decisions(rows, labelled, true, predicted, both, (f"not {name}", name), examples)
    present = ~np.isnan(rows.labels)
    confidence = confidence_of(rows.task, rows.probabilities, rows.predicted)[present]
    calibration = classification.calibration(confidence, (rows.predicted == rows.labels)[present])
    return {"labels": labels, "calibration": calibration}


def _regression(rows: TaskRows) -> dict[str, Any]:
    far, z = regression.outliers(rows.labels, rows.predicted)
    outliers = [rows.example(i, z=float(value)) for i, value in zip(far, z, strict=True)]
    points = {"label": rows.labels.tolist(), "predicted": rows.predicted.tolist()}
    return {"points": points, "outliers": outliers, "signed_error": distances.signed_errors(rows)}


def _worst(rows: TaskRows, examples: int) -> list[dict[str, Any]]:
    """Return the wrong rows with the largest losses, or errors of a regression."""
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
    """Compare two runs on the same rows.

    Args:
        a, b: task name → its rows with the predictions of each run; only tasks of both runs are compared.
        metrics: task name → main metric.
        seed, resamples: seed and number of resamples of the bootstrap.

    Returns:
        `tasks`: task name → `metric`, `rows`, `bootstrap`, `mcnemar` (None for a regression) and `flips`; `overall`:
        the difference of `overall` with an interval; `left_out`: tasks of one run only, or without labelled rows.

    Raises:
        ValueError: the rows of a task differ, or the runs have no task in common.
    """
    common = [name for name in a if name in b and len(a[name])]
    left_out = sorted({*a, *b} - set(common))
    if not common:
        raise InputError(f"the two runs have no task with labelled rows in common: {sorted(a)} and {sorted(b)}")
    comparisons, distributions = {}, {}
    for number, name in enumerate(common):
        comparison.check_same_rows(a[name], b[name])
        bootstrap = comparison.bootstrap(a[name], b[name], metrics[name], [seed, number], resamples)
        distributions[name] = (metrics[name], bootstrap)
        test = None if a[name].regression else comparison.mcnemar(a[name].right, b[name].right)
        comparisons[name] = {
            "metric": metrics[name],
            "rows": len(a[name]),
            "bootstrap": {key: value for key, value in bootstrap.items() if key != "distribution"},
            "mcnemar": test,
            "flips": comparison.flips(a[name], b[name]),
        }
    return {"tasks": comparisons, "overall": comparison.overall(distributions), "left_out": left_out}
