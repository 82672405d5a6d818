"""What the rows of a step cost: all that weighs, mixes or adds to the tasks' losses, and their means for the log."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..modeling.modeling_mtbert import MtBertForMultiTask, MtBertOutput
from .arguments import TaskTraining
from .methods.distillation import COLUMN, Distillation, mixed_losses
from .methods.regularisers import Regularisers
from .task_losses import UncertaintyWeighting, row_losses

LOG_VARIANCES = "log_variances.safetensors"


class StepLosses:
    """The tasks' losses of a micro-batch as shares of its step's loss.

    Args:
        model: what is trained, unwrapped.
        settings: how each task is trained, by name.
        own_means: whether a task's loss is the mean over its own rows of a step, as where a step sums the losses of all
            tasks, instead of the mean over all rows.
        regularisers: what is added to each row's loss in training.
        distillation: how much of it is a teacher's; None: nothing.
        uncertainty: the weighting by log-variances that are trained; None: none.
        device: the model's.

    Attributes:
        class_weights: task → what `losses.class_weights` gives, for tasks that weigh their classes.
        steps: steps that were begun since `forget`; the same on every process.
    """

    def __init__(
        self,
        model: MtBertForMultiTask,
        settings: Mapping[str, TaskTraining],
        own_means: bool,
        regularisers: Regularisers,
        distillation: Distillation | None,
        uncertainty: UncertaintyWeighting | None,
        device: torch.device,
    ):
        self.model, self.tasks, self.settings = model, model.tasks, settings
        self.own_means, self.regularisers, self.distillation = own_means, regularisers, distillation
        self.uncertainty = None if uncertainty is None else uncertainty.to(device)
        self.weights = torch.tensor([settings[task.name].weight for task in self.tasks], device=device)
        self.class_weights: dict[str, Tensor] = {}
        self._numbers = {task.name: number for number, task in enumerate(self.tasks)}
        self.forget()

    def begin(self) -> None:
        """Before the first micro-batch of a step."""
        self.steps += 1
        if self.uncertainty is not None:
            self.uncertainty.zero_grad()

    def __call__(
        self, model: nn.Module, inputs: Mapping[str, Any], counts: Tensor
    ) -> tuple[dict[str, Tensor], MtBertOutput]:
        """w_t c_t mean_t of each task in a micro-batch, by name, and the model's outputs.

        mean_t is over the task's rows of the whole step that count, labelled or taught; c_t = n_t / n, or 1 with
        `own_means`. In training, a row's loss includes what the regularisers add to it.

        Args:
            model: the model, as it is wrapped for several processes.
            counts: `(tasks,)`, the rows of the whole step that count.
        """
        before = self.regularisers.random_state()
        outputs = model(
            **{key: value for key, value in inputs.items() if key not in ("labelled", "rows", COLUMN)}, return_dict=True
        )
        rows = counts if self.own_means else counts.sum()
        scales = self.weights / rows.clamp(min=1).expand_as(self.weights)
        losses = {}
        for name, rows in self._row_losses(inputs, outputs, before).items():
            number, total = self._numbers[name], rows.sum()
            if self.uncertainty is not None:
                total = self.uncertainty(name, total, inputs["labelled"][number])
            losses[name] = scales[number] * total
        return losses, outputs

    def _row_losses(self, inputs, outputs: MtBertOutput, before) -> dict[str, Tensor]:
        """What the rows of each task cost in training: weighted by class, mixed with a teacher's, and regularised.

        Args:
            before: the random state before the model's pass, as the regularisers gave it.
        """
        outputs = replace(outputs, row_losses=dict(outputs.row_losses))  # the log has the plain ones
        for name, settings in self.settings.items():
            weights = self.class_weights.get(name)
            if name in outputs.row_losses and (settings.label_smoothing or weights is not None):
                task, logits = self.tasks[self._numbers[name]], outputs.task_logits[name]
                smoothing = settings.label_smoothing
                outputs.row_losses[name] = row_losses(task, logits, inputs["labels"][name], weights, smoothing)
        if self.distillation is not None:
            found = mixed_losses(self.distillation, self.tasks, outputs, inputs.get(COLUMN, {}))
            outputs.row_losses, outputs.labelled = found
        if not self.model.training:
            return outputs.row_losses
        # on the model itself: several processes wait for each other in the wrapper's forward, once a micro-batch, and
        # average the gradients of all passes together
        return self.regularisers.add(self.model, inputs, outputs, before)

    # ---- the log ----

    def note(self, inputs: Mapping[str, Any], outputs: MtBertOutput) -> None:
        """Count a micro-batch's rows and their losses in the next means."""
        for name, rows in outputs.row_losses.items():
            self._sums[self._numbers[name]] += rows.detach().sum()
            self._labelled[self._numbers[name]] += outputs.labelled[name].sum()
        self._counts += inputs["labelled"]

    def forget(self) -> None:
        """Begin the means anew."""
        self.steps = 0
        self._sums = torch.zeros(len(self.tasks), device=self.weights.device)
        self._counts = torch.zeros(len(self.tasks), device=self.weights.device)
        self._labelled = torch.zeros(len(self.tasks), device=self.weights.device)
        self.regularisers.forget()

    def logs(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Since `forget`: `examples_<task>`, `loss_<task>`, what the regularisers log, and `log_variance_<task>`.

        `loss_<task>` is the mean over rows with a label, without class weights, teachers and regularisers.

        Args:
            reduce: sums a tensor over all processes.
        """
        found: dict[str, float] = {}
        sums = reduce(torch.stack([self._sums, self._labelled, self._counts])).tolist()
        for task, loss, labelled, count in zip(self.tasks, *sums, strict=True):
            found[f"examples_{task.name}"] = int(count)
            if labelled:
                found[f"loss_{task.name}"] = loss / labelled
        found |= self.regularisers.logs(reduce)
        if self.uncertainty is not None:
            values = self.uncertainty.log_variances.items()
            found |= {f"log_variance_{name}": value.item() for name, value in values}
        return found

    # ---- checkpoints ----

    def save(self, folder: str) -> None:
        """Save what a run goes on with, and a model has no use for: teacher and log-variances."""
        if self.regularisers.teacher is not None:
            self.regularisers.teacher.save(folder)
        if self.uncertainty is not None:
            save_file(self.uncertainty.state_dict(), os.path.join(folder, LOG_VARIANCES))

    def load(self, folder: str) -> None:
        """Go on from what `save` left."""
        if self.regularisers.teacher is not None:
            self.regularisers.teacher.load(folder, self.model)
        if self.uncertainty is not None:
            self.uncertainty.load_state_dict(load_file(os.path.join(folder, LOG_VARIANCES)))
