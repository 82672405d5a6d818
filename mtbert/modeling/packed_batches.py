"""Pack encoded rows into batches, and collect each task's logits over batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .packing import PackedLayout

if TYPE_CHECKING:
    from .outputs import MtBertOutput

PLACES = "places"  # key of a batch: task name → UnitPlaces, of tasks that label parts of rows


@dataclass(frozen=True)
class UnitPlaces:
    """Where the parts of rows that a task labels, such as words, are among the tokens of a batch; `(found,)` each.

    Attributes:
        tokens: index of each part's token among the task's tokens.
        rows: index of its row in the batch.
        parts: its number in the row.
    """

    tokens: np.ndarray
    rows: np.ndarray
    parts: np.ndarray

    @classmethod
    def find(cls, firsts: np.ndarray, counts: np.ndarray, row_lengths: np.ndarray) -> UnitPlaces:
        """Find the parts that have a token.

        Args:
            firsts: index of each part's token in its row, negative if it has none; all rows' one after the other.
            counts: `(rows,)`, number of parts of each row.
            row_lengths: `(rows,)`, number of tokens of each row.
        """
        rows = np.repeat(np.arange(len(counts)), counts)
        parts = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        has_token = firsts >= 0
        starts = np.cumsum(row_lengths) - row_lengths
        return cls(starts[rows[has_token]] + firsts[has_token], rows[has_token], parts[has_token])


@dataclass(frozen=True)
class TaskPart:
    """Encoded rows of one task, one after the other: a part of a batch.

    Attributes:
        task_id: id of the task.
        tokens: `(tokens,)`, the token ids of all rows.
        row_lengths: `(rows,)`, number of tokens of each row.
        cuts: lengths of a row's inputs except the last one, `(rows,)` each (`tokenization.LENGTHS`).
        token_types: `(tokens,)`; None: all are 0.
        also: ids of further tasks that read the same rows, which are encoded once for all of them.
    """

    task_id: int
    tokens: np.ndarray
    row_lengths: np.ndarray
    cuts: Sequence[np.ndarray] = ()
    token_types: np.ndarray | None = None
    also: tuple[int, ...] = ()

    @property
    def sequence_lengths(self) -> np.ndarray:
        """Number of tokens of each encoder input; the inputs of a row follow each other, `(rows · inputs per row,)`."""
        return np.stack([*self.cuts, self.row_lengths - sum(self.cuts)], axis=1).ravel()

    @property
    def plan(self) -> tuple[int, int, int]:
        """Entry of the task for `PackedLayout.build`: its id, its number of rows, and the inputs per row."""
        return self.task_id, len(self.row_lengths), len(self.cuts) + 1


def pack_parts(parts: Sequence[TaskPart], token_types: bool) -> dict[str, Any]:
    """Pack rows of one or several tasks into one batch on the CPU.

    Args:
        parts: the rows of each task.
        token_types: whether the encoder has token types.

    Returns:
        `input_ids` `(1, tokens)`, `token_type_ids` of the same shape if the encoder has token types, and `layout`, in
        which tasks that read the same rows have equal segments.
    """
    batch: dict[str, Any] = {"input_ids": _row_of([part.tokens for part in parts])}
    if token_types:
        types = [np.zeros_like(part.tokens) if part.token_types is None else part.token_types for part in parts]
        batch["token_type_ids"] = _row_of(types)
    lengths = np.concatenate([part.sequence_lengths for part in parts])
    layout = PackedLayout.build(lengths, [part.plan for part in parts])
    if any(part.also for part in parts):
        pairs = zip(layout.segments, parts, strict=True)
        shared = [replace(segment, task_id=task) for segment, part in pairs for task in (part.task_id, *part.also)]
        layout = replace(layout, segments=tuple(shared))
    return {**batch, "layout": layout}


def _row_of(values: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(values).astype(np.int64)).unsqueeze(0)


def collect_logits(
    model: Any,
    batches: Iterable[Mapping[str, Any]],
    sizes: Mapping[str, int | tuple[int, ...]],
    after_batch: Callable[[Mapping[str, Any], MtBertOutput], None] | None = None,
) -> dict[str, Tensor]:
    """Logits of each task for all its rows, in their order.

    Args:
        model: the model, in evaluation mode.
        batches: results of `pack_parts`, with `rows`: task name → indices of its rows in the batch. They may have
            `labels` and `tasks`, as in the model's `forward`, and have `places` for tasks that label parts of rows.
        sizes: task name → number of its rows, or the shape `(rows, most parts)` of what it labels.
        after_batch: called with every batch and the model's output for it.

    Returns:
        Task name → logits `(rows, num_labels)` or `(rows, most parts, num_labels)`, fp32, on the model's device; 0 for
        rows that are in no batch, and for parts without a token.
    """
    device = model.device
    shapes = {name: size if isinstance(size, tuple) else (size,) for name, size in sizes.items()}
    tasks = [task for task in model.tasks if task.name in sizes]
    logits = {task.name: torch.zeros(*shapes[task.name], task.num_labels, device=device) for task in tasks}
    for batch in batches:
        inputs = {key: batch[key].to(device) for key in ("input_ids", "token_type_ids", "layout") if key in batch}
        inputs |= {key: batch[key] for key in ("labels", "tasks") if key in batch}
        output = model(**inputs, return_dict=True)
        places = batch.get(PLACES) or {}
        for name, values in output.task_logits.items():
            rows = batch["rows"][name]
            if name in places:
                found = places[name]
                index = torch.as_tensor(rows).cpu()[found.rows], torch.from_numpy(found.parts)
                logits[name][index] = values.float()[torch.from_numpy(found.tokens).to(device)]
            else:
                logits[name][rows] = values.float()
        if after_batch is not None:
            after_batch(batch, output)
    return logits
