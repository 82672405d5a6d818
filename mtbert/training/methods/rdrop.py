"""R-Drop: two dropout passes over each row, whose outputs shall agree (Wu, Li, Wang et al., 2021, equation 4).

The loss of a row is ½ (L₁ + L₂) + α · ½ (KL(P₁‖P₂) + KL(P₂‖P₁)), where L₁ and L₂ are its losses in the two passes. The
paper's equation adds L₁ and L₂; the authors' code takes their mean, as here, so that the loss keeps its scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from ...errors import Problem
from .base import PeakMemory, TaskTrainer
from .divergences import divergence
from .penalty import LoggedPenalty


@dataclass(frozen=True)
class RDrop:
    """R-Drop: every row is passed twice, with different dropout masks, and the outputs shall agree.

    Attributes:
        weight: α, the factor on half the symmetrised divergence of the two outputs, 0 or more; 0 turns it off, with the
            second pass. The paper takes 0.1 to 1 for BERT on GLUE, up to 5 elsewhere.
    """

    weight: float = 1.0

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid field."""
        return [] if self.weight >= 0 else [Problem(("weight",), f"is {self.weight}, but must be 0 or more")]

    def build(self) -> RDropPenalty | None:
        """Build the method; None with a weight of 0."""
        return RDropPenalty(self) if self.weight else None


class RDropPenalty(LoggedPenalty):
    """Mean loss of two passes over every row, and the penalty ½ ℓ_s(f₁(x), f₂(x)) between their outputs.

    ℓ_s is `divergence`: for a classification KL(P₁‖P₂) + KL(P₂‖P₁); for a regression, where the paper takes the squared
    difference too, (f₁ − f₂)² in units of its range. Gradients flow through both passes, as in the authors' code.

    The second pass draws new dropout masks, and its losses have all that those of the first one have: class weights,
    smoothed labels, and the changes by the methods that come before this one (distillation, group weights). SMART and
    proximal points come after it: they compare with the first pass alone.

    Args:
        settings: α.
    """

    section = "rdrop"
    measured = ("rdrop_",)

    def attach(self, trainer: TaskTrainer) -> None:
        super().attach(trainer)
        self._trainer = trainer

    def describe(self) -> str | None:
        """A warning if no module of the model draws dropout masks."""
        modules: Any = self.model.modules()
        if any("Dropout" in type(module).__name__ and getattr(module, "p", 0) > 0 for module in modules):
            return None
        return "rdrop: nothing in the model has dropout, so that both passes are alike and the penalty is 0"

    def change_rows(self, inputs: Mapping[str, Any], outputs: Any) -> None:
        if not self.model.training:
            return
        losses = self._trainer.losses  # built after `attach`; the unwrapped model is passed, as in `Penalty`
        _, second = losses.forward(self.model, inputs)
        for method in takewhile(lambda method: method is not self, losses.methods):
            method.change_rows(inputs, second)
        penalties = {}
        for name, loss in outputs.row_losses.items():
            outputs.row_losses[name] = (loss + second.row_losses[name]) / 2
            logits, others = outputs.task_logits[name], second.task_logits[name]
            penalties[name] = divergence(self.tasks[name], logits, others) / 2
        self.add(outputs, penalties)

    def add_memory(self, peak: PeakMemory) -> None:
        """Add the activations of the second pass, which are kept together with those of the first."""
        peak.activations += peak.shape.pass_bytes(peak.checkpointing)
