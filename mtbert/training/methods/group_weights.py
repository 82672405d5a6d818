"""Weights by group: a row's loss is weighted inversely to its group's share of the training rows.

With N rows in G groups, N_g of them in the group g, a row of it has the weight w_g = N / (G · N_g), scikit-learn's
"balanced" weight, so that every group has the same weight in all and the rows' mean weight is 1. A power p below 1 is
milder: w_g = N_g^−p · N / Σ_h N_h^(1 − p).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...data.collation import unit_rows
from ...data.pools import TaskSplits, sources_of
from ...data.sources import labelled_mask
from ...data.spec import task_data
from ...data.splits import load_column
from ...data.tokenize import GROUP
from ...errors import InputError, Problem
from ...modeling.display import brief
from ...modeling.task_spec import TaskSpec
from .base import Method, TaskTrainer
from .rules import ANY_TASK, Rule, Run, correlates

if TYPE_CHECKING:
    from datasets import Dataset

NO_GROUP = "(none)"  # the group of rows whose cell is empty
SHOWN = 12  # groups that a line names


@dataclass(frozen=True)
class GroupWeights:
    """Rows are weighted inversely to their group's share of the task's training rows.

    Attributes:
        columns: task → the column of its training file that names a row's group, such as a dialect or a source; any
            column may, the label's too. Rows with an empty cell are the group `(none)`. From Python the column of the
            training rows is always `group`; an empty mapping then means every task whose rows have it.
        power: p, 0 or more: 1 weighs by the inverse share, 0.5 by its square root; 0 turns it off.
    """

    columns: dict[str, str] = field(default_factory=dict)
    power: float = 1.0

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid field."""
        problems = [
            Problem(("columns", str(task)), f"is {brief(column)}, but must be the name of a column")
            for task, column in self.columns.items()
            if not isinstance(column, str) or not column
        ]
        if not self.power >= 0:
            problems.append(Problem(("power",), f"is {self.power}, but must be 0 or more"))
        return problems

    def preflight(self, specs: Sequence[TaskSpec], unlabelled: Mapping[str, Any]) -> list[Problem]:
        """What is wrong with the columns of a recipe, before any work.

        Args:
            specs: the tasks of the recipe.
            unlabelled: not used.
        """
        names, path = [spec.name for spec in specs], ("group_weights", "columns")
        if not self.columns and self.power:
            return [Problem(path, "is empty; name the column of at least one task, or set group_weights: null")]
        known = f"is of no task of the recipe; they are: {', '.join(names)}"
        return [Problem((*path, name), known) for name in self.columns if name not in names]

    def build(self) -> GroupWeigher | None:
        """Build the method; None with a power of 0."""
        return GroupWeigher(self) if self.power else None


def _weighs(run: Run) -> bool:
    """Whether the rows of the task in question have groups."""
    columns, task = run.value("group_weights.columns"), run.tasks[ANY_TASK]
    return not columns or any(run.tasks.get(name) is task for name in columns)


RULES = (
    Rule(
        "group_weights: of the task",
        "tasks.*.loss: correlation",
        lambda run: run.has("group_weights") and correlates(run) and _weighs(run),
        "a correlation of all rows has no losses of single rows to weigh; leave the task out, or set another loss",
    ),
)


def weights_of_groups(counts: np.ndarray, power: float) -> np.ndarray:
    """w_g = N_g^−p · N / Σ_h N_h^(1 − p), whose mean over rows is 1: `(groups,)`.

    Args:
        counts: N_g, the rows of each group: `(groups,)`; a group without rows has the weight 0.
        power: p.
    """
    sizes, has_rows = counts.astype(np.float64), counts > 0
    weights, present = np.zeros(len(sizes)), sizes[has_rows]
    weights[has_rows] = present**-power * present.sum() / (present ** (1 - power)).sum()
    return weights


def groups_of(rows: Dataset) -> list[str]:
    """The group of each row, from the column `group`."""
    return [NO_GROUP if value is None or value == "" else str(value) for value in rows.with_format(None)[GROUP][:]]


class GroupWeigher(Method):
    """Multiplies the loss of each row by its group's weight.

    That is the row's own loss, with class weights, smoothed labels and teachers, all of whose factors multiply; not
    the penalties of R-Drop, SMART, proximal points and SimCSE, which come after it. Shares are those of the training
    rows, whatever rows the schedule draws. With `data.symmetric` both orders of a pair are of the pair's group. Logged
    losses and evaluations are without these weights.

    Args:
        settings: the columns and the power.

    Attributes:
        weights: task → the weight of each training row, `(rows,)`; empty before the first step.
    """

    section = "group_weights"
    changes_losses = True

    def attach(self, trainer: TaskTrainer) -> None:
        self._trainer = trainer
        self.weights: dict[str, Tensor] = {}
        names = [task.name for task in trainer.tasks]
        if unknown := [name for name in self.settings.columns if name not in names]:
            raise InputError(f"group_weights: columns names {unknown}, but the tasks are: {', '.join(names)}")

    def prepare_data(self, trainer: TaskTrainer, texts: Mapping[str, Dataset]) -> None:
        """Read the columns from the files of a recipe, and add them to the training data as `group`.

        Raises:
            InputError: if a file of training rows, or of texts without labels, lacks the column.
        """
        recipe, data = trainer.settings.recipe, TaskSplits(trainer.train_dataset, sources_of(trainer.train_dataset))
        for name, column in self.settings.columns.items():
            spec = task_data(recipe, name)
            task = trainer.tasks[trainer.task_ids[name]]
            splits = ["train", *(["unlabelled"] if spec.unlabelled else [])]  # whose rows are numbered in this order
            loaded = [load_column(task, spec, split, column, recipe["data_dir"]).values() for split in splits]
            groups = [group for split in loaded for group in split]
            data[name] = data[name].add_column(GROUP, [groups[row - 1] for row in texts[name]["row"]])
        trainer.train_dataset = data

    def _counted(self, splits: Mapping[str, Dataset]) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Task → names of its groups, each row's index of its group, and the rows of each group.

        The rows of a source that lack a label of the task count for no group.

        Raises:
            InputError: if no task has groups, or one that is named lacks them or has a single one.
        """
        counted = {}
        shared = {task for tasks in sources_of(splits).values() for task in tasks}
        for name in self.settings.columns or splits:
            if GROUP in splits[name].column_names:
                names, places, counts = np.unique(groups_of(splits[name]), return_inverse=True, return_counts=True)
                if name in shared:
                    counts = np.bincount(places[labelled_mask(splits[name])], minlength=len(names))
                counted[name] = names, places, counts
                names = names[counts > 0]
                if len(names) < 2:
                    raise InputError(
                        f"group_weights: all training rows of task {name!r} are of the group {str(names[0])!r}, so "
                        "that all weights are 1; name another column, or leave the task out"
                    )
            elif self.settings.columns:
                raise InputError(f"group_weights: the training rows of task {name!r} have no column {GROUP!r}")
        if not counted:
            raise InputError(f"group_weights: no task's training rows have the column {GROUP!r}")
        return counted

    def check_data(self, splits: Mapping[str, Dataset]) -> None:
        for name, (_, places, counts) in self._counted(splits).items():
            weights = weights_of_groups(counts, self.settings.power)[places]
            self.weights[name] = torch.tensor(weights, dtype=torch.float32, device=self._trainer.args.device)

    def record(self) -> dict[str, Any]:
        """The power, and a hash of the groups of each task's training rows; the names of columns do not matter."""
        splits = self._trainer.train_dataset
        hashes = {
            name: hashlib.blake2b(json.dumps(groups_of(splits[name])).encode(), digest_size=16).hexdigest()
            for name in self._counted(splits)
        }
        return {"power": self.settings.power, "groups": hashes}

    def describe(self) -> str:
        """A line for each task: its groups, the largest ones first, with their rows and weights."""
        lines = []
        for name, (names, _, counts) in self._counted(self._trainer.train_dataset).items():
            weights = weights_of_groups(counts, self.settings.power)
            largest = np.argsort(-counts, kind="stable")
            shown = [f"{brief(str(names[group]))} {counts[group]:,} × {weights[group]:.3g}" for group in largest]
            more = f", and {len(shown) - SHOWN:,} more" if len(shown) > SHOWN else ""
            lines.append(f"Groups of {name} (rows × weight): {', '.join(shown[:SHOWN])}{more}")
        return "\n".join(lines)

    def change_rows(self, inputs: Mapping[str, Any], outputs: Any) -> None:
        if not self._trainer.model.training:
            return
        rows = unit_rows(inputs, self._trainer.tasks)
        for name, weights in self.weights.items():
            if name in outputs.row_losses:
                outputs.row_losses[name] = outputs.row_losses[name] * weights[rows[name]]
