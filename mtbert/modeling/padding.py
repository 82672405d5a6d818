"""Encode a packed batch, packed or with padding, and pad states for heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from transformers import AttentionMaskInterface, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .adapters import AdapterPass
from .device_copies import to_device
from .encoder_call import call_encoder
from .encoder_support import depends_on_padding, position_ids, shortest_input
from .errors import InputError
from .packing import PACKED_FAMILIES, PackedLayout, Segment, has_own_attention, is_packed


def padded_index(layout: PackedLayout, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Token index at each padded position of sequences first…last, and the mask of real tokens; both `(n, length)`."""
    place = torch.arange(max(layout.lengths[first:last], default=1), device=layout.starts.device)
    mask = place < layout.cu_seqlens.diff()[first:last, None]
    return torch.where(mask, layout.starts[first:last, None] + place, 0), mask


def padded(hidden: Tensor, layout: PackedLayout, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Padded states `(n, length, hidden)` of sequences first…last, and the mask of real tokens `(n, length)`."""
    index, mask = padded_index(layout, first, last)
    return hidden.index_select(0, index.flatten()).unflatten(0, index.shape), mask


def encoded_segments(layout: PackedLayout) -> tuple[Segment, ...]:
    """The segments of a layout without those that share the sequences of the one before: each sequence once."""
    segments: list[Segment] = []
    for segment in layout.segments:
        if not segments or segment.sequences != segments[-1].sequences or segment.rows[0] == segment.rows[1]:
            segments.append(segment)
    return tuple(segments)


def encode(
    encoder: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    layout: PackedLayout,
    adapters: AdapterPass | None,
    **wanted: Any,
) -> BaseModelOutput:
    """Encode packed inputs, without padding if the encoder's current attention implementation supports it.

    Args:
        inputs: `input_ids` or `inputs_embeds`, and `token_type_ids`, each `(1, tokens)` or `(1, tokens, hidden)`.
        wanted: `output_hidden_states` and `output_attentions`, as far as they are true.

    Returns:
        `last_hidden_state` `(tokens, hidden)`; `hidden_states`: the embeddings and the output of each layer in the same
        shape, the last one after the adapters; `attentions`: for each layer `(sequences, heads, longest, longest)`.

    Raises:
        ValueError: if the encoder does not return a wanted output.
    """
    weights, own = wanted.get("output_attentions"), has_own_attention(encoder)
    packed = is_packed(encoder) and not (weights and own)  # padded passes give them
    if weights and not own and encoder.config._attn_implementation != "eager":
        raise InputError(
            "output_attentions is for eager attention alone, but the encoder's is "
            f"{encoder.config._attn_implementation!r}; call model.set_attn_implementation('eager') first"
        )
    if not layout.lengths:
        weight = next(encoder.parameters())
        return BaseModelOutput(weight.new_zeros(0, encoder.config.hidden_size), hidden_states=(), attentions=())
    output: Any = (_packed if packed else _padded)(encoder, inputs, layout, adapters, wanted)
    for key in wanted:
        name = key.removeprefix("output_")
        if not getattr(output, name, None):
            raise InputError(f"{key} is asked for, but {encoder.config.model_type} encoders give no {name}; drop it")
    if adapters is not None:
        output.last_hidden_state = adapters.on_top(output.last_hidden_state)
    if output.hidden_states and output.hidden_states[-1] is not None:
        output.hidden_states = (*output.hidden_states[:-1], output.last_hidden_state)
    return output


def _packed(
    encoder: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    layout: PackedLayout,
    adapters: AdapterPass | None,
    wanted: Mapping[str, Any],
) -> BaseModelOutput:
    # transformers passes a mask of four dimensions on unchanged; packed attention ignores it
    no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=layout.starts.device)
    positions = position_ids(encoder.config, inputs.get("input_ids"), layout.position_ids)
    values = {**inputs, **wanted, "attention_mask": no_mask, "position_ids": positions}
    output = call_encoder(encoder, values, layout=layout, adapters=adapters)
    return _of_tokens(output, lambda states: states.squeeze(0))


def _padded(
    encoder: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    layout: PackedLayout,
    adapters: AdapterPass | None,
    wanted: Mapping[str, Any],
) -> BaseModelOutput:
    """Encode with padding, in one or several passes.

    - Families whose states depend on padding: one pass for each length, without padding.
    - Other families that cannot be packed, in a single process on a CPU: one pass for each bucket of the layout, padded
      to its longest sequence, because padding costs as much time as text there. With several processes the numbers of
      passes would differ.
    - Otherwise: one pass.
    """
    implementation = encoder.config._attn_implementation
    if implementation not in AttentionMaskInterface().valid_keys() and len(set(layout.lengths)) > 1:
        raise InputError(
            f"attention {implementation!r} has no mask, so that texts would attend to padding; register one with "
            "transformers.AttentionMaskInterface, or choose another implementation"
        )
    if depends_on_padding(encoder.config) and layout.lengths:
        return _by_length(encoder, inputs, layout)
    alone = layout.starts.device.type == "cpu" and not (dist.is_available() and dist.is_initialized())
    cheap = encoder.config.model_type not in PACKED_FAMILIES or has_own_attention(encoder)
    if cheap and alone and layout.buckets and not wanted:
        return _in_buckets(encoder, inputs, layout, adapters)
    index, mask = padded_index(layout, 0, len(layout.lengths))
    sequence = torch.repeat_interleave(
        torch.arange(len(layout.lengths), device=mask.device),
        layout.cu_seqlens.diff(),
        output_size=sum(layout.lengths),
    )
    places = sequence * mask.shape[1] + layout.position_ids.squeeze(0)
    output = _pass(encoder, inputs, index, mask, adapters and replace(adapters, tokens=places), **wanted)
    return _of_tokens(output, lambda states: states.flatten(0, 1).index_select(0, places))


def _of_tokens(output: Any, tokens: Callable[[Tensor], Tensor]) -> BaseModelOutput:
    """Apply `tokens` to the states of each layer of an encoder's output, which makes them `(tokens, hidden)`."""
    states, attentions = getattr(output, "hidden_states", None), getattr(output, "attentions", None)
    return BaseModelOutput(
        last_hidden_state=tokens(output.last_hidden_state),
        hidden_states=states
        and tuple(None if layer_states is None else tokens(layer_states) for layer_states in states),
        attentions=attentions and tuple(attentions),
    )


def _in_buckets(
    encoder: PreTrainedModel, inputs: Mapping[str, Tensor], layout: PackedLayout, adapters: AdapterPass | None
) -> BaseModelOutput:
    hidden, first = [], 0
    for bucket in layout.buckets:
        last = first + bucket.count * bucket.length
        index = layout.gather[first:last].view(bucket.count, bucket.length)
        mask = torch.ones_like(index, dtype=torch.bool) if bucket.mask is None else bucket.mask[:, 0, 0]
        own = adapters and _adapters_of_bucket(adapters, layout, index)
        hidden.append(_pass(encoder, inputs, index, mask, own).last_hidden_state.flatten(0, 1))
        first = last
    return BaseModelOutput(torch.cat(hidden).index_select(0, layout.scatter))


def _adapters_of_bucket(adapters: AdapterPass, layout: PackedLayout, index: Tensor) -> AdapterPass:
    """The adapters of a bucket's sequences, which may be of several tasks.

    Args:
        index: `(count, length)`, index of the packed token at each position of the bucket.
    """
    sequences = torch.searchsorted(layout.starts, index[:, 0].contiguous())
    rows = sequences.argsort()  # the tasks' sequences one after the other
    members = sequences[rows].tolist()
    segments = encoded_segments(layout)
    plan = [(s.task_id, sum(s.sequences[0] <= m < s.sequences[1] for m in members), 1) for s in segments]
    own = PackedLayout.build([layout.lengths[member] for member in members], plan)
    tokens = torch.repeat_interleave(rows * index.shape[1], own.cu_seqlens.diff()) + own.position_ids.squeeze(0)
    parts = zip(adapters.parts, own.segments, strict=True)
    return AdapterPass(tuple((part[0], s.tokens, own.part(s)) for part, s in parts), tokens)


def _by_length(encoder: PreTrainedModel, inputs: Mapping[str, Tensor], layout: PackedLayout) -> BaseModelOutput:
    """Encode the sequences of each length together; their indices are computed on the host, which knows the lengths."""
    hidden, tokens, lengths, device = [], [], np.array(layout.lengths), layout.starts.device
    starts = lengths.cumsum() - lengths
    for length in sorted(set(layout.lengths)):
        real = starts[lengths == length, None] + np.arange(length)
        more = max(shortest_input(encoder.config) - length, 0)
        index = to_device(torch.from_numpy(np.pad(real, ((0, 0), (0, more)))), device)
        mask = (torch.arange(length + more, device=device) < length).expand(len(real), -1)
        hidden.append(_pass(encoder, inputs, index, mask).last_hidden_state[:, :length].flatten(0, 1))
        tokens.append(real.ravel())
    order = to_device(torch.from_numpy(np.concatenate(tokens).argsort()), device)
    return BaseModelOutput(torch.cat(hidden).index_select(0, order))


def _pass(
    encoder: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    index: Tensor,
    mask: Tensor,
    adapters: AdapterPass | None = None,
    **wanted: Any,
) -> Any:
    """Run the encoder on padded inputs.

    Args:
        index: `(n, length)`, index of the packed token at each position.
        mask: `(n, length)`, true on real tokens.
        adapters: those of the n sequences.
    """
    values = {key: value.squeeze(0)[index] for key, value in inputs.items()}
    if "input_ids" in values:
        values["input_ids"] = torch.where(mask, values["input_ids"], encoder.config.pad_token_id or 0)
    return call_encoder(encoder, {**values, **wanted, "attention_mask": mask.long()}, adapters=adapters)
