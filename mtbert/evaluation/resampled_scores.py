"""Scores of many resamples of the same rows, from how often each resample holds each row, by matrix products."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def matthews(predicted: Array, labels: Array, weights: Array) -> Array:
    """Matthews correlation of class ids; 0 where a side is constant.

    Args:
        predicted: `(rows,)`.
        labels: `(rows,)`.
        weights: `(resamples, rows)`.

    Returns:
        `(resamples,)`.
    """
    classes = np.union1d(predicted, labels)
    total = weights.sum(axis=1).astype(np.float64)
    of_predicted = weights @ (predicted[:, None] == classes).astype(np.float64)
    of_labels = weights @ (labels[:, None] == classes).astype(np.float64)
    right = weights @ (predicted == labels).astype(np.float64)
    covariance = right * total - (of_predicted * of_labels).sum(axis=1)
    spread_predicted = total**2 - (of_predicted**2).sum(axis=1)
    spread_labels = total**2 - (of_labels**2).sum(axis=1)
    scale = np.sqrt(spread_predicted * spread_labels)
    return np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)


def f1(average: str, predicted: Array, labels: Array, weights: Array) -> Array:
    """F1 of class ids `(rows,)`, or of 0 and 1 for each label `(rows, labels)`; `(resamples,)`.

    Args:
        average: `binary` (class 1), `micro`, or `macro`: over the labels, or over the classes that a resample holds.
        predicted, labels, weights: as for `matthews`.
    """
    of_classes = labels.ndim == 1
    if of_classes:
        classes = np.array([1.0]) if average == "binary" else np.union1d(predicted, labels)
        predicted, labels = predicted[:, None] == classes, labels[:, None] == classes
    predicted, labels = predicted.astype(np.float64), labels.astype(np.float64)
    both, either = weights @ (predicted * labels), weights @ (predicted + labels)
    if average == "micro":
        both, either = both.sum(axis=1, keepdims=True), either.sum(axis=1, keepdims=True)
    scores = np.divide(2 * both, either, out=np.zeros_like(both), where=either > 0)
    if of_classes and average == "macro":
        return np.asarray(scores.sum(axis=1) / (either > 0).sum(axis=1))
    return np.asarray(scores.mean(axis=1))
