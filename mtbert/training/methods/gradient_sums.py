"""Inner products and weighted sums of the tasks' gradients, which may be sparse or missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

BLOCK = 2**18  # numbers whose inner product is taken in float32: few enough to lose no precision


def gramian(gradients: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """All inner products of T gradients, `(T, T)` in float64; each gradient is a list of tensors, None counts as 0.

    Products of blocks are computed in the gradients' precision, but at least in float32, and summed in float64.
    """
    pairs = [(i, j) for i in range(len(gradients)) for j in range(i + 1)]
    products, device = [], None
    for tensors in zip(*gradients, strict=True):
        present = next((tensor for tensor in tensors if tensor is not None), None)
        if present is None:
            continue
        device, precision = present.device, torch.promote_types(present.dtype, torch.float32)
        flat = [(torch.zeros_like(present) if tensor is None else tensor).flatten() for tensor in tensors]
        for blocks in zip(*(tensor.split(BLOCK) for tensor in flat), strict=True):
            blocks = [block.to(precision) for block in blocks]
            products += [torch.dot(blocks[i], blocks[j]) for i, j in pairs]
    total = torch.zeros(len(gradients), len(gradients), dtype=torch.float64, device=device)
    if products:
        rows, columns = torch.tril_indices(len(gradients), len(gradients), device=device)  # in the order of the pairs
        total[rows, columns] = torch.stack(products).double().view(-1, len(pairs)).sum(0)
    return total + total.tril(-1).T


def same_rows(gradients: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor | None]]:
    """Align sparse gradients of one matrix.

    Returns:
        The indices of all rows that any of them has, `(n,)`, and each gradient's values at these rows, `(n, …)`.
    """
    merged = [None if tensor is None else tensor.coalesce() for tensor in gradients]
    rows, places = torch.cat([tensor.indices()[0] for tensor in merged if tensor is not None]).unique(
        return_inverse=True
    )
    places = iter(places.split([tensor.indices().shape[1] for tensor in merged if tensor is not None]))
    aligned: list[Tensor | None] = []
    for gradient in merged:
        if gradient is not None:
            values = gradient.values()
            gradient = values.new_zeros(len(rows), *values.shape[1:]).index_copy_(0, next(places), values)
        aligned.append(gradient)
    return rows, aligned


def weighted_sum(gradients: Iterable[Tensor | None], weights: Tensor) -> Tensor | None:
    """Σ_t weights[t] · gradients[t], computed in place in the first gradient; None counts as 0."""
    total = None
    for gradient, weight in zip(gradients, weights.unbind(), strict=True):
        if gradient is not None:
            weight = weight.to(gradient.dtype)
            total = gradient.mul_(weight) if total is None else total.addcmul_(gradient, weight)
    return total
