"""Malformed input: how much of it is tried, what counts as one clear error, and what must not be touched."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings

from mtbert import MtBertError
from tests.support.bounded import measured

ROOT = Path(__file__).resolve().parents[2]
OURS = (str(ROOT / "mtbert"), str(ROOT / "recipes"))
EXAMPLES = int(os.environ.get("MTBERT_MALFORMED", "0"))
LONGEST = 4000  # characters of a message that a person still reads,
MOST_LINES, LONGEST_LINE = 51, 1100  # or lines, one for each problem, and characters of each
PATIENCE = 60.0  # seconds that one tiny input may take on a busy machine before it counts as a hang
MEMORY = 500e6  # bytes by which one may raise the process's peak

GOOD: dict[str, Any] = {  # a recipe that names most keys
    "encoder": "some/encoder",
    "data_dir": "data",
    "all_tasks": {"pooling": "mean", "weight": 1.5},
    "tasks": {
        "sst": {
            "data": {"text": "sentence", "label": "sentiment", "train": "a.csv", "dev": "b.csv", "id": "key"},
            "labels": ["no", "yes"],
            "class_weights": [1, 2],
            "ordinal": False,
            "loss": None,
            "focal_gamma": 2.0,
            "max_length": 32,
            "head": {"type": "mlp", "layers": 1, "dropout": 0.1, "hidden_size": 16},
        },
        "sts": {
            "data": {"text": ["first", "second"], "train": "c.csv", "symmetric": True},
            "range": [0, 5],
            "separator": ["[SEP]"],
            "batch_size": 8,
            "metric": "pearson",
        },
    },
    "schedule": {"name": "simultaneous", "steps_per_epoch": 5},
    "surgery": {"method": "cagrad", "c": 0.4},
    "model": {"adapter": {"type": "pal", "size": 12, "heads": 6, "layers": [0, 1]}, "packed": True},
    "averaging": {"type": "ema", "decay": 0.9},
    "distillation": {"teachers": ["t"], "temperature": 2, "weight": 0.5},
    "optimizer": {"encoder_learning_rate": 1e-5, "layer_decay": 0.9},
    "loss": {"weighting": "uncertainty", "learning_rate": 0.1},
    "training": {
        "output_dir": "out",
        "learning_rate": 1e-5,
        "num_train_epochs": 3,
        "eval_strategy": "epoch",
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "report_to": "none",
    },
    "stages": [
        {"training": {"learning_rate": 1e-3}, "tasks": {"sst": {"weight": 2}}},
        {"schedule": {"steps_per_epoch": 3}},
    ],
    "pretraining": {"keep_epochs": [1, 2], "mask_probability": 0.2},
}


def tries(few: int, shrink: bool = True) -> settings:
    """Hypothesis' settings: `few` examples, or as many as the variable MTBERT_MALFORMED says; always the same ones.

    Args:
        shrink: whether a failing example is made smaller, which keeps many in memory.
    """
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(
        max_examples=EXAMPLES or few,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=checks,
        phases=list(Phase) if shrink else [Phase.generate],
    )


def fault(error: BaseException, places: tuple[str, ...]) -> str | None:
    """Why an error is unclear: a bug, raised by others' code, without any of the places, or too long to read."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename
    message = str(error)
    if not file.startswith(OURS):
        return f"comes from {file}"
    if not isinstance(error, MtBertError):
        return "is not worded for the user"
    if not message.strip():
        return "says nothing"
    if places and not any(place in message for place in places):
        return f"names none of {places}"
    lines = message.split("\n")
    listed = len(lines) <= MOST_LINES and max(map(len, lines)) <= LONGEST_LINE
    return None if listed or len(message) <= LONGEST else f"is {len(message):,} characters long"


def places(tree, path=()):
    """The paths of all values of a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found = [path] if path else []
    for key, value in items:
        found += places(value, (*path, key))
    return found


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
        calls: float = math.inf,
    ) -> Any:
        """What `act` returns, or the clear error that it raises; anything else fails the test.

        Args:
            places: an error must hold one of them; none: any message of ours will do.
            allowed: the types of errors that are documented.
            calls: Python calls that it may make.
        """
        self.tried += 1
        start, found, unclear = time.monotonic(), None, None
        try:
            with measured() as work:
                found = act()
        except Exception as error:
            found = error
            unclear = fault(error, places) if isinstance(error, allowed) else "is of a type that is not documented"
            self.refused += 1
        if (seconds := time.monotonic() - start) > PATIENCE:
            unclear = f"took {seconds:.0f} s"
        if work.calls > calls:
            unclear = f"made {work.calls:,} calls"
        if work.memory > MEMORY:
            unclear = f"took {work.memory / 1e6:.0f} MB"
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
