"""End a training when this process has used its CPU time, with a learning rate that falls to 0 until then.

For transformers' Trainer and its subclasses. Imports nothing of mtbert.
"""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback

WARM_UP = 0.1  # share of the budget in which the rate rises


def shape(progress: float) -> float:
    """Return the factor on the learning rate at a share of the budget: linear rise, then linear fall to 0."""
    if progress < WARM_UP:
        return max(progress, 1e-3) / WARM_UP
    return max(0.0, 1 - progress) / (1 - WARM_UP)


class CpuBudget(TrainerCallback):
    """Stops a training and sets its rates by the CPU time of this process.

    Args:
        until: CPU seconds of this process, since it started, at which training ends.

    Attributes:
        steps: number of steps so far.
        used: CPU seconds of this process when its last training ended.
    """

    def __init__(self, until: float):
        self.until, self.steps = until, 0
        self.start, self.used = 0.0, 0.0
        self.rates: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = time.process_time()
        self.rates = []

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        if not self.rates:
            self.rates = [group["lr"] for group in optimizer.param_groups]
        progress = (time.process_time() - self.start) / max(1e-6, self.until - self.start)
        for group, rate in zip(optimizer.param_groups, self.rates):
            group["lr"] = rate * shape(progress)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps += 1
        if time.process_time() >= self.until:
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.used = time.process_time()
