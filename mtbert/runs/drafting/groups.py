"""Columns that make a task together: one of 0 and 1 for each label, or a list of words and one of their tags."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ...data.label_cells import number_of
from ...data.label_forms import is_empty, is_truth_column
from .columns import Column, as_parts
from .readings import MOST_LABELS, SEVERAL, TOKENS, LabelCells, Reading, no_task

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


def find_words(columns: Sequence[Column]) -> tuple[str, str] | None:
    """The column of words and that of their tags, with as many items in each row; None if there are none."""
    lists = {column.name: [as_parts(cell) for cell in column.cells] for column in columns if column.holds == "lists"}
    for words, in_words in lists.items():
        items = [item for parts in in_words for item in parts or ()]
        if not items or not all(isinstance(item, str) for item in items):
            continue
        for tags, in_tags in lists.items():
            if tags != words and _fit(in_words, in_tags) and _variety(in_tags) < min(0.5, _variety(in_words)):
                return words, tags
    return None


def _fit(words: Sequence[list[Any] | None], tags: Sequence[list[Any] | None]) -> bool:
    """Whether rows have as many tags as words, and some row has several."""
    pairs = [(len(one), len(other)) for one, other in zip(words, tags, strict=True) if one and other]
    return bool(pairs) and all(one == other for one, other in pairs) and max(pairs)[0] > 1


def _variety(lists: Sequence[list[Any] | None]) -> float:
    items = [str(item) for parts in lists for item in parts or ()]
    return len(set(items)) / max(1, len(items))


def read_tags(words: Sequence[Any], tags: Sequence[Any], names: Sequence[str] | None) -> Reading:
    """Read a column of tags as the labels of a token task.

    Args:
        words, tags: the lists of each row, `(rows,)` each.
        names: the names that the tags' numbers stand for; None: they stand for themselves.
    """
    rows: Counter[str] = Counter()
    for number, (of_words, of_tags) in enumerate(zip(words, tags, strict=True), 1):
        if is_empty(of_tags):
            continue
        inside, others = as_parts(of_tags), as_parts(of_words)
        if inside is None or others is None or len(inside) != len(others):
            counts = f"{len(others or ())} words, but {len(inside or ())} tags"
            return no_task(f"row {number:,} has {counts}; give each word one")
        rows.update(names[tag] if names is not None else str(tag) for tag in inside)
    labels = list(names) if names is not None else sorted(rows, key=lambda tag: (tag != "O", tag[2:], tag))
    if not 2 <= len(labels) <= MOST_LABELS:
        return no_task(f"it has {len(labels):,} different tags")
    settings = {"problem_type": "token_classification", "labels": labels}
    return Reading(TOKENS, settings, {label: rows[label] for label in labels})
