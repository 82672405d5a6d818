"""Tables of results, shown on the terminal and written as Markdown and JSON. Does not import torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable


def show(value: Any) -> str:
    """Format a number with three significant digits or more; return other values unchanged."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:#.3g}"


@dataclass(frozen=True)
class Table:
    """A title, column names, rows of values, and a sentence below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""

    def _justify(self, column: int) -> str:
        words = all(isinstance(row[column], str) for row in self.rows)
        return "left" if words else "right"

    def rich(self) -> RichTable:
        """Return the table for the terminal."""
        table = RichTable(title=self.title, caption=self.note or None, title_justify="left", caption_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify=self._justify(number), overflow="fold")
        for row in self.rows:
            table.add_row(*map(show, row))
        return table

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [f"## {self.title}", "", "| " + " | ".join(self.columns) + " |"]
        lines.append("|" + "|".join("---:" if self._justify(i) == "right" else "---" for i in range(len(self.columns))))
        lines[-1] += "|"
        lines += ["| " + " | ".join(map(show, row)) + " |" for row in self.rows]
        return "\n".join([*lines, "", *([self.note, ""] if self.note else [])])


def facts(environment: dict[str, Any]) -> list[str]:
    """Return one line of Markdown for each entry of the environment."""
    return [f"- {key.replace('_', ' ')}: {show(value)}" for key, value in environment.items()]


def print_tables(tables: Sequence[Table]) -> None:
    """Print tables to the terminal, or 140 characters wide to a file."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    for table in tables:
        console.print(table.rich())


def write(folder: Path, name: str, text: str, values: dict[str, Any]) -> None:
    """Write `<folder>/<name>.md` and `<name>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    (folder / f"{name}.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def report(name: str, title: str, values: dict[str, Any], tables: Sequence[Table], folder: Path) -> None:
    """Print tables, and write them with the environment to `<folder>/<name>.md`, and all values to `<name>.json`."""
    print_tables(tables)
    text = "\n".join([f"# {title}", "", *facts(values["environment"]), "", *(table.markdown() for table in tables)])
    write(folder, name, text, values)
    print(f"written: {folder / name}.md and .json")
