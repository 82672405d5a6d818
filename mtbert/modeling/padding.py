"""Encoding with padding, for encoders that have no way in for packed attention, and states padded for heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .adapters import AdapterPass
from .encoders import depends_on_padding, shortest_input
from .packing import PACKED_FAMILIES, PackedLayout


def padded_index(layout: PackedLayout, first: int, last: int) -> tuple[Tensor, Tensor]:
    """For sequences first…last: the token of each padded place, and which places are real; both `(n, length)`."""
    place = torch.arange(max(layout.lengths[first:last], default=0), device=layout.starts.device)
    mask = place < layout.cu_seqlens.diff()[first:last, None]
    return torch.where(mask, layout.starts[first:last, None] + place, 0), mask


def padded(hidden: Tensor, layout: PackedLayout, first: int, last: int) -> tuple[Tensor, Tensor]:
    """States `(n, length, hidden)` of sequences first…last, and which places are real."""
    index, mask = padded_index(layout, first, last)
    return hidden.index_select(0, index.flatten()).unflatten(0, index.shape), mask


def encode_padded(
    encoder: nn.Module, inputs: Mapping[str, Tensor], layout: PackedLayout, adapters: AdapterPass | None
) -> Tensor:
    """Packed inputs → an encoder's last hidden states `(tokens, hidden)`, with padding.

    Families whose states change with padding get a pass for each length, without any. Others that cannot be packed get
    one for each of the layout's buckets, padded to the longest sequence in it, where one process computes on a CPU:
    there padding costs as much as text, and no other process has to make as many passes. All others, which were asked
    not to be packed, get a single pass.
    """
    if depends_on_padding(encoder.config) and layout.lengths:
        return _by_length(encoder, inputs, layout)
    alone = layout.starts.device.type == "cpu" and not (dist.is_available() and dist.is_initialized())
    if encoder.config.model_type not in PACKED_FAMILIES and alone and layout.buckets:
        return _in_buckets(encoder, inputs, layout)  # adapters are for families that can be packed
    index, mask = padded_index(layout, 0, len(layout.lengths))
    sequence = torch.repeat_interleave(
        torch.arange(len(layout.lengths), device=mask.device),
        layout.cu_seqlens.diff(),
        output_size=sum(layout.lengths),
    )
    places = sequence * mask.shape[1] + layout.position_ids.squeeze(0)
    extra = {} if adapters is None else {"adapters": replace(adapters, tokens=places)}
    hidden = _pass(encoder, inputs, index, mask, **extra).index_select(0, places)
    return hidden if adapters is None else adapters.on_top(hidden)


def _in_buckets(encoder: nn.Module, inputs: Mapping[str, Tensor], layout: PackedLayout) -> Tensor:
    hidden, first = [], 0
    for bucket in layout.buckets:
        last = first + bucket.count * bucket.length
        index = layout.gather[first:last].view(bucket.count, bucket.length)
        mask = torch.ones_like(index, dtype=torch.bool) if bucket.mask is None else bucket.mask[:, 0, 0]
        hidden.append(_pass(encoder, inputs, index, mask))
        first = last
    return torch.cat(hidden).index_select(0, layout.scatter)


def _by_length(encoder: nn.Module, inputs: Mapping[str, Tensor], layout: PackedLayout) -> Tensor:
    hidden, tokens, lengths = [], [], layout.cu_seqlens.diff()
    for length in sorted(set(layout.lengths)):
        starts = layout.starts[lengths == length, None]
        place = torch.arange(max(length, shortest_input(encoder.config)), device=starts.device)
        mask = (place < length).expand(len(starts), -1)
        index = torch.where(mask, starts + place, 0)
        hidden.append(_pass(encoder, inputs, index, mask)[mask.flatten()])
        tokens.append(index[mask])
    return torch.cat(hidden).index_select(0, torch.cat(tokens).argsort())


def _pass(encoder: nn.Module, inputs: Mapping[str, Tensor], index: Tensor, mask: Tensor, **extra) -> Tensor:
    """Hidden states `(places, hidden)`: `index` `(n, length)` names each place's token, `mask` those that are real."""
    values = {key: value.squeeze(0)[index] for key, value in inputs.items()}
    if "input_ids" in values:
        values["input_ids"] = torch.where(mask, values["input_ids"], encoder.config.pad_token_id or 0)
    return encoder(**values, attention_mask=mask.long(), **extra).last_hidden_state.flatten(0, 1)
