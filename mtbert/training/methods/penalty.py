"""A penalty that is added to the loss of each labelled row in training, and its means for the log."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...data.collation import NOT_INPUTS
from .base import Method, Reduce, TaskTrainer

ROUNDING = 1e-12  # divergences below it may be rounding errors of fp32


class LoggedPenalty(Method):
    """Adds `settings.weight` times a penalty to the loss of each labelled row, and logs its mean.

    It is added before a task's rows are summed, so that task weight, schedule and accumulation scale it like the loss.
    A subclass calls `add`.
    """

    changes_losses = True
    counts_skipped = False  # whether micro-batches can be skipped

    def attach(self, trainer: TaskTrainer) -> None:
        self.model, self.device = trainer.model, trainer.args.device
        self.tasks = {task.name: task for task in trainer.tasks}
        self._numbers = {name: number for number, name in enumerate(self.tasks)}
        self._forget()

    def begin(self) -> None:
        self._forget()

    def add(self, outputs: Any, penalties: Mapping[str, Tensor]) -> None:
        """Add the penalties `(rows,)` of tasks to the losses of their labelled rows, and note them for the log."""
        for name in [name for name in outputs.row_losses if name in penalties]:
            labelled = outputs.labelled[name]
            rows = torch.where(labelled, penalties[name], 0.0)
            outputs.row_losses[name] = outputs.row_losses[name] + self.settings.weight * rows
            self._sums[self._numbers[name]] += rows.detach().sum()
            self._counts[self._numbers[name]] += labelled.sum()

    def _forget(self) -> None:
        self._sums = torch.zeros(len(self.tasks), device=self.device)
        self._counts = torch.zeros(len(self.tasks), device=self.device)
        self._skipped = torch.zeros(len(self.tasks), device=self.device)

    def logs(self, reduce: Reduce, logged: Mapping[str, float]) -> dict[str, float]:
        """`<section>_<task>`: mean penalty, without its weight; `<section>_skipped`: skipped micro-batches."""
        sums, counts, skipped = reduce(torch.stack([self._sums, self._counts, self._skipped])).tolist()
        means = zip(self.tasks, sums, counts, strict=True)
        logs: dict[str, float] = {f"{self.section}_{name}": total / count for name, total, count in means if count}
        if self.counts_skipped:
            logs[f"{self.section}_skipped"] = int(skipped[0])
        self._forget()
        return logs

    def log_sums(self) -> dict[str, Tensor]:
        return {"sums": torch.stack([self._sums, self._counts, self._skipped])}

    def add_log_sums(self, sums: Mapping[str, Tensor]) -> None:
        totals = (self._sums, self._counts, self._skipped)
        for total, before in zip(totals, sums["sums"].to(self.device), strict=True):
            total += before

    @classmethod
    def doubts(cls, measured: Mapping[str, float], tasks: Sequence[str]) -> list[str]:
        missing = [task for task in tasks if not measured.get(f"{cls.section}_{task}", 0) > ROUNDING]
        return [f"{cls.section} of {task} is within rounding" for task in missing]


class Penalty(LoggedPenalty, ABC):
    """A penalty that is computed from a micro-batch's inputs and outputs; a subclass defines `penalties`."""

    @abstractmethod
    def penalties(self, inputs: Mapping[str, Any], outputs: Any) -> dict[str, Tensor] | None:
        """The penalty of each row, by task, `(rows,)`; None if it is not finite, to skip the micro-batch.

        Args:
            inputs: the model's inputs, without labels.
            outputs: the model's outputs for them.
        """

    def change_rows(self, inputs: Mapping[str, Any], outputs: Any) -> None:
        # Penalties use the unwrapped model: the forward of DistributedDataParallel may run only once a micro-batch; it
        # averages the gradients of all passes together.
        if not self.model.training:
            return
        values = {key: value for key, value in inputs.items() if key not in ("labels", *NOT_INPUTS)}
        penalties = self.penalties(values, outputs)
        if penalties is None:
            self._skipped += 1
            return
        self.add(outputs, penalties)
