"""ℓ_s: how far two outputs of a task lie apart, for the regularisers of SMART (Jiang et al., 2020, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from ...modeling.configuration_mtbert import TaskSpec


def divergence(task: TaskSpec, logits: Tensor, other: Tensor) -> Tensor:
    """ℓ_s of each row, at least 0 and symmetric: `(rows,)` in fp32, or fp64 for inputs in fp64.

    Single label: the symmetrised Kullback-Leibler divergence KL(P‖Q) + KL(Q‖P) = Σ_i (p_i − q_i)(log p_i − log q_i).
    One logit: the same of two Bernoulli distributions, (σ(a) − σ(b))(a − b). Multi-label: its mean over the labels, as
    the task's loss is a mean over them. Regression: ((a − b) / (highest − lowest))², so that scores on a scale of 5 and
    on a scale of 100 weigh the same; without a range (a − b)².

    Each term of these products is 0 or more even after rounding. Summed as two divergences, terms of the size of the
    difference would cancel down to its square, which fp32 does not hold at the radius of the paper (1e-5).

    Gradients flow to both arguments. The authors' code holds either distribution fixed in the term that it weights,
    which halves the gradient where the two are close.

    Args:
        logits: `(rows, num_labels)`; a regression's are on its scale.
        other: the same.
    """
    precise = torch.promote_types(logits.dtype, torch.float32)
    a, b = logits.to(precise), other.to(precise)
    if task.kind.numeric:
        low, high = task.range or (0.0, 1.0)
        return ((a - b).squeeze(-1) / (high - low)).square()
    if task.kind.exclusive:
        a, b = a.log_softmax(-1), b.log_softmax(-1)
        return ((a.exp() - b.exp()) * (a - b)).sum(-1)
    return ((a.sigmoid() - b.sigmoid()) * (a - b)).mean(-1)
