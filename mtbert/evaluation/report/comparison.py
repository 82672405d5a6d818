"""Two models on the same rows: is the difference more than chance, and which rows does it come from?"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from ...errors import InputError
from ..metrics import METRICS, averages, scorer
from .rows import TaskRows

RESAMPLES = 1000
MOST_FLIPS = 20  # of a regression, where all predictions differ


def check_same_rows(a: TaskRows, b: TaskRows) -> None:
    """Refuse rows that are not the same.

    Raises:
        ValueError: the tasks differ in what they predict, or the rows in number, texts or labels.
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


def bootstrap(a: TaskRows, b: TaskRows, metric: str, seed: int | list[int], resamples: int = RESAMPLES) -> dict:
    """Percentile bootstrap of score(a) − score(b), paired over rows (Efron and Tibshirani, 1993, section 13.3).

    Args:
        metric: a metric of the task.
        seed: of the resamples.
        resamples: how many.

    Returns:
        `a`, `b`, `difference`, and the interval of 95 % `low` and `high`, NaN for fewer than two rows;
        `distribution`, (resamples,) differences, empty then.
    """
    missing = np.isnan(a.labels) if a.multi_label else False  # F1 does not see an entry that both say is 0
    labels, x, y = (np.where(missing, 0, values) for values in (a.labels, a.predicted, b.predicted))
    score = scorer(metric)
    first, second = score(x, labels), score(y, labels)
    found = {"a": first, "b": second, "difference": first - second}
    if len(a) < 2:
        return {**found, "low": float("nan"), "high": float("nan"), "distribution": np.zeros(0)}
    random, differences = np.random.default_rng(seed), np.empty(resamples)
    for i in range(resamples):
        own = random.integers(len(a), size=len(a))
        differences[i] = score(x[own], labels[own]) - score(y[own], labels[own])
    low, high = np.quantile(differences, [0.025, 0.975])
    return {**found, "low": float(low), "high": float(high), "distribution": differences}


def overall(tasks: dict[str, tuple[str, dict]]) -> dict[str, float]:
    """The difference of `overall` (see `averages`), its interval from the tasks' own resamples.

    Args:
        tasks: task → (its main metric, what `bootstrap` found).
    """
    sides = [averages({name: (metric, found[side]) for name, (metric, found) in tasks.items()}) for side in ("a", "b")]
    result = {"a": sides[0]["overall"], "b": sides[1]["overall"]}
    result |= {"difference": result["a"] - result["b"], "low": float("nan"), "high": float("nan")}
    parts = [found["distribution"] / (2 if METRICS[metric].correlation else 1) for metric, found in tasks.values()]
    if all(len(part) for part in parts):
        low, high = np.quantile(np.mean(parts, axis=0), [0.025, 0.975])
        result |= {"low": float(low), "high": float(high)}
    return result


def mcnemar(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Exact test of McNemar (1947): of the rows that one of two models has right, does each have half?

    Args:
        a, b: (rows,) whether each model is right.

    Returns:
        `only_a`, `only_b`: rows that one alone has right; `p`, two-sided, of the binomial distribution; 1 without any.
    """
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = stats.binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": float(p)}


def flips(a: TaskRows, b: TaskRows) -> list[dict[str, Any]]:
    """Rows for which the two predictions differ, those whose p̂ of the label (or |error|) changes most first.

    Returns:
        Rows with `row`, texts, `label`, `a`, `b` (what each predicts), and `better`: `a`, `b` or `neither`. Of a
        regression, whose predictions all differ, the 20 rows whose |error| changes most.
    """
    change = a.errors - b.errors
    strength = np.abs(change)
    if a.regression:
        found = np.argsort(-strength, kind="stable")[:MOST_FLIPS]
    elif a.multi_label:
        found = np.flatnonzero((a.predicted != b.predicted).any(axis=1))
    else:
        found = np.flatnonzero(a.predicted != b.predicted)
        every = np.arange(len(a))
        strength = np.abs(a.probabilities[every, a.labels] - b.probabilities[every, a.labels])
    table = []
    for row in found[np.argsort(-strength[found], kind="stable")]:
        example = a.example(row, a=a.label_text(a.predicted[row]), b=b.label_text(b.predicted[row]))
        del example["predicted"]
        table.append({**example, "better": "neither" if change[row] == 0 else "a" if change[row] < 0 else "b"})
    return table
