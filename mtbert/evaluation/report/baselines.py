"""Intervals of scores, and the baseline that every model must beat: the same answer for all rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..metrics import IGNORE_INDEX, scorer
from ..row_differences import scores_by_seed
from .data_facts import label_facts
from .rows import TaskRows

ENTRIES = 4_000_000  # most entries of a matrix of resamples in memory
NONE = "no label"  # the answer of a multi-label baseline that gives no label


def score_interval(
    rows: TaskRows, metric: str, labels: Mapping[str, Any] | None, seed: int | list[int], resamples: int
) -> dict[str, Any]:
    """Compute the interval of a score, and compare it with the score of the same answer for all rows.

    Args:
        rows: the task's rows; at least one.
        metric: the task's main metric.
        labels: result of `label_facts` for the training rows; None: unknown, the evaluated rows decide on the answer.
        seed, resamples: of the bootstrap over rows (Efron and Tibshirani, 1993, section 13.3).

    Returns:
        `low` and `high`, the 95 % percentile interval of the score (NaN for fewer than two rows); and `baseline`:
        `answer` (the most frequent label, or the mean), `kind` (`majority` or `mean`), `of` (`train` or `evaluated`,
        the rows whose labels were counted), `score`, and the `difference` of the model's score from it, with its
        paired interval `difference_low` to `difference_high`.
    """
    of = "train"
    if not labels or not labels["total"]:
        labels, of = label_facts(rows.task, rows.labels), "evaluated"
    answer, constant = same_answer(rows, labels)
    missing = np.isnan(rows.labels) if rows.multi_label else False
    truth, predicted, constant = (np.where(missing, 0, values) for values in (rows.labels, rows.predicted, constant))
    both = np.stack([predicted, constant]).astype(np.float64)
    exact = scorer(metric, rows.task)
    score, base = (exact(side, truth) for side in both)
    ends = dict.fromkeys(("low", "high", "difference_low", "difference_high"), float("nan"))
    if len(rows) > 1:
        random, parts = np.random.default_rng(seed), []
        at_once = max(1, ENTRIES // len(rows))
        for start in range(0, resamples, at_once):
            size = min(at_once, resamples - start)
            weights = random.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=size)
            parts.append(_scores(rows, metric, both, truth, weights))
        drawn = np.concatenate(parts)
        low, high = np.quantile(drawn[:, 0], [0.025, 0.975])
        ends |= {"low": float(low), "high": float(high)}
        low, high = np.quantile(drawn[:, 0] - drawn[:, 1], [0.025, 0.975])
        ends |= {"difference_low": float(low), "difference_high": float(high)}
    kind = "mean" if rows.regression else "majority"
    baseline = {"answer": answer, "kind": kind, "of": of, "score": float(base), "difference": float(score - base)}
    baseline |= {key: ends[key] for key in ("difference_low", "difference_high")}
    return {"low": ends["low"], "high": ends["high"], "baseline": baseline}


def same_answer(rows: TaskRows, labels: Mapping[str, Any]) -> tuple[str, np.ndarray]:
    """Return the most frequent label, or the mean score, as text and as predictions of all rows.

    Args:
        rows: the task's rows.
        labels: result of `label_facts`.
    """
    task, shape = rows.task, rows.predicted.shape
    if rows.regression:
        return f"{labels['mean']:.3g}", np.full(shape, labels["mean"])
    counts = np.array([labels["counts"][name] for name in task.classes])
    if rows.multi_label:
        known = np.array([labels["known"][name] for name in task.classes])
        frequent = 2 * counts > known
        names = [name for name, chosen in zip(task.classes, frequent, strict=True) if chosen]
        return ", ".join(names) or NONE, np.broadcast_to(frequent.astype(np.float64), shape)
    most = int(counts.argmax())
    constant = np.full(shape, most)
    if rows.of_parts:
        constant = np.where(rows.labels == IGNORE_INDEX, IGNORE_INDEX, constant)
    return task.classes[most], constant


def _scores(rows: TaskRows, metric: str, predicted: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Score predictions `(2, rows, …)` on resamples `(resamples, rows)`; return `(resamples, 2)`."""
    if not rows.of_parts:
        if predicted.ndim == 3:
            weights = weights.astype(np.float64)  # products of integers are slow
        return scores_by_seed(metric, predicted, labels.astype(np.float64), weights)
    score = scorer(metric, rows.task)
    chosen = [np.repeat(np.arange(len(labels)), row) for row in weights]
    return np.array([[score(side[sample], labels[sample]) for side in predicted] for sample in chosen])
