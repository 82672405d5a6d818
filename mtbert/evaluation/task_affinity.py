"""Summaries of what `affinity` measured during training: means with their spread, courses, and balanced weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .task_groups import MOST_TASKS, best_groups, interval, judge_groups, score

MATRICES = ("affinity", "cosines")
LEAST, HIGHEST = 0.25, 4.0  # bounds of a suggested weight


def stacked(runs: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """A quantity of all measurements of some runs, in their order: `(measurements, …)`, nan where undefined.

    Args:
        runs: contents of `affinity.json`, with the same tasks.
        key: `affinity`, `cosines`, `norms` or `losses`.
    """
    values = [np.array(entry[key], dtype=np.float64) for run in runs for entry in run["measured"]]
    return np.stack(values) if values else np.zeros((0, 0))


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the measurements of some runs, and how far these spread.

    Returns:
        `tasks`; `measurements`, their number; `steps`, at which; for `affinity` and `cosines` the `mean` and the
        `spread` (standard deviation over measurements), `(T, T)`, row i for a step of task i, nan where undefined;
        `course`: of the cosines, task → points with `step` and `value`, the mean over the other tasks; `seconds`.
    """
    tasks = list(runs[0]["tasks"])
    entries = [entry for run in runs for entry in run["measured"]]
    summary: dict[str, Any] = {"tasks": tasks, "measurements": len(entries)}
    summary["steps"] = sorted({entry["step"] for entry in entries})
    for key in MATRICES:
        values = stacked(runs, key)
        summary[key] = {"mean": _mean(values), "spread": _spread(values)}
    summary["course"] = _course(tasks, entries)
    summary["seconds"] = sum(entry["seconds"] for entry in entries)
    return summary


def _mean(values: np.ndarray) -> np.ndarray:
    counts = np.isfinite(values).sum(axis=0)
    sums = np.nansum(values, axis=0)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _spread(values: np.ndarray) -> np.ndarray:
    counts = np.isfinite(values).sum(axis=0)
    squares = np.nansum((values - _mean(values)) ** 2, axis=0)
    return np.sqrt(np.divide(squares, counts - 1, out=np.full(squares.shape, np.nan), where=counts > 1))


def _course(tasks: Sequence[str], entries: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, float]]]:
    """Task → its mean cosine with the other tasks by step, over the runs."""
    by_step: dict[int, list[np.ndarray]] = {}
    for entry in entries:
        cosines = np.array(entry["cosines"], dtype=np.float64)
        np.fill_diagonal(cosines, np.nan)
        by_step.setdefault(entry["step"], []).append(_mean(cosines))
    course: dict[str, list[dict[str, float]]] = {task: [] for task in tasks}
    for step, rows in sorted(by_step.items()):
        for task, value in zip(tasks, _mean(np.stack(rows)), strict=True):
            if np.isfinite(value):
                course[task].append({"step": step, "value": float(value)})
    return course


def suggest_groups(runs: Sequence[Mapping[str, Any]], most: int) -> dict[str, Any]:
    """The best groups with at most 1 … `most` models, and whether they beat one model.

    Returns:
        `by_models`: a dict for each number of models, with `models`, `groups` (dicts of `Group.named`) and `score`, the
        mean affinity onto a task; `suggested`: the groups of the last; the keys of `judge_groups`. If there is no
        suggestion, `why_not`.
    """
    names, measured = list(runs[0]["tasks"]), stacked(runs, "affinity")
    undecided: dict[str, Any] = {"by_models": [], "suggested": [], "difference": None, "low": None, "high": None}
    if len(names) > MOST_TASKS:
        return undecided | {"verdict": "undecided", "why_not": f"groups are searched for at most {MOST_TASKS} tasks"}
    off_diagonal = ~np.eye(len(names), dtype=bool)
    kept = [values for values in measured if np.isfinite(values[off_diagonal]).all()]
    if not kept:
        return undecided | {"verdict": "undecided", "why_not": "there is no whole measurement"}
    whole = np.stack(kept)
    mean = whole.mean(axis=0)
    by_models = [
        {
            "models": number,
            "groups": [group.named(names) for group in groups],
            "score": score(mean, groups),
        }
        for number, groups in enumerate(best_groups(mean, min(most, len(names))), start=1)
    ]
    return {"by_models": by_models, "suggested": by_models[-1]["groups"], **judge_groups(whole, most)}


def balancing_weights(runs: Sequence[Mapping[str, Any]], weights: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Weights with which the tasks' gradients of the shared parameters are equally long in the mean.

    That is the aim of GradNorm (Chen et al., 2018) with α = 0. The mean is geometric, over the measurements.

    Args:
        weights: task → its weight in the runs.

    Returns:
        Task → `balanced`, that weight, scaled so that the geometric mean of all stays; `low` and `high`, its 95 %
        interval; None where there are too few measurements; `weight`, the suggested one: `balanced` within `LEAST` and
        `HIGHEST` times the weight of the runs; `verdict`: `more`, `less` or `undecided`.
    """
    norms = stacked(runs, "norms")
    found = {}
    with np.errstate(divide="ignore"):
        logs = np.log(norms) if norms.size else np.zeros((0, len(weights)))
    logs = logs[np.isfinite(logs).all(axis=1)]
    for number, (name, now) in enumerate(weights.items()):
        if len(logs) < 4:
            found[name] = {"weight": now, "balanced": None, "low": None, "high": None, "verdict": "undecided"}
            continue
        factor = interval(logs.mean(axis=1) - logs[:, number])
        balanced, low, high = (float(np.exp(factor[key])) for key in ("difference", "low", "high"))
        verdict = "undecided"
        if low > 1 or high < 1:
            verdict = "more" if low > 1 else "less"
        found[name] = {"weight": now * float(np.clip(balanced, LEAST, HIGHEST)), "balanced": now * balanced}
        found[name] |= {"low": now * low, "high": now * high, "verdict": verdict}
    return found
