"""The plan of a run whose steps are bounded by tokens: a pure function of (seed, epoch, step) and the rows' lengths.

The tasks of a step are drawn as without a budget. Each task's rows, in the order in which they are drawn, are cut into
steps; a step that holds the task takes the next of them. Mixed steps cut the rows of all tasks in the order in which
they are drawn. So the rows that did not fit a step begin the next one, and none is passed over.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from ..errors import refuse
from .permutation import mix
from .plan_table import counts_from
from .sampling import BLOCK, Plan, drawing
from .token_budget import TaskWalk, TokenBudget, cut

_PIECE = 1 << 14  # rows of mixed steps that are drawn at a time
_ORDER = 0x70  # separates the random order of a mixed step's rows from other random numbers


@dataclass(frozen=True)
class TokenPlan(Plan):
    """A plan whose steps hold at most so many tokens, and at most as many rows as without a budget.

    A step holds at least one row. With the schedule `simultaneous`, the budget is shared among the tasks in proportion
    to the mean tokens of their batches.

    Every epoch has `steps_per_epoch` steps: by default as many as are needed to draw as many rows as without a budget,
    in the order of the first epoch. So the rows of an epoch vary a little with their order. Where a step holds one
    task, p_t is the probability of a step, so that tasks with longer texts have fewer rows.

    Attributes:
        budget: the most tokens of a step, and the tokens of all rows.

    Raises:
        InputError: a row has more tokens than a step may have; it names task, row and tokens.
    """

    budget: TokenBudget = field(kw_only=True)

    def __post_init__(self) -> None:
        refuse(self.budget.problems(self.names, self.task_tokens))

    @cached_property
    def task_tokens(self) -> np.ndarray:
        """The most tokens of each task in a step, shape `(tasks,)`."""
        if self.schedule.name == "simultaneous":
            return self.budget.shares(self.task_batches)
        return np.full(len(self.names), self.budget.tokens, dtype=np.int64)

    @cached_property
    def mean_batches(self) -> np.ndarray:
        """Mean rows of each task in the steps that hold it, shape `(tasks,)`; of mixed steps, those of all tasks."""
        steps, rows = self._first_pass
        return rows / steps

    @cached_property
    def task_steps(self) -> np.ndarray:
        """The steps in which each task's N_t rows pass; where one task is drawn a step, so that all rows are Σ N_t."""
        if self._mixes or self.schedule.name in ("sequential", "simultaneous"):
            steps, rows = self._first_pass
            return self.task_sizes * steps / rows
        p = self._first_probabilities if self.schedule.name in drawing() else np.ones(len(self.names))
        fewer_rows = (p * self.task_batches).sum() / (p * self.mean_batches).sum()
        return self.task_sizes / self.task_batches * fewer_rows

    @property
    def _first_probabilities(self) -> np.ndarray:
        """p_t of a run of one epoch, which does not depend on the length of this run."""
        return self.schedule.probabilities(self.task_sizes, 1, 1)

    @property
    def _mixes(self) -> bool:
        return self.schedule.mixed and self.schedule.name in drawing()

    @cached_property
    def _first_pass(self) -> tuple[np.ndarray, np.ndarray]:
        """The number of the first steps that hold N_t rows of a task or more, and their rows; `(tasks,)` each.

        Mixed steps are counted until they hold Σ N_t rows.
        """
        tasks, wanted = len(self.names), int(self.task_sizes.sum())
        if not self._mixes:
            passes = [self._walk(task, 0).passing(int(size)) for task, size in enumerate(self.task_sizes)]
            steps, rows = np.array(passes, dtype=np.int64).T
            return steps, rows
        ends = np.zeros(1, dtype=np.int64)
        for counts in self._mixed_steps(self._first_probabilities, 0, np.zeros(tasks, dtype=np.int64), 0):
            ends = np.concatenate([ends, ends[-1] + counts.sum(1).cumsum()])
            if ends[-1] >= wanted:
                break
        step = int(np.searchsorted(ends, wanted))
        return np.full(tasks, step), np.full(tasks, ends[step])

    # ---- the steps ----

    def counts(self, epoch: int, block: int) -> np.ndarray:
        """Return the number of rows of each task in each step of a block, shape `(steps, tasks)`."""
        place = epoch * self.blocks + block
        if place not in self._counted:
            walked = self._walked(epoch, block)
            counts = self._count(epoch, block, walked)
            self._counted[place], self._walked_at[place + 1] = counts.astype(np.int32), walked + counts.sum(0)
        return self._counted[place].astype(np.int64)

    def _count(self, epoch: int, block: int, walked: np.ndarray) -> np.ndarray:
        """The `counts` of a block that begins at these numbers of the tasks' rows."""
        steps, tasks = len(self.steps_of(block)), len(self.names)
        if self._mixes:
            drawn = int((walked - self._walked(epoch, 0)).sum())
            counts = np.zeros((0, tasks), dtype=np.int64)
            for further in self._mixed_steps(self.probabilities(epoch), epoch, walked, drawn):
                counts = np.concatenate([counts, further])[:steps]
                if len(counts) == steps:
                    return counts
        counts = np.zeros((steps, tasks), dtype=np.int64)
        is_in = np.ones((steps, tasks), dtype=bool)
        if self.schedule.name != "simultaneous":
            is_in = self.task_of_steps(epoch, block)[:, None] == np.arange(tasks)
        for task in range(tasks):
            walk = self._walk(task, epoch)
            counts[is_in[:, task], task] = walk.sizes(int(walked[task]), int(is_in[:, task].sum()))
        return counts

    def _walk(self, task: int, epoch: int) -> TaskWalk:
        """The steps of a task that are not mixed; with `schedule.resample`, each epoch has its own."""
        is_whole = self.schedule.name == "sequential" and self.schedule.steps_per_epoch is None
        period = int(self.task_sizes[task]) if is_whole else 0
        of_epoch = epoch if self.schedule.resample else -1
        rows, tokens = int(self.task_batches[task]), int(self.task_tokens[task])
        key = (self.seed, task, of_epoch, rows, tokens, period)
        if key not in self.budget.walks:
            self.budget.walks[key] = TaskWalk(partial(self._lengths, task, epoch), rows, tokens, period)
        return self.budget.walks[key]

    def _lengths(self, task: int, epoch: int, first: int, count: int) -> np.ndarray:
        """The tokens of rows number first…first + count − 1 in the order in which a task's rows are drawn."""
        return self.budget.lengths[task][self.take(task, first, count, epoch)]

    @cached_property
    def _counted(self) -> dict[int, np.ndarray]:
        """Number of a block, over all epochs → its counts."""
        return self.budget.counted.setdefault(replace(self, steps=None), {})

    @cached_property
    def _walked_at(self) -> dict[int, np.ndarray]:
        """Number of a block, over all epochs → the number of each task's row at which it begins."""
        return self.budget.walked.setdefault(replace(self, steps=None), {})

    def _walked(self, epoch: int, block: int) -> np.ndarray:
        """The number of each task's row at which a block begins, shape `(tasks,)`."""
        place = epoch * self.blocks + block
        start = epoch * self.blocks if self.schedule.resample else 0
        latest = place
        while latest > start and latest not in self._walked_at:
            latest -= 1
        for before in range(latest, place):
            self.counts(*divmod(before, self.blocks))  # notes where the next block begins
        return self._walked_at[place] if place > start else np.zeros(len(self.names), dtype=np.int64)

    # ---- mixed steps ----

    def _mixed_steps(self, probabilities: Any, epoch: int, walked: np.ndarray, drawn: int) -> Iterator[np.ndarray]:
        """The number of rows of each task in successive mixed steps without end, shape `(some, tasks)` at a time.

        Args:
            walked: number of each task's row at which the first of these steps begins, shape `(tasks,)`.
            drawn: how many rows the epoch has drawn before.
        """
        tasks, lengths, walked = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), walked.copy()
        for draws in self._draws(probabilities, epoch, drawn):
            drawn_lengths = np.empty(len(draws), dtype=np.int64)
            for task in np.unique(draws):
                places = np.flatnonzero(draws == task)
                drawn_lengths[places] = self._lengths(int(task), epoch, int(walked[task]), len(places))
                walked[task] += len(places)
            tasks, lengths = np.concatenate([tasks, draws]), np.concatenate([lengths, drawn_lengths])
            ends = np.concatenate([[0], cut(lengths, self.batch, self.budget.tokens)])
            steps, names = len(ends) - 1, len(self.names)
            cells = np.repeat(np.arange(steps), np.diff(ends)) * names + tasks[: ends[-1]]
            yield np.bincount(cells, minlength=steps * names).reshape(steps, names)
            tasks, lengths = tasks[ends[-1] :], lengths[ends[-1] :]

    def _draws(self, probabilities: Any, epoch: int, first: int) -> Iterator[np.ndarray]:
        """The task of each row that an epoch of mixed steps draws, from row number `first` on, some at a time.

        Each group of `batch` rows has as many rows of each task as a step without a budget, in a random order.
        """
        most = min(BLOCK, min(_PIECE, int(self.task_sizes.sum())) // self.batch)
        steps = 1 << (max(1, most).bit_length() - 1)  # divides BLOCK
        (key,) = np.random.SeedSequence([self.seed, epoch, _ORDER]).generate_state(1, np.uint64)
        tasks = np.tile(np.arange(len(self.names)), steps)
        for step in itertools.count(first // self.batch // steps * steps, steps):
            block, place = divmod(step, BLOCK)
            counts = self.mixture(probabilities, epoch, block, place + steps)[place:]
            numbers = (step * self.batch + np.arange(steps * self.batch)).astype(np.uint64).reshape(steps, self.batch)
            with np.errstate(over="ignore"):
                order = mix(numbers, int(key)).argsort(axis=1, kind="stable")
            in_order = np.repeat(tasks, counts.ravel()).reshape(steps, self.batch)
            yield np.take_along_axis(in_order, order, axis=1).ravel()[max(0, first - step * self.batch) :]

    # ---- the plan, printed ----

    def describe(self, first: int = 0) -> list[dict[str, object]]:
        """Return the dicts of `Plan.describe`; `batch` is a mean, and `fewest` and `most` are of the same steps."""
        table, tasks, no_step = super().describe(first), len(self.names), np.iinfo(np.int64).max
        steps, most = np.zeros(tasks, dtype=np.int64), np.zeros(tasks, dtype=np.int64)
        fewest = np.full(tasks, no_step)
        for counts in counts_from(self, first):
            is_in = (counts > 0) | self._mixes
            steps += is_in.sum(0)
            most = np.maximum(most, counts.max(0, initial=0))
            fewest = np.minimum(fewest, np.where(is_in, counts, no_step).min(0, initial=no_step))
        for task, row in enumerate(table):
            examples: Any = row["examples"]
            row["batch"] = examples / max(int(steps[task]), 1)
            row["fewest"], row["most"] = int(min(fewest[task], most[task])), int(most[task])
        return table
