"""Bregman proximal point optimisation with a momentum teacher (SMART; Jiang et al., 2020, section 3.2, equation 5).

D_Breg(θ, θ̄) = mean over rows of ℓ_s(f(x; θ), f(x; θ̄)), θ̄ ← β θ̄ + (1 − β) θ after every step.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ...errors import InputError, Problem
from .base import PeakMemory
from .divergences import divergence
from .penalty import Penalty
from .rules import with_shares

TEACHER_FILE = "proximal_teacher.safetensors"


@dataclass(frozen=True)
class Proximal:
    """Bregman proximal point optimisation; the defaults are the paper's (section 4.2).

    Attributes:
        weight: μ, the factor on the mean of ℓ_s over a task's rows, 0 or more; 0 turns it off.
        decay: β at the beginning of the run, in [0, 1): the weight of θ̄ in its update.
        late_decay: β after the switch, in [0, 1).
        switch: the share of the run's steps, in [0, 1], after which `late_decay` is used.
    """

    weight: float = 1.0
    decay: float = 0.99
    late_decay: float = 0.999
    switch: float = 0.1

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid field."""
        problems = []
        if not self.weight >= 0:
            problems.append(Problem(("weight",), f"is {self.weight}, but must be 0 or more"))
        for key in ("decay", "late_decay"):
            if not 0 <= getattr(self, key) < 1:
                problems.append(Problem((key,), f"is {getattr(self, key)}, but must be in [0, 1)"))
        if not 0 <= self.switch <= 1:
            problems.append(Problem(("switch",), f"is {self.switch}, but must be in [0, 1]"))
        return problems

    @property
    def depends_on_length(self) -> bool:
        """Whether β at a given step depends on the number of steps of the run."""
        return self.decay != self.late_decay and 0 < self.switch < 1

    def decay_at(self, step: int, steps: int) -> float:
        """β after step number 1…steps."""
        return self.decay if step <= self.switch * steps else self.late_decay

    def build(self) -> ProximalPenalty | None:
        """Build the method; None with a weight of 0."""
        return ProximalPenalty(self) if self.weight else None


RULES = (with_shares("proximal.weight", "its teacher is a copy of the whole model"),)


class ProximalPenalty(Penalty):
    """Penalty ℓ_s(f(x; θ), f(x; θ̄)) of every row, and the teacher θ̄.

    θ̄ averages the trained parameters; frozen weights and buffers are shared with the model. The teacher runs in
    evaluation mode, in the model's precision and without gradients; f(x; θ) is the output of the training pass. At step
    0, θ̄ = θ. θ is equal on every process, and so is θ̄.

    Args:
        settings: μ, the decays and when they switch.

    Attributes:
        teacher: parameter name → θ̄; None before the first micro-batch.
    """

    section = "proximal"
    measured = ("proximal_",)
    files = (TEACHER_FILE,)

    def __init__(self, settings: Proximal):
        super().__init__(settings)
        self.teacher: dict[str, Tensor] | None = None

    def begin(self) -> None:
        """Drop θ̄; the next micro-batch sets θ̄ = θ."""
        super().begin()
        self.teacher = None

    def penalties(self, inputs: Mapping[str, Any], outputs: Any) -> dict[str, Tensor]:
        """ℓ_s of each row, by task: `(rows,)`; see `Penalty.penalties`."""
        model = self.model
        if self.teacher is None:
            self.teacher = {name: parameter.detach().clone() for name, parameter in self._trained(model).items()}
        training = [module for module in model.modules() if module.training]
        model.eval()
        with torch.no_grad():
            taught = functional_call(model, self.teacher, kwargs={**inputs, "return_dict": True}).task_logits
        for module in training:
            module.training = True
        logits = outputs.task_logits
        return {name: divergence(self.tasks[name], logits[name], taught[name]) for name in logits}

    @staticmethod
    def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """θ̄ ← β θ̄ + (1 − β) θ."""
        if self.teacher is not None:
            self.update(model, self.settings.decay_at(state.global_step, state.max_steps))

    def update(self, model: nn.Module, decay: float) -> None:
        """θ̄ ← β θ̄ + (1 − β) θ with β = `decay`."""
        weights, teacher = dict(model.named_parameters()), self.teacher or {}
        get_ema_multi_avg_fn(decay)([*teacher.values()], [weights[name].detach() for name in teacher], None)

    def save(self, folder: str) -> None:
        """Write θ̄ beside a checkpoint's other files."""
        if self.teacher is not None:
            save_file(self.teacher, os.path.join(folder, TEACHER_FILE))

    def load(self, folder: str) -> None:
        """Read θ̄ from a checkpoint.

        Raises:
            ValueError: if the checkpoint has none, or if it is of other parameters than the model trains.
        """
        path, trained = os.path.join(folder, TEACHER_FILE), self._trained(self.model)
        if not os.path.exists(path):
            raise InputError(f"proximal: {folder} has no {TEACHER_FILE}; go on with the settings it was trained with")
        saved = load_file(path)
        if different := sorted(saved.keys() ^ trained.keys()):
            raise InputError(f"proximal: {path} and the model differ in what is trained: {', '.join(different[:5])}")
        # Copy: tensors in a memory-mapped file are not aligned, and matrix products round by their operands' alignment.
        self.teacher = {name: value.to(trained[name].device, copy=True) for name, value in saved.items()}

    def add_memory(self, peak: PeakMemory) -> None:
        peak.copies += 1
