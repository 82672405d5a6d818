"""Labels that are spread over columns: one column of 0 and 1 for each label of a multi-label task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset

from ..errors import InputError, Problem
from ..modeling.task_spec import TaskSpec
from .label_cells import number_of, plain
from .label_forms import is_empty
from .label_reading import FALSE, NONE, TRUE, UNKNOWN, LabelReader

RULE = "each cell must be 0 or 1, true or false, yes or no"
UNCLEAR = (
    "an empty cell may mean that the label is unknown, or that it is not true; write empty: unlabelled (not trained "
    "on) or empty: none (0) under data, or fill the cells"
)
SHOWN = 5


def columns_problem(task: TaskSpec, columns: Sequence[str]) -> Problem | None:
    """Return a `Problem` if the columns cannot be those of the task's labels, one each; else None."""
    names = [name.strip() for name in task.classes]
    where = f"names {len(columns)} columns"
    if not task.kind.several:
        return Problem(("label",), f"{where}, but {task.kind.with_article} has one; or set its problem_type")
    if len(columns) != len(names):
        return Problem(("label",), f"{where}, but the task has {len(names)} labels; name one column for each")
    shared = sorted(set(names) & set(columns))
    if shared and len(shared) < len(names):
        what = f"and labels both have {shared[0]!r}, but not all names are the same"
        return Problem(("label",), f"{what}; give the labels the names of the columns, or all of them other names")
    return None


def in_label_order(task: TaskSpec, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns in the order of the labels: those of the same names, else as they are given."""
    by_name = {name.strip(): name for name in columns}
    names = [name.strip() for name in task.classes]
    return tuple(by_name[name] for name in names) if set(names) == set(by_name) else tuple(columns)


def columns_reader(task: TaskSpec, rows: Dataset, columns: Sequence[str], empty: str | None, where: str) -> LabelReader:
    """Return a reader for labels in columns.

    Raises:
        InputError: the numbers of a ClassLabel column are not those of false and true.
    """
    for column in columns:
        feature = rows.features[column]
        names = [name.strip().lower() for name in feature.names or ()] if isinstance(feature, ClassLabel) else None
        if names is None or names == ["0", "1"]:
            continue
        if len(names) != 2 or names[0] not in FALSE or names[1] not in TRUE:
            raise InputError(f"{where}: column {column!r} has the classes {names}; make it a column of 0 and 1")
    return LabelReader(task.kind.name, task.classes, empty=empty, columns=in_label_order(task, columns))


def mark_of(value: Any) -> float | None:
    """Return the 0.0 or 1.0 that a cell says; None if it says neither."""
    value = plain(value)
    if isinstance(value, str) and (word := value.strip().lower()) in TRUE | FALSE:
        return float(word in TRUE)
    number = number_of(value)
    return number if number in (0.0, 1.0) else None


def read_cells(reader: LabelReader, cells: Sequence[Any]) -> tuple[list[float] | None, int]:
    """Read the cells of a row; an empty one is nan, or 0 with `empty: none`.

    Returns:
        One value for each label, None if a cell is invalid; and the number of empty cells.
    """
    blank = 0.0 if reader.empty == NONE else math.nan
    marks = [blank if is_empty(plain(cell)) else mark_of(cell) for cell in cells]
    label = [mark for mark in marks if mark is not None]
    empty = sum(is_empty(plain(cell)) for cell in cells)
    return (label if len(label) == len(marks) else None), empty


def wrong_cells(
    rows: Dataset, reader: LabelReader, bad: np.ndarray, unclear: np.ndarray, place: Any, where: str
) -> list[str]:
    """Return a sentence for each rule that cells break, with the first such cells.

    Args:
        rows: the columns of the labels.
        bad, unclear: whether a row has an invalid cell, or an empty one whose meaning is not said; `(rows,)` each.
        place: number of a row from 0 → its name.
    """
    sentences = []
    rules = ((bad, RULE, lambda cell: not is_empty(cell) and mark_of(cell) is None), (unclear, UNCLEAR, is_empty))
    for mask, rule, breaks in rules:
        numbers = np.flatnonzero(mask)
        if not len(numbers):
            continue
        shown = []
        for number in numbers[:SHOWN].tolist():
            cells = rows[number]
            column = next(name for name in reader.columns if breaks(plain(cells[name])))
            shown.append(f"{place(number)}, column {column!r}: {repr(cells[column])[:60]}")
        more = f" and {len(numbers) - SHOWN:,} more" if len(numbers) > SHOWN else ""
        count = f"{len(numbers):,} row{'s' if len(numbers) > 1 else ''}"
        sentences.append(f"{where}: the columns of labels are wrong in {count}: {'; '.join(shown)}{more}; {rule}")
    return sentences


def label_problems(task: TaskSpec, label: Any, separator: str | None, empty: str | None) -> list[Problem]:
    """Return a `Problem` for each key about labels that does not go with the task, or with another of these keys."""
    problems = []
    if not isinstance(label, str):
        problem = columns_problem(task, label)
        problems += [problem] if problem else []
    for key, value in (("label_separator", separator), ("empty", empty)):
        if value is not None and not task.kind.several and (key, value) != ("empty", UNKNOWN):
            why = f"is {value!r}, but is for multi-label tasks, and this is {task.kind.with_article}; drop it"
            problems.append(Problem((key,), why))
    return problems
