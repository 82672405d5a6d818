"""MPNet's attention for packed batches.

MPNet adds a bias to the scores of its attention: a number for each head and each distance between two tokens, the same
in all layers. It does so in classes of its own, not in transformers' attention interface. The classes here replace
them: their weights and names are the same, and so is what they compute of padded inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder, MPNetSelfAttention

from .encoder_call import given
from .packing import PackedLayout, packed_attention


@dataclass(frozen=True)
class _PackedBias:
    """What all layers add to the scores of a packed batch: for each bucket `(count or 1, heads, length, length)`."""

    layout: PackedLayout
    buckets: tuple[Tensor, ...]


class _PackedEncoder(MPNetEncoder):
    """Computes the bias once for each bucket of a packed batch."""

    def compute_position_bias(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        layout = given("layout")
        if layout is None:
            return super().compute_position_bias(x, *args, **kwargs)
        longest = max(bucket.length for bucket in layout.buckets)
        bias = super().compute_position_bias(x.new_empty(1, longest, 0), *args, **kwargs)
        # a distance has the same bias in texts of all lengths
        return _PackedBias(layout, tuple(_masked(bias[:, :, : b.length, : b.length], b.mask) for b in layout.buckets))


def _masked(bias: Tensor, mask: Tensor | None) -> Tensor:
    return bias if mask is None else torch.where(mask, bias, -torch.inf)


class _PackedSelfAttention(MPNetSelfAttention):
    """Attention of each sequence over itself, in the buckets of a packed batch."""

    def forward(
        self: Any,
        hidden_states: Any,
        attention_mask: Any = None,
        position_bias: Any = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> Any:
        if not isinstance(position_bias, _PackedBias):
            mask = _summand(attention_mask, hidden_states)
            return super().forward(hidden_states, mask, position_bias, output_attentions, **kwargs)
        states = hidden_states.squeeze(0)
        q, k, v = (
            project(states).unflatten(-1, (self.num_attention_heads, -1)) for project in (self.q, self.k, self.v)
        )
        dropout = self.dropout.p if self.training else 0.0
        context = packed_attention(q, k, v, position_bias.layout, dropout, added=position_bias.buckets)
        return (self.o(context.flatten(1)).unsqueeze(0),)


def _summand(mask: Tensor | None, states: Tensor) -> Tensor | None:
    """A mask that is added to the scores; transformers makes one of bools where attention is `mtbert_packed`."""
    if mask is None or mask.dtype is not torch.bool:
        return mask
    return torch.where(mask, 0.0, torch.finfo(states.dtype).min).to(states.dtype)


_CLASSES: dict[type, type] = {MPNetEncoder: _PackedEncoder, MPNetSelfAttention: _PackedSelfAttention}


def prepare_mpnet(encoder: PreTrainedModel) -> None:
    """Make the layers of an MPNet able to compute packed batches; other encoders stay as they are."""
    for module in encoder.modules():
        if type(module) in _CLASSES:
            module.__class__ = _CLASSES[type(module)]
