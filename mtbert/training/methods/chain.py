"""The methods of a run, called one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from . import method_classes
from .base import Method, Reduce, TaskTrainer


class Methods(dict[str, Method]):
    """Section → method. Each hook calls that hook of every method, in the order of the dict."""

    def attach(self, trainer: TaskTrainer) -> None:
        """Attach every method, and add it to the trainer's callbacks."""
        for method in self.values():
            method.attach(trainer)
            trainer.add_callback(method)

    def check_data(self, splits: Mapping[str, Any]) -> None:
        for method in self.values():
            method.check_data(splits)

    def begin(self) -> None:
        for method in self.values():
            method.begin()

    def begin_step(self, batches: Sequence[Mapping[str, Any]]) -> None:
        for method in self.values():
            method.begin_step(batches)

    def training_step(self, trainer: TaskTrainer, model: nn.Module, inputs: Any, counts: Tensor) -> Tensor | None:
        """The loss of the first method that runs forward and backward itself; None if none does."""
        steps = (method.training_step(trainer, model, inputs, counts) for method in self.values())
        return next((loss for loss in steps if loss is not None), None)

    def gradients_ready(self, trainer: TaskTrainer) -> None:
        for method in self.values():
            method.gradients_ready(trainer)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [group for method in self.values() for group in method.parameter_groups()]

    def wrap_optimizer(self, optimizer: Optimizer) -> Optimizer:
        for method in self.values():
            optimizer = method.wrap_optimizer(optimizer)
        return optimizer

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """Within, the model has the weights that are evaluated and saved."""
        with ExitStack() as stack:
            for method in self.values():
                stack.enter_context(method.evaluation_weights())
            yield

    def best_model_loaded(self) -> None:
        for method in self.values():
            method.best_model_loaded()

    def add_logs(self, reduce: Reduce, logs: dict[str, float]) -> None:
        """Add every method's numbers to `logs`."""
        for method in self.values():
            logs |= method.logs(reduce, logs)

    def save(self, folder: str) -> None:
        for method in self.values():
            method.save(folder)

    def load(self, folder: str) -> None:
        """Load every method's state; raise InputError if the checkpoint was saved with other methods."""
        for kind in method_classes():
            if kind.section not in self:
                kind.refuse_checkpoint(folder)
        for method in self.values():
            method.load(folder)
