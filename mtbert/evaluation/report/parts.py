"""Parts of a report's page: sections, tables and pictures. Nothing is computed here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

TEXT_SHOWN = 300  # characters of a text that a table shows; the JSON file has the whole text


@dataclass(frozen=True)
class Table:
    """A table; numbers, and the headings of numeric columns, are right-aligned."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    @property
    def numeric(self) -> tuple[bool, ...]:
        """For each column, whether it holds only numbers and empty cells."""
        cells = zip(*self.rows, strict=True)
        return tuple(all(not isinstance(cell, str) or not cell for cell in column) for column in cells)


@dataclass(frozen=True)
class Picture:
    """A figure with its name and caption. The name of a task's figure begins with `<task>.` and is thus unique."""

    name: str
    figure: Figure
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading of level 2 or 3, followed by notes, then by tables and figures."""

    title: str
    level: int = 2
    notes: tuple[str, ...] = ()
    items: tuple[Table | Picture, ...] = ()


def shown(value: Any) -> str:
    """Format a cell: three decimals, commas between thousands, an en dash for an undefined value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, (bool, str)):
        return str(value)
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return f"{value:.3f}" if abs(value) >= 5e-4 or value == 0 else f"{value:.1e}"


def as_table(caption: str, rows: Iterable[Mapping[str, Any]]) -> Table:
    """Create a table whose columns are the keys of its rows, in order of first occurrence."""
    rows = list(rows)
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    headings = (c.upper() if c in ("a", "b") else c.replace("_", " ") for c in columns)  # the runs are called A and B
    return Table(caption, tuple(headings), tuple(_cells(row, columns) for row in rows))


def _cells(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[Any, ...]:
    cells = []
    for column in columns:
        value = row.get(column, "")
        long = isinstance(value, str) and len(value) > TEXT_SHOWN
        cells.append(f"{value[:TEXT_SHOWN]} …" if long else value)
    return tuple(cells)


def example_table(caption: str, rows: Sequence[Mapping[str, Any]], most: int) -> Table:
    count = f"{len(rows):,}" + (f", the first {most} shown" if len(rows) > most else "")
    return as_table(f"{caption} ({count})", rows[:most])
