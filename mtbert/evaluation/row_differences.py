"""Differences between two rows of a table, with intervals over seeds and dev rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from . import resampled_scores, span_metrics
from .metrics import METRICS, averages, scorer

RESAMPLES = 2000
OVERALL, RAW_MEAN = "overall", "raw_mean"
_COUNTED: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "matthews": resampled_scores.matthews,
    "f1": partial(resampled_scores.f1, "binary"),
    "f1_macro": partial(resampled_scores.f1, "macro"),
    "f1_micro": partial(resampled_scores.f1, "micro"),
    **{name: partial(span_metrics.resampled, name) for name in span_metrics.EntityScores.names},
}


@dataclass(frozen=True)
class DevTask:
    """The dev rows of a task: its main metric, and the labels of its labelled rows, `(rows,)` or `(rows, labels)`.

    Labels of words, and their predictions, are `span_metrics.counts_by_row`, `(rows, 3)`.
    """

    metric: str
    labels: np.ndarray


def row_difference(
    a: Mapping[int, Mapping[str, np.ndarray]],
    b: Mapping[int, Mapping[str, np.ndarray]],
    tasks: Mapping[str, DevTask],
    seed: int = 0,
    resamples: int = RESAMPLES,
    means: Sequence[str] = (OVERALL,),
) -> dict[str, dict[str, Any]]:
    """Compare two rows by a bootstrap over seeds and dev rows, paired in both (Efron and Tibshirani, 1993, chapter 13).

    A resample draws dev rows, the same for all models, and seeds. The deviations of the seeds from their mean are
    multiplied by √(n / (n − 1)) for n seeds, because a bootstrap of few values underestimates their spread. With one
    seed, the interval is over dev rows only.

    Args:
        a, b: seed → task → predictions of the labelled dev rows, `(rows,)`, or `(rows, labels)` of a multi-label task.
            Seeds that only one has are left out.
        tasks: the tasks that both rows have.
        seed: seed of the resamples.
        resamples: number of resamples.
        means: averages over the tasks, `overall` and `raw_mean` (see `averages`).

    Returns:
        The averages if there is more than one task, and each task → a dict with `a` and `b` (mean scores over
        the seeds), `difference` (a − b), `low` and `high` (its 95 % interval), and `seeds`, their number.
    """
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return {}
    random = np.random.default_rng(seed)
    drawn_seeds = random.integers(len(seeds), size=(resamples, len(seeds)))
    by_task: dict[str, tuple[float, float]] = {}
    resampled: dict[str, np.ndarray] = {}
    for name, task in tasks.items():
        rows = len(task.labels)
        weights = random.multinomial(rows, np.full(rows, 1 / rows), size=resamples)
        sides = []
        for row in (a, b):
            predicted = np.stack([row[n][name] for n in seeds])
            everything = scores_by_seed(task.metric, predicted, task.labels, np.ones((1, rows), dtype=np.int64))[0]
            sides.append((everything, scores_by_seed(task.metric, predicted, task.labels, weights)))
        by_task[name] = (float(sides[0][0].mean()), float(sides[1][0].mean()))
        resampled[name] = _with_seeds(sides[0][1] - sides[1][1], drawn_seeds)
    return _intervals(by_task, resampled, tasks, len(seeds), means)


def _with_seeds(differences: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Return differences `(resamples,)` over the drawn seeds from those of each seed, `(resamples, seeds)`."""
    count = differences.shape[1]
    mean = differences.mean(axis=1, keepdims=True)
    if count == 1:
        return mean[:, 0]
    deviations = (differences - mean) * np.sqrt(count / (count - 1))
    return (mean + np.take_along_axis(deviations, drawn, axis=1)).mean(axis=1)


def _intervals(
    by_task: Mapping[str, tuple[float, float]],
    resampled: Mapping[str, np.ndarray],
    tasks: Mapping[str, DevTask],
    seeds: int,
    means: Sequence[str],
) -> dict[str, dict[str, Any]]:
    table = {}
    everything = {name: (*by_task[name], resampled[name]) for name in by_task}
    for mean in reversed(means) if len(tasks) > 1 else ():
        sides = [averages({n: (tasks[n].metric, by_task[n][side]) for n in by_task})[mean] for side in (0, 1)]
        halved = {n for n in by_task if mean == OVERALL and METRICS[tasks[n].metric].correlation}
        scaled = [resampled[n] / (2 if n in halved else 1) for n in by_task]
        everything = {mean: (sides[0], sides[1], np.mean(scaled, axis=0))} | everything
    for name, (first, second, differences) in everything.items():
        low, high = np.quantile(differences, [0.025, 0.975])
        table[name] = {
            "a": first,
            "b": second,
            "difference": first - second,
            "low": float(low),
            "high": float(high),
            "seeds": seeds,
        }
    return table


def scores_by_seed(metric: str, predicted: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Score each seed's predictions on resamples of the rows.

    Args:
        metric: name of a metric.
        predicted: `(seeds, rows)`, or `(seeds, rows, labels)`.
        labels: `(rows,)`, or `(rows, labels)`.
        weights: how often each resample holds each row, `(resamples, rows)`.

    Returns:
        Scores, `(resamples, seeds)`. An undefined correlation is 0.
    """
    total = weights.sum(axis=1, keepdims=True)
    if metric == "accuracy" and predicted.ndim == 2:
        return np.asarray(weights @ (predicted == labels).T / total)
    if metric == "pearson":
        mean_x, mean_y = weights @ predicted.T / total, weights @ labels[:, None] / total
        covariance = weights @ (predicted * labels).T / total - mean_x * mean_y
        variance_x = weights @ (predicted**2).T / total - mean_x**2
        variance_y = weights @ (labels**2)[:, None] / total - mean_y**2
        scale = np.sqrt(np.clip(variance_x * variance_y, 0, None))
        return np.asarray(np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 1e-12))
    if metric in _COUNTED:
        return np.stack([_COUNTED[metric](of_seed, labels, weights) for of_seed in predicted], axis=1)
    score = scorer(metric)
    chosen = [np.repeat(np.arange(len(labels)), row) for row in weights]
    return np.array([[score(of_seed[rows], labels[rows]) for of_seed in predicted] for rows in chosen])


def verdict(low: float, high: float) -> str:
    """Say what an interval of a difference shows of the claim that it is positive."""
    if low > 0:
        return "held"
    return "reversed" if high < 0 else "undecided"


def findings_table(
    findings: Sequence[Mapping[str, Any]], differences: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Judge each finding by the interval of its rows' difference in its first score.

    Args:
        findings: dicts with `finding`, `rows` (of which the first is to score higher) and `scores`.
        differences: rows → results of `row_difference`; empty where there are no runs to compare.

    Returns:
        A dict for each finding: `finding`, `rows`, `verdict` (`held`, `reversed`, `undecided` or `not run`) and
        `differences` of its scores.
    """
    table = []
    for finding in findings:
        rows = tuple(finding["rows"])
        measured = differences.get((rows[0], rows[1]), {})
        kept = {score: measured[score] for score in finding["scores"] if score in measured}
        first = kept.get(finding["scores"][0])
        judged = verdict(first["low"], first["high"]) if first else "not run"
        table.append({"finding": finding["finding"], "rows": list(rows), "verdict": judged, "differences": dict(kept)})
    return table
