"""Cut rows into steps by a budget of tokens: a step holds as many successive rows as fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..errors import Problem

CHUNK = 1 << 16  # the most rows that are cut at a time, unless one step may hold more
_FIRST = 1 << 8  # the rows that are cut at first


def cut(lengths: np.ndarray, rows: int, tokens: int) -> np.ndarray:
    """Cut successive rows into groups of as many rows as fit.

    Args:
        lengths: tokens of each row, shape `(n,)`.
        rows: the most rows of a group.
        tokens: the most tokens of a group; a longer row is a group of its own.

    Returns:
        The end of each group, ascending. A last group that further rows may join is left out.
    """
    sums = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    starts = np.arange(len(lengths))
    ends = np.searchsorted(sums, sums[:-1] + min(tokens, int(sums[-1])), side="right") - 1
    next_start = np.clip(ends, starts + 1, starts + rows).tolist()
    found, start = [], 0
    while start < len(lengths) and (next_start[start] < len(lengths) or next_start[start] == start + rows):
        start = next_start[start]
        found.append(start)
    return np.array(found, dtype=np.int64)


class TaskWalk:
    """The rows of one task in the order in which they are drawn, cut into its successive steps; cut as far as needed.

    Args:
        lengths: called with the number of a row in that order and a count n; returns the tokens of so many rows from
            there on, shape `(n,)`.
        rows: the most rows of a step.
        tokens: the most tokens of a step.
        period: a step also ends after each multiple of so many rows; 0: it does not.
    """

    def __init__(self, lengths: Callable[[int, int], np.ndarray], rows: int, tokens: int, period: int = 0):
        self._lengths, self.rows, self.tokens, self.period = lengths, rows, tokens, period
        self._ends = np.zeros(1, dtype=np.int64)  # before step number i come so many rows

    def sizes(self, first: int, steps: int) -> np.ndarray:
        """Return the rows of each of `steps` steps, from the one that begins with row number `first` on."""
        while self._ends[-1] < first:
            self._extend()
        place = int(np.searchsorted(self._ends, first))
        while len(self._ends) <= place + steps:
            self._extend()
        return np.diff(self._ends[place : place + steps + 1])

    def passing(self, rows: int) -> tuple[int, int]:
        """Return the number of the first steps that hold `rows` rows or more, and how many rows they hold."""
        while self._ends[-1] < rows:
            self._extend()
        steps = int(np.searchsorted(self._ends, rows))
        return steps, int(self._ends[steps])

    def _extend(self) -> None:
        first = int(self._ends[-1])
        last = first + max(self.rows, min(CHUNK, max(_FIRST, first)))  # so that at least one step is whole
        if self.period:
            last = min(last, (first // self.period + 1) * self.period)
        ends = first + cut(self._lengths(first, last - first), self.rows, self.tokens)
        if self.period and last % self.period == 0 and (not len(ends) or ends[-1] < last):
            ends = np.append(ends, last)
        self._ends = np.concatenate([self._ends, ends])


class TokenBudget:
    """The most tokens of a step, and the tokens of all rows.

    Args:
        tokens: the most tokens of a step, over all processes and micro-batches.
        lengths: for each pool, in the order of their ids, the tokens of each row, shape `(rows,)`.
        sources: source → its tasks, for messages.

    Attributes:
        walks, counted, walked: what plans with this budget have computed, for those that come after them.
    """

    def __init__(self, tokens: int, lengths: Sequence[np.ndarray], sources: Mapping[str, Sequence[str]] | None = None):
        self.tokens, self.lengths, self.sources = tokens, tuple(lengths), sources or {}
        self.means = np.array([row_lengths.mean() if len(row_lengths) else 0.0 for row_lengths in lengths])
        self.longest = [int(row_lengths.argmax()) if len(row_lengths) else None for row_lengths in lengths]
        self.walks: dict[tuple[int, ...], TaskWalk] = {}
        self.counted: dict[object, dict[int, np.ndarray]] = {}
        self.walked: dict[object, dict[int, np.ndarray]] = {}

    def shares(self, batches: np.ndarray) -> np.ndarray:
        """Divide the budget in proportion to the mean tokens of so many rows of each task; shape `(tasks,)`, ints."""
        weights = batches * self.means
        shares = self.tokens * (weights / max(weights.sum(), 1))
        return np.floor(shares + 1e-6).astype(np.int64)  # a whole share stays whole in spite of rounding

    def problems(self, names: Sequence[str], shares: np.ndarray) -> list[Problem]:
        """Return a `Problem` for each task with a row that is longer than the task's share of the budget."""
        problems = []
        for name, lengths, row, share in zip(names, self.lengths, self.longest, shares.tolist(), strict=True):
            if row is None or lengths[row] <= share:
                continue
            least = int(np.ceil(int(lengths[row]) * self.tokens / max(share, 1)))
            kind = "source" if name in self.sources else "task"
            part = "" if share == self.tokens else f", of which {share:,} are the {kind}'s in a simultaneous step"
            cut = " and ".join(f"tasks.{task}.max_length" for task in self.sources.get(name, [name]))
            problems.append(
                Problem(
                    ("training", "max_tokens_per_step"),
                    f"is {self.tokens:,}{part}, but row {row:,} (from 0) of the {kind} {name!r} has {lengths[row]:,} "
                    f"tokens; give {least:,} or more, or cut the {kind}'s texts with {cut}",
                )
            )
        return problems
