"""Groups of tasks that should share a model, from their affinities.

The network selection of Fifty et al., "Efficiently Identifying Task Groupings for Multi-Task Learning" (2021),
section 4: with at most K models, each task is answered by one of them, and the affinity onto the tasks from the others
of their groups shall be as high as possible. Found exactly, by dynamic programming over sets of tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_TASKS = 14  # 3^T steps: some seconds
_ROUNDING = 1e-12  # scores that differ by less are equal, so that rounding decides no choice


@dataclass(frozen=True)
class Group:
    """The tasks of one model.

    Attributes:
        tasks: indices of the tasks that it is trained on.
        serves: indices of those that it answers; the others only help, and are answered by another model.
    """

    tasks: tuple[int, ...]
    serves: tuple[int, ...]

    def named(self, names: Sequence[str]) -> dict[str, list[str]]:
        """`tasks` and `serves` by name."""
        return {key: [names[task] for task in getattr(self, key)] for key in ("tasks", "serves")}


def onto(affinity: np.ndarray, group: Sequence[int], task: int) -> float:
    """The affinity onto a task from its group: the mean of Z_ij over the other tasks i; 0 for a task alone."""
    others = [other for other in group if other != task]
    return float(np.mean(affinity[others, task])) if others else 0.0


def score(affinity: np.ndarray, groups: Sequence[Group]) -> float:
    """Mean over the tasks of the affinity onto each from the group that answers it."""
    values = [onto(affinity, group.tasks, task) for group in groups for task in group.serves]
    return float(np.sum(values)) / len(affinity)


def best_groups(affinity: np.ndarray, most: int) -> list[list[Group]]:
    """The best groups with at most 1, 2, …, `most` models, each a list of groups in the order of their first task.

    A task may help in a group that does not answer it. Of equally good choices it takes the one with fewer models, then
    with fewer helping tasks, then with the lowest task indices, so that the result depends on the numbers alone.

    Args:
        affinity: Z, `(T, T)`, finite off the diagonal, T ≤ `MOST_TASKS`; Z[i, j] is the affinity of i onto j.
        most: the largest number of models, 1 or more.
    """
    count = len(affinity)
    if count == 1:
        return [[Group((0,), (0,))] for _ in range(most)]
    values, trained = _served(np.nan_to_num(np.asarray(affinity, dtype=np.float64)))
    everything = (1 << count) - 1
    best = values.copy()  # with one model: every set of tasks
    choices: list[np.ndarray] = [np.arange(1 << count)]  # number of models → set of tasks → the first model's part
    found = [[everything]]
    scores = [best[everything]]
    for _ in range(1, most):
        best, choice = _one_more(values, best)
        choices.append(choice)
        parts = _parts(choices, everything)
        better = best[everything] > scores[-1] + _ROUNDING
        found.append(parts if better else found[-1])
        scores.append(best[everything] if better else scores[-1])
    return [[Group(_members(int(trained[part])), _members(part)) for part in parts] for parts in found]


def _served(affinity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each set S of tasks: the highest affinity onto S from one group G that holds S, and that G; `(2^T,)` each."""
    count = len(affinity)
    values, trained = np.full(1 << count, -np.inf), np.zeros(1 << count, dtype=np.int64)
    by_size = sorted(range(1, 1 << count), key=lambda group: (group.bit_count(), group))
    for group in by_size:  # smaller groups first: an equal score later does not replace them
        members = _members(group)
        gains = [onto(affinity, members, task) for task in members]
        subsets, sums = np.zeros(1, dtype=np.int64), np.zeros(1)
        for task, gain in zip(members, gains, strict=True):
            subsets, sums = np.concatenate([subsets, subsets | 1 << task]), np.concatenate([sums, sums + gain])
        better = sums > values[subsets] + _ROUNDING
        values[subsets[better]], trained[subsets[better]] = sums[better], group
    values[0] = -np.inf
    return values, trained


def _one_more(values: np.ndarray, best: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best scores of every set with one model more, and the part of the first of them, `(2^T,)` each.

    Args:
        values: each set's score with one model.
        best: each set's score with the models so far.
    """
    better, choice = best.copy(), np.zeros(len(best), dtype=np.int64)  # 0: no model more
    for tasks in range(1, len(best)):
        lowest = tasks & -tasks
        rest = _subsets(tasks ^ lowest)
        parts = rest[rest != tasks ^ lowest] | lowest  # the model with the lowest task; others have the rest
        if not len(parts):
            continue
        sums = values[parts] + best[tasks ^ parts]
        place = int(np.flatnonzero(sums >= sums.max() - _ROUNDING)[0])
        if sums[place] > better[tasks] + _ROUNDING:
            better[tasks], choice[tasks] = sums[place], parts[place]
    return better, choice


def _parts(choices: Sequence[np.ndarray], tasks: int) -> list[int]:
    """The parts into which the choices divide a set, by its lowest task."""
    level, parts = len(choices) - 1, []
    while level > 0:
        part = int(choices[level][tasks])
        level -= 1
        if part:
            parts.append(part)
            tasks ^= part
    return [*parts, tasks]


def _subsets(tasks: int) -> np.ndarray:
    """All subsets of a set, the empty one too, in ascending order."""
    subsets = np.zeros(1, dtype=np.int64)
    for task in _members(tasks):
        subsets = np.concatenate([subsets, subsets | 1 << task])
    return subsets


def _members(tasks: int) -> tuple[int, ...]:
    return tuple(task for task in range(tasks.bit_length()) if tasks >> task & 1)


def judge_groups(measured: np.ndarray, most: int) -> dict[str, Any]:
    """Whether groups beat one model of all tasks, as far as the measurements tell.

    Groups are chosen on every second measurement and compared with one model on the others, and the other way round,
    so that no measurement judges a choice that it made.

    Args:
        measured: Z of each measurement, `(measurements, T, T)`.
        most: the largest number of models.

    Returns:
        `difference` of the scores with its 95 % interval, `low` and `high` (None with fewer than four measurements),
        and `verdict`: `groups`, `one model` or `undecided`.
    """
    count = measured.shape[1]
    if len(measured) < 4:
        return {"difference": None, "low": None, "high": None, "verdict": "undecided"}
    one = [Group(tuple(range(count)), tuple(range(count)))]
    differences = np.zeros(len(measured))
    for half in (0, 1):
        chosen = best_groups(measured[half::2].mean(axis=0), most)[-1]
        for number in range(1 - half, len(measured), 2):
            differences[number] = score(measured[number], chosen) - score(measured[number], one)
    return interval(differences) | {"verdict": _verdict(differences)}


def interval(values: np.ndarray, resamples: int = 2000, seed: int = 0) -> dict[str, float]:
    """The mean of values (`difference`) with its 95 % interval (`low`, `high`), by a bootstrap over them."""
    drawn = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return {"difference": float(values.mean()), "low": float(low), "high": float(high)}


def _verdict(differences: np.ndarray) -> str:
    found: Mapping[str, float] = interval(differences)
    if found["low"] > 0:
        return "groups"
    return "one model" if found["high"] < 0 else "undecided"
