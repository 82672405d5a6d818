"""Bounds on work that a slow or busy machine cannot break: Python calls and memory, never seconds."""

import cProfile
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Work:
    """The Python calls that this thread made, and the bytes by which the process's peak of memory rose."""

    calls: int = 0
    memory: int = 0


@contextmanager
def measured() -> Iterator[Work]:
    """Measure the code within; the result is whole after the end."""
    work, peak, profiler = Work(), peak_memory(), cProfile.Profile(builtins=False)
    profiler.enable()
    try:
        yield work
    finally:
        profiler.disable()
        work.calls = sum(entry.callcount for entry in profiler.getstats())
        work.memory = peak_memory() - peak


@contextmanager
def bounded(calls: int = 1_000_000, memory: float = 500e6) -> Iterator[None]:
    """Fail if the code within makes more Python calls, or takes more bytes."""
    with measured() as work:
        yield
    assert work.calls <= calls and work.memory <= memory, work


def peak_memory() -> int:
    """The most memory that this process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
