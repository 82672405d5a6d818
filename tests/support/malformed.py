"""Malformed input: how much of it is tried, what counts as one clear error, and what must not be touched."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[2]
OURS = (str(ROOT / "mtbert"), str(ROOT / "recipes"))
EXAMPLES = int(os.environ.get("MTBERT_MALFORMED", "0"))
LONGEST = 4000  # characters of a message that a person still reads
PATIENCE = 60.0  # seconds that one tiny input may take on a busy machine before it counts as a hang


def tries(few: int) -> settings:
    """Hypothesis' settings: `few` examples, or as many as the variable MTBERT_MALFORMED says; always the same ones."""
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(
        max_examples=EXAMPLES or few, deadline=None, derandomize=True, database=None, suppress_health_check=checks
    )


def fault(error: BaseException, places: tuple[str, ...]) -> str | None:
    """Why an error is unclear: raised by somebody else's code, without any of the places, or too long to read."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename
    message = str(error)
    if not file.startswith(OURS):
        return f"comes from {file}"
    if not message.strip():
        return "says nothing"
    if places and not any(place in message for place in places):
        return f"names none of {places}"
    return f"is {len(message):,} characters long" if len(message) > LONGEST else None


@dataclass
class Tally:
    """What was tried, what of it was refused, and which errors were unclear."""

    tried: int = 0
    refused: int = 0
    unclear: list[str] = field(default_factory=list, repr=False)

    def judge(
        self,
        act: Callable[[], Any],
        *places: str,
        allowed: tuple[type[BaseException], ...] = (ValueError, OSError),
    ) -> Any:
        """What `act` returns, or the clear error that it raises; anything else fails the test.

        Args:
            places: an error must hold one of them; none: any message of ours will do.
            allowed: the types of errors that are documented.
        """
        self.tried += 1
        start, found, unclear = time.monotonic(), None, None
        try:
            found = act()
        except Exception as error:
            found = error
            unclear = fault(error, places) if isinstance(error, allowed) else "is of a type that is not documented"
            self.refused += 1
        if (seconds := time.monotonic() - start) > PATIENCE:
            unclear = f"took {seconds:.0f} s"
        if unclear:
            self.unclear.append(f"{type(found).__name__} {unclear}: {str(found)[:300]}")
            raise AssertionError(self.unclear[-1]) from (found if isinstance(found, Exception) else None)
        return found


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder and a digest of what it holds."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Fails if anything in a folder is written, changed or removed."""
    before = content(folder)
    yield
    after = content(folder)
    assert after == before, f"touched: {sorted(set(after.items()) ^ set(before.items()))}"
