"""Encoded rows → packed batches, and packed batches → each task's logits, for training, evaluation and prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .packing import PackedLayout

if TYPE_CHECKING:
    from torch import nn

    from .outputs import MtBertOutput


@dataclass(frozen=True)
class TaskPart:
    """Encoded rows of one task, one after the other, as a part of a batch.

    Attributes:
        task_id: the task's number in the model.
        tokens: `(tokens,)`, the token ids of all rows.
        row_lengths: `(rows,)`, how many tokens each row has.
        cuts: `(rows,)` each: the lengths of a row's inputs but for the last one (`tokenization.LENGTHS`).
        token_types: `(tokens,)`; None: all are 0.
    """

    task_id: int
    tokens: np.ndarray
    row_lengths: np.ndarray
    cuts: Sequence[np.ndarray] = ()
    token_types: np.ndarray | None = None

    @property
    def sequence_lengths(self) -> np.ndarray:
        """Tokens of each input of the encoder, those of one row after each other, `(rows · inputs a row,)`."""
        return np.stack([*self.cuts, self.row_lengths - sum(self.cuts)], axis=1).ravel()

    @property
    def plan(self) -> tuple[int, int, int]:
        """What `PackedLayout.build` takes of a task: its id, its rows, and the inputs of a row."""
        return self.task_id, len(self.row_lengths), len(self.cuts) + 1


def pack_parts(parts: Sequence[TaskPart], token_types: bool) -> dict[str, Any]:
    """Pack rows of one or several tasks into one batch.

    Args:
        token_types: whether the encoder has token types.

    Returns:
        On the CPU: `input_ids` `(1, tokens)`, `token_type_ids` of the same shape where the encoder has them, and
        `layout`.
    """
    batch: dict[str, Any] = {"input_ids": _row_of([part.tokens for part in parts])}
    if token_types:
        types = [np.zeros_like(part.tokens) if part.token_types is None else part.token_types for part in parts]
        batch["token_type_ids"] = _row_of(types)
    lengths = np.concatenate([part.sequence_lengths for part in parts])
    return {**batch, "layout": PackedLayout.build(lengths, [part.plan for part in parts])}


def _row_of(values: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(values).astype(np.int64)).unsqueeze(0)


def collect_logits(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    sizes: Mapping[str, int],
    after_batch: Callable[[Mapping[str, Any], MtBertOutput], None] | None = None,
) -> dict[str, Tensor]:
    """Each task's logits for all its rows, in their order.

    Args:
        model: in evaluation mode.
        batches: what `pack_parts` returns, with `rows`: by task name, which of its rows the batch holds; they may have
            `labels` and `tasks`, as the model's `forward` takes them.
        sizes: by task name, how many rows there are.
        after_batch: called with every batch and the model's output for it.

    Returns:
        By task name `(rows, num_labels)`, fp32, on the model's device; 0 for rows that no batch holds.
    """
    device = model.device
    tasks = [task for task in model.tasks if task.name in sizes]
    logits = {task.name: torch.zeros(sizes[task.name], task.num_labels, device=device) for task in tasks}
    for batch in batches:
        inputs = {key: batch[key].to(device) for key in ("input_ids", "token_type_ids", "layout") if key in batch}
        inputs |= {key: batch[key] for key in ("labels", "tasks") if key in batch}
        output = model(**inputs, return_dict=True)
        for name, values in output.task_logits.items():
            logits[name][batch["rows"][name]] = values.float()
        if after_batch is not None:
            after_batch(batch, output)
    return logits
