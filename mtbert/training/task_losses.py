"""What training may change about the tasks' losses: weights of classes, smoothed labels, weights from uncertainty.

Uncertainty: Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
Semantics" (2018), equations 7 and 10. None of it concerns evaluation, whose losses are plain means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

from ..errors import Problem
from ..modeling.configuration_mtbert import TaskSpec
from ..modeling.heads import labelled
from ..modeling.problem_types import IGNORED

if TYPE_CHECKING:
    from .arguments import TaskTraining

BALANCED = "balanced"


def check_losses(task: TaskSpec, settings: TaskTraining) -> list[Problem]:
    """One problem for each setting that does not suit the task's kind of problem."""
    found, weights = [], settings.class_weights
    if task.kind.numeric:
        for key, given in (
            ("class_weights", weights is not None),
            ("label_smoothing", settings.label_smoothing > 0),
            ("balanced", settings.balanced),
        ):
            if given:
                found.append(Problem((key,), f"is {getattr(settings, key)}, but a regression has no classes"))
        return found
    if isinstance(weights, tuple | list):
        expected = 2 if task.kind.binary else task.num_labels
        if len(weights) != expected:
            found.append(Problem(("class_weights",), f"has {len(weights)} numbers, but must have {expected}"))
    if settings.balanced and task.kind.several:
        found.append(Problem(("balanced",), "is true, but a row of a multi-label task is in no single class"))
    return found


def class_weights(task: TaskSpec, given: tuple[float, ...] | str, labels: np.ndarray) -> np.ndarray:
    """Weights whose mean over the training labels is 1, so that a step's plain mean over its rows stays one.

    Args:
        given: a number for each class; for a multi-label task a factor on the positives of each label (torch's
            `pos_weight`); or `balanced`: n / (K n_c), K the number of classes that occur, as in scikit-learn.
        labels: the training labels, `(rows,)`, or `(rows, num_labels)` of 0 and 1; missing ones count nothing.

    Returns:
        `(classes,)`; for a multi-label task `(num_labels, 2)`: each label's weight of 0 and of 1.
    """
    known = labels[labelled(task, torch.from_numpy(labels)).numpy()]
    if task.kind.several:
        pairs = np.ones((task.num_labels, 2))
        if given != BALANCED:
            pairs[:, 1] = given
        else:
            for label, column in enumerate(known.T):
                weights = _balanced(column.astype(np.int64), 2)
                pairs[label, 1] = weights[1] / weights[0]
        return pairs / pairs[np.arange(task.num_labels), known.astype(np.int64)].mean() if known.size else pairs
    known = known.astype(np.int64)
    count = 2 if task.kind.binary else task.num_labels
    weights = _balanced(known, count) if given == BALANCED else np.asarray(given, dtype=np.float64)
    return weights / weights[known].mean() if known.size else weights


def _balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """scikit-learn's balanced weights `(count,)`; 1 for classes that do not occur."""
    weights, occurring = np.ones(count), np.unique(labels)
    if occurring.size:
        weights[occurring] = compute_class_weight(BALANCED, classes=occurring, y=labels)
    return weights


def row_losses(task: TaskSpec, logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    """Each row's cross-entropy in fp32 with weighted classes and smoothed labels, 0 where the label is missing.

    As in `torch.nn.functional.cross_entropy`: −Σ_c w_c t_c log p_c with t_c = (1 − s) [c = y] + s / K. With one logit
    z, the two classes have the logits 0 and z; a multi-label task's row is the mean over its labels of that.

    Args:
        logits: `(rows, num_labels)`.
        labels: `(rows,)`, or `(rows, num_labels)` for a multi-label task.
        weights: what `class_weights` returns; None: 1.
        smoothing: s, in [0, 1).
    """
    mask, logits = labelled(task, labels), logits.float()
    weights = None if weights is None else weights.to(logits)
    if task.kind.exclusive:
        target = torch.where(mask, labels, IGNORED).long()
        return nn.functional.cross_entropy(
            logits, target, weights, ignore_index=IGNORED, reduction="none", label_smoothing=smoothing
        )
    several = task.kind.several
    hard = torch.where(mask[:, None] if several else mask, labels, 0).float()
    soft = hard * (1 - smoothing) + smoothing / 2
    z = logits if several else logits.squeeze(-1)
    of_zero, of_one = (1.0, 1.0) if weights is None else weights.unbind(-1)
    losses = -of_one * soft * nn.functional.logsigmoid(z) - of_zero * (1 - soft) * nn.functional.logsigmoid(-z)
    return torch.where(mask, losses.mean(-1) if several else losses, 0.0)
