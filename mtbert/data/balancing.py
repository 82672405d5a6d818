"""Class-balanced sampling within a task: every class is drawn equally often.

The row at a position is a pure function of the position and a key; no list of rows is shuffled or stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from ..errors import InputError
from ..modeling.task_spec import TaskSpec
from .permutation import mix, permute


class BalancedRows:
    """Draws the rows of one task so that each group of K successive rows holds one row of each of its K classes.

    The class that comes first differs between groups. The rows of a class are reshuffled after each pass over them.

    Args:
        labels: class ids, shape `(rows,)`. A negative id marks a missing label; such rows are never drawn.

    Raises:
        ValueError: if no row has a label.
    """

    def __init__(self, labels: np.ndarray):
        labels = np.asarray(labels)
        classes, counts = np.unique(labels[labels >= 0], return_counts=True)
        if not len(classes):
            raise InputError("balanced sampling needs labels, but no row has one")
        self.order = np.argsort(labels, kind="stable")[len(labels) - counts.sum() :]
        self.counts, self.first = counts, np.cumsum(counts) - counts

    def take(self, positions: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        """Return the rows at the given positions (from 0) of the sequence that `key` names; shape `(n,)` both."""
        group, place = np.divmod(positions, len(self.counts))
        (shift_key,) = np.random.SeedSequence([*key, 1]).generate_state(1, np.uint64)
        with np.errstate(over="ignore"):
            shift = mix(group.astype(np.uint64), int(shift_key)) % np.uint64(len(self.counts))
        classes = (place + shift.astype(np.int64)) % len(self.counts)
        passes, places = np.divmod(group, self.counts[classes])
        rows = np.empty(len(positions), dtype=np.int64)
        for label in np.unique(classes):
            for pass_number in np.unique(passes[classes == label]):
                of_pass = (classes == label) & (passes == pass_number)
                shuffled = permute(places[of_pass], self.counts[label], (*key, label, pass_number))
                rows[of_pass] = self.order[self.first[label] + shuffled]
        return rows


def balanced_rows(
    tasks: Sequence[TaskSpec], settings: Mapping[str, Any], splits: Mapping[str, Dataset]
) -> dict[int, BalancedRows]:
    """Return a `BalancedRows` for each task whose settings say `balanced`, by the task's id."""
    by_task = {}
    for task_id, task in enumerate(tasks):
        if settings[task.name].balanced and task.name in splits:
            by_task[task_id] = BalancedRows(np.asarray(splits[task.name].with_format("numpy")["label"][:]))
    return by_task
