"""The threads that run the model: they gather jobs, run them in batches, and let short ones go first."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from itertools import accumulate
from typing import Any

from .answers import answers
from .lanes import Job, Lanes, Piece
from .limits import Limits
from .metrics import Metrics
from .served_model import ServedModel

# The share of the model's time that a lane is sure of while jobs of shorter lanes wait.
SHARE = 0.1
LATE = 1.0  # the same for a lane with a job that has waited for half of the time limit: as much as the shorter lanes
AHEAD = 0.01  # seconds of a share that a lane can have used up before it is due, as its batch gives way at layers only
FAILED = "the model failed on this request; the server's log has the kind of error"
NOT_FINITE = "the model's output for an input is not finite: its training diverged, or its precision is too low"
logger = logging.getLogger("mtbert.serving")


class Worker:
    """Runs the model for jobs, in one thread or several.

    The lane of the shortest jobs goes first. A batch of longer ones gives way between the encoder's layers, if its
    model can be interrupted there: jobs of shorter lanes are then run in the middle of its pass. So that long ones
    come to an end, too, they are sure of a share of the time.

    Args:
        model: the model.
        limits: how jobs are gathered.
        metrics: where passes and answers are counted.
        threads: number of batches that run at a time.
    """

    def __init__(self, model: ServedModel, limits: Limits, metrics: Metrics, threads: int = 1):
        self.model, self.limits, self.metrics = model, limits, metrics
        self.lanes = Lanes(limits.batch_tokens, limits.max_queue_tokens)
        self.order = {task.name: place for place, task in enumerate(model.tasks)}
        self._changed = threading.Condition()
        self._stopping = False
        self._local = threading.local()  # `clock`: the _Clock of a thread of this object
        self._owed = [0.0] * len(self.lanes.tokens)  # seconds that each lane is to run before it gives way again
        self._threads = [threading.Thread(target=self._run, name=f"model-{i}", daemon=True) for i in range(threads)]
        metrics.watch(self.lanes)
        model.between_layers(self._give_way)

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether all threads run."""
        return all(thread.is_alive() for thread in self._threads)

    def submit(self, jobs: list[Job]) -> None:
        """Add the jobs of a request; raise `QueueFullError` if too many tokens wait."""
        with self._changed:
            self.lanes.add(jobs)
            self._changed.notify()

    def stop(self) -> None:
        """Answer all jobs that wait, then end the threads."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        self._local.clock = _Clock()
        while (batch := self._next_batch()) is not None:
            self._local.clock.seconds()
            self._run_batch(*batch)

    def _next_batch(self) -> tuple[int, list[Piece]] | None:
        """Wait for jobs, gather more for a short time, and take a batch and its lane; None: there are no more."""
        with self._changed:
            while True:
                lane = self._choose_lane()
                left = self.lanes.oldest() + self.limits.gather_ms / 1000 - time.perf_counter()
                if lane is None and self._stopping:
                    return None
                if lane is None:
                    self._changed.wait()
                elif left > 0 and not self._stopping and not self.lanes.full():
                    self._changed.wait(left)
                elif pieces := self._take(lane):
                    return lane, pieces

    def _choose_lane(self) -> int | None:
        owed = [lane for lane, seconds in enumerate(self._owed) if seconds > 0 and self.lanes.waiting(lane)]
        return max(owed, key=self._owed.__getitem__) if owed else self.lanes.first()

    def _take(self, lane: int) -> list[Piece]:
        """Take a batch of a lane, and wake another thread if more jobs wait."""
        pieces = self.lanes.take(lane)
        if self.lanes.first() is not None:
            self._changed.notify()
        return pieces

    def _give_way(self) -> None:
        """Run jobs of shorter lanes, if the batch that this thread runs has had the time that it is owed."""
        clock = getattr(self._local, "clock", None)  # None: the model is called outside of a batch
        if clock is None or not clock.running or self.lanes.first(clock.running[-1]) is None:
            return
        lane = clock.running[-1]
        self._charge(clock)
        while self._owed[lane] <= 0:
            with self._changed:
                shorter = self.lanes.first(lane)
                pieces = [] if shorter is None else self._take(shorter)
            if shorter is None:
                return
            if pieces:
                self._run_batch(shorter, pieces)

    def _charge(self, clock: _Clock) -> None:
        """Count the time since the last call for the lane that runs, and what it owes to the longer ones that wait."""
        seconds, lane = clock.seconds(), clock.running[-1]
        late = time.perf_counter() - self.limits.timeout / 2
        with self._changed:
            self._owed[lane] = max(-AHEAD, self._owed[lane] - seconds)
            for longer in range(lane + 1, len(self._owed)):
                wait = longer in clock.running or self.lanes.waiting(longer)
                share = LATE if self.lanes.oldest_of(longer) < late else SHARE
                self._owed[longer] = self._owed[longer] + share * seconds if wait else 0.0

    def _run_batch(self, lane: int, pieces: list[Piece]) -> None:
        clock = self._local.clock
        clock.running.append(lane)
        try:
            with self.metrics.batch(lane, sum(len(piece.rows) for piece in pieces), sum(p.tokens for p in pieces)):
                self._answer(pieces)
        finally:
            self._charge(clock)
            clock.running.pop()

    def _answer(self, pieces: list[Piece]) -> None:
        """Predict the rows of all pieces together; if that fails, of each piece alone."""
        names = sorted({name for piece in pieces for name in piece.job.tasks}, key=self.order.__getitem__)
        try:
            predictions = self.model.predict([row for piece in pieces for row in piece.rows], names)
            columns = {name: answers(predictions[name]) for name in names}
        except Exception as error:
            if len(pieces) > 1:
                for piece in pieces:
                    self._answer([piece])
                return
            _log(error)
            pieces[0].job.fail(FAILED)
            return
        starts = [0, *accumulate(len(piece.rows) for piece in pieces)]
        for piece, start in zip(pieces, starts[:-1], strict=True):
            self._answer_piece(piece, start, columns)

    def _answer_piece(self, piece: Piece, start: int, columns: dict[str, list[Any]]) -> None:
        job, count = piece.job, piece.last - piece.first
        for name in job.tasks:
            if None in columns[name][start : start + count]:
                logger.error("task %r: the model's logits are not finite", name)
                job.fail(f"task {name!r}: {NOT_FINITE}")
                return
            self.metrics.predicted(name, columns[name][start : start + count])
        rows = range(start, start + count)
        job.answer(piece.first, [{name: columns[name][row] for name in job.tasks} for row in rows])


def _log(error: BaseException) -> None:
    """Log the kind of an error and where it was raised, but not its message, which may hold texts."""
    frames = traceback.extract_tb(error.__traceback__)
    where = "\n".join(f"  {frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
    logger.error("the model failed: %s\n%s", type(error).__name__, where)


class _Clock:
    """The lanes of the batches that a thread runs, the innermost last, and the time since it last looked."""

    def __init__(self) -> None:
        self.running: list[int] = []
        self._mark = time.perf_counter()

    def seconds(self) -> float:
        """Seconds since the last call."""
        before, self._mark = self._mark, time.perf_counter()
        return self._mark - before
