"""Parts of a report's page: sections, tables, pictures, matrices and texts with weights. Nothing is computed here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

TEXT_SHOWN = 300  # characters of a text that a table shows; the JSON file has the whole text
DEEPEST = 60  # percent of the accent colour in the darkest cell, on which text still has enough contrast


@dataclass(frozen=True)
class Table:
    """A table; numbers, and the headings of numeric columns, are right-aligned. `folded`: closed until it is opened."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    folded: bool = False
    form = "table"

    @property
    def numeric(self) -> tuple[bool, ...]:
        """For each column, whether it holds only numbers and empty cells."""
        cells = zip(*self.rows, strict=True)
        return tuple(all(not isinstance(cell, str) or not cell for cell in column) for column in cells)


@dataclass(frozen=True)
class Picture:
    """A figure with its name and caption. The name of a task's figure begins with `<task>.` and is thus unique.

    `on_page`: whether the page shows it; otherwise it is a file only, and the page shows the same numbers as a table.
    """

    name: str
    figure: Figure
    caption: str
    on_page: bool = True
    form = "picture"


@dataclass(frozen=True)
class Matrix:
    """A table of numbers with shaded cells: `shades` in [−1, 1], by row; `cells` are the texts in them.

    `rows` and `columns` are the headings; `down` and `across` say what these are.
    """

    caption: str
    down: str
    across: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    shades: tuple[tuple[float, ...], ...]
    form = "matrix"

    @property
    def styles(self) -> tuple[tuple[str, ...], ...]:
        """The class and the depth in percent of each cell's colour, such as `up 30`."""
        return tuple(tuple(_shade(value) for value in row) for row in self.shades)


def _shade(value: float) -> str:
    if not math.isfinite(value):
        return "none 0"
    return f"{'down' if value < 0 else 'up'} {round(DEEPEST * min(1.0, abs(value)))}"


@dataclass(frozen=True)
class Tokens:
    """Rows as tokens, each shaded by its weight: for every row a heading and pairs of a token and its depth."""

    caption: str
    rows: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
    form = "tokens"


Item = Table | Picture | Matrix | Tokens


@dataclass(frozen=True)
class Section:
    """A heading of level 2 or 3, followed by notes, then by items.

    A section of level 2 begins a chapter, which `aside`, a few words beside its heading, sums up.
    """

    title: str
    level: int = 2
    notes: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()
    aside: str = ""


def shown(value: Any) -> str:
    """Format a cell: three decimals, commas between thousands, an en dash for an undefined value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, (bool, str)):
        return str(value)
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return f"{value:.3f}" if abs(value) >= 5e-4 or value == 0 else f"{value:.1e}"


def as_table(caption: str, rows: Iterable[Mapping[str, Any]], folded: bool = False) -> Table:
    """Create a table whose columns are the keys of its rows, in order of first occurrence."""
    rows = list(rows)
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    headings = (c.upper() if c in ("a", "b") else c.replace("_", " ") for c in columns)  # the runs are called A and B
    return Table(caption, tuple(headings), tuple(_cells(row, columns) for row in rows), folded)


def _cells(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[Any, ...]:
    cells = []
    for column in columns:
        value = row.get(column, "")
        long = isinstance(value, str) and len(value) > TEXT_SHOWN
        cells.append(f"{value[:TEXT_SHOWN]} …" if long else value)
    return tuple(cells)


def example_table(caption: str, rows: Sequence[Mapping[str, Any]], most: int, folded: bool = False) -> Table:
    """Create a table of at most `most` examples; its caption says how many there are."""
    count = f"{len(rows):,}" + (f", the first {most} shown" if len(rows) > most else "")
    return as_table(f"{caption} ({count})", rows[:most], folded)
