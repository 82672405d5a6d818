"""Runs each contender in its own process, so that settings of a process, such as its allocator, affect no other."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
from contenders import CONTENDERS
from datasets import Dataset
from measure import peak_memory
from timed_steps import NotAvailable, Timing
from workload import Workload, quiet

Making = Callable[[str], tuple[Workload, Dataset, str]]


def _serve(connection, name: str, make: Making, threads: int) -> None:
    """Prepare the contender, then answer calls until the parent ends them; runs in the child process."""
    quiet()
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        try:
            work, rows, _ = make(folder)
            contender = CONTENDERS[name](work)
            contender.prepare()
            connection.send(("ready", None))
            while (question := connection.recv()) != "stop":
                answer = {"train": contender.train, "memory": peak_memory, "predict": lambda: predict(contender, rows)}
                connection.send(("done", answer[question]()))
        except NotAvailable as reason:
            connection.send(("left out", str(reason)))
        except BaseException:
            connection.send(("failed", traceback.format_exc()))
            raise


def predict(contender: Any, rows: Dataset) -> float:
    """Return the seconds that a Trainer needs to predict rows without labels."""
    work = contender.work
    encoded = work.encode(rows)
    if contender.name == "mtbert":
        data: Any = {work.task.name: Dataset.from_dict(encoded)}
    else:
        data = contender.dataset(rows, encoded).remove_columns("labels")
    start = time.perf_counter()
    contender.trainer.predict(data)
    return time.perf_counter() - start


class Isolated:
    """A contender in its own process, called over a pipe; it is idle while others run."""

    def __init__(self, name: str, make: Making, threads: int):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, name, make, threads), daemon=True)
        self.process.start()
        theirs.close()
        kind, why = self.connection.recv()
        self.left_out = why if kind == "left out" else None
        if kind == "failed":
            raise RuntimeError(f"{name} could not be prepared:\n{why}")

    def _ask(self, question: str) -> Any:
        self.connection.send(question)
        kind, answer = self.connection.recv()
        if kind == "failed":
            raise RuntimeError(answer)
        return answer

    def train(self) -> Timing:
        """Train once; see `Contender.train`."""
        return self._ask("train")

    def predict(self) -> float:
        """Return the seconds to predict the rows for evaluation."""
        return self._ask("predict")

    def memory(self) -> float:
        """Return the process's peak memory so far, in MiB."""
        return self._ask("memory")

    def stop(self) -> None:
        """End the process."""
        if self.left_out is None:
            self.connection.send("stop")
        self.process.join()
