"""Affinity of tasks, measured during training: does a step for one task lower the loss of another?

The look-ahead affinity of Fifty et al., "Efficiently Identifying Task Groupings for Multi-Task Learning" (2021),
equation 1, of task i onto task j, with the shared parameters θ_s and their learning rate η:

    Z_ij = 1 − L_j(θ_s − η ∇_θs L_i, θ_j) / L_j(θ_s, θ_j)

It is positive if the step for i lowers the loss of j. Beside it stand the cosines of the tasks' gradients ∇_θs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from ...data.collation import label_array
from ...data.sampling import Step
from ...errors import InputError, Problem
from ...files import write_json
from ...modeling.checkpoint_loading import read_json
from ...modeling.heads import labelled
from .base import Method, PeakMemory, TaskTrainer
from .gradient_sums import gramian, same_rows
from .rules import Rule, is_frozen_whole, updates_while_backward, with_shares
from .shared_gradients import shared_and_own, sparse_gradient, word_embeddings

if TYPE_CHECKING:
    from datasets import Dataset

FILE = "affinity.json"
_STREAM = 0xAFF  # separates these random numbers from the schedule's


@dataclass(frozen=True)
class Affinity:
    """Measure during training how steps for each task change the losses of all tasks; the training stays the same.

    Attributes:
        every: steps from one measurement to the next, 1 or more. One takes about as long as T (T + 4) / 3 forward and
            backward passes over `rows` rows, for T tasks; the share of the run is printed when it starts.
        rows: training rows of each task in a measurement, drawn anew for each, 1 or more.
    """

    every: int = 100
    rows: int = 16

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid field."""
        values = {"every": self.every, "rows": self.rows}
        return [Problem((key,), f"is {value}, but must be 1 or more") for key, value in values.items() if value < 1]

    def build(self) -> AffinityMeter:
        """Build the method."""
        return AffinityMeter(self)


_ANY = "affinity: any"
RULES = (
    Rule(
        "tasks: one",
        "affinity.every: a number",
        lambda run: run.has("affinity") and len(run.tasks) == 1,
        "one task shares nothing with another; drop affinity",
    ),
    Rule(
        _ANY,
        "model.freeze_encoder: true",
        lambda run: run.has("affinity") and is_frozen_whole(run),
        "the tasks train no parameter that they share; train the encoder, its norms, or peft in it, or drop affinity",
    ),
    Rule(
        _ANY,
        "training.optim: lomo, adalomo, or a layerwise one",
        lambda run: run.has("affinity") and updates_while_backward(run),
        "it updates the weights in the middle of a backward pass, so that measuring would train them",
    ),
    with_shares("affinity.every", "it takes steps of whole parameters"),
)


def cosines_of(products: Tensor) -> Tensor:
    """Cosines of T gradients from their inner products, both `(T, T)`; nan beside a gradient of 0."""
    norms = products.diagonal().sqrt()
    return products / norms.outer(norms)


def lookahead_affinity(before: Tensor, after: Tensor) -> Tensor:
    """Z, `(T, T)`: Z[i, j] = 1 − L_j after a step for i / L_j before; nan where L_j is 0.

    Args:
        before: L_j, `(T,)`.
        after: the same after a step for each task i, `(T, T)`.
    """
    return 1 - after / torch.where(before == 0, torch.nan, before)


class AffinityMeter(Method):
    """Measures cosines and look-ahead affinities before every n-th step; weights, moments and random numbers stay.

    L_t is the mean training loss of the task's drawn rows times the task's weight, with the settings of its loss, but
    without dropout and without other methods, in fp32. A look-ahead step is one of plain gradient descent on the shared
    parameters, with the current learning rate of each (and of the task, where tasks have their own). The parameters of
    heads and per-task adapters do not move.

    The numbers are written to `affinity.json` in the run's folder (of its stage, if there are stages) when it ends.
    With several processes the first one measures.

    Args:
        settings: how often, and with how many rows.

    Attributes:
        measurements: one dict for each measurement; see `measure`.
    """

    section = "affinity"
    of_several_tasks = True
    files = (FILE,)

    def attach(self, trainer: TaskTrainer) -> None:
        self._trainer, self.names = trainer, [task.name for task in trainer.tasks]
        self.shared, _ = shared_and_own(trainer.model)
        if len(self.names) < 2:
            raise InputError(f"affinity: {self.names[0]!r} is the only task, and shares nothing; drop affinity")
        if getattr(trainer, "compute_loss_func", None) is not None:
            raise InputError(
                "affinity: compute_loss_func takes the place of the tasks' losses, which it measures; drop one"
            )
        if not self.shared:
            raise InputError("affinity: no parameter that the tasks share is trained; unfreeze the encoder, or drop it")
        other = sorted({str(p.dtype).removeprefix("torch.") for p in self.shared if p.dtype is not torch.float32})
        if other:
            raise InputError(
                f"affinity: shared weights are {other[0]}, which rounds small steps away; load the encoder in float32 "
                "(training.bf16 computes in half precision and keeps such weights), or drop affinity"
            )
        self._words = word_embeddings(trainer.model, self.shared)
        self._rows: list[np.ndarray] = []
        self.measurements: list[dict[str, Any]] = []

    def describe(self) -> str:
        """One line for the terminal, with the cost."""
        rows, count = self.settings.rows, len(self.names)
        batch = max(1, self._trainer.plan().batch)
        share = rows * count * (count + 4) / 3 / batch / self.settings.every
        return (
            f"Affinity: before every {self.settings.every}th step, {count} tasks × {rows} rows; "
            f"about {share:.0%} more time than the steps alone"
        )

    def check_data(self, splits: Mapping[str, Dataset]) -> None:
        """Find the labelled rows of each task.

        Raises:
            InputError: a task has none.
        """
        self._data, self._rows = self._trainer.batches(dict(splits)), []  # without sources: rows of each task alone
        for task in self._trainer.tasks:
            with_label = labelled(task, torch.as_tensor(label_array(splits[task.name])))
            with_label = with_label.any(dim=1) if with_label.ndim > 1 else with_label  # a row of words has one of them
            self._rows.append(np.flatnonzero(with_label.numpy()))
            if not len(self._rows[-1]):
                raise InputError(f"affinity: no training row of task {task.name!r} has a label; drop affinity")

    def begin(self) -> None:
        self.measurements = []

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Measure, if it is time."""
        step = state.global_step + 1
        if step % self.settings.every == 0 and self._trainer.is_world_process_zero():
            rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
            self.measurements.append(self.measure(step, [float(rates.get(id(p), 0.0)) for p in self.shared]))

    # ---- a measurement ----

    def measure(self, step: int, rates: Sequence[float]) -> dict[str, Any]:
        """Measure once.

        Args:
            step: number of the step that follows, from 1; it seeds the choice of rows.
            rates: η of each shared parameter.

        Returns:
            `step`; `rate`, the highest η; by task `losses` and `norms` (of the gradients); `cosines` and `affinity`,
            a list of T for each task i, None where undefined; `seconds`.
        """
        start = time.perf_counter()
        drawn = [self._draw(number, step) for number in range(len(self.names))]
        with self._undisturbed():
            with sparse_gradient(self._words):
                gradients = [self._gradient(number, rows) for number, rows in enumerate(drawn)]
            together = self._batch(list(enumerate(drawn)))
            before = self._losses(together)
            products = self._gramian(gradients)
            after = []
            for number, gradient in enumerate(gradients):
                factor = self._own_rate(number)
                with self._moved(gradient, [factor * rate for rate in rates]):
                    after.append(self._losses(together))
        affinity = lookahead_affinity(before, torch.stack(after))
        if not max(rates) > 0:
            affinity = torch.full_like(affinity, torch.nan)
        return {
            "step": step,
            "rate": max(rates),
            "losses": _plain(before),
            "norms": _plain(products.diagonal().sqrt()),
            "cosines": _plain(cosines_of(products)),
            "affinity": _plain(affinity),
            "seconds": time.perf_counter() - start,
        }

    def _draw(self, number: int, step: int) -> np.ndarray:
        """The rows of a task in a measurement, in ascending order."""
        random = np.random.default_rng([self._trainer.args.seed, step, number, _STREAM])
        rows = self._rows[number]
        return np.sort(random.choice(rows, min(self.settings.rows, len(rows)), replace=False))

    def _batch(self, parts: list[tuple[int, np.ndarray]]) -> Any:
        return send_to_device(self._data.__getitems__(Step(tuple(parts))), self._trainer.args.device)

    def _task_losses(self, batch: Any) -> dict[str, Tensor]:
        """w_t · mean loss of each task in a batch, scalars."""
        model, settings = self._trainer.model, self._trainer.task_training
        forward: Any = partial(type(model).forward, model)  # without autocast, which accelerate puts on the instance
        _, outputs = self._trainer.losses.forward(forward, batch)
        return {
            name: settings[name].weight * rows.sum() / outputs.labelled[name].sum().clamp(min=1)
            for name, rows in outputs.row_losses.items()
        }

    def _losses(self, batch: Any) -> Tensor:
        """w_t · mean loss of all tasks, `(T,)`, in fp64."""
        with torch.no_grad():
            losses = self._task_losses(batch)
        return torch.stack([losses[name] for name in self.names]).double()

    def _gradient(self, number: int, rows: np.ndarray) -> list[Tensor | None]:
        """The gradient of a task's loss, for each shared parameter; None where the loss does not depend on it."""
        loss = self._task_losses(self._batch([(number, rows)]))[self.names[number]]
        return list(torch.autograd.grad(loss, self.shared, allow_unused=True))

    def _gramian(self, gradients: Sequence[Sequence[Tensor | None]]) -> Tensor:
        columns: list[Any] = list(zip(*gradients, strict=True))
        for place, column in enumerate(columns):
            if any(gradient is not None and gradient.is_sparse for gradient in column):
                columns[place] = same_rows(column)[1]
        return gramian(list(zip(*columns, strict=True)))

    def _own_rate(self, number: int) -> float:
        """A task's learning rate divided by the run's."""
        own = self._trainer.task_training[self.names[number]].learning_rate
        return 1.0 if own is None else own / self._trainer.args.learning_rate

    @contextmanager
    def _moved(self, gradient: Sequence[Tensor | None], rates: Sequence[float]) -> Iterator[None]:
        """Within, each shared parameter is θ − η g; afterwards it has the bits that it had."""
        kept: list[tuple[nn.Parameter, Tensor | None, Tensor]] = []
        with torch.no_grad():
            for parameter, g, rate in zip(self.shared, gradient, rates, strict=True):
                if g is None:
                    continue
                if g.is_sparse:
                    g = g.coalesce()
                    rows = g.indices()[0]
                    kept.append((parameter, rows, parameter[rows].clone()))
                    parameter.index_add_(0, rows, g.values(), alpha=-rate)
                else:
                    kept.append((parameter, None, parameter.clone()))
                    parameter.sub_(g, alpha=rate)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, rows, before in kept:
                    if rows is None:
                        parameter.copy_(before)
                    else:
                        parameter.index_copy_(0, rows, before)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Within, there is no dropout and no autocast; afterwards modes and random numbers are as before."""
        model, device = self._trainer.model, self._trainer.args.device
        training = [module for module in model.modules() if module.training]
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.autocast(device.type, enabled=False), torch.enable_grad():
            model.eval()
            try:
                yield
            finally:
                for module in training:
                    module.training = True

    # ---- what it leaves ----

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the measurements into the run's folder."""
        if self._trainer.is_world_process_zero():
            stage = getattr(self._trainer, "stage", None)
            folder = Path(args.output_dir, *([] if stage is None else [stage.folder]))
            folder.mkdir(parents=True, exist_ok=True)
            self.save(str(folder))

    def save(self, folder: str) -> None:
        """Write the measurements so far."""
        about = {"tasks": self.names, "every": self.settings.every, "rows": self.settings.rows}
        write_json(Path(folder, FILE), {**about, "measured": self.measurements})

    def load(self, folder: str) -> None:
        self.measurements = read_json(Path(folder, FILE), "start a new run", limited=False)["measured"]

    @classmethod
    def refuse_checkpoint(cls, folder: str) -> None:
        """Nothing: a run that goes on without measuring trains the same; the records are compared all the same."""

    def add_memory(self, peak: PeakMemory) -> None:
        """Add the tasks' gradients, without the word embeddings, whose gradients are sparse, and the kept weights."""
        shared = sum(p.numel() * p.element_size() for p in self.shared)
        words = 0 if self._words is None else self._words.weight.numel() * self._words.weight.element_size()
        peak.gradients += (len(self.names) + 1) * (shared - words)


def _plain(values: Tensor) -> list[Any]:
    """Numbers as nested lists; None for those that are not finite."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value if math.isfinite(value) else None

    return list(plain(values.tolist()))
