"""DeBERTa-v2's and v3's attention for packed batches.

DeBERTa's scores have three parts: a query times a key, a query times a vector of the distance between the two tokens,
and a vector of the distance times a key (He et al., "DeBERTa: Decoding-enhanced BERT with Disentangled Attention",
2021). It computes them in classes of its own, not in transformers' attention interface. The classes here replace them:
their weights and names are the same, and so is what they compute of padded inputs. For packed batches, they project the
vectors of those distances only that occur, and once for all buckets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Encoder, DisentangledSelfAttention

from .device_copies import to_device
from .encoder_call import given
from .packing import PackedLayout, packed_attention, to_buckets


@dataclass(frozen=True)
class _PackedPositions:
    """The distances between the tokens of each text in a packed batch.

    Attributes:
        layout: layout of the texts.
        first, last: half-open range of those vectors of distances that the texts need.
        index: `(1, longest, longest)`, for each query and key, the number of their distance's vector in the range; None
            if the encoder's attention knows no distances.
    """

    layout: PackedLayout
    first: int = 0
    last: int = 0
    index: Tensor | None = None


class _PackedEncoder(DebertaV2Encoder):
    """Gives its layers the layout and distances of a packed batch in the place of relative positions."""

    def get_rel_pos(self, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        layout = given("layout")
        if layout is None:
            return super().get_rel_pos(hidden_states, *args, **kwargs)
        if not self.relative_attention:
            return _PackedPositions(layout)
        span = self.position_buckets if self.position_buckets > 0 else self.max_relative_positions
        longest = max(bucket.length for bucket in layout.buckets)
        distances: Any = super().get_rel_pos(torch.empty(1, longest, 0))  # on the CPU: no wait for a GPU below
        number = (distances + span).clamp(0, 2 * span - 1)
        first, last = int(number.min()), int(number.max()) + 1
        return _PackedPositions(layout, first, last, to_device(number - first, hidden_states.device))


class _PackedSelfAttention(DisentangledSelfAttention):
    """Attention of each sequence over itself, in the buckets of a packed batch."""

    def forward(
        self: Any,
        hidden_states: Any,
        attention_mask: Any,
        output_attentions: bool = False,
        query_states: Any = None,
        relative_pos: Any = None,
        rel_embeddings: Any = None,
    ) -> Any:
        if not isinstance(relative_pos, _PackedPositions):
            return super().forward(
                hidden_states, attention_mask, output_attentions, query_states, relative_pos, rel_embeddings
            )
        states = hidden_states.squeeze(0)
        query, key, value = (self._heads(p, states) for p in (self.query_proj, self.key_proj, self.value_proj))
        parts = 1 + ("c2p" in self.pos_att_type) + ("p2c" in self.pos_att_type)
        scaling = 1 / float(torch.tensor(self.attention_head_size * parts, dtype=torch.float32).sqrt())  # as there
        added = None
        if relative_pos.index is not None and parts > 1:
            added = self._of_distances(query * scaling, key * scaling, relative_pos, rel_embeddings)
        dropout = self.dropout.p if self.training else 0.0
        context = packed_attention(query, key, value, relative_pos.layout, dropout, scaling, added=added)
        return context.flatten(1).unsqueeze(0), None

    def _heads(self: Any, project: Any, states: Tensor) -> Tensor:
        return project(states).unflatten(-1, (self.num_attention_heads, -1))

    def _of_distances(self: Any, query: Tensor, key: Tensor, positions: Any, embeddings: Tensor) -> list[Tensor]:
        """The parts of the scores that depend on distances, for each bucket `(count, heads, length, length)`.

        Args:
            query, key: `(tokens, heads, size)`, scaled.
            embeddings: `(distances, hidden)`.
        """
        layout, index = positions.layout, positions.index
        vectors = self.pos_dropout(embeddings[positions.first : positions.last])
        shared = self.share_att_key
        sums: list[Any] = [None] * len(layout.buckets)
        if "c2p" in self.pos_att_type:
            keys = self._heads(self.key_proj if shared else self.pos_key_proj, vectors)
            sums = [_gather(states, keys, index) for states in to_buckets(query, layout)]
        if "p2c" in self.pos_att_type:
            queries = self._heads(self.query_proj if shared else self.pos_query_proj, vectors)
            for number, states in enumerate(to_buckets(key, layout)):
                # the index of (key, query): from its row on, distances are those of queries from the key
                own = _gather(states, queries, index.transpose(1, 2)).transpose(-1, -2)
                sums[number] = own if sums[number] is None else sums[number] + own
        masks = (bucket.mask for bucket in layout.buckets)
        return [
            own if mask is None else own.masked_fill(~mask, -torch.inf) for own, mask in zip(sums, masks, strict=True)
        ]


def _gather(states: Tensor, vectors: Tensor, index: Tensor) -> Tensor:
    """Products of each state with the vectors of its distances.

    Args:
        states: `(count, heads, length, size)`.
        vectors: `(distances, heads, size)`.
        index: `(1, longest, longest)`, the vector for each pair of places.

    Returns:
        `(count, heads, length, length)`.
    """
    products = states @ vectors.permute(1, 2, 0)
    length = states.shape[2]
    return products.gather(-1, index[:, :length, :length].expand(*products.shape[:2], -1, -1))


_CLASSES: dict[type, type] = {
    DebertaV2Encoder: _PackedEncoder,
    DisentangledSelfAttention: _PackedSelfAttention,
}


def prepare_deberta(encoder: PreTrainedModel) -> None:
    """Make the layers of a DeBERTa able to compute packed batches; other encoders stay as they are."""
    for module in encoder.modules():
        if type(module) in _CLASSES:
            module.__class__ = _CLASSES[type(module)]
