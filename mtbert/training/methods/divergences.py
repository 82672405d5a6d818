"""ℓ_s: the divergence of two outputs of a task, for the regularisers of SMART (Jiang et al., 2020, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from ...modeling.task_spec import TaskSpec

RANGE, LABELS = SCALES = ("range", "labels")


def divergence(task: TaskSpec, logits: Tensor, other: Tensor, scale: str = RANGE) -> Tensor:
    """ℓ_s of each row, at least 0 and symmetric: `(rows,)` in fp32, or fp64 for inputs in fp64.

    - Single label and ordinal: the symmetrised Kullback-Leibler divergence of the distributions over the classes,
      KL(P‖Q) + KL(Q‖P) = Σ_i (p_i − q_i)(log p_i − log q_i).
    - One logit: the same of two Bernoulli distributions, (σ(a) − σ(b))(a − b).
    - Multi-label: the mean of that over the labels, like the task's loss.
    - Regression: ((a − b) / (highest − lowest))², so that it does not depend on the scale; (a − b)² without a range,
      or with the scale `labels`.

    Each of these products is 0 or more even after rounding. In the sum KL(P‖Q) + KL(Q‖P), terms of the order of the
    difference would cancel to its square, which fp32 cannot represent at the paper's radius (1e-5).

    Gradients flow to both arguments. The authors' code detaches the distribution that weights each term, which halves
    the gradient where the two are close.

    Args:
        logits: `(rows, num_labels)`; a regression's are on its scale.
        other: the same.
        scale: `range` or `labels`: the scale of a regression's squared error.
    """
    precise = torch.promote_types(logits.dtype, torch.float32)
    a, b = logits.to(precise), other.to(precise)
    if task.kind.numeric:
        low, high = task.range if task.range and scale == RANGE else (0.0, 1.0)
        return ((a - b).squeeze(-1) / (high - low)).square()
    if task.kind.exclusive:
        a, b = (task.kind.class_logits(logits).log_softmax(-1) for logits in (a, b))
        return ((a.exp() - b.exp()) * (a - b)).sum(-1)
    return ((a.sigmoid() - b.sigmoid()) * (a - b)).mean(-1)
