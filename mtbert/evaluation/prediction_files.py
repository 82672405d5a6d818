"""Decode logits and write prediction files."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import FileInTheWayError, InputError
from ..files import writing_file
from ..modeling.answers import Prediction, fitted_names
from ..modeling.decoding import answer_columns, decisions, label_names, probabilities
from ..modeling.task_spec import TaskSpec
from .course_files import CourseFile, course_files

FILE_FORMATS = ("csv", "jsonl", "parquet", "cs224n")
STDOUT = "-"
ARROW_TYPES = {str: pa.string(), float: pa.float64(), list: pa.string()}


def prediction_columns(task: TaskSpec, logits: np.ndarray, texts: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """Decode logits, shape `(rows, num_labels)`, to columns of a prediction file.

    Args:
        task: the task.
        logits: the rows' logits.
        texts: the (first) text of each row, which tasks that label parts of rows need.

    Returns:
        `<task>`: the score of a regression, the name of the class, or the names of all given labels, joined by `|`.
        `<task>:<label>`: the probability of each label. `<task>.set` (labels joined by `|`) or `<task>.low` and
        `<task>.high`, if a coverage was fitted; `<task>.abstain` (`true` or `false`), if the task may abstain.
    """
    if task.kind.answers is not None:
        decisions(task, logits)  # raises if a logit is not finite
        return {name: list(values) for name, values in task.kind.answers.columns(_of(task, logits, texts)).items()}
    chosen = decisions(task, logits)
    if task.kind.numeric:
        table: dict[str, Any] = {task.name: chosen}
    else:
        names = label_names(task, chosen)
        table = answer_columns(task, names, probabilities(task, logits.astype(np.float64)))
    table |= Prediction.of(task, logits).fitted_columns()
    return {name: _cells(values) for name, values in table.items()}


def _of(task: TaskSpec, logits: np.ndarray, texts: Sequence[str] | None) -> Prediction:
    return Prediction.of(task, logits, texts=texts)


def column_types(task: TaskSpec) -> dict[str, type]:
    """Name → type (`str`, `float`, or `list` for JSON) of each of the `prediction_columns`."""
    if task.kind.answers is not None:
        return dict(task.kind.answers.column_types(task))
    types: dict[str, type] = {task.name: float if task.kind.numeric else str}
    types |= {f"{task.name}:{label}": float for label in task.classes}
    return types | {name: float if name.endswith((".low", ".high")) else str for name in fitted_names(task)}


def _cells(values: Any) -> list[Any]:
    """The cells of a column: texts, lists of labels joined by `|`, or the shortest numbers."""
    if isinstance(values, list):
        return ["|".join(value) if isinstance(value, list) else value for value in values]
    if values.dtype == bool:
        return [str(value).lower() for value in values.tolist()]
    return _shortest(values)


def _as_json(values: Sequence[Any]) -> Sequence[Any]:
    """A column whose lists are written as JSON."""
    if not values or not isinstance(values[0], list):
        return values
    return [json.dumps(value, ensure_ascii=False) for value in values]


def _shortest(values: np.ndarray) -> list[float]:
    """Convert values to floats with no more digits than fp32 needs."""
    return [float(str(value)) for value in np.asarray(values, dtype=np.float32)]


class PredictionFile:
    """Context manager that writes predictions in chunks; a file appears under its name only when it is complete.

    Args:
        path: the file, or `-` for standard output (`csv`, `jsonl`). With `cs224n` and several tasks: a folder for the
            files `<task>.csv`.
        tasks: the tasks to write.
        format: `csv`, `jsonl`, `parquet` or `cs224n`; None: by the suffix.
        id: the name of the id column; None: the column `row` holds the rows' numbers.
        overwrite: whether existing files may be replaced.
        label_columns: task name → label column of its data, which chooses the task's file with `cs224n` (see
            `CourseFile`).

    Raises:
        FileExistsError: a file exists.
        ValueError: the format is unknown, or does not fit the path, the tasks or the id.
    """

    def __init__(
        self,
        path: str,
        tasks: Sequence[TaskSpec],
        format: str | None = None,
        id: str | None = None,
        overwrite: bool = False,
        label_columns: Mapping[str, str] | None = None,
    ):
        self.course_files: list[CourseFile] = []
        self.tasks, self.id, self.overwrite = tuple(tasks), id, overwrite
        self.format = format or {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}.get(Path(path).suffix)
        problems = self._problems(path, format, label_columns or {})
        if problems:
            raise InputError("\n".join(problems))
        self.paths = [Path(path)]
        if self.format == "cs224n" and len(self.tasks) > 1:
            self.paths = [Path(path, f"{task.name}.csv") for task in self.tasks]
        self.to_stdout = path == STDOUT
        for target in () if self.to_stdout else self.paths:
            if target.is_dir():
                raise FileInTheWayError(f"{target} is a folder; give a file's name")
            if target.is_file() and not overwrite:
                raise FileInTheWayError(f"{target} exists; give another name, or --overwrite to replace it")
        self.rows = 0

    def _problems(self, path: str, format: str | None, label_columns: Mapping[str, str]) -> list[str]:
        if self.format not in FILE_FORMATS:
            why = f"format is {format!r}" if format else f"the suffix of {path} says no format"
            return [f"{why}; give one of: {', '.join(FILE_FORMATS)}"]
        problems = []
        if path == STDOUT and self.format not in ("csv", "jsonl"):
            problems.append(f"standard output can be csv or jsonl, not {self.format}; give a file")
        if self.format == "cs224n":
            if self.id is None:
                problems.append("the course's files name rows by their id; name its column with --id")
            self.course_files, without_file = course_files(self.tasks, label_columns)
            problems += without_file
        elif len(set(self._names())) < len(self._names()):
            problems.append(f"two columns would have one name: {self._names()}; name the id column otherwise")
        return problems

    def _names(self) -> list[str]:
        return [self.id or "row", *(name for task in self.tasks for name in column_types(task))]

    def _schema(self) -> pa.Schema:
        types = {self.id or "row": pa.string() if self.id else pa.int64()}
        for task in self.tasks:
            types |= {name: ARROW_TYPES[kind] for name, kind in column_types(task).items()}
        return pa.schema(list(types.items()))

    def __enter__(self) -> PredictionFile:
        with ExitStack() as self.stack:  # if opening a file fails, those already open are closed
            self._open_all()
            self.stack = self.stack.pop_all()
        return self

    def _open_all(self) -> None:
        self.files = [sys.stdout] if self.to_stdout else [self._open(path) for path in self.paths]
        if self.format == "csv":
            self.writer: Any = csv.writer(self.files[0], lineterminator="\n")
            self.quoting = csv.writer(self.files[0], lineterminator="\n", quoting=csv.QUOTE_ALL)  # for carriage returns
            self.writer.writerow(self._names())
        elif self.format == "parquet":
            self.writer = self.stack.enter_context(pq.ParquetWriter(self.files[0], self._schema()))
        elif self.format == "cs224n":
            for file, course_file in zip(self.files, self.course_files, strict=True):
                file.write(f"id \t {course_file.heading} \n")

    def _open(self, path: Path) -> IO[Any]:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = "wb" if self.format == "parquet" else "w"
        return self.stack.enter_context(writing_file(path, mode, self.overwrite))

    def write(self, rows: Mapping[str, list[Any]], logits: Mapping[str, np.ndarray]) -> None:
        """Append a chunk.

        Args:
            rows: columns `row`, and `id` if the file has an id column; `text` for tasks that label parts of texts.
            logits: task name → logits, `(rows, num_labels)`.

        Raises:
            ValueError: an id is empty, and the format is `cs224n`.
        """
        names = rows["id"] if self.id else rows["row"]
        self.rows += len(names)
        if self.format == "cs224n":
            ids = [str(name).strip().lower() for name in names]
            if "" in ids:
                row = rows["row"][ids.index("")]
                raise InputError(f"row {row:,} has no id in column {self.id!r}, but the course's files need one")
            for file, course_file in zip(self.files, self.course_files, strict=True):
                values = zip(ids, course_file.values(logits[course_file.task.name]), strict=True)
                file.writelines(f"{name} , {value} \n" for name, value in values)
            return
        columns = {self.id or "row": names}
        for task in self.tasks:
            columns |= prediction_columns(task, logits[task.name], rows.get("text"))
        if self.format != "jsonl":
            columns = {name: _as_json(values) for name, values in columns.items()}
        if self.format == "parquet":
            self.writer.write_table(pa.table(columns, schema=self._schema()))
            return
        lines = zip(*columns.values(), strict=True)
        if self.format == "csv":
            for line in lines:
                has_return = any(isinstance(value, str) and "\r" in value for value in line)
                writer = self.quoting if has_return else self.writer
                writer.writerow(line)
        else:
            objects = (dict(zip(columns, line, strict=True)) for line in lines)
            self.files[0].writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in objects)
        self.files[0].flush()

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self.stack.__exit__(kind, error, traceback)
