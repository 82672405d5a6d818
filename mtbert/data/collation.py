"""Collate rows of one or several tasks into one packed batch of tensors, without a Python loop over rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset

from ..modeling.configuration_mtbert import MtBertConfig
from ..modeling.packed_batches import TaskPart, pack_parts
from ..modeling.problem_types import IGNORED
from ..modeling.task_spec import TaskSpec
from ..modeling.tokenization import LENGTHS
from .sampling import Step
from .units import copies_of, sources_of, tasks_apart, units_of

TEACHER = "teacher"  # the column with the teachers' predictions for a row, and its key in a batch


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
    - `labels`: task name → labels; only tasks whose data has labels.
    - `labelled`: shape `(tasks,)`, the number of rows of each task that enter the loss. A row does so if it has a
      label or a teacher's prediction and the step is no filler.
    - `rows`: task name → the rows' indices in the task's split.
    - `teacher`: task name → the teachers' predictions, shape `(rows, num_labels)`; only tasks whose data has them.

    A step names rows of units. The rows of a source are encoded once for all of its tasks that read them alike.

    Args:
        tasks: the tasks, in the order of their ids.
        splits: task name → encoded rows; `TaskSplits` if some share theirs.
        token_types: whether the encoder has token types.
        config: the model's config, which tells the tasks with adapters: these share no encoding; None: there are none.
        training: whether the units are those of a plan, and a source's batch holds for each of its encodings only the
            rows that count for one of its tasks, and only the tasks for which one of the rows counts. Otherwise each
            encoding of a source is a unit, and each of its tasks has all rows.

    Attributes:
        units: for each unit, its encodings: the ids of the tasks that share one.
    """

    def __init__(
        self,
        tasks: Sequence[TaskSpec],
        splits: Mapping[str, Dataset],
        token_types: bool,
        config: MtBertConfig | None = None,
        training: bool = False,
    ):
        self.tasks = tuple(tasks)
        self.splits: list[Any] = [
            splits[task.name].with_format("arrow") if task.name in splits else None for task in tasks
        ]
        self.token_types, self.training = token_types, training
        ids, by_name = {task.name: number for number, task in enumerate(tasks)}, {task.name: task for task in tasks}
        self.units: list[tuple[tuple[int, ...], ...]] = []
        apart = tasks_apart(tasks, config)
        for unit in units_of(ids, sources_of(splits)):
            copies = tuple(tuple(ids[name] for name in copy) for copy in copies_of(unit, by_name, apart))
            self.units += [copies] if training else [(copy,) for copy in copies]
        shared = [task for unit in self.units if len(self._tasks_of(unit)) > 1 for task in self._tasks_of(unit)]
        self._targets_only = {task: _targets_of(self.splits[task]) for task in shared}

    @staticmethod
    def _tasks_of(unit: tuple[tuple[int, ...], ...]) -> list[int]:
        return [task for copy in unit for task in copy]

    def rows_of_units(self) -> list[Any]:
        """For each unit, the split of its first task; None if it has no rows."""
        return [self.splits[unit[0][0]] for unit in self.units]

    def __len__(self) -> int:
        return sum(len(split) for split in self.rows_of_units() if split is not None)

    def __getitems__(self, step: Step) -> dict[str, Any]:
        batch: dict[str, Any] = {"labels": {}, "rows": {}, "labelled": torch.zeros(len(self.tasks))}
        parts = []
        for number, rows in step.parts:
            unit = self.units[number]
            if len(self._tasks_of(unit)) == 1:
                parts.append(self._single(unit[0][0], rows, step.filler, batch))
            else:
                parts += self._shared(unit, rows, step.filler, batch)
        if not batch["labels"]:
            del batch["labels"]
        labelled = batch.pop("labelled")
        batch |= pack_parts(parts, self.token_types)
        batch["labelled"] = labelled
        return batch

    def _single(self, task_id: int, rows: np.ndarray, filler: bool, batch: dict[str, Any]) -> TaskPart:
        """Add rows of one task to a batch."""
        table = self.splits[task_id][rows]
        self._add(task_id, rows, *self._targets(task_id, table, len(rows)), filler, batch)
        return self._part(task_id, table)

    def _shared(
        self, unit: tuple[tuple[int, ...], ...], rows: np.ndarray, filler: bool, batch: dict[str, Any]
    ) -> list[TaskPart]:
        """Add rows of a source to a batch: a part for each of its encodings."""
        targets = {}
        for task in self._tasks_of(unit):
            split = self._targets_only[task]
            targets[task] = self._targets(task, None if split is None else split[rows], len(rows))
        chooses = self.training and any(counted.any() for _, counted in targets.values())
        parts = []
        for copy in unit:
            members = [task for task in copy if not chooses or targets[task][1].any()]
            if not members:
                continue
            kept = np.ones(len(rows), dtype=bool)
            if chooses:
                kept = np.logical_or.reduce([targets[task][1] for task in members])
            for task in members:
                values, counted = targets[task]
                chosen = {key: array[kept] for key, array in values.items()}
                self._add(task, rows[kept], chosen, counted[kept], filler, batch)
            part = self._part(copy[0], self.splits[copy[0]][rows[kept]])
            parts.append(replace(part, task_id=members[0], also=tuple(members[1:])))
        return parts

    def _targets(self, task_id: int, table: Any, rows: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What rows are trained on, by key of a batch, and the mask `(rows,)` of those that enter the loss.

        Args:
            table: the columns of the rows; None: they have neither labels nor teachers' predictions.
        """
        task, targets, counted = self.tasks[task_id], {}, np.zeros(rows, dtype=bool)
        columns = [] if table is None else table.column_names
        if TEACHER in columns:
            predictions = _values(table[TEACHER])[0].reshape(-1, task.num_labels).astype(np.float32)
            targets[TEACHER] = predictions
            counted |= np.isfinite(predictions).all(axis=1)
        if "label" in columns:
            targets["labels"] = self._labels(task, table["label"])
            counted |= known_labels(targets["labels"])
        return targets, counted

    def _add(
        self,
        task_id: int,
        rows: np.ndarray,
        targets: Mapping[str, np.ndarray],
        counted: np.ndarray,
        filler: bool,
        batch: dict[str, Any],
    ) -> None:
        """Add a task's rows and what they are trained on to a batch; the row of a filler is trained on nothing."""
        name = self.tasks[task_id].name
        batch["rows"][name] = torch.from_numpy(np.ascontiguousarray(rows))
        for key, values in targets.items():
            if filler:
                values[:] = float("nan") if values.dtype.kind == "f" else IGNORED
            batch.setdefault(key, {})[name] = torch.from_numpy(values)
        batch["labelled"][task_id] = 0 if filler else int(counted.sum())

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


def known_labels(labels: np.ndarray) -> np.ndarray:
    """Return the mask `(rows,)` of the rows that have a label; a missing one is -100, or nan if labels are floats.

    A row of a multi-label task has one unless all of its entries are missing.
    """
    missing = np.isnan(labels) if labels.dtype.kind == "f" else labels == IGNORED
    known: np.ndarray = ~missing.reshape(len(labels), -1).all(axis=1)
    return known


def _targets_of(split: Dataset) -> Dataset | None:
    """The columns of a split that its rows are trained on; None if it has none."""
    columns = [name for name in ("label", TEACHER) if name in split.column_names]
    return split.select_columns(columns).with_format("arrow") if columns else None


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


def unit_lengths(
    tasks: Sequence[TaskSpec], splits: Mapping[str, Dataset], config: MtBertConfig | None = None
) -> list[np.ndarray]:
    """For each unit of a plan, the tokens of each row in all of its encodings, `(rows,)`; see `MultiTaskDataset`."""
    by_name, apart = {task.name: task for task in tasks}, tasks_apart(tasks, config)
    units = [copies_of(unit, by_name, apart) for unit in units_of(by_name, sources_of(splits))]
    return [np.sum([row_lengths(splits[copy[0]]) for copy in copies], axis=0) for copies in units]


def _batches(descending: np.ndarray, rows: int, tokens: int) -> list[int]:
    """Return the positions at which to cut descending lengths into batches.

    A batch has at most `rows` rows and at most `tokens` tokens with padding, but at least one row.
    """
    cuts, first = [], 0
    while first < len(descending):
        first += int(min(rows, max(1, tokens // max(1, descending[first]))))
        cuts.append(first)
    return cuts[:-1]
