"""Plan a prediction: which tasks read which columns of a file, and how the file is read.

The flags of the command line come first, then the recipe of the run, then the columns `text` and `text_pair`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..data.compression import COMPRESSED
from ..data.delimited import separator_hint
from ..data.labels import listed
from ..data.readers import file_format
from ..data.spec import DataSpec
from ..data.streaming import STDIN, RowSource, StandardInput
from ..errors import InputError, ReadError
from ..modeling.task_spec import TaskSpec

TEXT, TEXT_PAIR = "text", "text_pair"  # columns where nothing else is said


@dataclass(frozen=True)
class Flags:
    """What the command line says of a file; None: nothing.

    Attributes:
        text, text_pair: columns of the texts.
        id: column of the ids; an empty text: rows have numbers.
        format, separator, quoting: how the file is read.
    """

    text: str | None = None
    text_pair: str | None = None
    id: str | None = None
    format: str | None = None
    separator: str | None = None
    quoting: str | None = None

    def columns(self, task: TaskSpec) -> tuple[str, ...]:
        """The columns of a task's texts, where no recipe names them."""
        return (self.text or TEXT, self.text_pair or TEXT_PAIR)[: task.texts]


@dataclass(frozen=True)
class PredictionPlan:
    """What is predicted from which columns.

    Attributes:
        source: the rows.
        columns: task name → its text columns, for each task that is predicted.
        notes: sentences for the user: tasks that are left out, columns that are read instead of the recipe's.
    """

    source: Any
    columns: dict[str, tuple[str, ...]]
    notes: list[str] = field(default_factory=list)


def plan_prediction(
    file: str,
    tasks: Sequence[TaskSpec],
    data: Mapping[str, DataSpec],
    flags: Flags,
    every_task: bool,
    size: int,
    keep: bool,
    stdin: StandardInput | None = None,
) -> PredictionPlan:
    """Choose columns and the way of reading for a file.

    Args:
        file: the file, or `-`.
        tasks: the tasks to predict.
        data: task name → its data in the run's recipe; empty without a recipe.
        every_task: whether all tasks of the checkpoint were asked for; those whose columns the file lacks are then left
            out, with a note.
        size: rows of a chunk.
        keep: whether chunks have all columns of the file.
        stdin: standard input, if it is the file.

    Raises:
        InputError: the file lacks the columns of a task that was asked for by its name, or of all tasks.
        ReadError, FileNotFoundError: the file can not be read.
    """
    by_flags = RowSource(file, (), flags.id or None, flags.format, size, flags.separator, flags.quoting, keep)
    given = flags.text is not None or flags.text_pair is not None
    if not data:
        columns = {task.name: flags.columns(task) for task in tasks}
        return PredictionPlan(_source(by_flags, columns, flags.id), columns)
    failed: ReadError | None = None
    plans: list[tuple[PredictionPlan, tuple[str, ...]]] = []
    for candidate in _candidates(by_flags, tasks, data, flags):
        try:
            names = _names(candidate, stdin)
        except ReadError as error:
            failed = failed or error
            continue
        plans.append((_fitted(candidate, names, tasks, data, flags), names))
        if len(plans[-1][0].columns) == len(tasks):
            break
    if not plans:
        raise failed or InputError(f"{file} can not be read")
    best, names = max(plans, key=lambda plan: (len(plan[0].columns), len(plan[1])))  # the first of several
    left_out = [task for task in tasks if task.name not in best.columns]
    if not left_out:
        return best
    if given or not every_task or not best.columns:
        first = left_out[0]
        wanted = flags.columns(first) if given else _recipe_columns(first, data)
        near = [name for name in difflib.get_close_matches(wanted[0], names, 1) if name not in wanted]
        hint = f"did you mean {near[0]!r}? " if near else ""
        if separator := separator_hint(names):
            hint = f"{separator}; "
        flag = "--text and --text_pair" if first.texts == 2 else "--text"
        absent = next(name for name in wanted if name not in names)
        raise InputError(
            f"{best.source.shown}: there is no column {absent!r}, which task {first.name!r} reads; {hint}name its "
            f"columns with {flag}, or choose others with --tasks. The columns are: {listed(names)}"
        )
    named = ", ".join(task.name for task in left_out)
    return replace(best, notes=[*best.notes, f"left out, since their columns are not there: {named}"])


def _candidates(
    by_flags: RowSource, tasks: Sequence[TaskSpec], data: Mapping[str, DataSpec], flags: Flags
) -> list[RowSource]:
    """The ways in which the file may be read: those of the tasks' tables, and without a recipe."""
    if by_flags.file == STDIN:
        return [by_flags]
    own = file_format(by_flags.file) if isinstance(by_flags.file, str) else None
    ways = []
    for task in tasks:
        spec = data.get(task.name)
        if spec is None:
            continue
        like = [name for name in spec.names_of("train") if _suffix(name) == _suffix(str(by_flags.file))]
        format = flags.format or (spec.format if like or own is None else None)
        kind = format or own
        same_kind = not spec.hub and kind in {spec.format_of(name) for name in spec.names_of("train")}
        ways.append(
            replace(
                by_flags,
                format=format,
                separator=flags.separator or (spec.separator if same_kind else None),
                quoting=flags.quoting or (spec.quoting if same_kind else None),
            )
        )
    return list(dict.fromkeys([*ways, by_flags]))


def _suffix(name: str) -> str:
    """The suffix of a file's name before that of its compression."""
    path = Path(name)
    return (path.with_suffix("") if path.suffix.lower() in COMPRESSED else path).suffix.lower()


def _names(source: RowSource, stdin: StandardInput | None) -> tuple[str, ...]:
    if stdin is not None:
        return stdin.columns(source.kind())
    schema = source.schema()
    return tuple(schema.names) if schema is not None else ()


def _recipe_columns(task: TaskSpec, data: Mapping[str, DataSpec]) -> tuple[str, ...]:
    columns = tuple(data[task.name].text) if task.name in data else ()
    return columns if len(columns) == task.texts else (TEXT, TEXT_PAIR)[: task.texts]


def _fitted(
    source: RowSource, names: Sequence[str], tasks: Sequence[TaskSpec], data: Mapping[str, DataSpec], flags: Flags
) -> PredictionPlan:
    """The tasks whose columns a file has: those of the recipe, else `text` and `text_pair`."""
    columns, notes = {}, []
    given = flags.text is not None or flags.text_pair is not None
    for task in tasks:
        wanted, plain = _recipe_columns(task, data), flags.columns(task)
        if given:
            wanted = plain
        if set(wanted) <= set(names):
            columns[task.name] = wanted
        elif set(plain) <= set(names) or not names:
            columns[task.name] = plain
            if names and tuple(names) != plain:
                notes.append(f"task {task.name} reads {' and '.join(plain)}, since there is no {' and '.join(wanted)}")
    id = flags.id
    if id is None:
        ids = (data[name].id for name in columns if name in data)
        id = next((column for column in ids if column in names), None)
    return PredictionPlan(_source(source, columns, id), columns, notes)


def _source(source: RowSource, columns: Mapping[str, tuple[str, ...]], id: str | None) -> RowSource:
    texts = tuple(dict.fromkeys(column for task_columns in columns.values() for column in task_columns))
    return replace(source, text=texts, id=id or None)
