"""What holds for many processes: how they meet, ways to share a model out that are refused, gradients that must be."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn
from transformers import TrainerCallback

from ...errors import InputError, TrainingError
from ..methods.base import TaskTrainer

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from ...data.sampling import Schedule

# Switches of `accelerate launch`, and training arguments, that share a model out among processes.
SWITCHES = {
    "ACCELERATE_USE_FSDP": "FSDP 1",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
TRUE = ("true", "1", "yes")
ARGUMENTS = ("fsdp", "deepspeed", "parallelism_config")
REMEDY = (
    "each task's rows, heads and gradients are handled in processes that hold the whole model; use plain data "
    "parallelism (distributed_type: MULTI_GPU, for CPUs too: see recipes/accelerate/), or FSDP 2"
)

FP16_WITH_SHARES = "its scaler takes whole gradients only; use bf16"


def refuse_sharding(args: TrainingArguments, environment: Mapping[str, str] | None = None) -> None:
    """Refuse to share the model out among processes, before any work.

    Args:
        args: the training arguments, as they were given.
        environment: what `accelerate launch` has set; None: this process's.

    Raises:
        ValueError: naming the switch or argument, and what to use instead.
    """
    environment = os.environ if environment is None else environment
    for key in ARGUMENTS:
        if value := getattr(args, key):
            raise InputError(f"{key} is {value!r}, which is refused: {REMEDY}")
    for switch, name in SWITCHES.items():
        if environment.get(switch, "").lower() in TRUE:
            raise InputError(f"{switch} is {environment[switch]}: {name} is refused: {REMEDY}")


def fsdp_is_asked_for() -> bool:
    """Whether `accelerate launch` was told to shard with FSDP2, be it taken over or not."""
    if os.environ.get("MTBERT_SHARD_ENCODER", "").lower() in TRUE:
        return True
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in TRUE and os.environ.get("FSDP_VERSION") == "2"


def take_over_fsdp() -> bool:
    """Whether `accelerate launch` was told to shard with FSDP2; if so, it is told not to.

    accelerate would shard heads, too, whose gradients a process may lack, and leaves CPUs out without a word.
    """
    asked = fsdp_is_asked_for()
    if asked:
        os.environ |= {"ACCELERATE_USE_FSDP": "false", "MTBERT_SHARD_ENCODER": "true"}
    return asked


def join_processes(args: TrainingArguments) -> None:
    """Meet the other processes that a launcher has started, where that is on a CPU.

    transformers leaves this to `use_cpu`: without it, the processes on a machine without an accelerator would each
    train alone, over each other's files. And it hands `ddp_timeout` on for accelerators only. An agent of torchrun that
    starts processes again keeps its store, so that each attempt needs names of its own there: else the processes would
    look for each other at the addresses of the dead.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return
    if not torch.accelerator.is_available():
        args.use_cpu = True
    on_cpu = args.use_cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in TRUE
    if on_cpu and args.ddp_backend in (None, "gloo") and not distributed.is_initialized():
        timeout = timedelta(seconds=args.ddp_timeout)
        store, rank, size = next(distributed.rendezvous("env://", timeout=timeout))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = distributed.PrefixStore(f"attempt-{attempt}", store)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timeout)


def has_absent_tasks(schedule: Schedule, batches: Sequence[int | None], batch: int, shares: int) -> bool:
    """Whether a micro-batch of some process may lack a task, so that its head and adapter have no gradient there.

    Args:
        schedule: the run's.
        batches: rows a step for each task, None where they are `batch`.
        batch: rows of a step, over all processes and micro-batches.
        shares: processes × micro-batches, to which the rows are dealt out in turn.
    """
    if len(batches) == 1:
        return False
    return schedule.name != "simultaneous" or min(own or batch for own in batches) < shares


def watch_gradients(trainer: TaskTrainer) -> GradientCheck:
    """Let processes look for parameters without a gradient where a task may be absent, and only there.

    That search walks through the graph of every micro-batch. `ddp_find_unused_parameters` overrides the choice.
    Where a method averages the gradients itself, DistributedDataParallel waits for none.

    Returns:
        The trainer's callback that asks whether every parameter had a gradient; it has to be told of each step.
    """
    args, batches = trainer.args, [each.batch_size for each in trainer.task_training.values()]
    shares = args.world_size * args.gradient_accumulation_steps
    find = args.ddp_find_unused_parameters
    if find is None:
        find = has_absent_tasks(trainer.schedule, batches, args.per_device_train_batch_size * shares, shares)
    trainer.accelerator.ddp_handler.find_unused_parameters = find
    averages = any(method.averages_gradients for method in trainer.methods.values())
    check = GradientCheck(trainer.task_ids, strict=args.world_size > 1 and not averages and not find)
    trainer.add_callback(check)
    return check


class GradientCheck(TrainerCallback):
    """Once every task has appeared, asks whether every parameter that is trained has had a gradient.

    Looks at gradients only while some are missing, before the optimizer's step, and never waits for the device.

    Args:
        tasks: names of the tasks.
        strict: whether a parameter without a gradient would keep the processes from averaging those of the others.
    """

    def __init__(self, tasks: Iterable[str], strict: bool):
        self.tasks, self.strict = tuple(tasks), strict
        self._unseen: set[str] = set(self.tasks)
        self._missing: dict[str, nn.Parameter] = {}

    def saw(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Note the tasks that have rows in a step's micro-batches."""
        if self._unseen:
            self._unseen.difference_update(*(batch["rows"] for batch in batches))

    def on_train_begin(self, args, state, control, model: nn.Module | None = None, **kwargs) -> None:
        self._unseen = set(self.tasks)
        self._missing = {name: each for name, each in model.named_parameters() if each.requires_grad}

    def on_pre_optimizer_step(self, args, state, control, **kwargs) -> None:
        """Warn of parameters without a gradient.

        Raises:
            RuntimeError: instead, where the check is strict.
        """
        if not self._missing:
            return
        self._missing = {name: each for name, each in self._missing.items() if each.grad is None}
        if self._unseen or not self._missing:
            return
        names, self._missing = list(self._missing), {}
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        found = f"every task has had a step, but these parameters are trained and got no gradient: {shown}"
        if self.strict:
            raise TrainingError(
                f"{found}; processes wait for each gradient here: freeze them (requires_grad_(False)), or set "
                "training.ddp_find_unused_parameters: true"
            )
        if state.is_world_process_zero:
            warnings.warn(f"{found}; nothing trains them: freeze them (requires_grad_(False))", stacklevel=2)
