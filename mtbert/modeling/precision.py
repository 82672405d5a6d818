"""Precision: what a cast of the whole model leaves alone, and copies that keep the dtype of every tensor.

transformers loads an encoder in half precision with its weights cast and its rotary frequencies in fp32: rounded, they
would turn the positions of later tokens by whole radians.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from torch import Tensor, nn


def unsaved_buffers(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """(module, name, buffer) of the floating-point buffers that are computed from the config, not saved."""
    for module in model.modules():
        for name in module._non_persistent_buffers_set:
            buffer = module._buffers[name]
            if buffer is not None and buffer.is_floating_point():
                yield module, name, buffer


def copy_tensors(target: nn.Module, source: nn.Module) -> None:
    """Give a module the weights and buffers of the same names of another, each as a copy of its dtype and device."""
    tensors = dict(chain(source.named_parameters(), source.named_buffers()))
    for name, tensor in chain(target.named_parameters(), target.named_buffers()):
        tensor.data = tensors[name].detach().clone()
