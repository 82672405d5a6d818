"""Weight averaging: the average of a run's weights θ is evaluated and saved in place of the last weights.

`ema`: θ̄ ← decay · θ̄ + (1 − decay) · θ after every step, an exponentially weighted form of Polyak averaging (Polyak and
Juditsky, 1992). `swa`: the mean of θ at the ends of epochs (Izmailov et al., 2018, Algorithm 1).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from ...errors import InputError, Problem
from .base import Method, PeakMemory, TaskTrainer
from .rules import with_shares

AVERAGES = ("ema", "swa")
DECAY = 0.999
STARTS = {"ema": 0.0, "swa": 0.75}
FILE = "averaging.safetensors"
_PARTS = ("raw.", "average.")


@dataclass(frozen=True)
class Averaging:
    """Settings of weight averaging.

    Attributes:
        type: `ema` (an exponential moving average over steps) or `swa` (the mean over the ends of epochs; Izmailov et
            al., 2018). The average is evaluated and saved in place of the last weights.
        decay: of `ema`, in [0, 1): the average is over about 1 / (1 − decay) steps, which should be fewer than the
            run's; None: 0.999.
        start: share of the run's steps, in [0, 1), after which averaging begins; None: 0 for `ema`, 0.75 for `swa`.
    """

    type: str = "ema"
    decay: float | None = None
    start: float | None = None

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid field."""
        problems = []
        if self.type not in AVERAGES:
            problems.append(Problem(("type",), f"is {self.type!r}, but must be one of: {', '.join(AVERAGES)}"))
        if self.decay is not None and self.type == "swa":
            problems.append(
                Problem(("decay",), f"is {self.decay}, but swa weighs all epochs alike; drop it, or use type: ema")
            )
        elif self.decay is not None and not 0 <= self.decay < 1:
            problems.append(Problem(("decay",), f"is {self.decay}, but must be in [0, 1)"))
        if self.start is not None and not 0 <= self.start < 1:
            problems.append(Problem(("start",), f"is {self.start}, but must be in [0, 1)"))
        return problems

    @property
    def depends_on_length(self) -> bool:
        """Whether the average at a given step depends on the number of steps of the run."""
        return self.type == "swa" or bool(self.start)

    def takes(self, step: int, steps: int, epoch: float) -> bool:
        """Whether the weights after this step are averaged.

        Args:
            step: number of the step, from 1 to `steps`.
            epoch: epochs trained so far; a whole number at the end of an epoch.
        """
        start = STARTS[self.type] if self.start is None else self.start
        ends_epoch = float(epoch).is_integer() or step == steps
        return step >= round(start * steps) and (self.type == "ema" or ends_epoch)

    def build(self) -> WeightAverage:
        """Build the method."""
        return WeightAverage(self)


RULES = (with_shares("averaging.type", "the average is a copy of the whole model"),)


class WeightAverage(Method):
    """The average of a model's trained weights, in at least fp32.

    The first weights that are averaged are its first value. After the run the model itself holds the average.

    Attributes:
        settings: how to average.
        count: number of weights averaged so far; if 0, the model's own weights are evaluated and saved.
        tensors: name → average of each trained parameter.
    """

    section = "averaging"
    files = (FILE,)

    def __init__(self, settings: Averaging):
        super().__init__(settings)
        decay = DECAY if settings.decay is None else settings.decay
        self._average = get_swa_multi_avg_fn() if settings.type == "swa" else get_ema_multi_avg_fn(decay)
        self.begin()

    def attach(self, trainer: TaskTrainer) -> None:
        self.model = trainer.model

    def begin(self) -> None:
        """Drop the average."""
        self.count = 0
        self.tensors: dict[str, Tensor] = {}

    def best_model_loaded(self) -> None:
        """Drop the average: the loaded weights are the average at the best step already."""
        self.begin()

    def evaluation_weights(self) -> AbstractContextManager[None]:
        return self.applied(self.model)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the model's weights to the average."""
        weights = {name: weight.to(_exact(weight)) for name, weight in _trained(model).items()}
        if self.count:
            self._average([self.tensors[name] for name in weights], list(weights.values()), self.count)
        else:
            self.tensors = {name: weight.clone() for name, weight in weights.items()}
        self.count += 1

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within, the model has the averaged weights; afterwards its own again, bit for bit."""
        raw = {name: weight.clone() for name, weight in _trained(model).items()} if self.count else {}
        _put(model, self.tensors)
        try:
            yield
        finally:
            _put(model, raw)

    def save(self, folder: str) -> None:
        """Write the average and the model's own weights; a checkpoint's model file has the average, rounded."""
        weights = {f"raw.{name}": weight.contiguous() for name, weight in _trained(self.model).items()}
        weights |= {f"average.{name}": weight for name, weight in self.tensors.items()}
        save_file(weights, os.path.join(folder, FILE), {"count": str(self.count)})

    def load(self, folder: str) -> None:
        """Read what `save` wrote.

        Raises:
            ValueError: if the checkpoint is of a run without averaging, or of one that trained other parameters.
        """
        path, trained = os.path.join(folder, FILE), _trained(self.model)
        if not os.path.exists(path):
            raise InputError(f"averaging: {folder} has no {FILE}; it was saved without averaging, so resume without it")
        with safe_open(path, "pt") as file:
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            self.count = int(file.metadata()["count"])
        parts = {part: {n.removeprefix(part): w for n, w in saved.items() if n.startswith(part)} for part in _PARTS}
        if odd := sorted(parts["raw."].keys() ^ trained.keys()):
            raise InputError(
                f"averaging: {path} is of a run that trained other parameters than this one, such as {odd[0]}"
            )
        _put(self.model, parts["raw."])
        self.tensors = {name: weight.to(trained[name].device) for name, weight in parts["average."].items()}

    @classmethod
    def refuse_checkpoint(cls, folder: str) -> None:
        if os.path.exists(os.path.join(folder, FILE)):
            raise InputError(
                f"{folder} was saved with averaging, so its weights are not those of the last step; set averaging as "
                "it was set there"
            )

    def add_memory(self, peak: PeakMemory) -> None:
        peak.copies += 1

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self.settings.takes(state.global_step, state.max_steps, state.epoch):
            self.update(model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        _put(model, self.tensors)
        self.begin()


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def _exact(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)  # in half precision small changes of an average vanish


@torch.no_grad()
def _put(model: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        model.get_parameter(name).copy_(weight)
