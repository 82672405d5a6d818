"""Attention of packed sequences by PyTorch's kernel for sequences of different lengths, which runs on GPUs."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

# From PyTorch 2.11 on. The code beside a checkpoint may be loaded with an older one.
HAS_WINDOWS = {"window_size", "scale"} <= inspect.signature(varlen_attn).parameters.keys()
LARGEST_HEAD = 192  # for larger ones some GPUs have no backward pass


def uses_kernel(device: torch.device, dtype: torch.dtype, size: int, dropout: float) -> bool:
    """Whether PyTorch's kernel for sequences of different lengths computes packed attention; otherwise buckets do.

    The kernel is FlashAttention. It takes any window and scaling, but no dropout, so that a model with attention
    dropout uses it in evaluation only. It needs PyTorch 2.11, a GPU of compute capability 8 (Ampere) or more, and heads
    of a multiple of 8 numbers.

    Args:
        device, dtype, size: those of queries, keys and values; size is that of a head.
        dropout: dropout probability of the attention weights in this pass.
    """
    return (
        dropout == 0
        and device.type == "cuda"
        and dtype in (torch.float16, torch.bfloat16)
        and size % 8 == 0
        and size <= LARGEST_HEAD
        and HAS_WINDOWS
        and torch.cuda.get_device_properties(device).major >= 8
    )


def kernel_attention(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, scaling: float | None, window: int | None
) -> Tensor:
    """`packing.packed_attention` by the kernel, where `uses_kernel` allows it.

    Args:
        query, key, value: `(tokens, heads, size)`.
        ends: `(sequences + 1,)` int32, the cumulated lengths.
        longest: the length of the longest sequence.
        scaling: factor on the scores; None: size^(-1/2).
        window: largest distance, in tokens, that is attended to; None: no limit.
    """
    side = -1 if window is None or longest <= window + 1 else window  # -1: no limit
    output: Any = varlen_attn(query, key, value, ends, ends, longest, longest, scale=scaling, window_size=(side, side))
    return output
