"""Classifications: confusions, each class's rates, calibration, and labels that are probably wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import metrics as sk

BINS = 15  # of a reliability diagram; Guo et al., 2017, section 4


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How often each class, in rows, was predicted as each class, in columns: `(classes, classes)` counts."""
    if not len(labels):
        return np.zeros((classes, classes), dtype=np.int64)
    return sk.confusion_matrix(labels, predicted, labels=range(classes))


def shares(counts: np.ndarray) -> np.ndarray:
    """A confusion matrix over the rows of each true class; NaN for a class without rows."""
    total = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)


def class_rates(labels: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Each class against the rest.

    Returns:
        A row for each class: `rows`, `predicted` (counts), `precision`, `recall`, `f1`, `false_positives` FP,
        `false_negatives` FN, `false_positive_rate` FP / (FP + TN), `false_negative_rate` FN / (FN + TP) and
        `selection_rate`, the share of all rows that it was predicted for. NaN where a denominator is 0.
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
    """How far confidence is from accuracy (Guo, Pleiss, Sun and Weinberger, 2017, equations 3 and 5).

    Args:
        confidence: (decisions,) the probability of what was predicted, in [0, 1].
        right: (decisions,) whether that is so.
        bins: M, of equal width; bin m holds confidences in ((m − 1)/M, m/M].

    Returns:
        `ece` = Σ_m |B_m|/n · |acc(B_m) − conf(B_m)|, `mce`, the largest of these differences, and `bins`: the ones that
        hold anything, with `low`, `high`, `rows`, `confidence` (their mean) and `accuracy`.
    """
    number = np.clip(np.ceil(confidence * bins).astype(np.int64), 1, bins)
    table = []
    for m in np.unique(number):
        own = number == m
        table.append(
            {
                "low": float((m - 1) / bins),
                "high": float(m / bins),
                "rows": int(own.sum()),
                "confidence": float(confidence[own].mean()),
                "accuracy": float(right[own].mean()),
            }
        )
    gaps = np.array([abs(each["accuracy"] - each["confidence"]) for each in table])
    weights = np.array([each["rows"] for each in table]) / max(1, len(confidence))
    if not table:
        return {"ece": float("nan"), "mce": float("nan"), "bins": []}
    return {"ece": float(gaps @ weights), "mce": float(gaps.max()), "bins": table}


def suspects(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose label is probably wrong (Northcutt, Jiang and Chuang, 2021, sections 3.1 and 3.2).

    Class j's threshold t_j is the mean p̂_j of the rows labelled j (equation 2). A row counts for the class j* whose p̂
    is the highest of those with p̂_j ≥ t_j (equation 1); if that is not its label, the label is suspected. The
    probabilities must be out of sample: of rows that the model was not trained on.

    Args:
        labels: (rows,) class ids.
        probabilities: (rows, classes).

    Returns:
        The suspected rows, those with the lowest self-confidence p̂_label first, and each one's j*; both (suspects,).
    """
    rows, classes = probabilities.shape
    thresholds = np.full(classes, np.inf)  # a class without rows has none, and is nobody's j*
    for j in np.unique(labels):
        thresholds[j] = probabilities[labels == j, j].mean()
    above = np.where(probabilities >= thresholds, probabilities, -np.inf)
    best = above.argmax(axis=1) if rows else np.zeros(0, dtype=np.int64)
    found = np.flatnonzero((above.max(axis=1, initial=-np.inf) > -np.inf) & (best != labels))
    found = found[np.argsort(probabilities[found, labels[found]], kind="stable")]
    return found, best[found]
