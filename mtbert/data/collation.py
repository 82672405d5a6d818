"""Collate rows of one or several tasks into one packed batch of tensors, without a Python loop over rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, List, Value

from ..modeling.packed_batches import PLACES, TaskPart, UnitPlaces, pack_parts
from ..modeling.problem_types import IGNORED
from ..modeling.task_spec import TaskSpec
from ..modeling.tokenization import LENGTHS
from .sampling import Step

TEACHER = "teacher"  # the column with the teachers' predictions for a row, and its key in a batch
NOT_INPUTS = ("labelled", "units", "rows", PLACES, TEACHER)  # keys of a batch that the model does not take


def _values(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the concatenated values of a column of lists, and the length of each list."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    return array.flatten().to_numpy(zero_copy_only=False), array.value_lengths().to_numpy(zero_copy_only=False)


class MultiTaskDataset(torch.utils.data.Dataset[Any]):
    """The encoded splits of several tasks as one dataset, whose index is a `Step` and whose item is a batch.

    A batch has these keys:

    - `input_ids`, `token_type_ids`: shape `(1, tokens)`.
    - `layout`: a PackedLayout.
    - `labels`: task name → labels; only tasks whose data has labels. Of a task that labels parts of rows, such as
      words, a label for each token: that of the part whose first token it is, else -100.
    - `labelled`: shape `(tasks,)`, the number of rows of each task that enter the loss. A row does so if it has a
      label or a teacher's prediction and the step is no filler.
    - `units`: shape `(tasks,)`, the number of labels that enter the loss; only if a task labels parts of rows.
    - `places`: task name → UnitPlaces, of tasks that label parts of rows.
    - `rows`: task name → the rows' indices in the task's split.
    - `teacher`: task name → the teachers' predictions, shape `(rows, num_labels)`; only tasks whose data has them.
    """

    def __init__(self, tasks: Sequence[TaskSpec], splits: Mapping[str, Dataset], token_types: bool):
        self.tasks = tuple(tasks)
        self.splits: list[Any] = [
            splits[task.name].with_format("arrow") if task.name in splits else None for task in tasks
        ]
        self.token_types = token_types
        self.counts_units = any(task.kind.units.column for task in tasks)

    def __len__(self) -> int:
        return sum(len(split) for split in self.splits if split is not None)

    def __getitems__(self, step: Step) -> dict[str, Any]:
        parts = []
        batch: dict[str, Any] = {"labels": {}, "rows": {}}
        labelled, units = np.zeros((2, len(self.tasks)), dtype=np.float32)
        for task_id, rows in step.parts:
            task, table = self.tasks[task_id], self.splits[task_id][rows]
            parts.append(self._part(task_id, table))
            batch["rows"][task.name] = torch.from_numpy(np.ascontiguousarray(rows))
            places = self._places(task, table, parts[-1])
            counted = np.zeros(len(rows if places is None else parts[-1].tokens), dtype=bool)
            if places is not None:
                batch.setdefault(PLACES, {})[task.name] = places
            if TEACHER in table.column_names:
                predictions = _values(table[TEACHER])[0].reshape(-1, task.num_labels).astype(np.float32)
                if step.filler:
                    predictions[:] = float("nan")
                batch.setdefault(TEACHER, {})[task.name] = torch.from_numpy(predictions)
                counted |= np.isfinite(predictions).all(axis=1)
            if "label" in table.column_names:
                labels = self._labels(task, table["label"], places, len(counted))
                if step.filler:
                    labels[:] = float("nan") if labels.dtype.kind == "f" else IGNORED
                batch["labels"][task.name] = torch.from_numpy(labels)
                counted |= self._known(labels)
            labelled[task_id] = units[task_id] = counted.sum()
            if places is not None:
                of_row = np.repeat(np.arange(len(rows)), parts[-1].row_lengths)
                labelled[task_id] = len(np.unique(of_row[counted]))
        if not batch["labels"]:
            del batch["labels"]
        batch |= pack_parts(parts, self.token_types)
        batch["labelled"] = torch.from_numpy(labelled)
        if self.counts_units:
            batch["units"] = torch.from_numpy(units)
        return batch

    def _part(self, task_id: int, table: pa.Table) -> TaskPart:
        ids, counts = _values(table["input_ids"])
        cuts = [table[name].to_numpy() for name in LENGTHS[: self.tasks[task_id].num_sequences - 1]]
        types = None
        if self.token_types and "token_type_ids" in table.column_names:
            types = _values(table["token_type_ids"])[0]
        return TaskPart(task_id, ids, counts, cuts, types)

    @staticmethod
    def _places(task: TaskSpec, table: pa.Table, part: TaskPart) -> UnitPlaces | None:
        if task.kind.units.column is None:
            return None
        return UnitPlaces.find(*_values(table[task.kind.units.column]), part.row_lengths)

    @staticmethod
    def _labels(task: TaskSpec, column: pa.ChunkedArray, places: UnitPlaces | None, tokens: int) -> np.ndarray:
        if places is not None:
            labels = np.full(tokens, IGNORED, dtype=task.kind.label_dtype)
            values, counts = _values(column)
            known = places.parts < counts[places.rows]  # a row without labels has an empty list
            starts = np.cumsum(counts) - counts
            labels[places.tokens[known]] = values[(starts[places.rows] + places.parts)[known]]
            return labels
        if task.kind.several:
            return _values(column)[0].reshape(-1, task.num_labels).astype(task.kind.label_dtype)
        return column.to_numpy().astype(task.kind.label_dtype)

    @staticmethod
    def _known(labels: np.ndarray) -> np.ndarray:
        missing = np.isnan(labels) if labels.dtype.kind == "f" else labels == IGNORED
        return ~missing.reshape(len(labels), -1).any(axis=1)


def label_array(split: Dataset) -> np.ndarray:
    """The labels of checked or encoded rows: `(rows,)`, or `(rows, num_labels)`.

    Of a task that labels parts of rows `(rows, most parts)`, -100 behind a row's last part.
    """
    feature = split.features["label"]
    if not isinstance(feature, List) or feature.feature != Value("int64"):
        return np.asarray(split.with_format("numpy")["label"][:])
    if not len(split):
        return np.zeros((0, 0), dtype=np.int64)
    values, counts = _values(split.select_columns("label").with_format("arrow")[:]["label"])
    labels = np.full((len(counts), counts.max(initial=0)), IGNORED, dtype=np.int64)
    labels[np.arange(labels.shape[1]) < counts[:, None]] = values
    return labels


def unit_shape(task: TaskSpec, split: Dataset) -> tuple[int, ...]:
    """The shape of what a task labels in an encoded split: `(rows,)`, or `(rows, most parts)`."""
    if task.kind.units.column is None or not len(split):
        return (len(split), *[0] * (task.kind.units.dims - 1))
    _, counts = _values(split.select_columns(task.kind.units.column).with_format("arrow")[:][task.kind.units.column])
    return len(split), int(counts.max())


def unit_rows(batch: Mapping[str, Any], tasks: Sequence[TaskSpec]) -> dict[str, torch.Tensor]:
    """Task name → the index, in the task's split, of the row of each of its losses in a batch."""
    rows = dict(batch["rows"])
    for segment in batch["layout"].segments:
        task = tasks[segment.task_id]
        if task.kind.units.reads_tokens:
            lengths = torch.tensor(batch["layout"].lengths[slice(*segment.sequences)], device=rows[task.name].device)
            rows[task.name] = rows[task.name].repeat_interleave(lengths)
    return rows


class LengthSortedSteps(torch.utils.data.Sampler[Step]):
    """Yields all rows of one task, longest first, in batches of at most `batch` rows and about `batch` · 64 tokens.

    Process p of n takes every n-th batch, from batch p on. `order` holds the rows in the order in which this process
    yields them.
    """

    drop_last = False
    tokens_per_row = 64

    def __init__(self, task_id: int, split: Dataset, batch: int, processes: int = 1, process: int = 0):
        lengths = row_lengths(split)
        rows = np.argsort(-lengths, kind="stable")
        cuts = _batches(lengths[rows], batch, batch * self.tokens_per_row)
        batches = np.split(rows, cuts)[process::processes] if len(rows) else []
        self.steps = [Step(((task_id, part),)) for part in batches]
        self.order = np.concatenate(batches) if batches else np.zeros(0, dtype=np.int64)
        self.batch_size = batch

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)


def row_lengths(split: Dataset) -> np.ndarray:
    """Return the number of tokens of each row of an encoded split, shape `(rows,)`; of a pair, both texts' tokens."""
    if not len(split):
        return np.zeros(0, dtype=np.int64)
    column = split.with_format("arrow")[:]["input_ids"]
    return np.concatenate([chunk.value_lengths().to_numpy(zero_copy_only=False) for chunk in column.chunks])


def _batches(descending: np.ndarray, rows: int, tokens: int) -> list[int]:
    """Return the positions at which to cut descending lengths into batches.

    A batch has at most `rows` rows and at most `tokens` tokens with padding, but at least one row.
    """
    cuts, first = [], 0
    while first < len(descending):
        first += int(min(rows, max(1, tokens // max(1, descending[first]))))
        cuts.append(first)
    return cuts[:-1]
