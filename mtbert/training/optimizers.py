"""Learning rates by part and by layer.

Layer-wise decay of learning rates: Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification"
(2018), section 3.2.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ..errors import Problem
from .methods import REGISTRY

SEPARATE, RATES = "separate", "rates"
GROUPED = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")  # of PyTorch, over parameter groups
STATEFUL = ("adamw_torch", "adamw_torch_fused")
MOMENTS = 2  # AdamW's m and v

_PARTS = ("encoder", "head", "adapter")  # in the order of a model's parameters
_PART = re.compile(r"^(base_model\.)?(?:model\.)?(encoder|heads|adapters)\.(?:([^.]+)\.)?")
_NUMBER = re.compile(r"\.(\d+)(?=\.|$)")


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings of the optimizer besides `training.optim`, `training.learning_rate` and `training.weight_decay`.

    Attributes:
        per_task: `separate`: each task has its own AdamW state (moments and number of steps) of the encoder and of its
            head and adapter, which takes the memory of one encoder's state for each task; `rates`: one state, but
            the learning rate and weight decay of the step's task; null: neither. For schedules with one task a step.
        encoder_learning_rate: learning rate of the encoder's own weights, positive; null: the run's.
        adapter_learning_rate: learning rate of adapters and of weights that peft adds to the encoder, positive; null:
            the run's.
        head_learning_rate: learning rate of heads, positive; null: the run's.
        layer_decay: in (0, 1]: multiplies the rate of layer l of L by decay^(L − l), and of the embeddings by decay^L;
            null: 1.
    """

    per_task: str | None = None
    encoder_learning_rate: float | None = None
    adapter_learning_rate: float | None = None
    head_learning_rate: float | None = None
    layer_decay: float | None = None

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid field."""
        problems = []
        modes = (SEPARATE, RATES) if "optimizer.per_task" in REGISTRY else ()
        if self.per_task not in (None, *modes):
            allowed = f"{', '.join(modes)} or null" if modes else "null"
            problems.append(Problem(("per_task",), f"is {self.per_task!r}, but must be {allowed}"))
        for key in ("encoder_learning_rate", "adapter_learning_rate", "head_learning_rate"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                problems.append(Problem((key,), f"is {value}, but must be positive"))
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            problems.append(Problem(("layer_decay",), f"is {self.layer_decay}, but must be above 0 and at most 1"))
        return problems


def part_of(name: str) -> tuple[str, str | None]:
    """The part of the model that a parameter belongs to (`encoder`, `head` or `adapter`), and its task.

    Weights that peft trains in the encoder count as an adapter that belongs to no task.

    Args:
        name: name of the parameter in the model, which may be inside peft.
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
    """The layer of an encoder's parameter: 1 for the lowest, 0 for embeddings, None for parameters above all layers.

    In transformers, the first number in a parameter's name is that of its layer (or block of layers).
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
    """Parameter groups by learning rate and weight decay; the encoder comes first, from its top layer down.

    Args:
        parameters: names and parameters of a model; those that are not trained are left out.
        decayed: names of the parameters with weight decay.
        learning_rate: learning rate of parts that have no own one.
        weight_decay: weight decay of the parameters in `decayed`; 0 for the others.
        settings: learning rates of the parts, and the layer-wise decay.

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
        part_rate = getattr(settings, f"{part_of(name)[0]}_learning_rate")
        rate = (learning_rate if part_rate is None else part_rate) * gamma ** steps.get(name, 0)
        decays = name in decayed
        group: dict[str, Any] = {
            "params": [],
            "lr": rate,
            "weight_decay": weight_decay if decays else 0.0,
            "decayed": decays,
        }
        groups.setdefault((rate, decays), group)["params"].append(parameter)
    return list(groups.values())


def grouped_optimizer(trainer: Any, model: Any, method_groups: list[dict[str, Any]]) -> Optimizer:
    """Build the optimizer `args.optim` over the `parameter_groups` of a model and the groups of the methods."""
    args, decayed = trainer.args, trainer.get_decay_parameter_names(model)
    rate, decay = args.learning_rate, args.weight_decay
    groups = parameter_groups(model.named_parameters(), decayed, rate, decay, trainer.settings.optimizer)
    kind, kwargs = trainer.optimizer_cls_and_kwargs or trainer.get_optimizer_cls_and_kwargs(args, model)
    return kind(groups + method_groups, **kwargs)


def moment_bytes(parameters: Iterable[tuple[str, Tensor]], states_of: Collection[str] = ()) -> int:
    """Bytes of AdamW's moments when every task has had a step.

    Args:
        parameters: names and parameters of a model.
        states_of: the tasks that have their own state; shared parameters count once for each of them.
    """
    total = 0
    for name, parameter in parameters:
        if parameter.requires_grad:
            states = 1 if part_of(name)[1] in states_of else max(1, len(states_of))
            total += MOMENTS * states * parameter.numel() * parameter.element_size()
    return total
