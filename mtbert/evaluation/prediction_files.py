"""Decode logits and write prediction files."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from ..data.compression import COMPRESSED, compressing
from ..errors import FileInTheWayError, InputError
from ..files import writing_file
from ..modeling.answers import Prediction, fitted_names
from ..modeling.decoding import answer_columns, decisions, label_names, probabilities
from ..modeling.task_spec import TaskSpec
from .course_files import CourseFile, course_files
from .row_writers import (
    SEPARATORS,
    LinesWriter,
    ParquetRows,
    TableWriter,
    cell_text,
    json_value,
    output_format,
    text_into,
)

FILE_FORMATS = ("csv", "tsv", "jsonl", "parquet", "cs224n")
ON_STDOUT = ("csv", "tsv", "jsonl")
STDOUT = "-"
ROW = "row"  # the column of the rows' numbers, where there are no ids
PREFIX = "input."  # of a column of the input that has the name of an answer's
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
        `<task>.high`, if a coverage was fitted; `<task>.abstained` (`true` or `false`), if the task may abstain.
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


def _texts_of(task: TaskSpec, rows: Mapping[str, Any]) -> Sequence[str] | None:
    texts: Sequence[str] | None = rows.get("first_texts", {}).get(task.name, rows.get("text"))
    return texts


def _shortest(values: np.ndarray) -> list[float]:
    """Convert values to floats with no more digits than fp32 needs."""
    return [float(str(value)) for value in np.asarray(values, dtype=np.float32)]


@dataclass(frozen=True)
class KeptColumns:
    """Columns of the input that a prediction file has, too.

    Attributes:
        names: column of the input → its name in the output.
        types: their types, by the name in the output, for parquet.
    """

    names: dict[str, str]
    types: dict[str, pa.DataType]

    @classmethod
    def of(cls, schema: pa.Schema, tasks: Sequence[TaskSpec], id: str | None) -> KeptColumns:
        """Keep all columns but the id's, which comes first anyway.

        One that has the name of an answer's column, or of the rows' numbers, gets `input.` in front.

        Args:
            schema: the columns of the input.
        """
        taken = {id or ROW, *(name for task in tasks for name in column_types(task))}
        names = {}
        for column in schema.names:
            if column == id:
                continue
            name = column
            while name in taken:
                name = f"{PREFIX}{name}"
            names[column] = name
            taken.add(name)
        return cls(names, {name: schema.field(column).type for column, name in names.items()})

    @property
    def renamed(self) -> dict[str, str]:
        """The columns whose name differs in the output."""
        return {column: name for column, name in self.names.items() if column != name}


class PredictionFile:
    """Context manager that writes predictions in chunks; a file appears under its name only when it is complete.

    Args:
        path: the file, or `-` for standard output (`csv`, `tsv`, `jsonl`). It is compressed if its name ends so (.gz,
            .bz2, .xz, .zst, .zip). With `cs224n` and several tasks: a folder for the files `<task>.csv`.
        tasks: the tasks to write.
        format: `csv`, `tsv`, `jsonl`, `parquet` or `cs224n`; None: by the suffix.
        id: the name of the id column; None: the column `row` holds the rows' numbers.
        overwrite: whether existing files may be replaced.
        label_columns: task name → label column of its data, which chooses the task's file with `cs224n` (see
            `CourseFile`).
        kept: columns of the input that are written between the id and the answers; None: none.
        defuse: whether texts that a spreadsheet would run as formulas get an apostrophe in front (`csv`, `tsv`).

    Raises:
        FileExistsError: a file exists.
        ValueError: the format is unknown, or does not fit the path, the tasks, the id or the other arguments.
    """

    def __init__(
        self,
        path: str,
        tasks: Sequence[TaskSpec],
        format: str | None = None,
        id: str | None = None,
        overwrite: bool = False,
        label_columns: Mapping[str, str] | None = None,
        kept: KeptColumns | None = None,
        defuse: bool = False,
    ):
        self.course_files: list[CourseFile] = []
        self.tasks, self.id, self.overwrite = tuple(tasks), id, overwrite
        self.kept, self.defuse = kept, defuse
        self.format = format or output_format(path)
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
        packed = Path(path).suffix.lower() in COMPRESSED
        if path == STDOUT and self.format not in ON_STDOUT:
            problems.append(f"standard output can be csv, tsv or jsonl, not {self.format}; give a file")
        if packed and self.format == "parquet":
            problems.append(f"{path}: parquet files are compressed inside; drop the last suffix")
        if self.defuse and self.format not in SEPARATORS:
            problems.append(f"--defuse_formulas is for csv and tsv, which spreadsheets open, not for {self.format}")
        if self.format == "cs224n":
            if self.id is None:
                problems.append("the course's files name rows by their id; name its column with --id")
            if self.kept is not None:
                problems.append("the course's files have no further columns; drop --keep_columns")
            self.course_files, without_file = course_files(self.tasks, label_columns)
            problems += without_file
        elif len(set(self._names())) < len(self._names()):
            problems.append(f"two columns would have one name: {self._names()}; name the id column otherwise")
        return problems

    def _names(self) -> list[str]:
        kept = self.kept.names.values() if self.kept else ()
        return [self.id or ROW, *kept, *(name for task in self.tasks for name in column_types(task))]

    def _schema(self) -> pa.Schema:
        types = {self.id or ROW: pa.string() if self.id else pa.int64()}
        types |= self.kept.types if self.kept else {}
        for task in self.tasks:
            types |= {name: ARROW_TYPES[kind] for name, kind in column_types(task).items()}
        return pa.schema(list(types.items()))

    def __enter__(self) -> PredictionFile:
        with ExitStack() as self.stack:  # if opening a file fails, those already open are closed
            self._open_all()
            self.stack = self.stack.pop_all()
        return self

    def _open_all(self) -> None:
        self.files: list[IO[Any]] = [sys.stdout] if self.to_stdout else [self._open(path) for path in self.paths]
        if self.format in SEPARATORS:
            separator = SEPARATORS[self.format]
            self.writer: Any = TableWriter(self.files[0], self._names(), separator, self.defuse)
        elif self.format == "jsonl":
            self.writer = LinesWriter(self.files[0])
        elif self.format == "parquet":
            self.writer = self.stack.enter_context(closing(ParquetRows(self.files[0], self._schema())))
        else:
            for file, course_file in zip(self.files, self.course_files, strict=True):
                file.write(f"id \t {course_file.heading} \n")

    def _open(self, path: Path) -> IO[Any]:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.packed = path.suffix.lower() in COMPRESSED
        mode = "wb" if self.packed or self.format == "parquet" else "w"
        file = self.stack.enter_context(writing_file(path, mode, self.overwrite))
        if not self.packed:
            return file
        return self.stack.enter_context(text_into(self.stack.enter_context(compressing(file, path))))

    def write(self, rows: Mapping[str, Any], logits: Mapping[str, np.ndarray]) -> None:
        """Append a chunk.

        Args:
            rows: columns `row`, `id` if the file has an id column, and `kept` if it has columns of the input; for tasks
                that label parts of texts `first_texts`: task name → its (first) texts, or `text`, those of all.
            logits: task name → logits, `(rows, num_labels)`.

        Raises:
            ValueError: an id is empty, and the format is `cs224n`; or a kept value has another type than its column.
        """
        names = rows["id"] if self.id else rows["row"]
        self.rows += len(names)
        if self.format == "cs224n":
            self._write_course_files(names, rows["row"], logits)
            return
        columns = {self.id or ROW: names}
        if self.kept is not None:
            if more := [column for column in rows["kept"] if column not in self.kept.names and column != self.id]:
                why = f"from row {rows['row'][0]:,} on, rows have {more[0]!r}, which the first row lacks"
                raise InputError(f"{why}; write it there, too, or drop --keep_columns")
            as_written = {"jsonl": json_value, "parquet": lambda value: value}.get(str(self.format), cell_text)
            columns |= {name: list(map(as_written, rows["kept"][column])) for column, name in self.kept.names.items()}
        for task in self.tasks:
            answers = prediction_columns(task, logits[task.name], _texts_of(task, rows))
            columns |= answers if self.format == "jsonl" else {name: _as_json(cells) for name, cells in answers.items()}
        self.writer.write(columns)
        if self.format != "parquet" and (self.to_stdout or not self.packed):  # a flush would end a block of compression
            self.files[0].flush()

    def _write_course_files(self, names: Sequence[str], rows: Sequence[int], logits: Mapping[str, np.ndarray]) -> None:
        ids = [str(name).strip().lower() for name in names]
        if "" in ids:
            row = rows[ids.index("")]
            raise InputError(f"row {row:,} has no id in column {self.id!r}, but the course's files need one")
        for file, course_file in zip(self.files, self.course_files, strict=True):
            values = zip(ids, course_file.values(logits[course_file.task.name]), strict=True)
            file.writelines(f"{name} , {value} \n" for name, value in values)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self.stack.__exit__(kind, error, traceback)
