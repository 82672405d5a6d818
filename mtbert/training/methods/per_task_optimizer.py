"""One optimizer for each task: its own learning rate and weight decay, and optionally its own AdamW state.

With separate states it is the system of report D, where every task has its own optimizer over the shared weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...errors import InputError
from ..optimizers import SEPARATE, STATEFUL, moment_bytes
from .base import Method, PeakMemory, Reduce, TaskTrainer
from .rules import DRAWN_TOGETHER, Rule, with_shares

if TYPE_CHECKING:
    from ..objective import TaskTraining


@dataclass(frozen=True)
class PerTask:
    """How the tasks' optimizers differ.

    Attributes:
        mode: `separate`: each task has its own AdamW state; `rates`: only its own learning rate and weight decay.
    """

    mode: str

    def build(self) -> OptimizerOfEachTask:
        """Build the method."""
        return OptimizerOfEachTask(self)


_PER_TASK = "optimizer.per_task: separate or rates"
_ONE_TASK = "each step has the optimizer of its one task; take a schedule with one task a step"
_NEEDS_PER_TASK = "a task has its own in steps of its own optimizer only; set optimizer.per_task to separate or rates"
RULES = (
    Rule(
        _PER_TASK,
        "schedule.name: simultaneous",
        lambda run: run.has("optimizer.per_task") and run.value("schedule.name") == "simultaneous",
        _ONE_TASK,
    ),
    Rule(
        _PER_TASK,
        "schedule.mixed: true",
        lambda run: run.has("optimizer.per_task") and run.value("schedule.mixed"),
        _ONE_TASK,
    ),
    Rule(
        DRAWN_TOGETHER,
        _PER_TASK,
        lambda run: run.has("optimizer.per_task") and run.value("sources"),
        "a step of a source has labels of several tasks, but the optimizer of one; set schedule.draw: task",
    ),
    Rule(
        "optimizer.per_task: null",
        "tasks.*.learning_rate: a number",
        lambda run: not run.has("optimizer.per_task") and run.has("tasks.*.learning_rate"),
        _NEEDS_PER_TASK,
    ),
    Rule(
        "optimizer.per_task: null",
        "tasks.*.weight_decay: a number",
        lambda run: not run.has("optimizer.per_task") and run.has("tasks.*.weight_decay"),
        _NEEDS_PER_TASK,
    ),
    Rule(
        "tasks.*.learning_rate: a number",
        "training.learning_rate: 0",
        lambda run: not run.value("training.learning_rate") and run.has("tasks.*.learning_rate"),
        "a task's rate is a multiple of the run's, whose schedule it follows; set a positive one",
    ),
    Rule(
        "optimizer.per_task: separate",
        "training.optim: any but AdamW",
        lambda run: run.value("optimizer.per_task") == SEPARATE and run.value("training.optim") not in STATEFUL,
        f"each task has its own state of AdamW; take one of: {', '.join(STATEFUL)}",
    ),
    with_shares("optimizer.per_task", "its states are of whole parameters"),
)


class OptimizerOfEachTask(Method):
    """Takes each step with the optimizer of its task.

    Args:
        settings: how the tasks' optimizers differ.
    """

    section = "optimizer.per_task"

    def attach(self, trainer: TaskTrainer) -> None:
        self.rates = task_rates(trainer.task_training, trainer.args.learning_rate)
        self.model, self.separate = trainer.model, self.settings.mode == SEPARATE
        self.optimizer: Any = None  # PerTaskOptimizer, once there is one

    def record(self) -> None:
        """Nothing: the trainer compares the optimizer's settings, which include these."""

    def describe(self) -> str | None:
        if not self.separate:
            return None
        size = moment_bytes(self.model.named_parameters(), list(self.rates))
        return f"AdamW's moments, a state for each of {len(self.rates)} tasks: {size / 2**20:,.1f} MiB"

    def add_memory(self, peak: PeakMemory) -> None:
        if self.separate:
            peak.states_of = list(self.rates)

    def wrap_optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        self.optimizer = PerTaskOptimizer(optimizer, self.rates, self.separate)
        return self.optimizer

    def begin_step(self, batches: Sequence[Mapping[str, Any]]) -> None:
        """Select the step's task: all micro-batches of a step hold rows of one task."""
        self.optimizer.select(next(iter(batches[0]["rows"])))

    def logs(self, reduce: Reduce, logged: Mapping[str, float]) -> dict[str, float]:
        """`learning_rate_<task>`, if some task has its own rate."""
        if "learning_rate" not in logged:
            return {}
        rates = self.optimizer.learning_rates(logged["learning_rate"])
        return {f"learning_rate_{name}": rate for name, rate in rates.items()}


def task_rates(tasks: Mapping[str, TaskTraining], learning_rate: float) -> dict[str, tuple[float, float | None]]:
    """Task → its learning rate divided by the run's, and its weight decay (None: the run's)."""
    return {
        name: (1.0 if task.learning_rate is None else task.learning_rate / learning_rate, task.weight_decay)
        for name, task in tasks.items()
    }


class PerTaskOptimizer(torch.optim.Optimizer):
    """Wraps an optimizer; a step uses the selected task's learning rate and weight decay and, if `separate`, its state.

    It has the wrapped optimizer's parameter groups, so that schedulers, clipping and gradient scalers see an ordinary
    optimizer. A step multiplies the scheduled rate of each group by the task's factor. Parameters without a gradient
    keep their values and moments.

    Args:
        inner: the wrapped optimizer; keeps its whole state in `state`. `decayed` of a group tells whether a task's
            weight decay applies to it.
        rates: the result of `task_rates`.
        separate: whether each task has a state of its own.
    """

    def __init__(self, inner: torch.optim.Optimizer, rates: Mapping[str, tuple[float, float | None]], separate: bool):
        super().__init__(inner.param_groups, inner.defaults)
        self.inner, self.rates, self.separate = inner, dict(rates), separate
        self.states: dict[str, Any] = {task: defaultdict(dict) for task in self.rates} if separate else {}
        self.param_groups, self.state = inner.param_groups, inner.state
        self.task: str | None = None

    def select(self, task: str) -> None:
        """Select the task whose optimizer takes the next steps.

        Raises:
            KeyError: for an unknown task.
        """
        if task not in self.rates:
            raise KeyError(f"no task {task!r}; this optimizer has: {', '.join(self.rates)}")
        self.task = task
        if self.separate:
            self.state = self.inner.state = self.states[task]

    def step(self, closure: Any = None) -> Any:
        """One update of the selected task.

        Raises:
            RuntimeError: if no task is selected.
        """
        if self.task is None:
            raise RuntimeError("select a task before the first step")
        factor, decay = self.rates[self.task]
        scheduled = [(group["lr"], group["weight_decay"]) for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= factor
            if group["decayed"] and decay is not None:
                group["weight_decay"] = decay
        try:
            return self.inner.step(closure)
        finally:
            for group, before in zip(self.param_groups, scheduled, strict=True):
                group["lr"], group["weight_decay"] = before

    def learning_rates(self, scheduled: float) -> dict[str, float]:
        """Task → its learning rate when the run's is `scheduled`; empty if no task has its own."""
        if all(factor == 1 for factor, _ in self.rates.values()):
            return {}
        return {task: scheduled * factor for task, (factor, _) in self.rates.items()}

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's state dict; if `separate`, `state` maps each task to its state."""
        if not self.separate:
            return self.inner.state_dict()
        current, states = self.inner.state, {}
        for task, state in self.states.items():
            self.inner.state = state
            states[task] = self.inner.state_dict()["state"]
        self.inner.state = current
        return {"state": states, "param_groups": self.inner.state_dict()["param_groups"]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: for the state of another mode, or of other tasks.
        """
        states, groups = state_dict["state"], state_dict["param_groups"]
        if self.separate:
            if set(states) != set(self.states):
                raise InputError(
                    f"the saved optimizer has states for {sorted(map(str, states))[:9]}, but optimizer.per_task: "
                    f"{SEPARATE} needs one for each of: {', '.join(self.states)}; start a new run"
                )
            for task in self.states:
                self.inner.load_state_dict({"state": states[task], "param_groups": groups})
                self.states[task] = self.inner.state
        else:
            self.inner.load_state_dict({"state": states, "param_groups": groups})
        self.param_groups, self.state = self.inner.param_groups, self.inner.state
        if self.task is not None:
            self.select(self.task)
