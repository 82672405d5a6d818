"""Choose the rows of each step: schedules as pure functions of (seed, epoch, step), and the sampler that follows them.

A *step* is one optimizer update. A task's rows are drawn in the order of a pseudo-random permutation, then of another
one, and so on. An epoch goes on where the one before it stopped. Permutations are computed position by position, so
that no list of a data set's rows is kept.
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
from .plan_table import plan_table
from .pools import SOURCE, TASK

SAMPLED = ("proportional", "sqrt", "annealed", "min_annealed", "uniform", "temperature")
SCHEDULES = (*SAMPLED, "round_robin", "sequential", "simultaneous")
_OWN: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {}
_SAMPLE = 0xF5  # separates the random numbers of `resample` from those of a task's passes
BLOCK = 512  # steps drawn at a time with one random generator; changing it changes every run


def register_schedule(name: str, probabilities: Callable[[np.ndarray, int, int], np.ndarray]) -> None:
    """Register a schedule that draws the task of each step, for use as `schedule.name: name`.

    Args:
        name: the schedule's name.
        probabilities: called with the sizes N_t, shape `(tasks,)`, the epoch 1…E and E; returns a number ≥ 0 for each
            task, shape `(tasks,)`. Tasks are drawn in proportion to these numbers. The result may depend on the
            arguments only.

    Raises:
        InputError: the name is taken.
    """
    put(_OWN, name, probabilities, "schedule", SCHEDULES)


def drawing() -> tuple[str, ...]:
    """Return the names of the schedules that draw the task of a step at random."""
    return (*SAMPLED, *_OWN)


@dataclass(frozen=True)
class Schedule:
    """How steps are distributed over tasks.

    Attributes:
        name: `proportional` (p_t ∝ N_t), `sqrt` (N_t^0.5), `annealed` (N_t^α with α = 1 − 0.8 (e − 1)/(E − 1) in epoch
            e of E; Stickland and Murray, 2019, section 3.2), `min_annealed` (α = min(0.5, 1 − 0.9 e/E)), `uniform`
            (α = 0) and `temperature` (α = 1/T) draw one task per step. `round_robin` takes the tasks in turn, one per
            step; `sequential` takes all steps of a task in an epoch before those of the next task; `simultaneous` puts
            rows of every task into each step.
        mixed: whether a step holds rows of several tasks, whose counts are drawn with the same p_t; only for schedules
            that draw.
        steps_per_epoch: steps of an epoch; None: as many as are needed to draw Σ N_t rows.
        temperature: T of `temperature`, positive; 1 is proportional, large values approach uniform.
        resample: whether each epoch draws a fresh random sample of each task's rows (report D); otherwise it goes on in
            the task's permutation where the last epoch stopped, so that every row comes before any comes again.
        draw: `source`: the tasks that name a source are drawn together, as one set of texts with all their labels;
            `task`: each task is drawn by itself, as without sources.
    """

    name: str = "annealed"
    mixed: bool = False
    steps_per_epoch: int | None = None
    temperature: float | None = None
    resample: bool = False
    draw: str = SOURCE

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid value."""
        problems = []
        if self.name not in (*SCHEDULES, *_OWN):
            names = ", ".join((*SCHEDULES, *_OWN))
            problems.append(Problem(("name",), f"is {self.name!r}, but must be one of: {names}"))
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            problems.append(Problem(("steps_per_epoch",), f"is {self.steps_per_epoch}, but must be 1 or more"))
        if self.draw not in (SOURCE, TASK):
            problems.append(Problem(("draw",), f"is {self.draw!r}, but must be {SOURCE} or {TASK}"))
        if self.temperature is not None and self.temperature <= 0:
            problems.append(Problem(("temperature",), f"is {self.temperature}, but must be positive"))
        return problems

    def exponent(self, epoch: int, epochs: int) -> float:
        """Return α of epoch e = 1…E for mtbert's schedules that draw."""
        if self.name == "annealed":
            return 1.0 if epochs == 1 else 1 - 0.8 * (epoch - 1) / (epochs - 1)
        if self.name == "min_annealed":
            return min(0.5, 1 - 0.9 * epoch / epochs)
        if self.name == "temperature":
            temperature: Any = self.temperature
            return 1 / temperature
        return {"proportional": 1.0, "sqrt": 0.5, "uniform": 0.0}[self.name]

    @property
    def depends_on_epochs(self) -> bool:
        """Whether an epoch of a longer run differs from the same epoch of a shorter one."""
        return self.name in ("annealed", "min_annealed", *_OWN)

    def probabilities(self, sizes: Sequence[int] | np.ndarray, epoch: int, epochs: int) -> np.ndarray:
        """Return p_t in epoch e = 1…E, shape `(tasks,)`: ∝ N_t^α, or the probabilities of a registered schedule."""
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
    """One micro-batch: (task id, rows of shape `(n,)`) for each of its tasks.

    A `filler` has one row, which does not enter the loss; it keeps processes in step with each other.
    """

    parts: tuple[tuple[int, np.ndarray], ...]
    filler: bool = False

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self.parts)


@dataclass(frozen=True)
class Plan:
    """The rows of every step of a run, computed on demand.

    Attributes:
        schedule: the schedule.
        names: names of the tasks, in the order of their ids.
        rows: number of training rows of each task.
        batch: rows per step, over all micro-batches and processes.
        epochs: E, the number of epochs of the schedule; the last one may be cut short.
        seed: seed of the run; the rows of a step are a function of (seed, epoch, step).
        batches: rows per step of each task; None: `batch`.
        sizes: N_t, the rows of each task that count in an epoch; None: `rows`.
        balanced: task id → its class-balanced rows, for the tasks that are sampled so.
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
        """Return this plan with the length of a run: `max_steps` steps if positive, else `epochs`, whole or not."""
        steps = max_steps if max_steps > 0 else math.ceil(epochs * self.steps_per_epoch)
        return replace(self, epochs=-(-steps // self.steps_per_epoch), steps=steps)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.epochs * self.steps_per_epoch if self.steps is None else self.steps

    @cached_property
    def task_batches(self) -> np.ndarray:
        """Rows per step of each task, shape `(tasks,)`."""
        batches = self.batches or [None] * len(self.names)
        return np.array([batch or self.batch for batch in batches], dtype=np.int64)

    @cached_property
    def task_sizes(self) -> np.ndarray:
        """N_t, shape `(tasks,)`."""
        sizes = self.sizes or [None] * len(self.names)
        return np.array([size or rows for size, rows in zip(sizes, self.rows, strict=True)], dtype=np.int64)

    @cached_property
    def mean_batches(self) -> np.ndarray:
        """Mean rows of each task in the steps that hold it, shape `(tasks,)`."""
        return self.task_batches

    @cached_property
    def task_steps(self) -> np.ndarray:
        """The steps in which each task's N_t rows pass, whole or not, shape `(tasks,)`."""
        return self.task_sizes / self.task_batches

    @cached_property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch: those of the schedule, or as many as are needed to draw Σ N_t rows."""
        if self.schedule.steps_per_epoch is not None:
            return self.schedule.steps_per_epoch
        if self.schedule.name == "sequential":
            return int(np.ceil(self.task_steps).sum())
        if self.schedule.name == "simultaneous":
            return int(np.ceil(self.task_sizes.sum() / self.mean_batches.sum()))
        return int(np.ceil(self.task_steps.sum()))

    def probabilities(self, epoch: int) -> np.ndarray | None:
        """Return p_t in epoch 0…E − 1, shape `(tasks,)`; None for schedules that do not draw."""
        if self.schedule.name not in drawing():
            return None
        return self.schedule.probabilities(self.task_sizes, min(epoch + 1, self.epochs), self.epochs)

    def _sequential_steps(self) -> np.ndarray:
        """Return each task's steps in an epoch; an epoch of fixed length is divided by largest remainders."""
        if self.schedule.steps_per_epoch is None:
            return np.ceil(self.task_steps).astype(np.int64)
        exact = self.task_steps / self.task_steps.sum() * self.steps_per_epoch
        steps = np.floor(exact).astype(np.int64)
        steps[np.argsort(steps - exact, kind="stable")[: self.steps_per_epoch - steps.sum()]] += 1
        return steps

    def steps_of(self, block: int) -> np.ndarray:
        """Return the numbers of a block's steps in their epoch, from 0."""
        return np.arange(block * BLOCK, min((block + 1) * BLOCK, self.steps_per_epoch))

    def task_of_steps(self, epoch: int, block: int) -> np.ndarray:
        """Return the task of each step of a block, shape `(steps,)`, for schedules with one task a step."""
        steps, tasks = self.steps_of(block), len(self.names)
        if self.schedule.name in drawing():
            random = np.random.default_rng([self.seed, epoch, block])
            return random.choice(tasks, size=len(steps), p=self.probabilities(epoch))
        if self.schedule.name == "round_robin":
            return (epoch * self.steps_per_epoch + steps) % tasks
        return np.repeat(np.arange(tasks), self._sequential_steps())[steps]

    def mixture(self, probabilities: Any, epoch: int, block: int, steps: int) -> np.ndarray:
        """Return the number of rows of each task in the first mixed steps of a block, shape `(steps, tasks)`."""
        random = np.random.default_rng([self.seed, epoch, block])
        return random.multinomial(self.batch, probabilities, size=steps)

    def counts(self, epoch: int, block: int) -> np.ndarray:
        """Return the number of rows of each task in each step of a block, shape `(steps, tasks)`."""
        steps, tasks = self.steps_of(block), len(self.names)
        if self.schedule.name == "simultaneous":
            return np.tile(self.task_batches, (len(steps), 1))
        if self.schedule.mixed and self.schedule.name in drawing():
            return self.mixture(self.probabilities(epoch), epoch, block, len(steps))
        task = self.task_of_steps(epoch, block)
        counts = np.zeros((len(steps), tasks), dtype=np.int64)
        counts[np.arange(len(steps)), task] = self.task_batches[task]
        if self.schedule.name == "sequential" and self.schedule.steps_per_epoch is None:
            ends = np.cumsum(self._sequential_steps()) - 1  # a task's last step holds its remaining rows
            left = self.task_sizes - (self._sequential_steps() - 1) * self.task_batches
            for end, task_id, rows in zip(ends, range(tasks), left, strict=True):
                counts[steps == end, task_id] = rows
        return counts

    @property
    def blocks(self) -> int:
        """Number of blocks of an epoch."""
        return -(-self.steps_per_epoch // BLOCK)

    def epoch_counts(self, epoch: int) -> Iterator[np.ndarray]:
        """Yield the `counts` of each block of an epoch, up to the run's last step."""
        steps = self.steps_per_epoch
        if self.steps is not None:
            steps = min(max(self.steps - epoch * steps, 0), steps)
        for block in range(-(-steps // BLOCK)):
            yield self.counts(epoch, block)[: steps - block * BLOCK]

    def epoch_rows(self, epoch: int) -> np.ndarray:
        """Return the number of rows of each task that an epoch draws, shape `(tasks,)`."""
        return sum((counts.sum(0) for counts in self.epoch_counts(epoch)), np.zeros(len(self.names), np.int64))

    def total_rows(self) -> np.ndarray:
        """Return the number of rows of each task that the run draws, shape `(tasks,)`; repeated rows count again."""
        return sum((self.epoch_rows(epoch) for epoch in range(self.epochs)), np.zeros(len(self.names), np.int64))

    def take(self, task: int, first: int, count: int, epoch: int = 0) -> np.ndarray:
        """Return rows number first…first + count − 1 in the order in which a task's rows are drawn; `(count,)`.

        With `schedule.resample` the numbers begin at 0 in each epoch, which has an order of its own; otherwise they
        count the rows of the whole run, and the epoch does not matter.
        """
        positions = first + np.arange(count)
        key = (self.seed, task, _SAMPLE, epoch) if self.schedule.resample else (self.seed, task)
        if task in self.balanced:
            return self.balanced[task].take(positions, key)
        passes, places = np.divmod(positions, self.rows[task])
        taken = np.empty(count, dtype=np.int64)
        for pass_number in np.unique(passes):
            of_pass = passes == pass_number
            taken[of_pass] = permute(places[of_pass], self.rows[task], (*key, pass_number))
        return taken

    def taken(self, task: int) -> np.ndarray:
        """Return the distinct rows of a task that the run draws, in ascending order."""
        if not self.schedule.resample:
            return np.sort(self.take(task, 0, min(int(self.total_rows()[task]), self.rows[task])))
        counts = [int(self.epoch_rows(epoch)[task]) for epoch in range(self.epochs)]
        return np.unique(np.concatenate([self.take(task, 0, count, epoch) for epoch, count in enumerate(counts)]))

    def describe(self, first: int = 0) -> list[dict[str, object]]:
        """Return the dicts of `plan_table`, of the steps from number `first` on."""
        return plan_table(self, first)


class StepSampler(Sampler[Step]):
    """Batch sampler for `torch.utils.data.DataLoader` that yields the micro-batches of one process.

    The rows of a step, grouped by task, are dealt out in turn to the `accumulation` micro-batches of the `processes`
    processes. So the steps do not depend on the number of processes, and every micro-batch holds about as many rows of
    each task.

    Args:
        plan: the run's plan.
        accumulation: micro-batches per step on each process.
        processes: number of processes.
        process: index of this process, from 0.
    """

    drop_last = False

    def __init__(self, plan: Plan, accumulation: int = 1, processes: int = 1, process: int = 0):
        self.plan, self.accumulation, self.processes, self.process = plan, accumulation, processes, process
        self.batch_size = plan.batch
        self.epoch = 0
        self._walked = {0: np.zeros(len(plan.names), dtype=np.int64)}

    @classmethod
    def of(cls, plan: Plan, args: Any) -> StepSampler:
        """Create the sampler of this process from training arguments."""
        return cls(plan, args.gradient_accumulation_steps, args.world_size, args.process_index)

    def __len__(self) -> int:
        return self.plan.steps_per_epoch * self.accumulation

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0, of the next iteration."""
        self.epoch = epoch

    def _walked_before(self, epoch: int) -> np.ndarray:
        """Return the number of each task's row at which an epoch begins: how many rows earlier epochs draw."""
        if self.plan.schedule.resample:
            return self._walked[0]
        for before in range(max(self._walked), epoch):
            self._walked[before + 1] = self._walked[before] + self.plan.epoch_rows(before)
        return self._walked[epoch]

    def __iter__(self) -> Iterator[Step]:
        walked = self._walked_before(self.epoch).copy()
        for block in range(self.plan.blocks):
            counts = self.plan.counts(self.epoch, block)
            rows = [self.plan.take(task, walked[task], total, self.epoch) for task, total in enumerate(counts.sum(0))]
            used = np.zeros(len(walked), dtype=np.int64)
            for step in counts:
                parts = [(int(task), rows[task][used[task] : used[task] + step[task]]) for task in np.flatnonzero(step)]
                used += step
                yield from self._share(parts)
            walked += used

    def _share(self, parts: list[tuple[int, np.ndarray]]) -> Iterator[Step]:
        shares = self.accumulation * self.processes
        for micro in range(self.accumulation):
            share, share_parts, first = micro * self.processes + self.process, [], 0
            for task, rows in parts:
                share_rows = rows[(share - first) % shares :: shares]
                if len(share_rows):
                    share_parts.append((int(task), share_rows))
                first += len(rows)
            if share_parts:
                yield Step(tuple(share_parts))
            else:  # fewer rows than shares: one row that does not enter the loss keeps the processes in step
                yield Step(((int(parts[0][0]), parts[0][1][:1]),), filler=True)
