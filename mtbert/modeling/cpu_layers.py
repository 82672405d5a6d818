"""Faster layers for training on CPUs: fp32 matrix products by oneDNN, and dropout from 16 random bits an element.

PyTorch computes fp32 products with MKL, which uses AVX-512 on Intel's processors only, and its dropout draws a whole
random number for every element. On other devices, and if one of the conditions below fails, these layers compute like
those of `torch.nn`. Their parameters, names and `state_dict` are the same.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MIN_ROWS = 64  # with fewer rows, preparing oneDNN's kernel for a new shape takes longer than the product
_PLAIN = (Tensor, nn.Parameter)


def _has_onednn() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


ONEDNN = _has_onednn()


def _product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute left · rightᵀ + bias with oneDNN; `left` is (m, k), `right` (n, k), both in fp32."""
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """x Wᵀ + b and its gradients, each by one product of oneDNN; x is `(rows, in_features)`.

    With more dimensions oneDNN's product would be a view, which autograd does not allow to be changed in place.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return _product(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        inputs, weight = ctx.saved_tensors
        of_inputs, of_weight, of_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if of_inputs else None,
            _product(gradient.t(), inputs.t()) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )


class Linear(nn.Linear):
    """`nn.Linear` that computes fp32 products of at least `MIN_ROWS` rows with oneDNN, on CPUs with AVX-512."""

    def forward(self, input: Tensor) -> Tensor:
        if (
            ONEDNN
            and not torch.compiler.is_compiling()  # first, so that no graph depends on the other conditions
            and input.device.type == "cpu"
            and input.dtype is self.weight.dtype is torch.float32
            and input.numel() >= MIN_ROWS * self.in_features
            and type(self.weight) in _PLAIN
            and not torch.is_autocast_enabled("cpu")
        ):
            rows = _Linear.apply(input.flatten(0, -2), self.weight, self.bias)
            return rows.unflatten(0, input.shape[:-1])
        return super().forward(input)


def dropout(states: Tensor, p: float, training: bool = True) -> Tensor:
    """`nn.functional.dropout`; on CPUs it draws 16 random bits an element.

    The probability is then rounded to a multiple of 2⁻¹⁶, and kept elements are scaled by the rounded probability, so
    that the mean is exact. Random numbers come from PyTorch's default generator.
    """
    dropped = round(p * 2**16) if training else 0
    if not 0 < dropped < 2**16 or states.device.type != "cpu" or torch.compiler.is_compiling():
        return nn.functional.dropout(states, p, training)
    bits = torch.empty(-(-states.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = bits.view(torch.int16)[: states.numel()].view(states.shape) >= dropped - 2**15
    return states * kept.to(states.dtype).mul_(2**16 / (2**16 - dropped))


class Dropout(nn.Dropout):
    """`nn.Dropout` that calls `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, self.training)


# Sizes of PyTorch's and oneDNN's caches of kernels, 1,024 each by default. They keep one kernel for every shape, and
# almost every packed batch has another number of tokens, so that a process would grow by hundreds of MB. A step needs
# some dozens.
_KERNELS = {"LRU_CACHE_CAPACITY": "128", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}
_FASTER: dict[type, type] = {nn.Linear: Linear, nn.Dropout: Dropout}


def use_faster_layers(module: nn.Module) -> None:
    """Replace the classes of a module's plain linear and dropout layers, in place, by those of this file.

    This also bounds the process's caches of oneDNN's kernels, unless it has used oneDNN before or the environment sets
    their sizes.
    """
    for name, value in _KERNELS.items():
        os.environ.setdefault(name, value)
    for layer in module.modules():
        if type(layer) in _FASTER and not getattr(layer, "inplace", False):
            layer.__class__ = _FASTER[type(layer)]
