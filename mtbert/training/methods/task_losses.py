"""Losses that a task may have in training in place of its problem type's own: focal, smooth L1, cosine, correlation.

Each is a loss of every row, whose mean over rows is the published loss, so that weights, schedules and methods treat it
like any other. The row losses of `correlation` also depend on the other rows of the micro-batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import Problem
from ...modeling.problem_types import known_mean
from ...modeling.task_spec import TaskSpec

FOCAL, COSINE, CORRELATION, SMOOTH_L1 = "focal", "cosine", "correlation", "smooth_l1"
LOSSES = (FOCAL, COSINE, CORRELATION, SMOOTH_L1)
CONSTANT = 1e-6  # scores are constant if they deviate by less than this share of the largest


def loss_problems(task: TaskSpec, loss: str | None) -> list[Problem]:
    """Return a list with a `Problem` if a task cannot have the loss, else an empty list."""
    if loss not in LOSSES:
        return []
    if loss == FOCAL:
        why = "but a regression has no classes; use cosine, correlation or smooth_l1" if task.kind.numeric else None
    elif not task.kind.numeric:
        why = f"which is for regressions; {task.kind.with_article} may have focal"
    elif loss == COSINE and task.head.type != "cosine":
        why = f"but the head is {task.head.type}, which computes no cosine; use head: {{type: cosine}}, or another loss"
    else:
        why = None
    return [Problem(("loss",), f"is {loss!r}, {why}")] if why else []


def focal(
    task: TaskSpec,
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    gamma: float,
    known: Tensor | None = None,
) -> Tensor:
    """Focal loss −w_y (1 − p_y)^γ log p_y of each row (Lin et al., 2017, equation 5), the w_y being their α: `(rows,)`.

    p_y is the probability of the label, also of an ordinal task's; for a multi-label task that of each label's being
    true or false, and the loss is the mean over its labels.

    Args:
        logits: `(rows, num_labels)`.
        labels: `(rows,)`, or `(rows, num_labels)` of 0 and 1; without missing ones.
        weights: class weights as `objective.class_weights` returns them; None: 1.
        gamma: γ, 0 or more; 0 is the cross-entropy.
        known: mask of the labels of a multi-label task that are not missing, `(rows, num_labels)`; None: all.
    """
    if task.kind.exclusive:
        chosen = labels.long()
        log_p = task.kind.class_logits(logits).log_softmax(-1).gather(-1, chosen[:, None]).squeeze(-1)
        return _focused(log_p, gamma) * (1.0 if weights is None else weights[chosen])
    z = logits if task.kind.several else logits.squeeze(-1)
    of_zero, of_one = (1.0, 1.0) if weights is None else weights.unbind(-1)
    losses = _focused(nn.functional.logsigmoid(torch.where(labels == 1, z, -z)), gamma)
    losses = losses * torch.where(labels == 1, of_one, of_zero)
    if not task.kind.several:
        return losses
    return losses.mean(-1) if known is None else known_mean(losses, known)


def _focused(log_p: Tensor, gamma: float) -> Tensor:
    rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)  # 0^γ has no finite gradient for γ < 1
    return -(rest**gamma) * log_p


def smooth_l1(scores: Tensor, labels: Tensor, beta: float) -> Tensor:
    """(x − y)² / 2β where |x − y| < β, else |x − y| − β / 2 (Girshick, 2015, for β = 1): `(rows,)`.

    β is in units of the labels; 0 is the absolute error.
    """
    return nn.functional.smooth_l1_loss(scores, labels, beta=beta, reduction="none")


def cosine(scores: Tensor, labels: Tensor, low: float, high: float) -> Tensor:
    """(cos(u, v) − (y − low) / (high − low))² of each pair: CosineSimilarityLoss of sentence-transformers, `(rows,)`.

    Args:
        scores: of a cosine head: low + (high − low) · cos(u, v), `(rows,)`.
        labels: y, from low to high, `(rows,)`.
    """
    return ((scores - labels) / (high - low)).square()


def correlation(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """½ (z_x − z_y)² of each row, whose mean over labelled rows is 1 − r, Pearson's correlation: `(rows,)`.

    z are the scores and the labels, less their mean and divided by their standard deviation over the labelled rows. If
    either is constant, as with fewer than 2 rows, r counts as 0, and rows have the loss 1 and no gradient.

    Args:
        scores, labels: `(rows,)`; labels without a value are 0.
        mask: labelled rows, `(rows,)`.
    """
    (x, constant_x), (y, constant_y) = (_standardised(values, mask) for values in (scores, labels))
    return torch.where(constant_x | constant_y, 1.0, (x - y).square() / 2)


def _standardised(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    values = torch.where(mask, values, 0.0)
    count = mask.sum().clamp(min=1)
    centred = torch.where(mask, values - values.sum() / count, 0.0)
    variance = centred.square().sum() / count
    largest = values.detach().abs().amax() if len(values) else values.sum()
    constant = variance <= (CONSTANT * largest).square()  # false for nan, which must not be hidden
    return centred / torch.where(constant, 1.0, variance).sqrt(), constant
