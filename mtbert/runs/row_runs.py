"""Run rows of a table, each in a process, a folder and a log of its own; a run that has ended is not repeated."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .. import __version__
from ..errors import InputError
from ..modeling.checkpoint_loading import read_json
from ..modeling.display import masked
from ..training.checkpoints.run_folder import PRETRAINING
from ..training.checkpoints.sealing import STATE
from .bundled import folder as bundled_folder
from .run_queue import work_in_turns

COMMITS = "commits.txt"  # in a run's folder: the commit of each start and resumption


@dataclass
class Run:
    """A run of one row with one seed.

    Attributes:
        folder: folder of its output, log and commits.
        overrides: keys of the recipe that the budget and the command line set.
        same_as: an earlier row's run with identical settings, which this run reuses.
        pretrained: if the run pre-trains first, the folder of the pre-trained encoder, which runs may share.
    """

    row: str
    path: Path
    seed: int
    folder: Path
    overrides: list[str]
    mixed_precision: str
    failed: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    same_as: Run | None = None
    pretrained: Path | None = None

    @property
    def output(self) -> Path:
        """The output folder of the training; the log is next to it."""
        return self.folder / "run"

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe of a finished run, as its folder holds it."""
        return read_json(self.output / "recipe.json", "run it again", limited=False)

    @property
    def log(self) -> list[dict[str, float]]:
        """The `log_history` of a finished run; empty if it left none."""
        if not (self.output / STATE).is_file():
            return []
        return list(read_json(self.output / STATE, "run it again", limited=False).get("log_history", ()))

    def finished(self) -> bool:
        """Return whether the run has ended well; if so, load its scores and record."""
        try:
            scores, record = (json.loads((self.output / f"{name}.json").read_text()) for name in ("scores", "record"))
        except (OSError, ValueError):
            return False
        self.scores, self.record = scores, record
        return True

    def commits(self) -> list[str]:
        """Return the commit of each start and resumption; empty if none was recorded."""
        file = self.folder / COMMITS
        return file.read_text(encoding="utf-8").split() if file.is_file() else []

    def execute(self, device: int | None, threads: int) -> None:
        """Run it in a separate process; resume from its last checkpoint if there is one.

        If another process runs it already, such as that of another table, wait for that process.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            with suppress(OSError):  # some file systems have no locks
                fcntl.flock(log, fcntl.LOCK_EX)  # the child process inherits the log file, and thus holds the lock
            if not self.finished():
                self._execute(log, device, threads)

    def _execute(self, log: IO[str], device: int | None, threads: int) -> None:
        resume = []
        saved = ("checkpoint-*", "stage-*", "stage-*/checkpoint-*")
        if any(any(self.output.glob(f"{folder}/trainer_state.json")) for folder in saved):
            resume = ["--training.resume_from_checkpoint", "auto"]  # `auto`, because all checkpoints may be damaged
        elif self.output.is_dir():  # the run was killed before its first checkpoint
            for path in self.output.iterdir():
                if path.is_dir() and path.name != PRETRAINING:  # pre-training resumes from its folder
                    shutil.rmtree(path)
                elif path.is_file():
                    path.unlink()
        with (self.folder / COMMITS).open("a", encoding="utf-8") as file:
            file.write(f"{head()}\n")
        command = [sys.executable, "-m", "mtbert", "finetune", str(self.path)]
        command += ["--mixed_precision", self.mixed_precision, *self.overrides]
        command += ["--training.output_dir", str(self.output), "--training.disable_tqdm", "true", *resume]
        environment = dict(os.environ, TOKENIZERS_PARALLELISM="false")
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = str(device)
        else:
            command += ["--training.cpu_threads", str(threads)]
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
        if code or not self.finished():
            self.failed = f"ended with {code}; see {self.folder / 'log.txt'}"


def head() -> str:
    """Return the commit of this repository, or `unknown`; the version of mtbert if it is installed without one."""
    recipes = bundled_folder()
    if not (recipes / "finetune.py").is_file():
        return f"v{__version__}"
    git = ["git", "-C", str(recipes), "rev-parse", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"


def run_threads(jobs: int) -> int:
    """Return the number of CPU threads of each of `jobs` runs at a time."""
    return max(1, len(os.sched_getaffinity(0)) // jobs)


def execute(run: Run, threads: int) -> None:
    """Run one row in a process of its own, unless it has ended before.

    Raises:
        InputError: it failed.
    """
    if not run.finished():
        run.execute(None, threads)
    if run.failed or not run.finished():
        raise InputError(run.failed or f"no scores in {run.output}")


def remove_weights(folder: Path) -> None:
    """Remove the weights of a finished run, which take much room; its log and scores stay."""
    for pattern in ("model*.safetensors", "adapter_model*.safetensors"):
        for file in folder.glob(pattern):
            file.unlink()
    for checkpoint in folder.glob("stage-*"):
        shutil.rmtree(checkpoint)


def execute_all(runs: list[Run], jobs: int, ended: Callable[[Run], None] | None = None) -> None:
    """Run all runs that have not ended well before, `jobs` at a time; a failed run does not stop the others.

    `ended` is called, in one thread at a time, with each of these runs that ends well.
    """
    waiting = [run for run in runs if run.same_as is None and not run.finished()]
    gpus: list[int | None] = list(range(torch.cuda.device_count())) or [None]
    devices = [gpus[job % len(gpus)] for job in range(jobs)]
    threads, lock, ending = run_threads(jobs), threading.Lock(), threading.Lock()
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("runs"), *columns[1:]) as progress:
        total = sum(run.same_as is None for run in runs)
        bar = progress.add_task("", total=total, completed=total - len(waiting))

        def work(run: Run) -> None:
            with lock:
                device = devices.pop(0)
            try:
                run.execute(device, threads)
                if ended is not None and not run.failed:
                    with ending:
                        ended(run)
            except Exception as error:
                run.failed = masked(repr(error))
            with lock:
                devices.append(device)
            word = run.failed or f"overall {run.scores.get('eval_overall', float('nan')):.3f}"
            progress.console.print(f"{run.row} seed {run.seed}: {word}", markup=False, highlight=False)
            progress.advance(bar)

        work_in_turns(waiting, jobs, work, lambda run: run.pretrained)
    for run in runs:
        if run.same_as is not None:
            run.folder, run.failed = run.same_as.folder, run.same_as.failed
            run.scores, run.record = run.same_as.scores, run.same_as.record
