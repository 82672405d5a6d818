"""Gradient surgery: collect each task's gradient of the shared parameters, and combine them.

A micro-batch is split by task; each part has its own forward and backward, so that no row is encoded twice, except
that of a source: once for each of its tasks. Heads and per-task adapters keep the gradient of their own task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ...data.sampling import drawing
from ...errors import InputError, Problem
from ...modeling.device_copies import to_device
from ...modeling.own_parts import put
from . import gramian_weights
from .base import Method, PeakMemory, Reduce, TaskTrainer
from .gradient_sums import gramian, same_rows, weighted_sum
from .rules import Rule, is_frozen_whole, updates_while_backward, with_shares
from .shared_gradients import shared_and_own, sparse_gradient, word_embeddings

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ...modeling.packing import PackedLayout
    from ...modeling.task_spec import TaskSpec

METHODS = ("pcgrad", "cagrad", "mgda", "upgrad")
REDUCTIONS = ("sum", "mean")
_JOIN = "\t"  # between names of tasks
_STREAM = 0x5C6  # separates these random numbers from the schedule's, whose key is (seed, epoch, block)


_OWN: dict[str, Callable[[np.ndarray], np.ndarray]] = {}


def register_surgery(name: str, weights: Callable[[np.ndarray], np.ndarray]) -> None:
    """Register a function that weights the tasks' gradients, as `surgery.method: name`.

    Args:
        weights: maps the Gramian `(T, T)`, float64, to the weights `(T,)` of the gradients in their sum. The Gramian
            holds the inner products of the gradients of a step's T tasks, up to a common factor. It is called on every
            process and must return the same on each.

    Raises:
        InputError: if the name is taken.
    """
    put(_OWN, name, weights, "surgery method", METHODS)


@dataclass(frozen=True)
class Surgery:
    """How the tasks' gradients of the shared parameters are combined.

    Attributes:
        method: `pcgrad` (Yu et al., 2020: each gradient loses its component against another), `cagrad` (Liu et al.,
            2021), `mgda` (Désidéri, 2012: the shortest combination) or `upgrad` (Quinton and Rey, 2024). All but
            `pcgrad` synchronise with the GPU once a step.
        c: the radius of `cagrad` as a share of the mean gradient's norm, in [0, 1); 0 is no surgery. Required for
            `cagrad`.
        reduction: what the combined gradient is: the `sum` of the tasks' gradients after surgery (the paper), or their
            `mean` over the tasks of the step (the default of the package Pytorch-PCGrad). Optimizers that divide by the
            gradient's size, such as AdamW, take nearly the same steps with both.
    """

    method: str = "pcgrad"
    c: float | None = None
    reduction: str = "sum"

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid field."""
        problems = []
        if self.method not in (*METHODS, *_OWN):
            valid_names = ", ".join((*METHODS, *_OWN))
            problems.append(Problem(("method",), f"is {self.method!r}, but must be one of: {valid_names}"))
        if self.method == "cagrad" and (self.c is None or not 0 <= self.c < 1):
            problems.append(Problem(("c",), f"is {self.c}, but must be in [0, 1) for the method 'cagrad'"))
        if self.method != "cagrad" and self.c is not None:
            problems.append(Problem(("c",), f"is {self.c}, but must be null for other methods than 'cagrad'; drop it"))
        if self.reduction not in REDUCTIONS:
            known = ", ".join(REDUCTIONS)
            problems.append(Problem(("reduction",), f"is {self.reduction!r}, but must be one of: {known}"))
        return problems

    def weights(self, gramian: Tensor, key: Sequence[int]) -> Tensor:
        """The tasks' weights `(T,)` in the combined gradient; all 1 if a gradient is not finite.

        Args:
            gramian: `(T, T)`, float64.
            key: whole numbers ≥ 0 that identify the step and seed its random numbers.
        """
        if self.method == "pcgrad":
            order = gramian_weights.draw_order(len(gramian), np.random.default_rng([*key, _STREAM]))
            order = to_device(torch.from_numpy(order), gramian.device)
            return torch.where(gramian.isfinite().all(), gramian_weights.pcgrad(gramian, order), 1.0)
        products = gramian.cpu().numpy()
        scale = products.trace() / len(products)
        if not (np.isfinite(products).all() and scale > 0):
            return torch.ones_like(gramian[0])
        methods = {"mgda": gramian_weights.mgda, "upgrad": gramian_weights.upgrad, **_OWN}
        c: Any = self.c  # a number with cagrad
        solve = methods.get(self.method) or partial(gramian_weights.cagrad, c=c)
        weights = np.asarray(solve(products / scale), dtype=np.float64)
        if weights.shape != (len(products),):
            shape = f"{weights.shape}, but must be ({len(products)},)"
            raise InputError(f"surgery.method {self.method!r} returned weights of the shape {shape}: one for each task")
        return to_device(torch.from_numpy(weights), gramian.device)

    def build(self) -> GradientSurgery:
        """Build the method."""
        return GradientSurgery(self)


_NO_CONFLICT = "one task's gradient has nothing to conflict with"
RULES = (
    Rule(
        "surgery: a method",
        "schedule.mixed: false",
        lambda run: (
            run.has("surgery")
            and run.value("schedule.name") in drawing()
            and not run.value("schedule.mixed")
            and not run.value("sources")
        ),
        f"such a step has one task, and {_NO_CONFLICT}; set schedule.mixed: true, or schedule.name: simultaneous",
    ),
    Rule(
        "surgery: a method",
        "schedule.name: round_robin or sequential",
        lambda run: (
            run.has("surgery")
            and run.value("schedule.name") in ("round_robin", "sequential")
            and not run.value("sources")
        ),
        f"such a step has one task, and {_NO_CONFLICT}; set schedule.name: simultaneous",
    ),
    Rule(
        "tasks: one",
        "surgery.method: any",
        lambda run: run.has("surgery") and len(run.tasks) == 1,
        f"{_NO_CONFLICT}; drop it",
    ),
    Rule(
        "surgery: a method",
        "model.freeze_encoder: true",
        lambda run: run.has("surgery") and is_frozen_whole(run),
        "the tasks train no parameter that they share; train the encoder, its norms, or peft in it, or drop surgery",
    ),
    Rule(
        "surgery: a method",
        "training.optim: lomo, adalomo, or a layerwise one",
        lambda run: run.has("surgery") and updates_while_backward(run),
        "it updates the weights in the middle of a task's backward pass, before there are gradients to combine",
    ),
    with_shares("surgery.method", "it combines whole gradients of each task"),
)


def parts_by_task(inputs: Mapping[str, Any], tasks: Sequence[TaskSpec]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Split a packed batch by task: yield each task's name and the batch of its rows, in their order."""
    layout = inputs["layout"]
    for segment in layout.segments:
        name, columns = tasks[segment.task_id].name, slice(*segment.tokens)
        part = {key: inputs[key][:, columns] for key in ("input_ids", "token_type_ids") if key in inputs}
        part["layout"] = layout.part(segment) if len(layout.segments) > 1 else layout
        for key, value in inputs.items():
            if isinstance(value, Mapping):  # by task: labels, rows, a teacher's targets
                part[key] = {name: value[name]} if name in value else {}
        for key in ("labelled", "units"):
            if key in inputs:
                part[key] = torch.zeros_like(inputs[key])
                part[key][segment.task_id] = inputs[key][segment.task_id]
        yield name, part


class GradientSurgery(Method):
    """Collects the tasks' gradients of a step, combines them, and logs their norms and cosines.

    Shared parameters are all trained parameters outside of heads and per-task adapters: the encoder's, or those that
    peft added to it.

    Args:
        settings: how gradients are combined.
    """

    section = "surgery"
    of_several_tasks = True
    measured = ("conflicts", "cos_", "gradient_norm_")
    later: ClassVar[Mapping[str, Any]] = {"reduction": "sum"}
    averages_gradients = True

    def attach(self, trainer: TaskTrainer) -> None:
        """Find the shared parameters."""
        model, self.tasks = trainer.model, trainer.tasks
        self.seed, self.processes = trainer.args.seed, trainer.args.world_size
        self.names = [task.name for task in self.tasks]
        self.shared, self.own = shared_and_own(model)
        if not self.shared:
            raise InputError("surgery: no parameter that the tasks share is trained; unfreeze the encoder, or drop it")
        self._words = word_embeddings(model, self.shared) if trainer.args.device.type == "cpu" else None
        self.begin()

    def describe(self) -> str:
        """One line for the terminal: the method, and the memory of its gradients."""
        count, size = sum(p.numel() for p in self.shared), sum(p.numel() * p.element_size() for p in self.shared)
        memory = len(self.names) * size / 2**20
        return (
            f"Gradient surgery: {self.settings.method}, {len(self.names)} tasks × {count:,} shared parameters: "
            f"at most {memory:,.1f} MiB of gradients"
        )

    def begin(self) -> None:
        """Drop collected gradients and logged sums."""
        self._gradients: dict[str, list[Tensor | None]] = {}
        self._logged: dict[tuple[str, ...], Tensor] = {}

    def training_step(
        self, trainer: TaskTrainer, model: nn.Module, inputs: Mapping[str, Any], counts: Tensor
    ) -> Tensor:
        """One forward and backward for each task of the micro-batch."""
        loss: Any = 0
        for task, part in parts_by_task(inputs, self.tasks):
            with trainer.accelerator.no_sync(model), self.collecting(task):
                loss += trainer.forward_and_backward(model, part, counts)
        return loss

    def gradients_ready(self, trainer: TaskTrainer) -> None:
        self.combine(trainer.accelerator, trainer.state.global_step)

    @contextmanager
    def collecting(self, task: str) -> Iterator[None]:
        """Within, backward passes add to this task's gradient of the shared parameters only.

        On a CPU the gradient of the word embeddings is sparse: filling a dense one with zeros takes longer than the
        surgery. Elsewhere the host would have to wait for the number of its rows.
        """
        gradients = self._gradients.setdefault(task, [None] * len(self.shared))
        for parameter, gradient in zip(self.shared, gradients, strict=True):
            parameter.grad = gradient
        with sparse_gradient(self._words):
            yield
        for place, parameter in enumerate(self.shared):
            gradients[place], parameter.grad = parameter.grad, None

    def combine(self, accelerator: Accelerator, step: int) -> None:
        """Set the gradients of the shared parameters to the combination of the collected ones, averaged over processes.

        Args:
            accelerator: gives the number of processes and fp16's loss scale.
            step: number of the update.
        """
        if accelerator.num_processes > 1:
            self._average(accelerator)
        present = tuple(name for name in self.names if name in self._gradients)
        columns: list[Any] = list(zip(*(self._gradients[name] for name in present), strict=True))
        rows = {}
        for place, column in enumerate(columns):
            if any(gradient is not None and gradient.is_sparse for gradient in column):
                rows[place], columns[place] = same_rows(column)
        products = gramian(list(zip(*columns, strict=True)))
        if accelerator.scaler is not None:
            products /= accelerator.scaler.scale(torch.ones_like(products[0, 0])) ** 2
        self._note(present, products)
        if len(present) == 1:
            weights = torch.ones_like(products[0])
        else:
            weights = self.settings.weights(products, (self.seed, step))
        if self.settings.reduction == "mean":
            weights = weights / len(present)
        for place, (parameter, column) in enumerate(zip(self.shared, columns, strict=True)):
            combined: Any = weighted_sum(column, weights)
            if place in rows:
                combined = torch.zeros_like(parameter).index_copy_(0, rows[place], combined)
            parameter.grad = combined
        self._gradients = {}

    def _average(self, accelerator: Accelerator) -> None:
        """Replace all gradients, also of heads and adapters, by their means over processes. Collective.

        A task may have rows on some processes only. A parameter without a gradient on any process keeps None, so that
        the optimizer does not update it.
        """
        count, device = accelerator.num_processes, accelerator.device
        groups: list[list[Any]] = [self._gradients.get(name, [None] * len(self.shared)) for name in self.names]
        groups.append([p.grad for p in self.own])
        has_gradient = [gradient is not None for group in groups for gradient in group]
        on_any = to_device(torch.tensor(has_gradient, dtype=torch.int32), device)
        torch.distributed.all_reduce(on_any, torch.distributed.ReduceOp.MAX)
        flags = iter(on_any.tolist())
        for group, name in zip(groups, (*self.names, None), strict=True):
            parameters = self.own if name is None else self.shared
            places = [place for place, _ in enumerate(parameters) if next(flags)]
            if not places:
                continue
            dense = [torch.zeros_like(parameters[i]) if group[i] is None else group[i].to_dense() for i in places]
            flat = torch.cat([gradient.flatten() for gradient in dense])
            torch.distributed.all_reduce(flat)
            means = flat.div_(count).split([gradient.numel() for gradient in dense])
            for i, mean in zip(places, means, strict=True):
                group[i] = mean.view_as(parameters[i]).to(parameters[i].dtype)
            if name is not None:
                self._gradients[name] = group
        for parameter, gradient in zip(self.own, groups[-1], strict=True):
            parameter.grad = gradient

    def _note(self, present: tuple[str, ...], products: Tensor) -> None:
        """Add a step's cosines and norms to the sums that are logged next, without synchronising with the device."""
        norms = products.diagonal().sqrt()
        cosines = products / norms.outer(norms).clamp(min=torch.finfo(norms.dtype).tiny)
        conflict = (cosines.min() < 0).to(norms.dtype)
        values = torch.cat([cosines.flatten(), norms, torch.stack([conflict, torch.ones_like(conflict)])])
        values = torch.where(values.isfinite().all(), values, 0.0)  # skip an overflowing fp16 step
        before = self._logged.get(present)
        self._logged[present] = values if before is None else before + values

    def logs(self, reduce: Reduce, logged: Mapping[str, float]) -> dict[str, float]:
        """Means over the steps since the last call, without steps whose gradients were not finite.

        Returns:
            `cos_<a>_<b>` for each pair of tasks, `gradient_norm_<task>`, and `conflicts`, the share of steps in which
            the cosine of some pair was negative.
        """
        totals: dict[str, list[float]] = {}

        def add(key: str, value: float, steps: float) -> None:
            total = totals.setdefault(key, [0.0, 0.0])
            total[0] += value
            total[1] += steps

        for present, values in self._logged.items():
            *values, conflicts, steps = values.tolist()
            cosines = np.reshape(values[: len(present) ** 2], (len(present), len(present)))
            for i, name in enumerate(present):
                add(f"gradient_norm_{name}", values[len(present) ** 2 + i], steps)
                for j in range(i + 1, len(present)):
                    add(f"cos_{name}_{present[j]}", float(cosines[i, j]), steps)
            add("conflicts", conflicts, steps)
        self._logged = {}
        return {key: value / steps for key, (value, steps) in totals.items() if steps}

    def log_sums(self) -> dict[str, Tensor]:
        """The sums, divided by the number of processes: they are equal on each, and the trainer adds them up."""
        return {_JOIN.join(present): values / self.processes for present, values in self._logged.items()}

    def add_log_sums(self, sums: Mapping[str, Tensor]) -> None:
        device = self.shared[0].device
        self._logged = {tuple(key.split(_JOIN)): values.to(device) for key, values in sums.items()}

    def pass_layout(self, layout: PackedLayout) -> PackedLayout:
        """The layout of the task with the most tokens: each task has its own forward pass."""
        return layout.part(max(layout.segments, key=lambda segment: segment.tokens[1] - segment.tokens[0]))

    def add_memory(self, peak: PeakMemory) -> None:
        """Add the gradients of the other tasks, without the word embeddings, whose gradients are sparse."""
        shared = sum(p.numel() * p.element_size() for p in self.shared)
        words = 0 if self._words is None else self._words.weight.numel() * self._words.weight.element_size()
        peak.gradients += (len(self.names) - 1) * (shared - words)
        peak.keeps_gradients = True

    @classmethod
    def doubts(cls, measured: Mapping[str, float], tasks: Sequence[str]) -> list[str]:
        return [] if measured.get("conflicts") else ["gradients never conflicted"]
