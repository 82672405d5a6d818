"""How a training shows its progress: the values of `training.console`."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from ...errors import Problem

AUTO, TABLE, LINES, DICTS = "auto", "table", "lines", "dicts"
STYLES = (AUTO, TABLE, LINES, DICTS)
_NO_CURSOR = ("dumb", "unknown")  # values of TERM of terminals that cannot overwrite a line


def style_problems(console: str | None) -> list[Problem]:
    """Return a `Problem` if `console` is no style, else an empty list."""
    if console is None or console in STYLES:
        return []
    return [Problem(("console",), f"is {console!r}, but must be one of: {', '.join(STYLES)}")]


def is_terminal(stream: TextIO | None = None) -> bool:
    """Return whether a stream (None: standard output) is a terminal that can overwrite what it shows."""
    stream = sys.stdout if stream is None else stream
    return stream.isatty() and os.environ.get("TERM", "") not in _NO_CURSOR


def chosen_style(console: str | None, without_bars: bool = False) -> str:
    """Return `table`, `lines` or `dicts`.

    Args:
        console: a style; `auto`: a table in a terminal and lines elsewhere; None: dicts.
        without_bars: whether the run has no progress bars; `auto` then means lines.
    """
    if console is None:
        return DICTS
    if console != AUTO:
        return console
    return TABLE if is_terminal() and not without_bars else LINES
