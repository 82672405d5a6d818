"""A stand-in for PyTorch's kernel for sequences of different lengths, which runs on GPUs only."""

from __future__ import annotations

import inspect

import torch
from torch.nn.attention.varlen import varlen_attn

from mtbert.modeling import kernel, packing

SIGNATURE = inspect.signature(varlen_attn)


class PlainKernel:
    """Computes what `varlen_attn` computes, with explicit masks, and keeps the arguments of each call."""

    def __init__(self):
        self.calls = []

    def __call__(self, *args, **kwargs):
        given = SIGNATURE.bind(*args, **kwargs)
        self.calls.append(given.arguments)
        query, key, value, ends, key_ends, longest, key_longest = args
        assert ends is key_ends and ends.dtype == torch.int32
        assert longest == key_longest == int(ends.diff().max())
        assert query.shape == key.shape == value.shape and query.dim() == 3
        scale = kwargs["scale"] if kwargs.get("scale") is not None else query.shape[-1] ** -0.5
        left, right = (longest if side == -1 else side for side in kwargs.get("window_size", (-1, -1)))
        outputs = []
        for q, k, v in zip(*(states.split(ends.diff().tolist()) for states in (query, key, value)), strict=True):
            distance = torch.arange(len(q))[:, None] - torch.arange(len(q))[None, :]  # from the query back to the key
            near = (distance <= left) & (-distance <= right)
            scores = scale * torch.einsum("qhs,khs->hqk", q, k)
            weights = scores.masked_fill(~near, -torch.inf).softmax(-1)
            outputs.append(torch.einsum("hqk,khs->qhs", weights, v))
        return torch.cat(outputs)


def use_kernel(monkeypatch) -> PlainKernel:
    """Make packed attention use a stand-in wherever it has no dropout, on any device and in any precision."""
    plain = PlainKernel()
    monkeypatch.setattr(kernel, "varlen_attn", plain)
    monkeypatch.setattr(packing, "uses_kernel", lambda device, dtype, size, dropout: dropout == 0)
    return plain
