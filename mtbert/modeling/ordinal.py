"""CORN: a classification whose classes have an order (Shi, Cao and Raschka, 2021, section 3).

"Deep neural networks for rank-consistent ordinal regression based on conditional probabilities". Of K classes, the k-th
of K − 1 logits is that of P(y > k | y > k − 1), k = 0 … K − 2. Products of their sigmoids are P(y > k), which fall with
k, so that the ranks are consistent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def exceedances(logits: Tensor) -> Tensor:
    """P(y > k) for k = 0 … K − 2, as in equation 5: `(…, K − 1)` both."""
    return logits.sigmoid().cumprod(-1)


def log_probabilities(logits: Tensor) -> Tensor:
    """log P(y = k) of each class: log P(y > k − 1) + log P(y ≤ k | y > k − 1), `(…, K)` from `(…, K − 1)`."""
    end = torch.zeros_like(logits[..., :1])
    reached = torch.cat([end, nn.functional.logsigmoid(logits).cumsum(-1)], dim=-1)
    stopped = torch.cat([nn.functional.logsigmoid(-logits), end], dim=-1)
    return reached + stopped


def logits_of(log_probabilities: Tensor) -> Tensor:
    """The inverse of `log_probabilities`: log P(y > k) − log P(y = k), `(…, K − 1)` from `(…, K)`."""
    at_least = log_probabilities.flip(-1).logcumsumexp(-1).flip(-1)
    return at_least[..., 1:] - log_probabilities[..., :-1]


def ranks(logits: Tensor) -> Tensor:
    """Class ids: the number of k with P(y > k) above ½ (equation 6), the median of the distribution: `(…,)`."""
    return (exceedances(logits) > 0.5).sum(-1)


def probabilities_of(exceedances: Tensor) -> Tensor:
    """P(y = k) = P(y > k − 1) − P(y > k) of each class, `(…, K)` from `exceedances`, `(…, K − 1)`."""
    end = torch.zeros_like(exceedances[..., :1])
    return (torch.cat([end + 1, exceedances], dim=-1) - torch.cat([exceedances, end], dim=-1)).clamp(min=0)


def row_losses(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """−log P(y = label) of each row, `(rows,)`: the sum of its binary cross-entropies in the conditional subsets.

    A row is in the first min(label + 1, K − 1) subsets. The published loss (equation 4) is Σ_i ℓ_i / Σ_i m_i with this
    number m_i, a ratio that depends on the labels of the batch. Here a step's loss is the mean of the ℓ_i over rows:
    the published loss times the mean m of the step's rows, between 1 and K − 1. It is a mean over rows, so that mixed
    and accumulated batches give what whole ones do, and it has the scale of the cross-entropy of K classes.

    Args:
        logits: `(rows, K − 1)`.
        labels: class ids, `(rows,)`.
        mask: labelled rows, `(rows,)`; values of the others are arbitrary.
    """
    chosen = torch.where(mask, labels, 0).long()
    return -log_probabilities(logits).gather(-1, chosen[:, None]).squeeze(-1)


def in_order(labels: Sequence[str]) -> bool:
    """Whether labels may be those of an ordinal task: they are not all numbers, or these only rise or only fall."""
    if not all(re.fullmatch(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?", label) for label in labels):
        return True
    steps = [float(second) - float(first) for first, second in pairwise(labels)]
    return all(step > 0 for step in steps) or all(step < 0 for step in steps)
