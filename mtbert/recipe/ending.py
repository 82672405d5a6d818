"""How a script ends that can not go on: with one clear error and no traceback, where the error is worded here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..modeling.display import display

PACKAGE = Path(__file__).resolve().parents[1]
OURS = (PACKAGE, PACKAGE.parent / "recipes")


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised by a file of mtbert or of `recipes/`, and not by a library below them."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    file = Path(trace.tb_frame.f_code.co_filename).resolve()  # a script names itself as it was called
    return any(file.is_relative_to(folder) for folder in OURS)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Within it, an error whose message says what to do ends the process with that message and status 1.

    One that a library raises keeps its traceback: where it comes from is all that there is to go by.
    """
    try:
        yield
    except (OSError, ValueError, ArithmeticError) as error:
        if not is_ours(error):
            raise
        sys.exit(display(error, lines=True))
