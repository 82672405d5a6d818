"""Uncertainty weighting: each task's loss is weighted by a trained variance.

Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics"
(2018), equations 7 and 10.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...errors import Problem
from ...modeling.device_copies import to_device
from ...modeling.task_spec import TaskSpec
from ..optimizers import GROUPED
from .base import Method, Reduce, TaskTrainer
from .rules import PLAIN_OPTIMIZERS, Rule

UNCERTAINTY, FIXED = "uncertainty", "fixed"
LOG_VARIANCES = "log_variances.safetensors"


@dataclass(frozen=True)
class LossSettings:
    """How the tasks' losses are weighted.

    Attributes:
        weighting: `fixed`: by the tasks' weights alone; `uncertainty`: in addition, L_t becomes exp(−s_t) L_t + s_t / 2
            (half the first term for regressions), where s_t = log σ_t² is a trained number of each task, 0 at first.
            At the optimum σ_t² is the mean L_t for a regression, and twice the mean L_t for a classification.
        learning_rate: learning rate of the s_t, positive; AdamW moves them by about so much a step. null: the run's.
    """

    always_set: ClassVar[bool] = True  # a recipe without the section has the defaults

    weighting: str = FIXED
    learning_rate: float | None = None

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid field."""
        problems = []
        if self.weighting not in (FIXED, UNCERTAINTY):
            problems.append(Problem(("weighting",), f"is {self.weighting!r}, but must be {FIXED} or {UNCERTAINTY}"))
        if self.learning_rate is not None and self.learning_rate <= 0:
            problems.append(Problem(("learning_rate",), f"is {self.learning_rate}, but must be positive"))
        return problems

    def build(self) -> UncertaintyWeighting | None:
        """Build the method; None with fixed weights."""
        return UncertaintyWeighting(self) if self.weighting == UNCERTAINTY else None


RULES = (
    Rule(
        "loss.weighting: uncertainty",
        "training.optim: one with groups of its own",
        lambda run: run.value("loss.weighting") == UNCERTAINTY and run.value("training.optim") not in GROUPED,
        PLAIN_OPTIMIZERS,
    ),
    Rule(
        "loss.weighting: uncertainty",
        "tasks.*.loss: any",
        lambda run: run.value("loss.weighting") == UNCERTAINTY and run.has("tasks.*.loss"),
        "the weights follow from the likelihoods of the problem types' own losses; drop one of them",
    ),
    Rule(
        "loss.weighting: fixed",
        "loss.learning_rate: a number",
        lambda run: run.value("loss.weighting") == FIXED and run.has("loss.learning_rate"),
        "it is the rate of the log-variances; set loss.weighting: uncertainty, or drop it",
    ),
)


class LogVariances(nn.Module):
    """One log-variance s_t = log σ_t² for each task, 0 at first."""

    def __init__(self, tasks: Iterable[TaskSpec]):
        super().__init__()
        tasks = tuple(tasks)
        self.factors = {task.name: 0.5 if task.kind.numeric else 1.0 for task in tasks}
        self.log_variances = nn.ParameterDict({task.name: nn.Parameter(torch.zeros(())) for task in tasks})

    def forward(self, task: str, total: Tensor, rows: Tensor) -> Tensor:
        """Σ_i (a exp(−s_t) ℓ_i + s_t / 2) over rows; a is ½ for regressions (equation 7), 1 for classifications (10).

        Args:
            total: Σ_i ℓ_i over the task's labelled rows, a scalar.
            rows: number of these rows, a scalar.
        """
        s = self.log_variances[task]
        return self.factors[task] * torch.exp(-s) * total + rows * s / 2

    def average_gradients(self, reduce: Callable[..., Tensor]) -> None:
        """Average the gradients over processes; None where no process has one. Collective; waits for the device once.

        Args:
            reduce: `Accelerator.reduce`, called once on every process.
        """
        parameters = list(self.parameters())
        gradients = torch.stack([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])
        present = to_device(torch.tensor([float(p.grad is not None) for p in parameters]), gradients.device)
        means, shares = reduce(torch.stack([gradients, present]), reduction="mean")
        for parameter, mean, share in zip(parameters, means, shares.tolist(), strict=True):
            parameter.grad = mean.clone() if share > 0 else None


class UncertaintyWeighting(Method):
    """Multiply a task's row losses by a exp(−s_t) and add s_t / 2 to each; s_t is trained with the model.

    Args:
        settings: the learning rate of the s_t.
    """

    section = "loss"
    changes_losses = True
    measured = ("log_variance_",)
    files = (LOG_VARIANCES,)
    absent_record = {"weighting": FIXED, "learning_rate": None}

    def attach(self, trainer: TaskTrainer) -> None:
        self.variances = LogVariances(trainer.tasks).to(trainer.args.device)
        rate = self.settings.learning_rate
        self.rate = trainer.args.learning_rate if rate is None else rate

    def begin_step(self, batches: Sequence[Mapping[str, Any]]) -> None:
        self.variances.zero_grad()

    def task_loss(self, task: str, total: Tensor, rows: Tensor) -> Tensor:
        return self.variances(task, total, rows)

    def gradients_ready(self, trainer: TaskTrainer) -> None:
        """Average the gradients of the s_t over processes."""
        if trainer.args.world_size > 1:
            self.variances.average_gradients(trainer.accelerator.reduce)

    def parameter_groups(self) -> list[dict[str, Any]]:
        parameters = list(self.variances.parameters())
        return [{"params": parameters, "lr": self.rate, "weight_decay": 0.0, "decayed": False}]

    def logs(self, reduce: Reduce, logged: Mapping[str, float]) -> dict[str, float]:
        names, values = zip(*self.variances.log_variances.items(), strict=True)
        values = torch.stack(values).tolist()
        return {f"log_variance_{name}": value for name, value in zip(names, values, strict=True)}

    def save(self, folder: str) -> None:
        save_file(self.variances.state_dict(), os.path.join(folder, LOG_VARIANCES))

    def load(self, folder: str) -> None:
        self.variances.load_state_dict(load_file(os.path.join(folder, LOG_VARIANCES)))
