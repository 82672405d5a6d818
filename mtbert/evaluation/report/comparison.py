"""Compare two models on the same rows: significance of the difference, and the rows whose predictions differ."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from ...errors import InputError
from ..metrics import METRICS, averages, scorer
from .rows import TaskRows

RESAMPLES = 1000
MOST_FLIPS = 20  # most rows shown for a regression, whose predictions all differ


def check_same_rows(a: TaskRows, b: TaskRows) -> None:
    """Check that two runs were evaluated on the same rows.

    Raises:
        ValueError: the tasks differ in problem type or labels, or the rows in number, texts or labels.
    """
    for key in ("problem_type", "labels"):
        first, second = getattr(a.task, key), getattr(b.task, key)
        if first != second:
            raise InputError(f"task {a.task.name!r}: {key} is {first} in one run and {second} in the other")
    if a.texts != b.texts or not np.array_equal(a.labels, b.labels, equal_nan=True):
        raise InputError(
            f"task {a.task.name!r}: the two runs were given other rows ({len(a):,} and {len(b):,}); a paired "
            "comparison needs the same texts and labels in the same order; name the same data for both"
        )


def bootstrap(
    a: TaskRows, b: TaskRows, metric: str, seed: int | list[int], resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Compute a percentile bootstrap of score(a) − score(b), paired over rows (Efron and Tibshirani, 1993, sec. 13.3).

    Args:
        a, b: the rows with the predictions of each model.
        metric: a metric of the task.
        seed: seed of the resamples.
        resamples: number of resamples.

    Returns:
        `a` and `b`, the scores; `difference`; `low` and `high`, the 95 % interval (NaN for fewer than two rows); and
        `distribution`, the differences of the resamples, shape (resamples,), or empty for fewer than two rows.
    """
    missing = np.isnan(a.labels) if a.multi_label else False  # F1 ignores entries whose label and prediction are 0
    labels, x, y = (np.where(missing, 0, values) for values in (a.labels, a.predicted, b.predicted))
    score = scorer(metric, a.task)
    first, second = score(x, labels), score(y, labels)
    scores = {"a": first, "b": second, "difference": first - second}
    if len(a) < 2:
        return {**scores, "low": float("nan"), "high": float("nan"), "distribution": np.zeros(0)}
    random, differences = np.random.default_rng(seed), np.empty(resamples)
    for i in range(resamples):
        sample = random.integers(len(a), size=len(a))
        differences[i] = score(x[sample], labels[sample]) - score(y[sample], labels[sample])
    low, high = np.quantile(differences, [0.025, 0.975])
    return {**scores, "low": float(low), "high": float(high), "distribution": differences}


def overall(tasks: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, float]:
    """Compute the difference of `overall` (see `averages`), with a 95 % interval from the tasks' resamples.

    Args:
        tasks: task name → (main metric, result of `bootstrap`).

    Returns:
        `a`, `b`, `difference`, `low` and `high`, as in `bootstrap`.
    """
    result = {}
    for side in ("a", "b"):
        main = {name: (metric, scores[side]) for name, (metric, scores) in tasks.items()}
        result[side] = averages(main)["overall"]
    result |= {"difference": result["a"] - result["b"], "low": float("nan"), "high": float("nan")}
    scaled = [scores["distribution"] / (2 if METRICS[metric].correlation else 1) for metric, scores in tasks.values()]
    if all(len(differences) for differences in scaled):
        low, high = np.quantile(np.mean(scaled, axis=0), [0.025, 0.975])
        result |= {"low": float(low), "high": float(high)}
    return result


def mcnemar(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Exact test of McNemar (1947): of the rows that exactly one model has right, does each model have half?

    Args:
        a, b: whether each model is right, shape (rows,).

    Returns:
        `only_a`, `only_b`: numbers of rows that only one model has right; `p`: the two-sided binomial p-value, 1 if
        there are no such rows.
    """
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = stats.binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": float(p)}


def flips(a: TaskRows, b: TaskRows) -> list[dict[str, Any]]:
    """Return the rows whose predictions differ, in descending order of the change of the label's p̂ (or of |error|).

    Returns:
        Dicts with `row`, the texts, `label`, `a` and `b` (the predictions), and `better`: `a`, `b` or `neither`. For a
        regression, whose predictions all differ, the 20 rows whose |error| changes most.
    """
    change = a.errors - b.errors
    strength = np.abs(change)
    if a.regression:
        flipped = np.argsort(-strength, kind="stable")[:MOST_FLIPS]
    elif a.predicted.ndim > 1:
        flipped = np.flatnonzero((a.predicted != b.predicted).any(axis=1))
    else:
        flipped = np.flatnonzero(a.predicted != b.predicted)
        all_rows = np.arange(len(a))
        strength = np.abs(a.probabilities[all_rows, a.labels] - b.probabilities[all_rows, a.labels])
    table = []
    for row in flipped[np.argsort(-strength[flipped], kind="stable")]:
        example = a.example(row, a=a.label_text(a.predicted[row], row), b=b.label_text(b.predicted[row], row))
        del example["predicted"]
        better = "neither"
        if change[row] != 0:
            better = "a" if change[row] < 0 else "b"
        table.append({**example, "better": better})
    return table
