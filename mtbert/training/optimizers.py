"""Learning rates by part, by layer and by task, and one optimizer state for each task, behind torch's interface.

Rates that fall from layer to layer: Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification"
(2018), section 3.2. A state for each task: report D, where every task has an optimizer of its own over the shared
weights.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.sampling import Schedule
from ..errors import InputError
from .task_losses import UNCERTAINTY, LossSettings

if TYPE_CHECKING:
    from .arguments import TaskTraining

SEPARATE, RATES = "separate", "rates"
GROUPED = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")  # of PyTorch, over parameter groups
STATEFUL = ("adamw_torch", "adamw_torch_fused")
MOMENTS = 2  # AdamW's m and v

_PARTS = ("encoder", "head", "adapter")  # in the order of a model's parameters
_PART = re.compile(r"^(base_model\.)?(?:model\.)?(encoder|heads|adapters)\.(?:([^.]+)\.)?")
_NUMBER = re.compile(r"\.(\d+)(?=\.|$)")


@dataclass(frozen=True)
class OptimizerSettings:
    """What the optimizer does beyond `training.optim`, `training.learning_rate` and `training.weight_decay`.

    Attributes:
        per_task: `separate`: each task has its own AdamW state (moments and number of steps) over the encoder and its
            own head and adapter, which takes the memory of one state of the encoder a task; `rates`: one state, but
            the learning rate and weight decay of the step's task; null: neither. For schedules with one task a step.
        encoder_learning_rate: positive, of the encoder's own weights; null: the run's.
        adapter_learning_rate: positive, of adapters and of what peft adds to the encoder; null: the run's.
        head_learning_rate: positive, of heads; null: the run's.
        layer_decay: in (0, 1]: layer l of L has the rate decay^(L − l), the embeddings decay^L; null: 1.
    """

    per_task: str | None = None
    encoder_learning_rate: float | None = None
    adapter_learning_rate: float | None = None
    head_learning_rate: float | None = None
    layer_decay: float | None = None

    def problems(self, where: str) -> list[str]:
        """Everything that is wrong with these values, as sentences that begin with `where`."""
        found = []
        if self.per_task not in (None, SEPARATE, RATES):
            found.append(f"{where}.per_task is {self.per_task!r}, but must be {SEPARATE}, {RATES} or null")
        for key in ("encoder_learning_rate", "adapter_learning_rate", "head_learning_rate"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                found.append(f"{where}.{key} is {value}, but must be positive")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            found.append(f"{where}.layer_decay is {self.layer_decay}, but must be above 0 and at most 1")
        return found

    def conflicts(
        self,
        schedule: Schedule,
        tasks: Mapping[str, TaskTraining],
        loss: LossSettings,
        learning_rate: float,
        optim: str,
    ) -> list[str]:
        """What these settings do not go with in a run, as sentences."""
        found, kind = [], getattr(optim, "value", optim)
        if self.per_task is not None and (schedule.mixed or schedule.name == "simultaneous"):
            found.append(f"optimizer.per_task is {self.per_task!r}, but must be null where a step holds several tasks")
        for name, task in tasks.items():
            if self.per_task is None and (task.learning_rate is not None or task.weight_decay is not None):
                found.append(f"task_training[{name!r}] has a learning rate or weight decay; set optimizer.per_task")
            if task.learning_rate is not None and not learning_rate:
                found.append(f"args.learning_rate is {learning_rate}, but must be positive if a task has its own")
        known = STATEFUL if self.per_task == SEPARATE else GROUPED
        if (self != OptimizerSettings() or loss.weighting == UNCERTAINTY) and kind not in known:
            found.append(f"args.optim is {kind!r}, but must be one of: {', '.join(known)}")
        return found


def part_of(name: str) -> tuple[str, str | None]:
    """The part that a parameter of a (peft-wrapped) model belongs to: `encoder`, `head` or `adapter`; and its task.

    Whatever peft trains of the encoder counts as an adapter, which no task owns.
    """
    match = _PART.match(name)
    if match is None:
        return "adapter", None
    wrapped, part, owner = match.groups()
    if part == "encoder":
        return ("adapter" if wrapped else "encoder"), None
    return part.removesuffix("s"), owner


def _is_in_encoder(name: str) -> bool:
    match = _PART.match(name)
    return match is not None and match[2] == "encoder"


def layer_of(name: str) -> int | None:
    """The place of an encoder's parameter: 1 for the lowest layer, 0 for embeddings, None for what lies on top.

    The families of transformers number their layers (or blocks of layers) by the first number in a parameter's name.
    """
    inside = name.partition("encoder.")[2]
    if number := _NUMBER.search(f".{inside}"):
        return int(number[1]) + 1
    return 0 if "emb" in inside else None


def parameter_groups(
    parameters: Iterable[tuple[str, Tensor]],
    decayed: Collection[str],
    learning_rate: float,
    weight_decay: float,
    settings: OptimizerSettings,
) -> list[dict[str, Any]]:
    """Parameter groups by learning rate and by whether weights decay, encoder first and its top layer first.

    Args:
        parameters: a model's names and parameters; those that are not trained are left out.
        decayed: names of those whose weights decay.
        learning_rate: the run's, where a part has none of its own.
        weight_decay: of the parameters in `decayed`; that of the others is 0.
        settings: rates by part, and the decay from layer to layer.

    Returns:
        Dicts with `params`, `lr`, `weight_decay`, and `decayed`: whether `weight_decay` applies.
    """
    trained = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    gamma, steps = settings.layer_decay or 1.0, {}
    if settings.layer_decay is not None:
        layers = {name: layer_of(name) for name, _ in trained if _is_in_encoder(name)}
        top = max((layer for layer in layers.values() if layer is not None), default=0)
        steps = {name: 0 if layer is None else top - layer for name, layer in layers.items()}
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in sorted(trained, key=lambda item: (_PARTS.index(part_of(item[0])[0]), steps.get(item[0], 0))):
        own = getattr(settings, f"{part_of(name)[0]}_learning_rate")
        rate = (learning_rate if own is None else own) * gamma ** steps.get(name, 0)
        decays = name in decayed
        group = {"params": [], "lr": rate, "weight_decay": weight_decay if decays else 0.0, "decayed": decays}
        groups.setdefault((rate, decays), group)["params"].append(parameter)
    return list(groups.values())


def moment_bytes(parameters: Iterable[tuple[str, Tensor]], tasks: Collection[str], per_task: str | None) -> int:
    """Bytes of AdamW's moments once every task had a step: with `separate`, shared parameters count for each task."""
    total = 0
    for name, parameter in parameters:
        if parameter.requires_grad:
            states = len(tasks) if per_task == SEPARATE and part_of(name)[1] not in tasks else 1
            total += MOMENTS * states * parameter.numel() * parameter.element_size()
    return total


def task_rates(tasks: Mapping[str, TaskTraining], learning_rate: float) -> dict[str, tuple[float, float | None]]:
    """Task → its learning rate as a multiple of the run's, and its weight decay (None: the run's)."""
    return {
        name: (1.0 if task.learning_rate is None else task.learning_rate / learning_rate, task.weight_decay)
        for name, task in tasks.items()
    }


class PerTaskOptimizer(torch.optim.Optimizer):
    """An optimizer whose step is one task's: with that task's rate and weight decay, and, if `separate`, its state.

    The parameter groups are those of the optimizer inside, each parameter in one of them, so that schedulers,
    clipping and gradient scalers see an ordinary optimizer. A step multiplies each group's rate, which the scheduler
    has set, by the task's factor. Parameters without a gradient keep their values and moments.

    Args:
        inner: the optimizer that makes the updates; keeps all it remembers in its `state`. Its groups say by
            `decayed` whether a task's weight decay applies.
        rates: what `task_rates` returns.
        separate: whether each task has a state of its own.
    """

    def __init__(self, inner: torch.optim.Optimizer, rates: Mapping[str, tuple[float, float | None]], separate: bool):
        super().__init__(inner.param_groups, inner.defaults)
        self.inner, self.rates, self.separate = inner, dict(rates), separate
        self.states: dict[str, Any] = {task: defaultdict(dict) for task in self.rates} if separate else {}
        self.param_groups, self.state, self.task = inner.param_groups, inner.state, None

    def select(self, task: str) -> None:
        """Make the next steps this task's.

        Raises:
            KeyError: for a task that the optimizer does not have.
        """
        if task not in self.rates:
            raise KeyError(f"no task {task!r}; this optimizer has: {', '.join(self.rates)}")
        self.task = task
        if self.separate:
            self.state = self.inner.state = self.states[task]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
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
        """Task → its rate where the run's is `scheduled`; empty if all tasks have that one."""
        if all(factor == 1 for factor, _ in self.rates.values()):
            return {}
        return {task: scheduled * factor for task, (factor, _) in self.rates.items()}

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's inside, with `state` by task if each has its own."""
        if not self.separate:
            return self.inner.state_dict()
        current, found = self.inner.state, {}
        for task, state in self.states.items():
            self.inner.state = state
            found[task] = self.inner.state_dict()
        self.inner.state = current
        groups = self.inner.state_dict()["param_groups"]
        return {"state": {task: each["state"] for task, each in found.items()}, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`.

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
