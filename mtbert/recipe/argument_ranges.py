"""Ranges of transformers' training arguments, which it does not check, or only once a model has been loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import Problem
from ..modeling.limits import limit_problems
from .fields import Report, shown
from .parts import ReadRecipe

_ONE_OR_MORE = (lambda value: value >= 1, "1 or more")
_ZERO_OR_MORE = (lambda value: value >= 0, "0 or more")
_DECAY = (lambda value: 0 <= value < 1, "in [0, 1)")
_SEED = (lambda value: 0 <= value < 2**32, "in 0 … 4294967295")
_PAIRS = (lambda value: all("=" in pair for pair in value.split(",")), "text such as key=value,key=value")

# Key of `training` and `pretraining` → whether a value is one that can be, and what it has to be.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "cpu_threads",
            "early_stopping_patience",
            "ddp_timeout",
        ),
        _ONE_OR_MORE,
    ),
    **dict.fromkeys(
        (
            "learning_rate",
            "weight_decay",
            "max_grad_norm",
            "adam_epsilon",
            "num_train_epochs",
            "dataloader_num_workers",
            "early_stopping_threshold",
            "eval_delay",
        ),
        _ZERO_OR_MORE,
    ),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), _DECAY),
    **dict.fromkeys(("seed", "data_seed"), _SEED),
    "optim_args": _PAIRS,
}


# Key of `training` and `pretraining` → the limit on its number.
UPPER: dict[str, str] = {
    **dict.fromkeys(
        ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), "batch_rows"
    ),
    "cpu_threads": "threads",
    "dataloader_num_workers": "processes",
    **dict.fromkeys(("num_train_epochs", "max_steps"), "steps"),
}


def check_values(recipe: ReadRecipe, report: Report) -> None:
    """Note training arguments of a right type that are out of their range."""
    for section, given in (("training", recipe.training), ("pretraining", recipe.pretraining or {})):
        for key, value, rule in _out_of_range(given):
            report.add(Problem((section, key), f"is {shown(value, key)}, but must be {rule}"))
        for key, name in UPPER.items():
            for problem in limit_problems((section, key), name, math.ceil(given.get(key) or 0)):
                report.add(problem)


def _out_of_range(given: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    for key, (fits, rule) in RANGES.items():
        value = given.get(key)
        if value is not None and not fits(value):
            yield key, value, rule
