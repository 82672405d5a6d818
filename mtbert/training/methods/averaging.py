"""Averages of a run's weights θ, which are evaluated and saved in place of the last ones.

`ema`: θ̄ ← decay · θ̄ + (1 − decay) · θ after every step; an average of the trajectory (Polyak and Juditsky, 1992) that
forgets exponentially. `swa`: the mean of θ at the ends of epochs (Izmailov et al., 2018, Algorithm 1).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

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
    """How the weights of a run are averaged.

    Attributes:
        type: `ema` (an exponential moving average over steps) or `swa` (the mean over the ends of epochs; Izmailov et
            al., 2018). The average is what is evaluated and saved.
        decay: of `ema`, in [0, 1): an average over about 1 / (1 − decay) steps, which should be fewer than the run has;
            None: 0.999.
        start: share of the run's steps, in [0, 1), after which averaging begins; None: 0 for `ema`, 0.75 for `swa`.
    """

    type: str = "ema"
    decay: float | None = None
    start: float | None = None

    def problems(self) -> list[Problem]:
        """One problem for each value that is wrong."""
        found = []
        if self.type not in AVERAGES:
            found.append(Problem(("type",), f"is {self.type!r}, but must be one of: {', '.join(AVERAGES)}"))
        if self.decay is not None and self.type == "swa":
            found.append(
                Problem(("decay",), f"is {self.decay}, but swa weighs all epochs alike; drop it, or use type: ema")
            )
        elif self.decay is not None and not 0 <= self.decay < 1:
            found.append(Problem(("decay",), f"is {self.decay}, but must be in [0, 1)"))
        if self.start is not None and not 0 <= self.start < 1:
            found.append(Problem(("start",), f"is {self.start}, but must be in [0, 1)"))
        return found

    @property
    def depends_on_length(self) -> bool:
        """Whether a step of a longer run is averaged otherwise than the same step of a shorter one."""
        return self.type == "swa" or bool(self.start)

    def takes(self, step: int, steps: int, epoch: float) -> bool:
        """Whether the weights after step 1…`steps`, which ends at `epoch` (whole at an epoch's end), are averaged."""
        start = STARTS[self.type] if self.start is None else self.start
        ends_epoch = float(epoch).is_integer() or step == steps
        return step >= round(start * steps) and (self.type == "ema" or ends_epoch)

    def build(self) -> WeightAverage:
        """What the trainer calls."""
        return WeightAverage(self)


RULES = (with_shares("averaging.type", "the average is a copy of the whole model"),)


class WeightAverage(Method):
    """The average of a model's trained weights, in fp32 or better; the first weights taken are its first value.

    After the run the model itself holds the average.

    Attributes:
        settings: how to average.
        count: how many weights the average is of; with none, the model's own are what is evaluated and saved.
        tensors: name → average of each parameter that is trained.
    """

    section = "averaging"
    files = (FILE,)

    def __init__(self, settings: Averaging):
        super().__init__(settings)
        self.depends_on_length = settings.depends_on_length
        decay = DECAY if settings.decay is None else settings.decay
        self._average = get_swa_multi_avg_fn() if settings.type == "swa" else get_ema_multi_avg_fn(decay)
        self.forget()

    def attach(self, trainer: TaskTrainer) -> None:
        self.model = trainer.model

    def forget(self) -> None:
        """Begin anew."""
        self.count, self.tensors = 0, {}

    def best_model_loaded(self) -> None:
        """That checkpoint's weights are the average of its step."""
        self.forget()

    def evaluation_weights(self) -> AbstractContextManager[None]:
        return self.applied(self.model)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's weights into the average."""
        now = {name: weight.to(_exact(weight)) for name, weight in _trained(model).items()}
        if self.count:
            self._average([self.tensors[name] for name in now], list(now.values()), self.count)
        else:
            self.tensors = {name: weight.clone() for name, weight in now.items()}
        self.count += 1

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within, the model has the averaged weights; afterwards its own again, bit for bit."""
        own = {name: weight.clone() for name, weight in _trained(model).items()} if self.count else {}
        _put(model, self.tensors)
        try:
            yield
        finally:
            _put(model, own)

    def save(self, folder: str) -> None:
        """Write what a resume needs beside the published weights: the average and the model's own weights."""
        weights = {f"raw.{name}": weight.contiguous() for name, weight in _trained(self.model).items()}
        weights |= {f"average.{name}": weight for name, weight in self.tensors.items()}
        save_file(weights, os.path.join(folder, FILE), {"count": str(self.count)})

    def load(self, folder: str) -> None:
        """The inverse of `save`.

        Raises:
            ValueError: if the checkpoint is of a run without an average, or one that trained other parameters.
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

    def on_train_begin(self, args, state, control, **kwargs):
        if not state.global_step:
            self.forget()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self.settings.takes(state.global_step, state.max_steps, state.epoch):
            self.update(model)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        _put(model, self.tensors)
        self.forget()


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def _exact(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)  # in half precision small changes of an average vanish


@torch.no_grad()
def _put(model: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        model.get_parameter(name).copy_(weight)
