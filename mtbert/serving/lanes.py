"""Requests that wait for the model, by their number of tokens, and the batches that are made of them."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from ..modeling.text_rows import Row
from .answers import Answer

# Upper bounds of the lanes in tokens of a request; the last lane has none.
LANES = (64, 128, 256, 512)


class QueueFullError(Exception):
    """So many tokens wait for the model already that a job cannot be added."""


@dataclass(eq=False)
class Job:
    """Rows of one request that have the same number of texts, and are answered by the same tasks.

    Attributes:
        rows: the rows.
        tokens: the tokens that the encoder computes for each row.
        tasks: names of the tasks.
        key: jobs with the same key may share a batch.
        finished: called once in the worker's thread, when all rows are answered or one has failed.
        answers: task name → answer, for each row; None until the row is answered.
        problem: why the job failed; None: it did not.
        cancelled: whether nobody waits for the answer any more.
    """

    rows: list[Row]
    tokens: list[int]
    tasks: tuple[str, ...]
    key: Hashable
    finished: Callable[[], object]
    answers: list[dict[str, Answer] | None] = field(init=False)
    problem: str | None = None
    cancelled: bool = False
    taken: int = 0
    answered: int = 0
    arrived: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.answers = [None] * len(self.rows)

    @property
    def lane(self) -> int:
        """The lane of a job: the first whose bound its tokens do not exceed."""
        total = sum(self.tokens)
        return next((lane for lane, bound in enumerate(LANES) if total <= bound), len(LANES))

    @property
    def dropped(self) -> bool:
        """Whether the rest of the job need not be computed."""
        return self.cancelled or self.problem is not None

    def fail(self, problem: str) -> None:
        """End the job with a problem, unless it has one."""
        if self.problem is None:
            self.problem = problem
            self.finished()

    def answer(self, first: int, values: list[dict[str, Answer]]) -> None:
        """Set the answers of rows first, first + 1, …; the last of all rows ends the job."""
        if self.problem is not None:
            return
        self.answers[first : first + len(values)] = values
        self.answered += len(values)
        if self.answered == len(self.rows):
            self.finished()


@dataclass(frozen=True)
class Piece:
    """Rows first … last − 1 of a job, as a part of a batch."""

    job: Job
    first: int
    last: int

    @property
    def rows(self) -> list[Row]:
        return self.job.rows[self.first : self.last]

    @property
    def tokens(self) -> int:
        return sum(self.job.tokens[self.first : self.last])


class Lanes:
    """Waiting jobs in lanes by their number of tokens, so that a short text never stands behind a long one.

    Within a lane, each key and then each job has its turn: a job with many rows gives one batch's worth of them at a
    time. Its methods are called under the worker's lock.

    Attributes:
        tokens: for each lane, the number of tokens that wait.
    """

    def __init__(self, batch_tokens: int, max_tokens: int):
        self.batch_tokens, self.max_tokens = batch_tokens, max_tokens
        self.tokens = [0] * (len(LANES) + 1)
        self._jobs: list[OrderedDict[Hashable, deque[Job]]] = [OrderedDict() for _ in self.tokens]

    def add(self, jobs: list[Job]) -> None:
        """Add the jobs of a request; a lane in which nothing waits takes any job.

        Raises:
            QueueFullError: too many tokens wait in the lane of one of them; none is added.
        """
        more: dict[int, int] = {}
        for job in jobs:
            more[job.lane] = more.get(job.lane, 0) + sum(job.tokens)
        if any(self.tokens[lane] and self.tokens[lane] + count > self.max_tokens for lane, count in more.items()):
            raise QueueFullError
        for job in jobs:
            self._jobs[job.lane].setdefault(job.key, deque()).append(job)
            self.tokens[job.lane] += sum(job.tokens)

    def waiting(self, lane: int) -> bool:
        """Whether jobs wait in a lane."""
        return bool(self._jobs[lane])

    def first(self, before: int | None = None) -> int | None:
        """The first lane in which jobs wait, of those before a lane; None if there is none."""
        return next((lane for lane, jobs in enumerate(self._jobs[:before]) if jobs), None)

    def oldest(self) -> float:
        """When the oldest waiting job arrived; infinity if none waits."""
        return min(map(self.oldest_of, range(len(self._jobs))))

    def oldest_of(self, lane: int) -> float:
        """When the oldest job that waits in a lane arrived; infinity if none does."""
        return min((job.arrived for jobs in self._jobs[lane].values() for job in jobs), default=float("inf"))

    def full(self) -> bool:
        """Whether the waiting jobs are enough for a batch."""
        return sum(self.tokens) >= self.batch_tokens

    def take(self, lane: int) -> list[Piece]:
        """Take the next batch of a lane: jobs of one key, at most `batch_tokens` tokens or a single row.

        Returns:
            The pieces; none if only dropped jobs waited.
        """
        key, jobs = self._jobs[lane].popitem(last=False)
        pieces: list[Piece] = []
        left, unfinished = self.batch_tokens, deque[Job]()
        while jobs:
            job = jobs.popleft()
            last = self._fitting(job, left, first=not pieces)
            if last == job.taken and not job.dropped:
                jobs.appendleft(job)
                break
            first, job.taken = job.taken, len(job.rows) if job.dropped else last
            piece = Piece(job, first, job.taken)
            self.tokens[lane] -= piece.tokens
            if job.dropped:
                continue
            pieces.append(piece)
            left -= piece.tokens
            if job.taken < len(job.rows):
                unfinished.append(job)
        jobs.extend(unfinished)
        if jobs:
            self._jobs[lane][key] = jobs
        return pieces

    @staticmethod
    def _fitting(job: Job, left: int, first: bool) -> int:
        """The end of the job's rows that fit into `left` tokens; the first row of a batch always fits."""
        last = job.taken
        while last < len(job.rows) and (left >= job.tokens[last] or (first and last == job.taken)):
            left -= job.tokens[last]
            last += 1
        return last
