"""Route a packed batch: one pass of the encoder with the tasks' adapters, then each task's pooling and head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from .adapters import AdapterPass
from .encoder_support import pool
from .errors import InputError
from .heads import to_scores
from .outputs import MtBertOutput, add_layers, at_places
from .packing import PackedLayout, Segment
from .padding import encode, encoded_segments, padded
from .task_model import TaskModel
from .task_spec import TaskSpec
from .tokenization import has_token_types


def task_outputs(
    model: TaskModel,
    values: list[Tensor | None],
    layout: PackedLayout,
    mask: Tensor | None,
    names: list[str] | None,
    asked: Mapping[str, bool],
) -> MtBertOutput:
    """Outputs of a batch's tasks, without losses.

    Args:
        values: packed `input_ids`, `token_type_ids` and `inputs_embeds`.
        mask: `(sequences, length)`, the real tokens in padded inputs; None: the inputs were packed.
        names: tasks whose heads read every row; None: the tasks of the layout.
        asked: `output_hidden_states` and `output_attentions`, as far as they are true.
    """
    sequences, segments = len(layout.lengths), layout.segments
    if names is not None:
        values, layout, segments = _for_all(model, names, values, layout)
    encoded = encode_packed(model, values[0], values[1], values[2], layout, **asked)
    hidden: Any = encoded.last_hidden_state
    mask = None if mask is None else mask.repeat(len(layout.lengths) // max(sequences, 1), 1)
    pooled, logits = {}, {}
    for segment in segments:
        spec = model.tasks[segment.task_id]
        pooled[spec.name] = pool_segment(model, spec, hidden, layout, segment)
        logits[spec.name] = _head_scores(model, spec, pooled[spec.name], hidden, layout, segment)
        if spec.kind.units.reads_tokens and mask is not None:
            logits[spec.name] = at_places(logits[spec.name], mask[slice(*segment.sequences)])
    output = MtBertOutput(task_logits=logits, pooled=pooled)
    add_layers(output, encoded, mask)
    return output


def _for_all(
    model: TaskModel, names: list[str], values: list[Tensor | None], layout: PackedLayout
) -> tuple[list[Tensor | None], PackedLayout, tuple[Segment, ...]]:
    """Make every sequence an input of every task; with adapters, each task gets a copy of the sequences."""
    count, plan = len(layout.lengths), []
    for name in names:
        spec = model.tasks[model.task_id(name)]
        rows, odd = divmod(count, spec.num_sequences)
        if odd:
            raise InputError(f"task {name!r} takes {spec.num_sequences} sequences a row, got {count} in all")
        plan.append((model.task_id(name), rows, spec.num_sequences))
    if any(name in model.adapters for name in names):
        copies = PackedLayout.build(layout.lengths * len(names), plan).on(layout.starts.device)
        values = [None if value is None else torch.cat([value] * len(names), dim=1) for value in values]
        return values, copies, copies.segments
    tokens = (0, sum(layout.lengths))
    segments = tuple(Segment(task_id, (0, rows), (0, count), tokens) for task_id, rows, _ in plan)
    return values, replace(layout, segments=segments), segments


def encode_packed(
    model: TaskModel,
    input_ids: Tensor | None,
    token_type_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    layout: PackedLayout,
    **asked: bool,
) -> BaseModelOutput:
    """Encode packed inputs with the adapters of their tasks; states are `(tokens, hidden)`; see `padding.encode`."""
    inputs = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
    if model._accepts_types and has_token_types(model.encoder.config):
        inputs["token_type_ids"] = token_type_ids
    inputs = {key: value for key, value in inputs.items() if value is not None}
    return encode(model.encoder, inputs, layout, _adapter_pass(model, layout), **asked)


def _adapter_pass(model: TaskModel, layout: PackedLayout) -> AdapterPass | None:
    """The adapters of the tasks in a batch; None if none of them has one."""
    segments = encoded_segments(layout)
    names = [model.tasks[segment.task_id].name for segment in segments]
    all_names = [model.tasks[segment.task_id].name for segment in layout.segments]
    if not any(name in model.adapters for name in all_names):
        return None
    if len(segments) < len(layout.segments):
        _refuse_shared(model, layout)
    parts = []
    for name, segment in zip(names, segments, strict=True):
        adapter = model.adapters[name] if name in model.adapters else None  # noqa: SIM401 (a ModuleDict has no get)
        part = layout if len(names) == 1 or adapter is None else layout.part(segment)
        parts.append((adapter, segment.tokens, part))
    return AdapterPass(tuple(parts))


def _refuse_shared(model: TaskModel, layout: PackedLayout) -> None:
    """Raise InputError if a task with an adapter, which changes the encoder's states, shares its rows with another."""
    for segment, other in pairwise(layout.segments):
        names = [model.tasks[each.task_id].name for each in (segment, other)]
        shares = segment.sequences == other.sequences and segment.rows[0] < segment.rows[1]
        if shares and any(name in model.adapters for name in names):
            raise InputError(f"tasks {names} share rows, but have adapters; give each a copy of the rows")


def pool_segment(model: TaskModel, spec: TaskSpec, hidden: Tensor, layout: PackedLayout, segment: Segment) -> Tensor:
    """Pool a task's states `(tokens, hidden)`; returns the input of its head, `(sequences, hidden)`."""
    first, last = segment.sequences
    if spec.pooling in ("cls", "pooler"):
        tokens = hidden.index_select(0, layout.starts[first:last])
        return tokens if spec.pooling == "cls" else pool(model.encoder, tokens)
    states, mask = padded(hidden, layout, first, last)
    real = mask.unsqueeze(-1)
    if spec.pooling == "mean":
        return torch.where(real, states, 0).sum(1) / real.sum(1)
    return torch.where(real, states, torch.finfo(states.dtype).min).amax(1)


def _head_scores(
    model: TaskModel, spec: TaskSpec, pooled: Tensor, hidden: Tensor, layout: PackedLayout, segment: Segment
) -> Tensor:
    head = model.heads[spec.name]
    if spec.kind.units.reads_tokens:
        return to_scores(spec, head(hidden[slice(*segment.tokens)]))
    if getattr(head, "reads_states", False):
        return to_scores(spec, head(pooled, *padded(hidden, layout, *segment.sequences)))
    return to_scores(spec, head(pooled))
