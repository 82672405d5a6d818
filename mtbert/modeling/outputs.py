"""Outputs of the model: logits, losses, and the encoder's states in the shape of the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from .errors import InputError
from .forward_arguments import as_tensor
from .heads import as_labels, row_losses
from .task_spec import TaskSpec


@dataclass
class MtBertOutput(ModelOutput):
    """Output of `MtBertForMultiTask`.

    Attributes:
        loss: mean loss over the labelled rows of the batch; only with labels.
        logits: `(rows, num_labels)`, if the batch has one task; a regression's are on its scale. Of a task that labels
            tokens `(sequences, length, num_labels)`, 0 on padding, or for packed inputs `(tokens, num_labels)`.
        task_logits: task name → logits, for each task in the batch.
        row_losses: task name → losses `(rows,)`, 0 where the label is missing; of a task that labels tokens, those of
            the tokens.
        labelled: task name → whether a row, or token, has a label, in the same shape.
        pooled: task name → input of the head, `(sequences, hidden)`. For a Siamese task these are the sentence
            embeddings u and v of each row, one after the other; with `pair: both` a third follows, of the two texts in
            one input.
        hidden_states: only with `output_hidden_states`. The embeddings and the output of each layer, the last one after
            the adapters: `(sequences, length, hidden)`, 0 on padding, or for packed inputs `(1, tokens, hidden)`.
        attentions: only with `output_attentions`. Attention weights of each layer:
            `(sequences, heads, length, length)`, 0 on padding; for packed inputs `length` is that of the longest
            sequence. If the batch has a copy of its sequences for each task, `hidden_states` and `attentions` hold the
            copies one after the other.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    task_logits: dict[str, Tensor] | None = None
    row_losses: dict[str, Tensor] | None = None
    labelled: dict[str, Tensor] | None = None
    pooled: dict[str, Tensor] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """The values that are not None, in the order of the attributes: the loss first."""
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(value for value in values if value is not None)


def add_losses(
    output: MtBertOutput, tasks: Mapping[str, TaskSpec], labels: Any, items: Tensor | int | None, look: bool
) -> None:
    """Add losses to an output that has logits.

    Args:
        tasks: name → task, for each task of the batch in the order of its rows.
        labels: task name → labels, or one tensor with the labels of all rows.
        items: number of label values by which the summed loss is divided; None: the number of labelled rows.
        look: whether to check the values of labels on a GPU, which synchronises with it.

    Raises:
        ValueError: see `as_labels`; also for labels of tasks that are not in the batch, and for another number of rows.
    """
    logits = output.task_logits or {}
    units = {name: tuple(logits[name].shape[:-1]) for name in tasks}
    rows = {name: shape[0] for name, shape in units.items()}
    device = next(iter(logits.values())).device
    if not isinstance(labels, Mapping):
        labels = as_tensor("labels", labels, device)
        if labels.dim() == 0 or len(labels) != sum(rows.values()):
            raise InputError(f"labels have shape {tuple(labels.shape)}, but the batch has {sum(rows.values())} rows")
        labels = dict(zip(rows, labels.split(list(rows.values())), strict=True))
    if odd := [name for name, task_labels in labels.items() if name not in rows and len(task_labels)]:
        raise InputError(f"labels: no row of the batch is of the tasks {odd}, but of: {', '.join(rows)}")
    output.row_losses, output.labelled, values = {}, {}, 1
    for name in (name for name in tasks if name in labels):
        task_labels = as_tensor("labels", labels[name], device)
        several = tasks[name].kind.several and task_labels.dim() and len(task_labels)
        values = task_labels[0].numel() if several else 1
        check_values = not torch.compiler.is_compiling() and (look or task_labels.device.type == "cpu")
        checked = as_labels(tasks[name], task_labels.to(device), units[name], check_values)
        output.row_losses[name], output.labelled[name] = row_losses(tasks[name], logits[name], checked)
    if output.row_losses:
        total: Any = sum(losses.sum() for losses in output.row_losses.values())
        labelled: Any = sum(mask.sum() for mask in output.labelled.values())
        output.loss = total / labelled.clamp(min=1) if items is None else total * values / items


def add_layers(output: MtBertOutput, encoded: BaseModelOutput, mask: Tensor | None) -> None:
    """Add hidden states and attention weights to an output.

    Args:
        encoded: the result of `padding.encode`.
        mask: `(sequences, length)`, the real tokens in padded inputs; None: the inputs were packed.
    """
    if encoded.hidden_states:
        output.hidden_states = tuple(_in_input_shape(states, mask) for states in encoded.hidden_states)
    if encoded.attentions:
        weights = encoded.attentions
        output.attentions = (
            weights if mask is None else tuple(_attention_at_places(layer_weights, mask) for layer_weights in weights)
        )


def _in_input_shape(states: Tensor | None, mask: Tensor | None) -> Any:
    """States `(tokens, hidden)` in the shape of padded inputs, or `(1, tokens, hidden)` without a mask."""
    if states is None:
        return None
    return states.unsqueeze(0) if mask is None else at_places(states, mask)


def at_places(states: Tensor, mask: Tensor) -> Tensor:
    """States `(tokens, hidden)` → `(sequences, length, hidden)`, 0 on padding."""
    return states.new_zeros(*mask.shape, states.shape[-1]).index_put((mask,), states)


def _attention_at_places(weights: Tensor, mask: Tensor) -> Tensor:
    """Attention weights `(sequences, heads, longest, longest)` of real tokens → `(…, length, length)`, 0 on padding."""
    rank = (mask.cumsum(-1) - 1).clamp(min=0)
    sequence = torch.arange(len(mask), device=mask.device)[:, None, None, None]
    head = torch.arange(weights.shape[1], device=mask.device)[None, :, None, None]
    moved = weights[sequence, head, rank[:, None, :, None], rank[:, None, None, :]]
    return moved * (mask[:, None, :, None] & mask[:, None, None, :])
