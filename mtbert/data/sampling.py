"""Which rows a step holds: schedules as pure functions of (seed, epoch, step), and the sampler that follows them.

A *step* is one optimizer update. Nothing here keeps a list of a data set's rows: every task walks a pseudo-random
permutation of its rows that is computed where it is needed, and goes on in the next epoch where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from ..errors import InputError, Problem
from ..modeling.own_parts import put
from .balancing import BalancedRows
from .permutation import permute

SAMPLED = ("proportional", "sqrt", "annealed", "min_annealed", "uniform", "temperature")
SCHEDULES = (*SAMPLED, "round_robin", "sequential", "simultaneous")
_OWN: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {}
BLOCK = 512  # steps drawn at a time; part of what a seed means, so changing it changes every run


def register_schedule(name: str, probabilities: Callable[[np.ndarray, int, int], np.ndarray]) -> None:
    """Make a schedule of one's own known as `schedule.name: name`; it draws the task of a step.

    Args:
        probabilities: from the sizes N_t `(tasks,)`, the epoch 1…E and E to a number ≥ 0 for each task, `(tasks,)`, in
            proportion to which tasks are drawn. It has to be a function of these alone.

    Raises:
        InputError: if the name is taken.
    """
    put(_OWN, name, probabilities, "schedule", SCHEDULES)


def drawing() -> tuple[str, ...]:
    """The names of the schedules that draw the task of a step."""
    return (*SAMPLED, *_OWN)


@dataclass(frozen=True)
class Schedule:
    """How steps are shared out among tasks.

    Attributes:
        name: `proportional` (p_t ∝ N_t), `sqrt` (N_t^0.5), `annealed` (N_t^α with α = 1 − 0.8 (e − 1)/(E − 1) in epoch
            e of E; Stickland and Murray, 2019, section 3.2), `min_annealed` (α = min(0.5, 1 − 0.9 e/E)), `uniform`
            (α = 0) and `temperature` (α = 1/T) draw one task a step. `round_robin` takes one task a step in turn,
            `sequential` all of a task's share of an epoch before the next task's, `simultaneous` rows of every task.
        mixed: rows of several tasks in a step, their counts drawn with the same p_t; for schedules that draw.
        steps_per_epoch: length of an epoch; None: as many as it takes to pass as many rows as the data has.
        temperature: T of `temperature`, positive; 1 is proportional, large values approach uniform.
    """

    name: str = "annealed"
    mixed: bool = False
    steps_per_epoch: int | None = None
    temperature: float | None = None

    def problems(self) -> list[Problem]:
        """One problem for each value that is wrong."""
        found = []
        if self.name not in (*SCHEDULES, *_OWN):
            known = ", ".join((*SCHEDULES, *_OWN))
            found.append(Problem(("name",), f"is {self.name!r}, but must be one of: {known}"))
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            found.append(Problem(("steps_per_epoch",), f"is {self.steps_per_epoch}, but must be 1 or more"))
        if self.temperature is not None and self.temperature <= 0:
            found.append(Problem(("temperature",), f"is {self.temperature}, but must be positive"))
        return found

    def exponent(self, epoch: int, epochs: int) -> float:
        """α of epoch e = 1…E; for the schedules of mtbert that draw."""
        if self.name == "annealed":
            return 1.0 if epochs == 1 else 1 - 0.8 * (epoch - 1) / (epochs - 1)
        if self.name == "min_annealed":
            return min(0.5, 1 - 0.9 * epoch / epochs)
        if self.name == "temperature":
            return 1 / self.temperature
        return {"proportional": 1.0, "sqrt": 0.5, "uniform": 0.0}[self.name]

    @property
    def depends_on_epochs(self) -> bool:
        """Whether an epoch of a longer run differs from the same epoch of a shorter one."""
        return self.name in ("annealed", "min_annealed", *_OWN)

    def probabilities(self, sizes: Sequence[int], epoch: int, epochs: int) -> np.ndarray:
        """p_t ∝ N_t^α of epoch e = 1…E, `(tasks,)`; or what a registered schedule says."""
        if self.name in _OWN:
            return self._own_probabilities(np.asarray(sizes), epoch, epochs)
        weights = np.asarray(sizes, dtype=np.float64) ** self.exponent(epoch, epochs)
        return weights / weights.sum()

    def _own_probabilities(self, sizes: np.ndarray, epoch: int, epochs: int) -> np.ndarray:
        weights = np.asarray(_OWN[self.name](sizes, epoch, epochs), dtype=np.float64)
        if weights.shape != sizes.shape or not np.isfinite(weights).all() or weights.min() < 0 or not weights.sum():
            raise InputError(
                f"schedule {self.name!r} returned {weights.tolist()} in epoch {epoch}, but must return a number for "
                f"each of {len(sizes)} tasks, none negative, not all 0"
            )
        return weights / weights.sum()


@dataclass(frozen=True)
class Step:
    """One micro-batch: for each task in it, its id and rows `(n,)`; `filler`: its one row counts for nothing."""

    parts: tuple[tuple[int, np.ndarray], ...]
    filler: bool = False

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self.parts)


@dataclass(frozen=True)
class Plan:
    """What every step of a run holds, computed where it is asked for.

    Attributes:
        schedule: the schedule.
        names: tasks, in the order of their ids.
        rows: rows of each task's training data.
        batch: rows a step, over all micro-batches and processes.
        epochs: E, the epochs that the schedule spreads over; the last one may be cut short.
        seed: names the run; (seed, epoch, step) names a step.
        batches: rows a step for each task, where they differ from `batch`.
        sizes: N_t, the rows that an epoch counts for each task, where they differ from `rows`.
        balanced: task id → its rows by class, where a task's walk has every class equally often.
        steps: optimizer steps of the run; None: `epochs` whole epochs.
    """

    schedule: Schedule
    names: tuple[str, ...]
    rows: tuple[int, ...]
    batch: int
    epochs: int
    seed: int = 0
    batches: tuple[int | None, ...] | None = None
    sizes: tuple[int | None, ...] | None = None
    balanced: Mapping[int, BalancedRows] = field(default_factory=dict, compare=False)
    steps: int | None = None

    def lasting(self, epochs: float, max_steps: int = -1) -> Plan:
        """This plan for a run of `epochs`, which may end within one, or of `max_steps` steps where that is positive."""
        steps = max_steps if max_steps > 0 else math.ceil(epochs * self.steps_per_epoch)
        return replace(self, epochs=-(-steps // self.steps_per_epoch), steps=steps)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.epochs * self.steps_per_epoch if self.steps is None else self.steps

    @cached_property
    def task_batches(self) -> np.ndarray:
        """Rows a step for each task, `(tasks,)`."""
        given = self.batches or [None] * len(self.names)
        return np.array([own or self.batch for own in given], dtype=np.int64)

    @cached_property
    def task_sizes(self) -> np.ndarray:
        """N_t, `(tasks,)`."""
        given = self.sizes or [None] * len(self.names)
        return np.array([own or rows for own, rows in zip(given, self.rows, strict=True)], dtype=np.int64)

    @cached_property
    def steps_per_epoch(self) -> int:
        """The schedule's own, or as many steps as pass Σ N_t rows."""
        if self.schedule.steps_per_epoch is not None:
            return self.schedule.steps_per_epoch
        if self.schedule.name == "sequential":
            return int(np.ceil(self.task_sizes / self.task_batches).sum())
        if self.schedule.name == "simultaneous":
            return int(np.ceil(self.task_sizes.sum() / self.task_batches.sum()))
        return int(np.ceil((self.task_sizes / self.task_batches).sum()))

    def probabilities(self, epoch: int) -> np.ndarray | None:
        """p_t in epoch 0…E − 1; None for schedules that do not draw."""
        if self.schedule.name not in drawing():
            return None
        return self.schedule.probabilities(self.task_sizes, min(epoch + 1, self.epochs), self.epochs)

    def _sequential_steps(self) -> np.ndarray:
        """Steps of an epoch for each task; a given epoch length is shared out in proportion (largest remainders)."""
        share = self.task_sizes / self.task_batches
        if self.schedule.steps_per_epoch is None:
            return np.ceil(share).astype(np.int64)
        exact = share / share.sum() * self.steps_per_epoch
        steps = np.floor(exact).astype(np.int64)
        steps[np.argsort(steps - exact, kind="stable")[: self.steps_per_epoch - steps.sum()]] += 1
        return steps

    def counts(self, epoch: int, block: int) -> np.ndarray:
        """Rows of each task in each step of a block of an epoch, `(steps, tasks)`."""
        first, last = block * BLOCK, min((block + 1) * BLOCK, self.steps_per_epoch)
        steps, tasks = np.arange(first, last), len(self.names)
        if self.schedule.name == "simultaneous":
            return np.tile(self.task_batches, (len(steps), 1))
        if self.schedule.name in drawing():
            random = np.random.default_rng([self.seed, epoch, block])
            if self.schedule.mixed:
                return random.multinomial(self.batch, self.probabilities(epoch), size=len(steps))
            task = random.choice(tasks, size=len(steps), p=self.probabilities(epoch))
        elif self.schedule.name == "round_robin":
            task = (epoch * self.steps_per_epoch + steps) % tasks
        else:
            task = np.repeat(np.arange(tasks), self._sequential_steps())[first:last]
        counts = np.zeros((len(steps), tasks), dtype=np.int64)
        counts[np.arange(len(steps)), task] = self.task_batches[task]
        if self.schedule.name == "sequential" and self.schedule.steps_per_epoch is None:
            ends = np.cumsum(self._sequential_steps()) - 1  # a task's last step holds what is left of it
            left = self.task_sizes - (self._sequential_steps() - 1) * self.task_batches
            for end, own, rows in zip(ends, range(tasks), left, strict=True):
                if first <= end < last:
                    counts[end - first, own] = rows
        return counts

    @property
    def blocks(self) -> int:
        """Blocks of an epoch."""
        return -(-self.steps_per_epoch // BLOCK)

    def epoch_rows(self, epoch: int) -> np.ndarray:
        """Rows of each task that an epoch of the run passes, `(tasks,)`."""
        steps = self.steps_per_epoch
        if self.steps is not None:
            steps = min(max(self.steps - epoch * steps, 0), steps)
        rows = np.zeros(len(self.names), dtype=np.int64)
        for block in range(-(-steps // BLOCK)):
            rows += self.counts(epoch, block)[: steps - block * BLOCK].sum(0)
        return rows

    def total_rows(self) -> np.ndarray:
        """Rows of each task that the run passes, `(tasks,)`."""
        return sum((self.epoch_rows(epoch) for epoch in range(self.epochs)), np.zeros(len(self.names), np.int64))

    def take(self, task: int, first: int, count: int) -> np.ndarray:
        """Rows number first…first + count − 1 of a task's walk: one permutation of its rows after the other."""
        positions = first + np.arange(count)
        if task in self.balanced:
            return self.balanced[task].take(positions, (self.seed, task))
        passes, places = np.divmod(positions, self.rows[task])
        taken = np.empty(count, dtype=np.int64)
        for number in np.unique(passes):
            own = passes == number
            taken[own] = permute(places[own], self.rows[task], (self.seed, task, number))
        return taken

    def taken(self, task: int) -> np.ndarray:
        """The rows of a task that some step of the run holds, in ascending order."""
        return np.sort(self.take(task, 0, min(int(self.total_rows()[task]), self.rows[task])))

    def describe(self) -> list[dict[str, object]]:
        """One row a task: what a user wants to know before training begins.

        `batch` is the number of the task's rows in a step that holds it; in mixed steps their mean over all steps.
        """
        total, table = self.total_rows(), []
        for task, name in enumerate(self.names):
            p = [self.probabilities(epoch) for epoch in sorted({0, self.epochs - 1})]
            table.append(
                {
                    "task": name,
                    "rows": self.rows[task],
                    "batch": total[task] / max(self.total_steps, 1) if self.schedule.mixed else self.task_batches[task],
                    "examples": int(total[task]),
                    "passes": float(total[task] / self.rows[task]),
                    "probability": None if p[0] is None else [float(each[task]) for each in p],
                }
            )
        return table


class StepSampler(Sampler[Step]):
    """Yields one process's micro-batches, step by step; a batch sampler for `torch.utils.data.DataLoader`.

    A step's rows, grouped by task, are dealt out in turn to `accumulation` micro-batches of `processes` processes, so
    that one process and many see the same steps, and every share holds about as many rows of each task.

    Args:
        plan: the run's plan.
        accumulation: micro-batches of a step on each process.
        processes: number of processes.
        process: this one, from 0.
    """

    drop_last = False

    def __init__(self, plan: Plan, accumulation: int = 1, processes: int = 1, process: int = 0):
        self.plan, self.accumulation, self.processes, self.process = plan, accumulation, processes, process
        self.batch_size = plan.batch
        self.epoch = 0
        self._walked = {0: np.zeros(len(plan.names), dtype=np.int64)}

    @classmethod
    def of(cls, plan: Plan, args: Any) -> StepSampler:
        """The sampler of this process, from training arguments."""
        return cls(plan, args.gradient_accumulation_steps, args.world_size, args.process_index)

    def __len__(self) -> int:
        return self.plan.steps_per_epoch * self.accumulation

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, that the next iteration yields."""
        self.epoch = epoch

    def _walked_before(self, epoch: int) -> np.ndarray:
        """Rows of each task that the epochs before this one have passed."""
        for before in range(max(self._walked), epoch):
            self._walked[before + 1] = self._walked[before] + self.plan.epoch_rows(before)
        return self._walked[epoch]

    def __iter__(self) -> Iterator[Step]:
        walked = self._walked_before(self.epoch).copy()
        for block in range(self.plan.blocks):
            counts = self.plan.counts(self.epoch, block)
            rows = [self.plan.take(task, walked[task], total) for task, total in enumerate(counts.sum(0))]
            used = np.zeros(len(walked), dtype=np.int64)
            for step in counts:
                parts = [(task, rows[task][used[task] : used[task] + step[task]]) for task in np.flatnonzero(step)]
                used += step
                yield from self._share(parts)
            walked += used

    def _share(self, parts: list[tuple[int, np.ndarray]]) -> Iterator[Step]:
        shares = self.accumulation * self.processes
        for micro in range(self.accumulation):
            turn, own, first = micro * self.processes + self.process, [], 0
            for task, rows in parts:
                mine = rows[(turn - first) % shares :: shares]
                if len(mine):
                    own.append((int(task), mine))
                first += len(rows)
            # fewer rows than shares: this share computes one row that is not counted, so that processes keep step
            yield Step(tuple(own)) if own else Step(((int(parts[0][0]), parts[0][1][:1]),), filler=True)
