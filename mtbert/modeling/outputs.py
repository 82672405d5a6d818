"""What the model returns: losses of the labels given, and the encoder's layers at the places of the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from .configuration_mtbert import TaskSpec
from .errors import InputError
from .forward_arguments import as_tensor
from .heads import as_labels, row_losses


@dataclass
class MtBertOutput(ModelOutput):
    """What `MtBertForMultiTask` returns.

    Attributes:
        loss: mean loss over the labelled rows of the batch; with labels only.
        logits: `(rows, num_labels)`, where the batch holds one task; a regression's are on its scale.
        task_logits: the same for each task in the batch, by name.
        row_losses: for each task in the batch, by name: `(rows,)`, 0 where the label is missing.
        labelled: for each task in the batch, by name: `(rows,)`, whether a row has a label.
        pooled: for each task in the batch, by name: `(sequences, hidden)`, what its head was given. For a Siamese
            task these are its sentence embeddings, u and v of a row one after the other; in `both` ways a third
            follows, of the two texts in one input.
        hidden_states: with `output_hidden_states` alone. The embeddings' output and each layer's, the last as pooling
            reads it: of padded inputs `(sequences, length, hidden)`, 0 on padding; of packed ones
            `(1, tokens, hidden)`.
        attentions: with `output_attentions` alone. Each layer's weights: of padded inputs
            `(sequences, heads, length, length)`, 0 on padding; of packed ones `length` is the longest sequence's.
            Where a batch has a copy of its sequences for each task, both have the copies one after the other.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    task_logits: dict[str, Tensor] | None = None
    row_losses: dict[str, Tensor] | None = None
    labelled: dict[str, Tensor] | None = None
    pooled: dict[str, Tensor] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None

    def to_tuple(self) -> tuple:
        """What is not None, in the order of the attributes: the loss first."""
        values = (getattr(self, each.name) for each in fields(self))
        return tuple(value for value in values if value is not None)


def add_losses(
    output: MtBertOutput, tasks: Mapping[str, TaskSpec], labels: Any, items: Tensor | int | None, look: bool
) -> None:
    """Add the losses of the rows to an output that has their logits.

    Args:
        tasks: the tasks of the batch by name, in the order of its rows.
        labels: by task, or those of all rows in one.
        items: what the loss is divided by, in label values; None: the rows that have a label.
        look: whether to look at the values of labels that lie on another device than the CPU, and wait for it.

    Raises:
        ValueError: see `as_labels`; for labels of tasks that are not in the batch, and of more or fewer rows.
    """
    rows = {name: len(output.task_logits[name]) for name in tasks}
    device = next(iter(output.task_logits.values())).device
    if not isinstance(labels, Mapping):
        labels = as_tensor("labels", labels, device)
        if labels.dim() == 0 or len(labels) != sum(rows.values()):
            raise InputError(f"labels have shape {tuple(labels.shape)}, but the batch has {sum(rows.values())} rows")
        labels = dict(zip(rows, labels.split(list(rows.values())), strict=True))
    if odd := [name for name, given in labels.items() if name not in rows and len(given)]:
        raise InputError(f"labels: no row of the batch is of the tasks {odd}, but of: {', '.join(rows)}")
    output.row_losses, output.labelled, values = {}, {}, 1
    for name in (name for name in tasks if name in labels):
        given = as_tensor("labels", labels[name], device)
        values = given[0].numel() if given.dim() and len(given) else 1
        check_values = not torch.compiler.is_compiling() and (look or given.device.type == "cpu")
        own = as_labels(tasks[name], given.to(device), rows[name], check_values)
        output.row_losses[name], output.labelled[name] = row_losses(tasks[name], output.task_logits[name], own)
    if output.row_losses:
        total = sum(losses.sum() for losses in output.row_losses.values())
        labelled = sum(mask.sum() for mask in output.labelled.values()).clamp(min=1)
        output.loss = total / labelled if items is None else total * values / items


def add_layers(output: MtBertOutput, encoded: BaseModelOutput, mask: Tensor | None) -> None:
    """Add the layers' states and attention weights that `padding.encode` gives.

    Args:
        mask: `(sequences, length)`, true where the tokens stood in padded inputs; None: they came packed.
    """
    if encoded.hidden_states:
        output.hidden_states = tuple(
            states if states is None else states.unsqueeze(0) if mask is None else _at_places(states, mask)
            for states in encoded.hidden_states
        )
    if encoded.attentions:
        weights = encoded.attentions
        output.attentions = weights if mask is None else tuple(_attention_at_places(each, mask) for each in weights)


def _at_places(states: Tensor, mask: Tensor) -> Tensor:
    """States `(tokens, hidden)` → `(sequences, length, hidden)`, 0 on padding."""
    return states.new_zeros(*mask.shape, states.shape[-1]).index_put((mask,), states)


def _attention_at_places(weights: Tensor, mask: Tensor) -> Tensor:
    """Attention weights `(sequences, heads, longest, longest)` of real tokens → `(…, length, length)`, 0 on padding."""
    rank = (mask.cumsum(-1) - 1).clamp(min=0)
    sequence = torch.arange(len(mask), device=mask.device)[:, None, None, None]
    head = torch.arange(weights.shape[1], device=mask.device)[None, :, None, None]
    moved = weights[sequence, head, rank[:, None, :, None], rank[:, None, None, :]]
    return moved * (mask[:, None, :, None] & mask[:, None, None, :])
