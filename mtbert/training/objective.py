"""The tasks' losses of a micro-batch, as the methods change them, and their means for the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..data.collation import TEACHER
from ..modeling.modeling_mtbert import MtBertForMultiTask, MtBertOutput
from .arguments import TaskTraining
from .methods.base import Method
from .task_losses import row_losses


class StepLosses:
    """The tasks' losses of a micro-batch as shares of its step's loss.

    Args:
        model: what is trained, unwrapped.
        settings: how each task is trained, by name.
        own_means: whether a task's loss is the mean over its own rows of a step, as where a step sums the losses of all
            tasks, instead of the mean over all rows.
        methods: the training methods, which change the losses in their order.
        device: the model's.

    Attributes:
        class_weights: task → what `task_losses.class_weights` gives, for tasks that weigh their classes.
        steps: steps that were begun since `forget`; the same on every process.
    """

    def __init__(
        self,
        model: MtBertForMultiTask,
        settings: Mapping[str, TaskTraining],
        own_means: bool,
        methods: Iterable[Method],
        device: torch.device,
    ):
        self.model, self.tasks, self.settings = model, model.tasks, settings
        self.own_means, self.methods = own_means, tuple(methods)
        self.weights = torch.tensor([settings[task.name].weight for task in self.tasks], device=device)
        self.class_weights: dict[str, Tensor] = {}
        self._numbers = {task.name: number for number, task in enumerate(self.tasks)}
        self.forget()

    def __call__(
        self, model: nn.Module, inputs: Mapping[str, Any], counts: Tensor
    ) -> tuple[dict[str, Tensor], MtBertOutput]:
        """w_t c_t mean_t of each task in a micro-batch, by name, and the model's outputs.

        mean_t is over the task's rows of the whole step that count, labelled or taught; c_t = n_t / n, or 1 with
        `own_means`. The methods change the loss of each row and of each task.

        Args:
            model: the model, as it is wrapped for several processes.
            counts: `(tasks,)`, the rows of the whole step that count.
        """
        for method in self.methods:
            method.before_forward(inputs)
        passed = {key: value for key, value in inputs.items() if key not in ("labelled", "rows", TEACHER)}
        outputs = model(**passed, return_dict=True)
        changed = self._weigh_classes(inputs, outputs)
        for method in self.methods:
            method.change_rows(inputs, changed)
        rows = counts if self.own_means else counts.sum()
        scales = self.weights / rows.clamp(min=1).expand_as(self.weights)
        losses = {}
        for name, row_loss in changed.row_losses.items():
            number, total = self._numbers[name], row_loss.sum()
            for method in self.methods:
                total = method.task_loss(name, total, inputs["labelled"][number])
            losses[name] = scales[number] * total
        return losses, outputs

    def _weigh_classes(self, inputs: Mapping[str, Any], outputs: MtBertOutput) -> MtBertOutput:
        """A copy of the outputs whose row losses have weighted classes and smoothed labels."""
        found = dict(outputs.row_losses)
        for name, settings in self.settings.items():
            weights = self.class_weights.get(name)
            if name in found and (settings.label_smoothing or weights is not None):
                task, logits = self.tasks[self._numbers[name]], outputs.task_logits[name]
                found[name] = row_losses(task, logits, inputs["labels"][name], weights, settings.label_smoothing)
        return replace(outputs, row_losses=found, labelled=dict(outputs.labelled))

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

    def logs(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Since `forget`: `examples_<task>`, and `loss_<task>`, the mean over rows with a label before any method.

        Args:
            reduce: sums a tensor over all processes.
        """
        found: dict[str, float] = {}
        sums = reduce(torch.stack([self._sums, self._labelled, self._counts])).tolist()
        for task, loss, labelled, count in zip(self.tasks, *sums, strict=True):
            found[f"examples_{task.name}"] = int(count)
            if labelled:
                found[f"loss_{task.name}"] = loss / labelled
        return found
