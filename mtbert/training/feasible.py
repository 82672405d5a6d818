"""What of a run's arguments this machine, or the libraries on it, can not do; found out before any work."""

from __future__ import annotations

from enum import Enum

import torch
from accelerate.utils import DynamoBackend
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations

LONGEST = 300  # characters of a value that a message shows


def argument_problems(args: TrainingArguments, where: str) -> list[str]:
    """Optimizer, rate's schedule, loggers and compiler that can not be made; sentences that begin with `where`."""
    found = []
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except ImportError as error:
        found.append(f"{where}.optim is {_name(args.optim)!r}, which is not installed: {_line(error)}")
    except ValueError:  # some ask for the model here, and say themselves what they lack of it
        pass
    try:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 2, scheduler_specific_kwargs=args.lr_scheduler_kwargs)
    except (TypeError, ValueError, AttributeError) as error:
        given, kind = repr(args.lr_scheduler_kwargs or {})[:LONGEST], _name(args.lr_scheduler_type)
        found.append(
            f"{where}.lr_scheduler_kwargs is {given}, which lr_scheduler_type: {kind} does not take: {_line(error)}; "
            "give what its function in transformers asks for"
        )
    available = get_available_reporting_integrations()
    if missing := [name for name in args.report_to if name not in available]:
        found.append(f"{where}.report_to is {missing}, which are not installed; these are: {', '.join(available)}")
    backends = [each.value.lower() for each in DynamoBackend]
    if args.torch_compile and args.torch_compile_backend.lower() not in backends:
        known = ", ".join(backends)
        found.append(f"{where}.torch_compile_backend is {args.torch_compile_backend!r}, but must be one of: {known}")
    return found


def _name(value: str | Enum) -> str:
    return value.value if isinstance(value, Enum) else value


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
