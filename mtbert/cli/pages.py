"""Print a page of Markdown: formatted where its tables fit the terminal, and as it is everywhere else."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console
from rich.markdown import Markdown


def print_page(text: str, console: Console | None = None) -> None:
    """Print a page of Markdown.

    In a terminal that is as wide as the page's longest table row it is formatted. In a narrower one, whose tables
    would be broken within words, and in a file or a pipe, the Markdown itself is printed.
    """
    console = console or Console()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    if console.is_terminal and all(cell_len(row) <= console.width for row in rows):
        console.print(Markdown(text))
    else:
        console.out(text, highlight=False)
