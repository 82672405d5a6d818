"""Precision: buffers that keep fp32 when a model is cast, and copies that keep the dtype of every tensor.

transformers casts the weights of an encoder in half precision, but not its rotary frequencies: rounding these would
rotate later tokens by whole radians.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from torch import Tensor, nn


def unsaved_buffers(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """(module, name, buffer) of the floating-point buffers that are computed from the config, not saved."""
    for module in model.modules():
        for name in module._non_persistent_buffers_set:
            buffer = module._buffers[name]
            if buffer is not None and buffer.is_floating_point():
                yield module, name, buffer


def copy_tensors(target: nn.Module, source: Any) -> None:
    """Copy the weights and buffers of a module into another with the same names, with dtype and device."""
    tensors = dict(chain(source.named_parameters(), source.named_buffers()))
    for name, tensor in chain(target.named_parameters(), target.named_buffers()):
        tensor.data = tensors[name].detach().clone()
