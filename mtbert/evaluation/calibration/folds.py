"""Folds of calibration rows: stratified by label, seeded, and with equal texts in the same fold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...modeling.task_spec import TaskSpec

STRATA = 10  # of a regression's scores


def text_groups(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """A number for each row, the same for rows with the same text, `(rows,)`.

    Letter case, white space and the order of a pair's texts are ignored.
    """
    numbers: dict[tuple[str, ...], int] = {}
    keys = (tuple(sorted(" ".join(text.split()).casefold() for text in row)) for row in texts)
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def strata(task: TaskSpec, labels: np.ndarray) -> np.ndarray:
    """The stratum of each row, `(rows,)`: its class, tenth of the scores, or rarest label of a multi-label task."""
    if task.kind.numeric:
        edges = np.quantile(labels, np.linspace(0, 1, STRATA + 1)[1:-1])
        return np.searchsorted(edges, labels)
    if not task.kind.several:
        return labels
    bears = labels == 1
    rarity = np.where(bears, bears.sum(axis=0), np.inf)
    return np.where(bears.any(axis=1), rarity.argmin(axis=1), -1)


def make_folds(strata: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each row, from 0, `(rows,)`.

    The groups are shuffled, ordered by the stratum of their first row, and dealt to the folds in turn.
    """
    _, first, group_of_row = np.unique(groups, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(first))
    dealt = shuffled[np.argsort(strata[first[shuffled]], kind="stable")]
    fold_of_group = np.empty(len(first), dtype=np.int64)
    fold_of_group[dealt] = np.arange(len(first)) % folds
    return fold_of_group[group_of_row]
