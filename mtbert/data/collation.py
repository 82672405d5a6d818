"""Collate rows of one or several tasks into one packed batch of tensors, without a Python loop over rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, List, Value

from ..modeling.configuration_mtbert import MtBertConfig
from ..modeling.packed_batches import PLACES, TaskPart, UnitPlaces, pack_parts
from ..modeling.problem_types import IGNORED
from ..modeling.task_spec import TaskSpec
from ..modeling.tokenization import LENGTHS
from .pools import copies_of, pools_of, sources_of, tasks_apart
from .sampling import Step

TEACHER = "teacher"  # the column with the teachers' predictions for a row, and its key in a batch
NOT_INPUTS = ("labelled", "units", "rows", PLACES, TEACHER)  # keys of a batch that the model does not take


def _values(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the concatenated values of a column of lists, and the length of each list."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    return array.flatten().to_numpy(zero_copy_only=False), array.value_lengths().to_numpy(zero_copy_only=False)


def _padded(column: pa.ChunkedArray, fill: int, width: int = 0) -> np.ndarray:
    """A column of lists as an array `(rows, longest list)`, at least `width` wide, with `fill` behind each list."""
    values, counts = _values(column)
    padded = np.full((len(counts), max(width, counts.max(initial=0))), fill, dtype=np.int64)
    padded[np.arange(padded.shape[1]) < counts[:, None]] = values
    return padded


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

    A step names rows of pools. The rows of a source are encoded once for all of its tasks that read them alike.

    Args:
        tasks: the tasks, in the order of their ids.
        splits: task name → encoded rows; `TaskSplits` if some share theirs.
        token_types: whether the encoder has token types.
        config: the model's config, which tells the tasks with adapters: these share no encoding; None: there are none.
        training: whether the pools are those of a plan, and a source's batch holds for each of its encodings only the
            rows that count for one of its tasks, and only the tasks for which one of the rows counts. Otherwise each
            encoding of a source is a pool, and each of its tasks has all rows.

    Attributes:
        pools: for each pool, its encodings: the ids of the tasks that share one.
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
        self.counts_units = any(task.kind.units.column for task in tasks)
        ids, by_name = {task.name: number for number, task in enumerate(tasks)}, {task.name: task for task in tasks}
        self.pools: list[tuple[tuple[int, ...], ...]] = []
        apart = tasks_apart(tasks, config)
        for pool in pools_of(ids, sources_of(splits)):
            copies = tuple(tuple(ids[name] for name in copy) for copy in copies_of(pool, by_name, apart))
            self.pools += [copies] if training else [(copy,) for copy in copies]
        shared = [task for pool in self.pools if len(self._tasks_of(pool)) > 1 for task in self._tasks_of(pool)]
        self._targets_only = {task: _targets_of(tasks[task], self.splits[task]) for task in shared}

    @staticmethod
    def _tasks_of(pool: tuple[tuple[int, ...], ...]) -> list[int]:
        return [task for copy in pool for task in copy]

    def rows_of_pools(self) -> list[Any]:
        """For each pool, the split of its first task; None if it has no rows."""
        return [self.splits[pool[0][0]] for pool in self.pools]

    def __len__(self) -> int:
        return sum(len(split) for split in self.rows_of_pools() if split is not None)

    def __getitems__(self, step: Step) -> dict[str, Any]:
        labelled, units = torch.zeros((2, len(self.tasks)))
        batch: dict[str, Any] = {"labels": {}, "rows": {}, "labelled": labelled, "units": units}
        parts = []
        for number, rows in step.parts:
            pool = self.pools[number]
            if len(self._tasks_of(pool)) == 1:
                parts.append(self._single(pool[0][0], rows, step.filler, batch))
            else:
                parts += self._shared(pool, rows, step.filler, batch)
        if not batch["labels"]:
            del batch["labels"]
        del batch["labelled"], batch["units"]  # they come last
        batch |= pack_parts(parts, self.token_types)
        batch["labelled"] = labelled
        if self.counts_units:
            batch["units"] = units
        return batch

    def _single(self, task_id: int, rows: np.ndarray, filler: bool, batch: dict[str, Any]) -> TaskPart:
        """Add rows of one task to a batch."""
        table = self.splits[task_id][rows]
        part = self._part(task_id, table)
        self._add(task_id, rows, part, *self._targets(task_id, table, len(rows)), filler, batch)
        return part

    def _shared(
        self, pool: tuple[tuple[int, ...], ...], rows: np.ndarray, filler: bool, batch: dict[str, Any]
    ) -> list[TaskPart]:
        """Add rows of a source to a batch: a part for each of its encodings."""
        targets = {}
        for task in self._tasks_of(pool):
            split = self._targets_only[task]
            targets[task] = self._targets(task, None if split is None else split[rows], len(rows))
        chooses = self.training and any(counted.any() for _, counted in targets.values())
        parts = []
        for copy in pool:
            members = [task for task in copy if not chooses or targets[task][1].any()]
            if not members:
                continue
            kept = np.ones(len(rows), dtype=bool)
            if chooses:
                kept = np.logical_or.reduce([targets[task][1] for task in members])
            part = self._part(copy[0], self.splits[copy[0]][rows[kept]])
            for task in members:
                values, counted = targets[task]
                chosen = {key: array[kept] for key, array in values.items()}
                self._add(task, rows[kept], part, chosen, counted[kept], filler, batch)
            parts.append(replace(part, task_id=members[0], also=tuple(members[1:])))
        return parts

    def _targets(self, task_id: int, table: Any, rows: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What rows are trained on, by key of a batch, and the mask `(rows,)` of those that enter the loss.

        Of a task that labels parts of rows, `labels` and `places` are `(rows, most parts)`: labels, -100 for parts
        without a token, and the index of each part's token in its row, negative if it has none.

        Args:
            table: the columns of the rows; None: they have neither labels nor teachers' predictions.
        """
        task, targets, counted = self.tasks[task_id], {}, np.zeros(rows, dtype=bool)
        columns = [] if table is None else table.column_names
        if TEACHER in columns:
            predictions = _values(table[TEACHER])[0].reshape(-1, task.num_labels).astype(np.float32)
            targets[TEACHER] = predictions
            counted |= np.isfinite(predictions).all(axis=1)
        if task.kind.units.column in columns:
            targets[PLACES] = _padded(table[task.kind.units.column], -1)
        if "label" in columns:
            targets["labels"] = self._labels(task, table["label"], targets.get(PLACES))
            counted |= known_labels(targets["labels"])
        return targets, counted

    def _add(
        self,
        task_id: int,
        rows: np.ndarray,
        part: TaskPart,
        targets: dict[str, np.ndarray],
        counted: np.ndarray,
        filler: bool,
        batch: dict[str, Any],
    ) -> None:
        """Add a task's rows and what they are trained on to a batch; the row of a filler is trained on nothing."""
        name, units = self.tasks[task_id].name, counted
        batch["rows"][name] = torch.from_numpy(np.ascontiguousarray(rows))
        if PLACES in targets:
            firsts = targets.pop(PLACES)
            counts = np.full(len(firsts), firsts.shape[1])
            places = UnitPlaces.find(firsts.ravel(), counts, part.row_lengths)
            batch.setdefault(PLACES, {})[name] = places
            if "labels" in targets:
                of_parts = targets["labels"]
                units = of_parts != IGNORED
                targets["labels"] = np.full(len(part.tokens), IGNORED, dtype=of_parts.dtype)
                targets["labels"][places.tokens] = of_parts[places.rows, places.parts]
        for key, values in targets.items():
            if filler:
                values[:] = float("nan") if values.dtype.kind == "f" else IGNORED
            batch.setdefault(key, {})[name] = torch.from_numpy(values)
        batch["labelled"][task_id] = 0 if filler else int(counted.sum())
        batch["units"][task_id] = 0 if filler else int(units.sum())

    def _part(self, task_id: int, table: pa.Table) -> TaskPart:
        ids, counts = _values(table["input_ids"])
        cuts = [table[name].to_numpy() for name in LENGTHS[: self.tasks[task_id].num_sequences - 1]]
        types = None
        if self.token_types and "token_type_ids" in table.column_names:
            types = _values(table["token_type_ids"])[0]
        return TaskPart(task_id, ids, counts, cuts, types)

    @staticmethod
    def _labels(task: TaskSpec, column: pa.ChunkedArray, firsts: np.ndarray | None) -> np.ndarray:
        if firsts is not None:
            labels = _padded(column, IGNORED, firsts.shape[1])  # a row without labels has an empty list
            return np.where(firsts < 0, IGNORED, labels).astype(task.kind.label_dtype)
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


def _targets_of(task: TaskSpec, split: Dataset) -> Dataset | None:
    """The columns of a split that its rows are trained on; None if it has none."""
    columns = [name for name in ("label", TEACHER, task.kind.units.column) if name in split.column_names]
    return split.select_columns(columns).with_format("arrow") if columns else None


def label_array(split: Dataset) -> np.ndarray:
    """The labels of checked or encoded rows: `(rows,)`, or `(rows, num_labels)`.

    Of a task that labels parts of rows `(rows, most parts)`, -100 behind a row's last part.
    """
    feature = split.features["label"]
    if not isinstance(feature, List) or feature.feature != Value("int64"):
        return np.asarray(split.with_format("numpy")["label"][:])
    if not len(split):
        return np.zeros((0, 0), dtype=np.int64)
    return _padded(split.select_columns("label").with_format("arrow")[:]["label"], IGNORED)


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


def pool_lengths(
    tasks: Sequence[TaskSpec], splits: Mapping[str, Dataset], config: MtBertConfig | None = None
) -> list[np.ndarray]:
    """For each pool of a plan, the tokens of each row in all of its encodings, `(rows,)`; see `MultiTaskDataset`."""
    by_name, apart = {task.name: task for task in tasks}, tasks_apart(tasks, config)
    pools = [copies_of(pool, by_name, apart) for pool in pools_of(by_name, sources_of(splits))]
    return [np.sum([row_lengths(splits[copy[0]]) for copy in copies], axis=0) for copies in pools]


def _batches(descending: np.ndarray, rows: int, tokens: int) -> list[int]:
    """Return the positions at which to cut descending lengths into batches.

    A batch has at most `rows` rows and at most `tokens` tokens with padding, but at least one row.
    """
    cuts, first = [], 0
    while first < len(descending):
        first += int(min(rows, max(1, tokens // max(1, descending[first]))))
        cuts.append(first)
    return cuts[:-1]
