"""Lines that say what a command is doing, if that takes longer than a few seconds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ...modeling.display import display

SECONDS = 3.0


@contextmanager
def phase(activity: str, shown: bool = True, seconds: float = SECONDS) -> Iterator[None]:
    """Context manager that prints one line to standard error if its body takes longer than `seconds`.

    Args:
        activity: what the body does, such as `reading the rows`.
        shown: whether to print at all; False on all processes but the main one.
        seconds: how long to wait before printing.
    """
    timer = threading.Timer(seconds, _announce, [activity])
    timer.daemon = True
    if shown:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _announce(activity: str) -> None:
    print(display(f"{activity} …"), file=sys.stderr, flush=True)
