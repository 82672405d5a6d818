"""Rows of a run's data by which int8 is calibrated and scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.collation import label_array
from ..errors import InputError
from ..evaluation.metrics import default_metrics
from ..evaluation.report.distances import evenly
from ..evaluation.report.rows import TaskRows
from ..modeling.task_spec import TaskSpec
from ..modeling.text_rows import Row
from ..recipe import load_recipe, load_rows

CALIBRATION_ROWS = 128  # train rows of each task that scales of activations are measured on
SPLIT = "dev"


@dataclass(frozen=True)
class ScoredTask:
    """A task with its rows.

    Attributes:
        task: the task.
        metric: its main metric.
        train: rows to calibrate on.
        dev: rows to score, in the order of `split`.
        split: a checked split with these rows and their labels.
    """

    task: TaskSpec
    metric: str
    train: list[Row]
    dev: list[Row]
    split: Any

    def scored(self, logits: np.ndarray) -> TaskRows:
        """The labelled dev rows with a model's logits `(rows, num_labels)`."""
        return TaskRows.of(self.task, self.split, logits, label_array(self.split))


def read_rows(
    checkpoint: str, recipe: Path | None, data_dir: str | None, tasks: Sequence[TaskSpec], most: int
) -> dict[str, ScoredTask]:
    """Read the train and dev rows of a checkpoint's tasks.

    Args:
        checkpoint: its folder, or a name on a hub.
        recipe: the recipe that names the data; None: the recipe.json of the checkpoint.
        data_dir: folder of the data files; None: the recipe's.
        tasks: the tasks.
        most: largest number of dev rows of a task, evenly chosen.

    Raises:
        InputError: there is no recipe, or a task has no train or no labelled dev rows.
    """
    places = (
        [recipe] if recipe else [Path(checkpoint, "recipe.json"), Path(checkpoint).resolve().parent / "recipe.json"]
    )
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise InputError(f"--int8 is scored on dev rows, but there is no {places[0]}; name a recipe with --recipe")
    settings = {"encoder": checkpoint, "data_dir": data_dir, "training.output_dir": checkpoint}
    found = load_recipe(path, [f"--{key}={value}" for key, value in settings.items() if value is not None])
    absent = [task.name for task in tasks if task.name not in found.tasks]
    if absent:
        raise InputError(
            f"{path} has no task {absent[0]!r}, whose int8 could not be scored; add it, or leave out --int8"
        )
    rows = {}
    for task in tasks:
        of_recipe = found.tasks[task.name]
        splits = load_rows(found, [task])[task.name].splits
        for split in ("train", SPLIT):
            if split not in splits or not len(splits[split]):
                raise InputError(f"task {task.name!r} has no {split} rows, which --int8 needs; name them in {path}")
        dev = splits[SPLIT].select(evenly(len(splits[SPLIT]), most))
        train = splits["train"].select(evenly(len(splits["train"]), CALIBRATION_ROWS))
        metric = of_recipe.metric or default_metrics(task)[0]
        rows[task.name] = ScoredTask(task, metric, _texts(task, train), _texts(task, dev), dev)
    return rows


def _texts(task: TaskSpec, split: Any) -> list[Row]:
    second = split["text_pair"][:] if task.texts == 2 else [None] * len(split)
    return list(zip(split["text"][:], second, strict=True))
