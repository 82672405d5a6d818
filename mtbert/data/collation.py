"""Rows of one or several tasks → one packed batch of tensors, without a Python loop over rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset

from ..modeling.configuration_mtbert import TaskSpec
from ..modeling.packed_batches import TaskPart, pack_parts
from ..modeling.problem_types import IGNORED
from ..modeling.tokenization import LENGTHS
from .sampling import Step

TEACHER = "teacher"  # the column of what teachers predict for a row, and its key in a batch


def _values(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A column of lists → all values, one after the other, and the lists' lengths."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    return array.flatten().to_numpy(zero_copy_only=False), array.value_lengths().to_numpy(zero_copy_only=False)


class MultiTaskDataset(torch.utils.data.Dataset):
    """The encoded splits of several tasks behind one index: a `Step` in, a batch out.

    A batch has `input_ids` and `token_type_ids` `(1, tokens)`, `layout` (a PackedLayout), `labels` by task name (where
    the data has them), `labelled` `(tasks,)`: how many rows of each task count, and `rows` by task name: which ones;
    `teacher` by task name, `(rows, num_labels)`, where the data has that column: what teachers predict. A row
    counts that has a label or a teacher's prediction, unless it is there to fill a step up.
    """

    def __init__(self, tasks: Sequence[TaskSpec], splits: dict[str, Dataset], token_types: bool):
        self.tasks = tuple(tasks)
        self.splits = [splits[task.name].with_format("arrow") if task.name in splits else None for task in tasks]
        self.token_types = token_types

    def __len__(self) -> int:
        return sum(len(split) for split in self.splits if split is not None)

    def __getitems__(self, step: Step) -> dict[str, Any]:
        parts = []
        batch: dict[str, Any] = {"labels": {}, "rows": {}}
        labelled = np.zeros(len(self.tasks), dtype=np.float32)
        for task_id, rows in step.parts:
            task, table = self.tasks[task_id], self.splits[task_id][rows]
            parts.append(self._part(task_id, table))
            batch["rows"][task.name] = torch.from_numpy(np.ascontiguousarray(rows))
            counted = np.zeros(len(rows), dtype=bool)
            if TEACHER in table.column_names:
                taught = _values(table[TEACHER])[0].reshape(-1, task.num_labels).astype(np.float32)
                if step.filler:
                    taught[:] = float("nan")
                batch.setdefault(TEACHER, {})[task.name] = torch.from_numpy(taught)
                counted |= np.isfinite(taught).all(axis=1)
            if "label" in table.column_names:
                labels = self._labels(task, table["label"])
                if step.filler:
                    labels[:] = float("nan") if labels.dtype.kind == "f" else IGNORED
                batch["labels"][task.name] = torch.from_numpy(labels)
                counted |= self._known(labels)
            labelled[task_id] = counted.sum()
        if not batch["labels"]:
            del batch["labels"]
        batch |= pack_parts(parts, self.token_types)
        batch["labelled"] = torch.from_numpy(labelled)
        return batch

    def _part(self, task_id: int, table: pa.Table) -> TaskPart:
        ids, counts = _values(table["input_ids"])
        cuts = [table[name].to_numpy() for name in LENGTHS[: self.tasks[task_id].num_sequences - 1]]
        types = None
        if self.token_types and "token_type_ids" in table.column_names:
            types = _values(table["token_type_ids"])[0]
        return TaskPart(task_id, ids, counts, cuts, types)

    @staticmethod
    def _labels(task: TaskSpec, column: pa.ChunkedArray) -> np.ndarray:
        if task.kind.several:
            return _values(column)[0].reshape(-1, task.num_labels).astype(task.kind.label_dtype)
        return column.to_numpy().astype(task.kind.label_dtype)

    @staticmethod
    def _known(labels: np.ndarray) -> np.ndarray:
        missing = np.isnan(labels) if labels.dtype.kind == "f" else labels == IGNORED
        return ~missing.reshape(len(labels), -1).any(axis=1)


class LengthSortedSteps(torch.utils.data.Sampler[Step]):
    """All rows of one task, longest first, in batches of at most `batch` rows and about `batch` · 64 tokens.

    With several processes each takes every n-th batch. `order` holds the rows in the order in which this process
    yields them.
    """

    drop_last = False
    tokens_per_row = 64

    def __init__(self, task_id: int, split: Dataset, batch: int, processes: int = 1, process: int = 0):
        lengths = row_lengths(split)
        rows = np.argsort(-lengths, kind="stable")
        cuts = _batches(lengths[rows], batch, batch * self.tokens_per_row)
        own = np.split(rows, cuts)[process::processes] if len(rows) else []
        self.steps = [Step(((task_id, part),)) for part in own]
        self.order = np.concatenate(own) if own else np.zeros(0, dtype=np.int64)
        self.batch_size = batch

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self):
        return iter(self.steps)


def row_lengths(split: Dataset) -> np.ndarray:
    """Tokens of each row of an encoded split, `(rows,)`; those of both texts of a pair together."""
    if not len(split):
        return np.zeros(0, dtype=np.int64)
    column = split.with_format("arrow")[:]["input_ids"]
    return np.concatenate([chunk.value_lengths().to_numpy(zero_copy_only=False) for chunk in column.chunks])


def _batches(descending: np.ndarray, rows: int, tokens: int) -> list[int]:
    """Where to cut lengths, longest first, so that no part has more than `rows` rows or `tokens` padded tokens."""
    cuts, first = [], 0
    while first < len(descending):
        first += int(min(rows, max(1, tokens // max(1, descending[first]))))
        cuts.append(first)
    return cuts[:-1]
