"""The figures that the progress of a training shows: each task's rows, probability, loss and dev scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...data.pools import pool_numbers, sources_of

DEV = "eval"  # prefix of the dev scores


@dataclass
class TaskFigures:
    """Figures of one task, or of the texts of further pre-training.

    Attributes:
        name: name of the task.
        rows: number of its training rows.
        pool: number of its pool in the plan.
        loss_key: log key of its training loss.
        is_task: False for the texts of further pre-training, whose dev score is the dev loss.
        loss: mean training loss since the last log; None before the first one.
        metric: name of the dev score.
        score, best: latest and best dev score; None before the first evaluation.
    """

    name: str
    rows: int
    pool: int
    loss_key: str
    is_task: bool = True
    loss: float | None = None
    metric: str = ""
    score: float | None = None
    best: float | None = None

    def read_loss(self, logs: Mapping[str, Any]) -> None:
        """Keep the training loss of a log."""
        self.loss = logs.get(self.loss_key, self.loss)

    def read_score(self, logs: Mapping[str, Any], prefix: str = DEV) -> bool:
        """Keep the score of an evaluation; return whether the evaluation scored this task."""
        metric, score = self._score(logs, prefix)
        if score is None:
            return False
        self.metric, self.score = metric, score
        if not math.isnan(score):
            better = self.best is None or (score > self.best if self.is_task else score < self.best)
            self.best = score if better else self.best
        return True

    def _score(self, logs: Mapping[str, Any], prefix: str) -> tuple[str, float | None]:
        """Return name and value of the main metric, which follows the task's loss in the log."""
        if not self.is_task:
            return "loss", logs.get(f"{prefix}_loss")
        keys, of_task = list(logs), f"{prefix}_{self.name}_"
        if f"{of_task}loss" not in logs:
            return "", None
        following = keys[keys.index(f"{of_task}loss") + 1 :][:1]
        if not following or not following[0].startswith(of_task):
            return "", None
        return following[0].removeprefix(of_task), logs[following[0]]


def figures_of(trainer: Any) -> list[TaskFigures]:
    """Return the figures of each task of a trainer, without losses and scores; of pre-training, those of all texts."""
    tasks, train = getattr(trainer, "tasks", None), trainer.train_dataset
    if tasks is None:
        return [TaskFigures("texts", len(train), 0, "loss", is_task=False)]
    numbers = pool_numbers([task.name for task in tasks], sources_of(train))
    return [
        TaskFigures(task.name, len(train[task.name]), numbers[task.name], f"loss_{task.name}")
        for task in tasks
        if task.name in train
    ]


def evaluated_prefix(logs: Mapping[str, Any]) -> str | None:
    """Return the prefix of an evaluation's scores, such as `eval`; None for a log of the training."""
    for key in logs:
        if key.endswith("_runtime") and key != "train_runtime":
            return key.removesuffix("_runtime")
    return None
