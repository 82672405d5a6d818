"""Limits of what others write: how many, how long, how deep. One table; an environment variable raises each.

A config or a recipe may come from anywhere. What is beyond a limit is refused before memory or time is spent on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from .errors import InputError, Problem, refuse

# Name → the most that is taken. The variable MTBERT_MAX_<NAME> raises it.
LIMITS = {
    # configs and recipes
    "tasks": 1_000,
    "labels": 100_000,  # of one task
    "task_name_length": 100,  # characters; file names are made of it
    "label_length": 1_000,  # characters
    "head_layers": 100,
    "adapter_depth": 100,
    "width": 65_536,  # of a hidden layer, or of an adapter
    "attention_heads": 1_024,
    "encoder_layers": 1_000,  # and whatever else a config of an encoder counts by layers
    "tokens": 10_000_000,  # of a vocabulary, of an input
    "config_bytes": 2**24,
    # recipes
    "recipe_bytes": 2**21,
    "recipe_values": 100_000,
    "recipe_bases": 20,
    "stages": 100,
    "batch_rows": 1_000_000,  # of a step, and micro-batches of one
    "epoch_rows": 1_000_000_000,
    "steps": 1_000_000_000,  # and epochs
    "processes": 1_024,  # that load data
    "threads": 4_096,
    # data
    "columns": 10_000,
    "line_bytes": 2**26,  # of a table, json lines or texts
    "unpacked_bytes": 2**25,  # of a compressed file that is much smaller
    "depth": 100,  # of values in each other, here and in recipes
}
# Names that logs, scores and commands use themselves.
RESERVED = frozenset(
    ("all", "epoch", "grad_norm", "learning_rate", "loss", "overall", "raw_mean", "runtime", "step")
    + ("samples_per_second", "steps_per_second")
)


def limit(name: str) -> int:
    """The most that is taken: what the environment says, or what the table says.

    Raises:
        ValueError: if the variable holds no whole number.
    """
    text = os.environ.get(f"MTBERT_MAX_{name.upper()}")
    if text is None:
        return LIMITS[name]
    if not text.isdecimal() or len(text) > 18:
        raise InputError(f"MTBERT_MAX_{name.upper()} is {text[:40]!r}, but must be a whole number")
    return int(text)


def beyond(name: str, number: int, what: str, unit: str = "") -> list[str]:
    """No sentence, or the one that says that `number` is more than is taken, and how more would be.

    Args:
        name: of the limit.
        number: what was found.
        what: subject and verb, such as `head.layers is`.
        unit: what is counted, such as ` labels`.
    """
    most = limit(name)
    if number <= most:
        return []
    shown = f"{number:,}" if number < 10**18 else "a number above 10^18"
    return [f"{what} {shown}{unit}, but must be at most {most:,}; MTBERT_MAX_{name.upper()} raises that"]


def limit_problems(path: tuple[str, ...], name: str, number: int, verb: str = "is", unit: str = "") -> list[Problem]:
    """`beyond`, of the value at a path of keys."""
    return [Problem(path, each) for each in beyond(name, number, verb, unit)]


def name_problems(name: str) -> list[str]:
    """Why a task can not have a name, as ends of a sentence."""
    return beyond("task_name_length", max(len(name), len(name.encode(errors="replace")) // 2), "the name's length is")


def reserved_problems(name: str) -> list[Problem]:
    """Whether a new task can not have a name; checkpoints of earlier versions may have such tasks."""
    return [Problem((), ": logs and scores use this name themselves; add a letter")] if name in RESERVED else []


def refuse_reserved(names: Iterable[str]) -> None:
    """Refuse names that a new task can not have.

    Raises:
        InputError: that names each of them.
    """
    refuse(each.under(f"task {name!r}") for name in names for each in reserved_problems(name))
