"""Cut dev and test splits from training rows by hashes of their texts (`dev: 10%`).

Within each label the rows with the smallest hashes are cut off, so that the split does not depend on the order of the
rows, and a row that is added or removed moves few others. Rows that share a text are a group and stay together.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from datasets import Dataset

from ..modeling.problem_types import IGNORED
from ..modeling.task_spec import TaskSpec
from .collation import label_array
from .text_groups import joined

BINS = 10  # of the scores of a regression: tenths of the rows
COLUMNS = ("text", "text_pair")
NONE_OF_THEM = "none of the labels"


def cut(
    texts: Sequence[Sequence[str]], strata: Sequence[int] | np.ndarray, shares: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """Choose the rows of each split that is cut off.

    Groups of rows that are connected by equal texts are taken in the order of their smallest hash. A group is taken if
    it fits: in no stratum are then more rows taken than `round(share · rows)`, and each stratum keeps a row.

    Args:
        texts: the columns of texts, each `(rows,)`; two for pairs.
        strata: number of the stratum of each row, such as its label, `(rows,)`.
        shares: split → share of the rows, in the order in which the splits are cut.

    Returns:
        Split → positions of its rows, ascending. No row is in two splits.
    """
    strata = np.asarray(strata, dtype=np.int64)
    of_rows = strata.tolist()
    group, first_hash = _groups(texts)
    order = sorted(range(len(first_hash)), key=first_hash.__getitem__)
    members: list[list[int]] = [[] for _ in first_hash]
    for row, number in enumerate(group.tolist()):
        members[number].append(row)
    counts = np.bincount(strata, minlength=int(strata.max(initial=-1)) + 1)
    free = counts - 1  # rows that may be cut off
    taken = np.zeros(len(first_hash), dtype=bool)
    parts = {}
    for split, share in shares.items():
        left = np.minimum(np.floor(share * counts + 0.5).astype(np.int64), free)
        rows: list[int] = []
        for number in order:
            if not left.any():
                break
            if taken[number]:
                continue
            own = Counter(of_rows[row] for row in members[number])
            if all(count <= left[stratum] for stratum, count in own.items()):
                for stratum, count in own.items():
                    left[stratum] -= count
                    free[stratum] -= count
                taken[number] = True
                rows += members[number]
        parts[split] = np.sort(np.array(rows, dtype=np.int64))
    return parts


def _groups(texts: Sequence[Sequence[str]]) -> tuple[np.ndarray, list[bytes]]:
    """Return the number of each row's group, `(rows,)`, and the smallest hash of a text of each group."""
    numbers = {text: i for i, text in enumerate(dict.fromkeys(text for column in texts for text in column))}
    of_rows = np.array([[numbers[text] for text in column] for column in texts], dtype=np.int64).T
    of_text = joined(of_rows, len(numbers))
    smallest: list[bytes] = [b"\xff" * 17] * (int(of_text.max(initial=-1)) + 1)
    for text, number in numbers.items():
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        smallest[of_text[number]] = min(smallest[of_text[number]], digest)
    return of_text[of_rows[:, 0]], smallest


def strata_of(task: TaskSpec, labels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return the stratum of each row, `(rows,)`, and the names of the strata.

    A stratum is a class; of a regression a tenth of the rows by score, equal scores together; a row of a multi-label
    task is in that of its rarest label, or of none, and a row with labels of words in that of its rarest tag.

    Args:
        labels: checked labels, `(rows,)`; of a task with several labels a row 0, 1 and nan, `(rows, labels)`.
    """
    if task.kind.numeric:
        edges = np.unique(np.quantile(labels, np.linspace(0, 1, BINS + 1)[1:-1])) if len(labels) else np.zeros(0)
        numbers = np.searchsorted(edges, labels, side="right")
        return numbers, [f"scores of tenth {i + 1}" for i in range(len(edges) + 1)]
    if not task.kind.lists_labels:
        return labels.astype(np.int64), list(task.classes)
    given = np.nan_to_num(labels) == 1
    totals = given.sum(axis=0)
    ranked = np.argsort(totals, kind="stable")  # the rarest first
    numbers = np.where(given.any(axis=1), ranked[given[:, ranked].argmax(axis=1)], len(task.classes))
    return numbers, [*task.classes, NONE_OF_THEM]


def cut_rows(tasks: Sequence[TaskSpec], rows: Sequence[Dataset], shares: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Cut splits from checked training rows.

    Args:
        tasks: the task of the rows, or those of a source.
        rows: the rows of each task; row number i is the same text for all tasks, and may lack the labels of some.

    Returns:
        Split → positions of its rows.
    """
    strata = [_labelled_strata(task, labels)[0] for task, labels in zip(tasks, rows, strict=True)]
    plain = rows[0].with_format(None)
    texts = [plain[column][:] for column in COLUMNS if column in rows[0].column_names]
    return cut(texts, strata[0] if len(strata) == 1 else rarest(strata), shares)


def rarest(strata: Sequence[np.ndarray]) -> np.ndarray:
    """Return one stratum for each row of a source: of its strata, those of its labels, the one with the fewest rows.

    Args:
        strata: for each task, the number of the stratum of each row, `(rows,)`; -1: no label.
    """
    first, chosen, fewest = 0, np.zeros(len(strata[0]), dtype=np.int64), np.full(len(strata[0]), np.inf)
    for numbers in strata:
        counts = np.bincount(numbers[numbers >= 0], minlength=1)
        rows = np.where(numbers >= 0, counts[numbers], np.inf)
        chosen = np.where(rows < fewest, first + numbers, chosen)
        fewest = np.minimum(fewest, rows)
        first += len(counts)
    return chosen


def scarce_labels(task: TaskSpec, rows: Dataset, parts: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return the labels (names of strata) of which a split that was cut has none → their number of rows in all."""
    strata, names = _labelled_strata(task, rows)
    counts = np.bincount(strata[strata >= 0], minlength=len(names))
    return {
        name: int(counts[i])
        for i, name in enumerate(names)
        if counts[i] and any(not (strata[part] == i).any() for part in parts.values())
    }


def _marks(labels: np.ndarray, count: int) -> np.ndarray:
    """Whether a part of a row has each label, `(rows, count)`; nan for rows without a label.

    Args:
        labels: class ids of the parts, `(rows, most parts)`, -100 where there is none.
    """
    marks = (labels[:, :, None] == np.arange(count)).any(axis=1).astype(np.float64)
    marks[~marks.any(axis=1)] = np.nan
    return marks


def _labelled_strata(task: TaskSpec, rows: Dataset) -> tuple[np.ndarray, list[str]]:
    """Return `strata_of` checked rows; the stratum of a row without a label is -1."""
    labels = label_array(rows).astype(np.float64)
    labels = _marks(labels, len(task.classes)) if task.kind.units.column else labels
    missing = np.isnan(labels) | (not task.kind.numeric and labels == IGNORED)
    known = ~missing.reshape(len(labels), -1).all(axis=1)
    strata = np.full(len(labels), -1, dtype=np.int64)
    strata[known], names = strata_of(task, labels[known])
    return strata, names
