"""Check before training that a run's arguments are in range, and that this machine and its libraries can run them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import copy
from enum import Enum
from numbers import Real
from typing import Any

import torch
from accelerate.utils import DynamoBackend
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations

from ...errors import Problem
from ...modeling.display import brief
from ...modeling.limits import limit_problems

LONGEST = 300  # a message shows so many characters of a value

_ONE_OR_MORE = (lambda value: value >= 1, "1 or more")
_ZERO_OR_MORE = (lambda value: 0 <= value < math.inf, "0 or more")
_DECAY = (lambda value: 0 <= value < 1, "in [0, 1)")
_SEED = (lambda value: 0 <= value < 2**32, "in 0 … 4294967295")
_BATCH = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
_RATES = ("learning_rate", "weight_decay", "max_grad_norm", "adam_epsilon")
# Training argument → whether a value can be, and what it must be; transformers checks late, or not at all.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys((*_BATCH, "max_tokens_per_step"), _ONE_OR_MORE),
    **dict.fromkeys(("cpu_threads", "early_stopping_patience", "ddp_timeout"), _ONE_OR_MORE),
    **dict.fromkeys((*_RATES, "num_train_epochs", "dataloader_num_workers"), _ZERO_OR_MORE),
    **dict.fromkeys(("early_stopping_threshold", "eval_delay"), _ZERO_OR_MORE),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), _DECAY),
    **dict.fromkeys(("seed", "data_seed"), _SEED),
}
_LIMITS = {
    **dict.fromkeys(_BATCH, "batch_rows"),
    **dict.fromkeys(("num_train_epochs", "max_steps"), "steps"),
    "max_tokens_per_step": "step_tokens",
    "cpu_threads": "threads",
    "dataloader_num_workers": "processes",
}


def range_problems(values: Mapping[str, Any]) -> list[Problem]:
    """Return a `Problem` for each training argument that is out of its range; None and other types are ignored."""
    problems = []
    for key, (fits, rule) in RANGES.items():
        value = values.get(key)
        if isinstance(value, Real) and not fits(value):
            problems.append(Problem((key,), f"is {brief(value)}, but must be {rule}"))
    for key, name in _LIMITS.items():
        if isinstance(values.get(key), Real) and values[key] > 0:
            problems += limit_problems((key,), name, math.ceil(min(values[key], 1e30)))
    return problems


def argument_problems(args: TrainingArguments) -> list[Problem]:
    """Try to build the optimizer, learning-rate schedule, loggers and compiler; return a `Problem` for each failure."""
    problems = []
    if lacking := [option for option in (args.optim_args or "").split(",") if option.strip() and "=" not in option]:
        problems.append(
            Problem(("optim_args",), f"has {', '.join(lacking)} without a value; write name=value, name=value")
        )
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except ImportError as error:
        problems.append(Problem(("optim",), f"is {_name(args.optim)!r}, which is not installed: {_line(error)}"))
    except ValueError:  # optimizers that need the model; they raise their own errors when they are built
        pass
    else:
        problems += _unread_problems(args)
    try:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
        kwargs: Any = args.lr_scheduler_kwargs
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 2, scheduler_specific_kwargs=kwargs)
    except (TypeError, ValueError, AttributeError) as error:
        given, kind = repr(args.lr_scheduler_kwargs or {})[:LONGEST], _name(args.lr_scheduler_type)
        problems.append(
            Problem(
                ("lr_scheduler_kwargs",),
                f"is {given}, which lr_scheduler_type: {kind} does not take: {_line(error)}; "
                "give what its function in transformers asks for",
            )
        )
    available = get_available_reporting_integrations()
    if missing := [name for name in args.report_to or () if name not in available]:
        problems.append(
            Problem(("report_to",), f"is {missing}, which are not installed; these are: {', '.join(available)}")
        )
    backends = [backend.value.lower() for backend in DynamoBackend]
    if args.torch_compile and (args.torch_compile_backend or "").lower() not in backends:
        valid_names = ", ".join(backends)
        problems.append(
            Problem(("torch_compile_backend",), f"is {args.torch_compile_backend!r}, but must be one of: {valid_names}")
        )
    return problems


def _unread_problems(args: TrainingArguments) -> list[Problem]:
    """Return a `Problem` for each optimizer argument that this optimizer does not read."""

    def keywords(text: str | None) -> dict[str, object]:
        """Keyword arguments of the optimizer with this `optim_args`."""
        other = copy(args)
        other.optim_args = text
        return Trainer.get_optimizer_cls_and_kwargs(other)[1]

    optimizer, unread = _name(args.optim), []
    for key in (option.partition("=")[0].strip() for option in (args.optim_args or "").split(",") if option.strip()):
        try:
            if all(keywords(f"{key}={value}") == keywords(None) for value in ("0.5", "1", "true")):
                unread.append(key)
        except ValueError:  # the optimizer reads it, but as another type of number
            pass
    problems = []
    if unread:
        problems.append(
            Problem(("optim_args",), f"has {', '.join(unread)}, which optim: {optimizer} does not read; drop it")
        )
    if args.optim_target_modules is not None and not optimizer.startswith(("galore", "apollo")):
        problems.append(
            Problem(
                ("optim_target_modules",),
                f"is {args.optim_target_modules!r}, which optim: {optimizer} does not read; "
                "it is for GaLore and APOLLO",
            )
        )
    return problems


def _name(value: str | Enum) -> str:
    return value.value if isinstance(value, Enum) else value


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
