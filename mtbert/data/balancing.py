"""Balanced sampling inside a task: every class equally often, as a pure function of the place in the task's walk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from ..errors import InputError
from ..modeling.configuration_mtbert import TaskSpec
from .permutation import mix, permute


class BalancedRows:
    """The rows of one task by class. K successive places of the walk hold one row of each of its K classes.

    Which class comes first differs from one such group to the next; each class walks its own reshuffled permutation.

    Args:
        labels: `(rows,)`, class ids; negative ones are missing labels, whose rows are left out.

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
        """The rows at these places, from 0, of the walk that `key` names; both `(n,)`."""
        group, place = np.divmod(positions, len(self.counts))
        (turn,) = np.random.SeedSequence([*key, 1]).generate_state(1, np.uint64)
        with np.errstate(over="ignore"):
            turned = mix(group.astype(np.uint64), int(turn)) % np.uint64(len(self.counts))
        classes = (place + turned.astype(np.int64)) % len(self.counts)
        passes, places = np.divmod(group, self.counts[classes])
        rows = np.empty(len(positions), dtype=np.int64)
        for own in np.unique(classes):
            for number in np.unique(passes[classes == own]):
                mine = (classes == own) & (passes == number)
                inside = permute(places[mine], self.counts[own], (*key, own, number))
                rows[mine] = self.order[self.first[own] + inside]
        return rows


def balanced_rows(
    tasks: Sequence[TaskSpec], settings: Mapping[str, Any], splits: Mapping[str, Dataset]
) -> dict[int, BalancedRows]:
    """Number of a task → its rows by class, for the tasks whose settings say `balanced`."""
    found = {}
    for number, task in enumerate(tasks):
        if settings[task.name].balanced and task.name in splits:
            found[number] = BalancedRows(np.asarray(splits[task.name].with_format("numpy")["label"][:]))
    return found
