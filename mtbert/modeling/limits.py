"""Limits on the sizes in configs, recipes and data, in one table; an environment variable raises each.

Configs and recipes may come from anywhere. A value beyond its limit is refused before it takes memory or time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from .errors import InputError, Problem, refuse

# Name → largest value. The environment variable MTBERT_MAX_<NAME> raises it.
LIMITS = {
    # configs and recipes
    "tasks": 1_000,
    "labels": 100_000,  # of one task
    "task_name_length": 100,  # characters; file names contain it
    "label_length": 1_000,  # characters
    "head_layers": 100,
    "adapter_depth": 100,
    "width": 65_536,  # of a hidden layer, or of an adapter
    "attention_heads": 1_024,
    "encoder_layers": 1_000,  # and every other key of an encoder's config with "layer" in its name
    "tokens": 10_000_000,  # of a vocabulary, or of an input
    "config_bytes": 2**24,
    # recipes
    "recipe_bytes": 2**21,
    "recipe_values": 100_000,
    "recipe_bases": 20,
    "stages": 100,
    "batch_rows": 1_000_000,  # of a step, and micro-batches of one
    "epoch_rows": 1_000_000_000,
    "step_tokens": 1_000_000_000,
    "steps": 1_000_000_000,  # and epochs
    "processes": 1_024,  # that load data
    "threads": 4_096,
    # data
    "columns": 10_000,
    "line_bytes": 2**26,  # of a table, json lines or texts
    "unpacked_bytes": 2**25,  # of a compressed file that is much smaller
    "depth": 100,  # nesting of values, also in recipes
}
# Names that logs, scores and commands use.
RESERVED = frozenset(
    ("all", "epoch", "grad_norm", "learning_rate", "loss", "overall", "raw_mean", "runtime", "step")
    + ("samples_per_second", "steps_per_second")
)


def limit(name: str) -> int:
    """The largest allowed value, from the environment variable or else from the table.

    Raises:
        ValueError: if the variable is no whole number.
    """
    text = os.environ.get(f"MTBERT_MAX_{name.upper()}")
    if text is None:
        return LIMITS[name]
    if not text.isdecimal() or len(text) > 18:
        raise InputError(f"MTBERT_MAX_{name.upper()} is {text[:40]!r}, but must be a whole number")
    return int(text)


def beyond(name: str, number: int, what: str, unit: str = "") -> list[str]:
    """An error sentence if `number` is beyond a limit, as a list; an empty list if it is not.

    Args:
        name: name of the limit.
        number: the value to check.
        what: subject and verb of the sentence, such as `head.layers is`.
        unit: unit of the number, such as ` labels`.
    """
    most = limit(name)
    if number <= most:
        return []
    shown = f"{number:,}" if number < 10**18 else "a number above 10^18"
    return [f"{what} {shown}{unit}, but must be at most {most:,}; MTBERT_MAX_{name.upper()} raises that"]


def limit_problems(path: tuple[str, ...], name: str, number: int, verb: str = "is", unit: str = "") -> list[Problem]:
    """The sentence of `beyond` as a `Problem` at a path of keys."""
    return [Problem(path, sentence) for sentence in beyond(name, number, verb, unit)]


def name_problems(name: str) -> list[str]:
    """Reasons why a task cannot have this name, as predicates of sentences."""
    return beyond("task_name_length", max(len(name), len(name.encode(errors="replace")) // 2), "the name's length is")


def reserved_problems(name: str) -> list[Problem]:
    """A `Problem` if a new task cannot have this name; checkpoints of earlier versions may have such tasks."""
    return [Problem((), ": logs and scores use this name themselves; add a letter")] if name in RESERVED else []


def refuse_reserved(names: Iterable[str]) -> None:
    """Raise InputError if new tasks have reserved names; it lists all of them."""
    refuse(problem.under(f"task {name!r}") for name in names for problem in reserved_problems(name))
