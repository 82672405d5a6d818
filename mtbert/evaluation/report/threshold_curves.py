"""Precision, recall and F1 by threshold, average precision, and accuracy by confidence."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import metrics as sk

from .rows import TaskRows

POINTS = 101  # most points of a curve
STEPS = np.linspace(0, 1, 51)  # thresholds of a curve by threshold


def decision_curves(rows: TaskRows) -> dict[str, Any]:
    """Compute how the decisions of a classification depend on a threshold.

    Returns:
        `labels`: label → its curves against the rest (see `label_curves`), for each label of a multi-label task, the
        second of two classes, or each of several classes; and for tasks that choose one of several classes
        `confidence`: `threshold`, `share` of the rows whose confidence reaches it, and `accuracy` of these (None
        without rows), lists of equal length.
    """
    names = rows.task.classes
    if rows.multi_label:
        curves = {}
        for column, name in enumerate(names):
            known = ~np.isnan(rows.labels[:, column])
            curves[name] = label_curves(rows.labels[known, column] == 1, rows.probabilities[known, column])
        return {"labels": curves}
    first = 1 if len(names) == 2 else 0
    labels = {names[j]: label_curves(rows.labels == j, rows.probabilities[:, j]) for j in range(first, len(names))}
    confidence = rows.probabilities.max(axis=1)
    reaches = confidence[None, :] >= STEPS[:, None] - 1e-12
    count, right = reaches.sum(axis=1), (reaches & rows.right).sum(axis=1)
    accuracy = [float(r / n) if n else None for r, n in zip(right, count, strict=True)]
    share = (count / len(rows)).tolist()
    return {"labels": labels, "confidence": {"threshold": STEPS.tolist(), "share": share, "accuracy": accuracy}}


def label_curves(positive: np.ndarray, probability: np.ndarray) -> dict[str, Any]:
    """Compute the curves of one label.

    Args:
        positive: whether the label is true, (rows,).
        probability: of the label, (rows,).

    Returns:
        `rows`, the number of positive rows; `average_precision` (NaN without one); `curve`: `recall` and `precision`
        at falling thresholds, at most 101 points; `by_threshold`: `threshold`, `precision` (None if nothing reaches the
        threshold), `recall` and `f1`; and `best`: the `threshold` of `by_threshold` with the highest F1, and that F1.
        Without positive rows the curves are empty and `best` is None.
    """
    total = int(positive.sum())
    if not total:
        return {"rows": 0, "average_precision": float("nan"), "curve": {}, "by_threshold": {}, "best": None}
    precision, recall, _ = sk.precision_recall_curve(positive, probability)
    kept = np.unique(np.linspace(0, len(recall) - 1, POINTS).round().astype(int))[::-1]  # by rising recall
    given = probability[None, :] >= STEPS[:, None] - 1e-12
    chosen, hits = given.sum(axis=1), (given & positive).sum(axis=1)
    f1 = 2 * hits / (chosen + total)
    best = int(f1.argmax())
    return {
        "rows": total,
        "average_precision": float(sk.average_precision_score(positive, probability)),
        "curve": {"recall": recall[kept].tolist(), "precision": precision[kept].tolist()},
        "by_threshold": {
            "threshold": STEPS.tolist(),
            "precision": [float(h / n) if n else None for h, n in zip(hits, chosen, strict=True)],
            "recall": (hits / total).tolist(),
            "f1": f1.tolist(),
        },
        "best": {"threshold": float(STEPS[best]), "f1": float(f1[best])},
    }
