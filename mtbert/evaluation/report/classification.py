"""Analyses of classifications: confusion matrix, rates per class, calibration, and probably wrong labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import metrics as sk

BINS = 15  # bins of a reliability diagram; Guo et al., 2017, section 4


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return the confusion matrix, counts of shape `(classes, classes)`: true classes in rows, predicted in columns."""
    if not len(labels):
        return np.zeros((classes, classes), dtype=np.int64)
    return sk.confusion_matrix(labels, predicted, labels=range(classes))


def shares(counts: np.ndarray) -> np.ndarray:
    """Divide a confusion matrix by the number of rows of each true class; NaN for a class without rows."""
    total = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)


def class_rates(labels: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Compute the rates of each class against the rest.

    Returns:
        A dict for each class: `class`, `rows`, `predicted` (counts), `precision`, `recall`, `f1`, `false_positives` FP,
        `false_negatives` FN, `false_positive_rate` FP / (FP + TN), `false_negative_rate` FN / (FN + TP) and
        `selection_rate`, the share of all rows for which the class was predicted. NaN if a denominator is 0.
    """
    counts = confusion(labels, predicted, len(classes))
    total, rows, chosen, hits = counts.sum(), counts.sum(1), counts.sum(0), counts.diagonal()
    precision = recall = f1 = np.full(len(classes), np.nan)
    if total:
        precision, recall, f1, _ = sk.precision_recall_fscore_support(
            labels, predicted, labels=range(len(classes)), zero_division=np.nan
        )
    table = []
    for i, name in enumerate(classes):
        false_positives, false_negatives = int(chosen[i] - hits[i]), int(rows[i] - hits[i])
        table.append(
            {
                "class": name,
                "rows": int(rows[i]),
                "predicted": int(chosen[i]),
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "false_positives": false_positives,
                "false_positive_rate": _ratio(false_positives, total - rows[i]),
                "false_negatives": false_negatives,
                "false_negative_rate": _ratio(false_negatives, rows[i]),
                "selection_rate": _ratio(chosen[i], total),
            }
        )
    return table


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def calibration(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> dict[str, Any]:
    """Compute the calibration errors of a classifier (Guo, Pleiss, Sun and Weinberger, 2017, equations 3 and 5).

    Args:
        confidence: probability of the predicted class, in [0, 1], shape (decisions,).
        right: whether the prediction is right, shape (decisions,).
        bins: M, the number of bins of equal width; bin m holds confidences in ((m − 1)/M, m/M].

    Returns:
        `ece` = Σ_m |B_m|/n · |acc(B_m) − conf(B_m)|; `mce`, the largest of these differences; and `bins`, the bins that
        are not empty, with `low`, `high`, `rows`, `confidence` (mean) and `accuracy`.
    """
    bin_of = np.clip(np.ceil(confidence * bins).astype(np.int64), 1, bins)
    table = []
    for m in np.unique(bin_of):
        in_bin = bin_of == m
        table.append(
            {
                "low": float((m - 1) / bins),
                "high": float(m / bins),
                "rows": int(in_bin.sum()),
                "confidence": float(confidence[in_bin].mean()),
                "accuracy": float(right[in_bin].mean()),
            }
        )
    gaps = np.array([abs(row["accuracy"] - row["confidence"]) for row in table])
    weights = np.array([row["rows"] for row in table]) / max(1, len(confidence))
    if not table:
        return {"ece": float("nan"), "mce": float("nan"), "bins": []}
    return {"ece": float(gaps @ weights), "mce": float(gaps.max()), "bins": table}


def suspects(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find rows whose label is probably wrong, by confident learning (Northcutt et al., 2021, sections 3.1 and 3.2).

    The threshold t_j of class j is the mean p̂_j of the rows labelled j (equation 2). The suggested class j* of a row
    has the highest p̂_j of all classes with p̂_j ≥ t_j (equation 1). A label is suspected if it differs from j*. The
    probabilities must be out of sample: the model must not have been trained on the rows.

    Args:
        labels: class ids, shape (rows,).
        probabilities: shape (rows, classes).

    Returns:
        The suspected rows, in ascending order of self-confidence p̂_label, and the class j* of each; shape (suspects,).
    """
    rows, classes = probabilities.shape
    thresholds = np.full(classes, np.inf)  # a class without rows has no threshold and is no j*
    for j in np.unique(labels):
        thresholds[j] = probabilities[labels == j, j].mean()
    above = np.where(probabilities >= thresholds, probabilities, -np.inf)
    best = above.argmax(axis=1) if rows else np.zeros(0, dtype=np.int64)
    suspected = np.flatnonzero((above.max(axis=1, initial=-np.inf) > -np.inf) & (best != labels))
    suspected = suspected[np.argsort(probabilities[suspected, labels[suspected]], kind="stable")]
    return suspected, best[suspected]
