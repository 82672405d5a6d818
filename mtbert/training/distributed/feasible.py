"""Check before training that this machine and its libraries can carry out a run's arguments."""

from __future__ import annotations

from copy import copy
from enum import Enum
from typing import Any

import torch
from accelerate.utils import DynamoBackend
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations

from ...errors import Problem

LONGEST = 300  # a message shows so many characters of a value


def argument_problems(args: TrainingArguments) -> list[Problem]:
    """Try to build the optimizer, learning-rate schedule, loggers and compiler; return a `Problem` for each failure."""
    found = []
    if lacking := [each for each in (args.optim_args or "").split(",") if each.strip() and "=" not in each]:
        found.append(
            Problem(("optim_args",), f"has {', '.join(lacking)} without a value; write name=value, name=value")
        )
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except ImportError as error:
        found.append(Problem(("optim",), f"is {_name(args.optim)!r}, which is not installed: {_line(error)}"))
    except ValueError:  # optimizers that need the model; they raise their own errors when they are built
        pass
    else:
        found += _unread_problems(args)
    try:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
        kwargs: Any = args.lr_scheduler_kwargs
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 2, scheduler_specific_kwargs=kwargs)
    except (TypeError, ValueError, AttributeError) as error:
        given, kind = repr(args.lr_scheduler_kwargs or {})[:LONGEST], _name(args.lr_scheduler_type)
        found.append(
            Problem(
                ("lr_scheduler_kwargs",),
                f"is {given}, which lr_scheduler_type: {kind} does not take: {_line(error)}; "
                "give what its function in transformers asks for",
            )
        )
    available = get_available_reporting_integrations()
    if missing := [name for name in args.report_to or () if name not in available]:
        found.append(
            Problem(("report_to",), f"is {missing}, which are not installed; these are: {', '.join(available)}")
        )
    backends = [each.value.lower() for each in DynamoBackend]
    if args.torch_compile and (args.torch_compile_backend or "").lower() not in backends:
        known = ", ".join(backends)
        found.append(
            Problem(("torch_compile_backend",), f"is {args.torch_compile_backend!r}, but must be one of: {known}")
        )
    return found


def _unread_problems(args: TrainingArguments) -> list[Problem]:
    """Return a `Problem` for each optimizer argument that this optimizer does not read."""

    def keywords(text: str | None) -> dict[str, object]:
        """Keyword arguments of the optimizer with this `optim_args`."""
        other = copy(args)
        other.optim_args = text
        return Trainer.get_optimizer_cls_and_kwargs(other)[1]

    optimizer, unread = _name(args.optim), []
    for key in (each.partition("=")[0].strip() for each in (args.optim_args or "").split(",") if each.strip()):
        try:
            if all(keywords(f"{key}={value}") == keywords(None) for value in ("0.5", "1", "true")):
                unread.append(key)
        except ValueError:  # the optimizer reads it, but as another type of number
            pass
    found = []
    if unread:
        found.append(
            Problem(("optim_args",), f"has {', '.join(unread)}, which optim: {optimizer} does not read; drop it")
        )
    if args.optim_target_modules is not None and not optimizer.startswith(("galore", "apollo")):
        found.append(
            Problem(
                ("optim_target_modules",),
                f"is {args.optim_target_modules!r}, which optim: {optimizer} does not read; "
                "it is for GaLore and APOLLO",
            )
        )
    return found


def _name(value: str | Enum) -> str:
    return value.value if isinstance(value, Enum) else value


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
