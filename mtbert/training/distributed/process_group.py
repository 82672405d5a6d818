"""Training in several processes: set up their group, refuse unsupported sharding, check for missing gradients."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn
from transformers import TrainerCallback

from ...data.pools import sources_of
from ...errors import InputError, TrainingError
from ..methods.base import TaskTrainer

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from ...data.sampling import Schedule

# Environment variables of `accelerate launch`, and training arguments, that shard a model over processes.
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
    """Raise InputError if the model would be sharded over processes in an unsupported way.

    Args:
        args: the training arguments, as the user gave them.
        environment: environment variables; None: those of this process.

    Raises:
        InputError: with the switch or argument, and what to use instead.
    """
    environment = os.environ if environment is None else environment
    for key in ARGUMENTS:
        if value := getattr(args, key):
            raise InputError(f"{key} is {value!r}, which is refused: {REMEDY}")
    for switch, name in SWITCHES.items():
        if environment.get(switch, "").lower() in TRUE:
            raise InputError(f"{switch} is {environment[switch]}: {name} is refused: {REMEDY}")


def fsdp_is_asked_for() -> bool:
    """Whether `accelerate launch` was asked to shard with FSDP2; also after `take_over_fsdp`."""
    if os.environ.get("MTBERT_SHARD_ENCODER", "").lower() in TRUE:
        return True
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in TRUE and os.environ.get("FSDP_VERSION") == "2"


def take_over_fsdp() -> bool:
    """Turn accelerate's own FSDP2 off, and return whether it was asked for.

    accelerate would also shard heads, whose gradients a process may lack, and it silently does not shard on CPUs.
    """
    asked = fsdp_is_asked_for()
    if asked:
        os.environ |= {"ACCELERATE_USE_FSDP": "false", "MTBERT_SHARD_ENCODER": "true"}
    return asked


def join_processes(args: TrainingArguments) -> None:
    """Set up the process group of processes that a launcher has started on CPUs.

    transformers does so only with `use_cpu`; without it, processes on a machine without an accelerator would each train
    alone and overwrite each other's files. It also passes `ddp_timeout` on for accelerators only. When torchrun
    restarts processes, its store still has the addresses of the dead ones, so that each attempt needs its own prefix.
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
    """Whether a micro-batch on some process may have no rows of a task, and so no gradient for its head and adapter.

    Args:
        schedule: the schedule of the run.
        batches: rows per step of each task; None: `batch`.
        batch: rows per step, over all processes and micro-batches.
        shares: processes × micro-batches, among which the rows of a step are divided.
    """
    if len(batches) == 1:
        return False
    return schedule.name != "simultaneous" or min(rows or batch for rows in batches) < shares


def watch_gradients(trainer: TaskTrainer) -> GradientCheck:
    """Make DistributedDataParallel search for parameters without a gradient if a task may be absent from a step.

    The search takes time, because it walks the graph of every micro-batch. `ddp_find_unused_parameters` overrides the
    choice.

    Returns:
        The trainer's callback that checks that every parameter had a gradient; the trainer reports each step to it.
    """
    args, batches = trainer.args, [settings.batch_size for settings in trainer.task_training.values()]
    shares = args.world_size * args.gradient_accumulation_steps
    find = args.ddp_find_unused_parameters
    shares_texts = bool(sources_of(trainer.train_dataset))  # a micro-batch may lack labels of one of the tasks
    if find is None:
        find = has_absent_tasks(trainer.schedule, batches, args.per_device_train_batch_size * shares, shares)
        find = find or (len(batches) > 1 and args.max_tokens_per_step is not None)  # a step may have few rows of a task
        find = find or shares_texts
    trainer.accelerator.ddp_handler.find_unused_parameters = find
    # With a method that averages gradients itself, DistributedDataParallel waits for none.
    averages = any(method.averages_gradients for method in trainer.methods.values())
    check = GradientCheck(trainer.task_ids, strict=args.world_size > 1 and not averages and not find)
    trainer.add_callback(check)
    return check


class GradientCheck(TrainerCallback):
    """Once every task has had a step, checks that every trained parameter has had a gradient.

    The check runs before the optimizer's step, only while some parameter lacks a gradient, and never waits for the
    device.

    Args:
        tasks: names of the tasks.
        strict: raise an error and do not warn, because DistributedDataParallel would wait for the missing gradient.
    """

    def __init__(self, tasks: Iterable[str], strict: bool):
        self.tasks, self.strict = tuple(tasks), strict
        self._unseen: set[str] = set(self.tasks)
        self._missing: dict[str, nn.Parameter] = {}

    def saw(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Note the tasks that have rows in a step's micro-batches."""
        if self._unseen:
            self._unseen.difference_update(*(batch["rows"] for batch in batches))

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._unseen = set(self.tasks)
        self._missing = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Warn of parameters without a gradient.

        Raises:
            RuntimeError: in place of the warning, if the check is strict.
        """
        if not self._missing:
            return
        self._missing = {name: parameter for name, parameter in self._missing.items() if parameter.grad is None}
        if self._unseen or not self._missing:
            return
        names, self._missing = list(self._missing), {}
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        problem = f"every task has had a step, but these parameters are trained and got no gradient: {shown}"
        if self.strict:
            raise TrainingError(
                f"{problem}; processes wait for each gradient here: freeze them (requires_grad_(False)), or set "
                "training.ddp_find_unused_parameters: true"
            )
        if state.is_world_process_zero:
            warnings.warn(f"{problem}; nothing trains them: freeze them (requires_grad_(False))", stacklevel=2)
