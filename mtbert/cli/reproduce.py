"""Run rows of the reports (or any recipes) with several seeds; write one table, beside the published figures.

    mtbert reproduce A4 E5,E6 compare/pal --encoder DIR_OR_HUB_NAME --data_dir DIR --seeds 1,2,3

A row is a recipe of `cs224n` by its name (ranges as in A1-A12), or another folder's as folder/name, or a file.
Every run is a process of its own with a folder and a log of its own; what has ended well is not run again. Rows that a
budget makes the same run share it, and rows that pre-train alike share the pre-training.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
import yaml
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .. import __version__
from ..errors import InputError
from ..evaluation.run_tables import environment, table
from ..evaluation.table_files import to_markdown, write
from ..modeling.display import masked
from ..recipe import Recipe, RecipeError, load_recipe
from ..training.checkpoints.run_folder import PRETRAINING
from ..training.methods import method_classes
from . import arguments
from .bundled import folder as bundled_folder
from .main import run as run_command

RECIPES = bundled_folder()
CONFIGS = RECIPES / "configs"
COMMITS = "commits.txt"  # beside a run: of every time that it was begun or gone on with
EPOCHS, STEPS, BATCH = arguments.BUDGET.values()  # what every row is given, in steps of one task
PUBLISHED = yaml.safe_load((RECIPES / "published.yaml").read_text(encoding="utf-8"))


def find_rows(names: list[str]) -> dict[str, Path]:
    """Row → recipe file, in the order given.

    Raises:
        ValueError: for a name that no recipe has, with the names there are, or that two recipes have.
    """
    known = {path.stem: path for path in sorted((CONFIGS / "cs224n").glob("[A-Z]*.yaml"), key=_row_number)}
    rows = {}
    for name in [part for each in names for part in each.split(",") if part]:
        ends = re.fullmatch(r"([A-Z])(\d+)-(?:\1)?(\d+)", name)
        if ends:
            report, first, last = ends[1], int(ends[2]), int(ends[3])
            within = {path: _row_number(path) for path in known.values()}
            found = {path.stem: path for path, (of, n, _) in within.items() if of == report and first <= n <= last}
        elif name in known:
            found = {name: known[name]}
        else:
            path = Path(name) if name.endswith(".yaml") else CONFIGS / f"{name}.yaml"
            found = {path.stem: path} if path.is_file() else {}
        if not found:
            raise InputError(f"there is no row {name!r}; there are: {', '.join(known)}, and recipes by folder/name")
        if same := [row for row, path in found.items() if row in rows and rows[row].resolve() != path.resolve()]:
            raise InputError(f"two recipes are named {same[0]}: {rows[same[0]]} and {found[same[0]]}; rename one")
        rows |= found
    return rows


def _row_number(path: Path) -> tuple[str, int, str]:
    report, number, rest = re.fullmatch(r"([A-Z])(\d+)(.*)", path.stem).groups()
    return report, int(number), rest


@dataclass
class Run:
    """One row with one seed.

    Attributes:
        folder: of its output, log, and the commit it was begun with.
        overrides: what the budget and the command line set in its recipe.
        same_as: an earlier row's run with the very same settings, which is not run twice.
        pretrained: the encoder that it begins with where it pre-trains first; other runs may begin with the same.
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
        """The run's own output folder; logs stand beside it."""
        return self.folder / "run"

    def finished(self) -> bool:
        """Whether it has ended well; reads what it left."""
        try:
            scores, record = (json.loads((self.output / f"{name}.json").read_text()) for name in ("scores", "record"))
        except (OSError, ValueError):
            return False
        self.scores, self.record = scores, record
        return True

    def commits(self) -> list[str]:
        """Of every time that it was begun or gone on with, where that was noted."""
        file = self.folder / COMMITS
        return file.read_text(encoding="utf-8").split() if file.is_file() else []

    def execute(self, device: int | None, threads: int) -> None:
        """Run it in a process of its own; goes on from its last checkpoint, if there is one.

        A process that has it already, of another table or of one that was killed, is waited for.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            with suppress(OSError):  # some file systems know no locks
                fcntl.flock(log, fcntl.LOCK_EX)  # the process inherits the log and so the lock, to its end
            if not self.finished():
                self._execute(log, device, threads)

    def _execute(self, log: IO[str], device: int | None, threads: int) -> None:
        resume = []
        saved = ("checkpoint-*", "stage-*", "stage-*/checkpoint-*")
        if any(any(self.output.glob(f"{folder}/trainer_state.json")) for folder in saved):
            resume = ["--training.resume_from_checkpoint", "auto"]  # all of them may be torn
        elif self.output.is_dir():  # what was left by a run that was killed before it had saved anything
            for left in self.output.iterdir():
                if left.is_dir() and left.name != PRETRAINING:  # which goes on from what it has
                    shutil.rmtree(left)
                elif left.is_file():
                    left.unlink()
        with (self.folder / COMMITS).open("a", encoding="utf-8") as file:
            file.write(f"{head()}\n")
        command = [sys.executable, "-m", "mtbert", "finetune", str(self.path)]
        command += ["--mixed_precision", self.mixed_precision]
        command += [
            *self.overrides,
            "--training.output_dir",
            str(self.output),
            "--training.disable_tqdm",
            "true",
            *resume,
        ]
        environment = dict(os.environ, TOKENIZERS_PARALLELISM="false")
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = str(device)
        else:
            command += ["--training.cpu_threads", str(threads)]
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
        if code or not self.finished():
            self.failed = f"ended with {code}; see {self.folder / 'log.txt'}"


def small_budget(path: Path, more: list[str], learning_rate: float) -> list[str]:
    """What the small budget sets in a row's recipe: as many rows in all as EPOCHS × STEPS steps of BATCH rows."""
    recipe = load(path, more)
    per_step = BATCH * (len(recipe.tasks) if recipe.schedule.name == "simultaneous" else 1)
    settings = {
        "schedule.steps_per_epoch": max(1, round(STEPS * BATCH / per_step)),
        "training.num_train_epochs": EPOCHS,
        "training.per_device_train_batch_size": BATCH,
        "training.learning_rate": learning_rate,
        "training.lr_scheduler_type": "linear",
        "training.warmup_steps": 0.1,
        "training.logging_steps": 10,
        "training.eval_strategy": "no",
        "training.save_strategy": "no",
        "training.load_best_model_at_end": "false",
        "training.metric_for_best_model": "null",
        "training.early_stopping_patience": "null",
        "training.report_to": "none",
    }
    settings |= {f"tasks.{task}.{key}": "null" for task in recipe.tasks for key in ("examples_per_epoch", "batch_size")}
    rates = {name: task.learning_rate for name, task in recipe.tasks.items() if task.learning_rate is not None}
    for name, rate in rates.items():  # the highest is the budget's, the others keep their ratios to it
        settings[f"tasks.{name}.learning_rate"] = learning_rate * rate / max(rates.values())
    shares = range(1, len(recipe.stages) + 1)  # two stages: a third of the steps, and two thirds
    for number, stage in enumerate(recipe.stages):
        steps = settings["schedule.steps_per_epoch"] * shares[number] / sum(shares)
        own = {f"training.{key}" for key in stage.get("training", ())} & settings.keys()
        values = {key: settings[key] for key in sorted(own)} | {"schedule.steps_per_epoch": max(1, round(steps))}
        settings |= {f"stages.{number}.{key}": value for key, value in values.items()}
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))]


def plan_runs(args: argparse.Namespace) -> list[Run]:
    """Every run of the table; all recipes are checked before the first begins."""
    runs, problems, first = [], [], {}
    for row, path in find_rows(args.rows).items():
        try:
            fixed, pretrained = row_settings(path, args)
            for seed in args.seeds:
                overrides = [*fixed, "--training.seed", str(seed)]
                digest = hashed(load(path, overrides).to_dict(), args.mixed_precision)
                folder = args.output / args.budget / path.parent.name / row / f"seed-{seed}-{digest}"
                run = Run(row, path, seed, folder, overrides, args.mixed_precision)
                run.same_as, run.pretrained = first.get(digest), pretrained
                runs.append(run)
                first.setdefault(digest, run)
        except RecipeError as error:
            problems.append(f"{row}: {error}")
    if problems:
        raise InputError("\n".join(problems))
    return runs


def row_settings(path: Path, args: argparse.Namespace) -> tuple[list[str], Path | None]:
    """What the command line and the budget set in a row's recipe, and the pre-trained encoder that it begins with."""
    fixed = ["--encoder", args.encoder, "--data_dir", args.data_dir]
    budget = small_budget(path, [*fixed, *args.more], args.learning_rate) if args.budget == "small" else []
    fixed += [*budget, *args.more]
    recipe = load(path, fixed)
    if args.instead_of_pooler:
        pooled = [name for name, task in recipe.tasks.items() if task.pooling == "pooler"]
        fixed += [part for name in pooled for part in (f"--tasks.{name}.pooling", args.instead_of_pooler)]
    if recipe.pretraining is None:
        return fixed, None
    folder = recipe.pretraining.get("output_dir")
    if folder is None:
        folder = str(shared_pretraining(recipe, args))
        fixed += ["--pretraining.output_dir", folder]
    return fixed, Path(folder, f"epoch-{recipe.pretraining.get('use_epoch')}")


def load(path: Path, overrides: list[str]) -> Recipe:
    """A row's recipe, checked."""
    return load_recipe(path, [*overrides, "--training.output_dir", "unused"])


def shared_pretraining(recipe: Recipe, args: argparse.Namespace) -> Path:
    """The folder of the pre-training that all rows share which have the same texts and settings for it."""
    texts = [recipe.encoder, str(recipe.data_dir), {name: asdict(task.data) for name, task in recipe.tasks.items()}]
    settings = {key: value for key, value in recipe.pretraining.items() if key != "use_epoch"}
    return args.output / "pretraining" / hashed(texts, settings, args.mixed_precision)


def hashed(*content: Any) -> str:
    """Ten characters that differ if the content does."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def head() -> str:
    """The commit of this repository, or `unknown`; the version of mtbert where it is installed without one."""
    if not (RECIPES / "finetune.py").is_file():
        return f"v{__version__}"
    git = ["git", "-C", str(RECIPES), "rev-parse", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"


def execute_all(runs: list[Run], jobs: int) -> None:
    """Run what has not ended well before, `jobs` at a time; a run that fails leaves the others alone."""
    waiting = [run for run in runs if run.same_as is None and not run.finished()]
    pretraining = {run.pretrained.parent: threading.Lock() for run in waiting if run.pretrained}
    gpus = list(range(torch.cuda.device_count())) or [None]
    devices = [gpus[job % len(gpus)] for job in range(jobs)]
    threads, lock = max(1, len(os.sched_getaffinity(0)) // jobs), threading.Lock()
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("runs"), *columns[1:]) as progress, ThreadPoolExecutor(jobs) as pool:
        total = sum(run.same_as is None for run in runs)
        bar = progress.add_task("", total=total, completed=total - len(waiting))

        def work(run: Run) -> None:
            with lock:
                device = devices.pop(0)
            alone = run.pretrained is not None and not run.pretrained.is_dir()
            try:
                with pretraining[run.pretrained.parent] if alone else nullcontext():  # one writes, the others read
                    run.execute(device, threads)
            except Exception as error:
                run.failed = masked(repr(error))
            with lock:
                devices.append(device)
            word = run.failed or f"overall {run.scores.get('eval_overall', float('nan')):.3f}"
            progress.console.print(f"{run.row} seed {run.seed}: {word}", markup=False, highlight=False)
            progress.advance(bar)

        list(pool.map(work, waiting))
    for run in runs:
        if run.same_as is not None:
            run.folder, run.failed = run.same_as.folder, run.same_as.failed
            run.scores, run.record = run.same_as.scores, run.same_as.record


def main(argv: list[str]) -> int:
    """Run all rows and write their table; returns the exit status: 1 if a run failed."""
    args = arguments.reproduce(argv)
    runs = plan_runs(args)
    execute_all(runs, args.jobs)
    entries = table(runs, PUBLISHED, method_classes())
    about = environment(runs, ["mtbert", "reproduce", *argv])
    write(entries, about, args.output, args.title)
    Console().print(Markdown(to_markdown(entries, about)))
    return 1 if any(run.failed for run in runs) else 0


if __name__ == "__main__":
    sys.exit(run_command("reproduce"))
