"""Columns of 0 and 1 that make a multi-label task together."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ...data.label_cells import number_of
from ...data.label_forms import is_truth_column
from .columns import Column
from .readings import SEVERAL, LabelCells, Reading

FEWEST = 3  # columns of 0 and 1 that make a multi-label task
SEPARATE = "if each is a question of its own, name the columns with --label, and each makes a binary task"


def mark_columns(columns: Sequence[Column]) -> tuple[str, ...]:
    """The columns of 0 and 1, or true and false, if there are three or more; else none."""
    marks = [column.name for column in columns if column.names is None and _is_mark(column)]
    return tuple(marks) if len(marks) >= FEWEST else ()


def _is_mark(column: Column) -> bool:
    numbers_or_truth = all(number_of(text) is not None or text.lower() in ("true", "false") for text in column.counts)
    return is_truth_column(column.filled) and numbers_or_truth


def read_marks(cells: Sequence[LabelCells]) -> Reading:
    """Read columns of 0 and 1 as the labels of a multi-label task."""
    rows = {column.name.strip(): _trues(column) for column in cells}
    never = [name for name, count in rows.items() if not count]
    remarks = [SEPARATE]
    if never:
        remarks.append(f"no row has {', '.join(map(repr, never[:5]))}")
    return Reading(SEVERAL, {"problem_type": "multi_label_classification"}, rows, tuple(remarks))


def _trues(column: LabelCells) -> int:
    return sum(rows for text, rows in column.texts.items() if text.lower() == "true" or number_of(text) == 1)


def group_name(columns: Sequence[str]) -> str:
    """What the names of columns begin with, if that is a word; else `labels`."""
    prefix = os.path.commonprefix([name.strip() for name in columns]).rstrip("_-. ")
    return prefix if len(prefix) > 2 else "labels"
