"""Run rows of the reports (or any recipes) with several seeds, and write a table next to the published figures.

    mtbert reproduce A4 E5,E6 compare/pal --encoder DIR_OR_HUB_NAME --data_dir DIR --seeds 1,2,3

A row is a recipe of `cs224n` by its name (ranges as in A1-A12), a recipe of another folder as folder/name, or a file.
Every run has its own process, folder and log; a run that has ended well is not repeated. Rows that become the same run
under a budget share it, and rows with the same pre-training share that.
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
COMMITS = "commits.txt"  # in a run's folder: the commit of each start and resumption
EPOCHS, STEPS, BATCH = arguments.BUDGET.values()  # the small budget of every row, in steps of one task
PUBLISHED = yaml.safe_load((RECIPES / "published.yaml").read_text(encoding="utf-8"))


def find_rows(names: list[str]) -> dict[str, Path]:
    """Return the recipe file of each row, in the order of `names`.

    Raises:
        ValueError: no recipe has a name (the message lists the names), or two recipes have it.
    """
    known = {path.stem: path for path in sorted((CONFIGS / "cs224n").glob("[A-Z]*.yaml"), key=_row_number)}
    rows = {}
    for name in filter(None, ",".join(names).split(",")):
        ends = re.fullmatch(r"([A-Z])(\d+)-(?:\1)?(\d+)", name)
        if ends:
            report, first, last = ends[1], int(ends[2]), int(ends[3])
            matches = {}
            for path in known.values():
                row_report, number, _ = _row_number(path)
                if row_report == report and first <= number <= last:
                    matches[path.stem] = path
        elif name in known:
            matches = {name: known[name]}
        else:
            path = Path(name) if name.endswith(".yaml") else CONFIGS / f"{name}.yaml"
            matches = {path.stem: path} if path.is_file() else {}
        if not matches:
            raise InputError(f"there is no row {name!r}; there are: {', '.join(known)}, and recipes by folder/name")
        for row, path in matches.items():
            if row in rows and rows[row].resolve() != path.resolve():
                raise InputError(f"two recipes are named {row}: {rows[row]} and {path}; rename one")
        rows |= matches
    return rows


def _row_number(path: Path) -> tuple[str, int, str]:
    report, number, rest = re.fullmatch(r"([A-Z])(\d+)(.*)", path.stem).groups()
    return report, int(number), rest


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


def small_budget(path: Path, more: list[str], learning_rate: float) -> list[str]:
    """Return the overrides of the small budget: the run draws about EPOCHS × STEPS × BATCH rows in all."""
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
    for name, rate in rates.items():  # the highest becomes the budget's; the ratios stay
        settings[f"tasks.{name}.learning_rate"] = learning_rate * rate / max(rates.values())
    shares = range(1, len(recipe.stages) + 1)  # two stages: one third and two thirds of the steps
    for number, stage in enumerate(recipe.stages):
        steps = settings["schedule.steps_per_epoch"] * shares[number] / sum(shares)
        set_by_stage = {f"training.{key}" for key in stage.get("training", ())} & settings.keys()
        values = {key: settings[key] for key in sorted(set_by_stage)}
        values["schedule.steps_per_epoch"] = max(1, round(steps))
        settings |= {f"stages.{number}.{key}": value for key, value in values.items()}
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))]


def plan_runs(args: argparse.Namespace) -> list[Run]:
    """Return all runs of the table; all recipes are checked first.

    Raises:
        ValueError: lists the problems of all recipes.
    """
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
    """Return the overrides of a row's recipe, and the folder of its pre-trained encoder, or None."""
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
    """Load and check a row's recipe."""
    return load_recipe(path, [*overrides, "--training.output_dir", "unused"])


def shared_pretraining(recipe: Recipe, args: argparse.Namespace) -> Path:
    """Return the folder of a pre-training, which rows with the same texts and settings share."""
    texts = [recipe.encoder, str(recipe.data_dir), {name: asdict(task.data) for name, task in recipe.tasks.items()}]
    settings = {key: value for key, value in recipe.pretraining.items() if key != "use_epoch"}
    return args.output / "pretraining" / hashed(texts, settings, args.mixed_precision)


def hashed(*content: Any) -> str:
    """Return a hash of the content, of ten hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def head() -> str:
    """Return the commit of this repository, or `unknown`; the version of mtbert if it is installed without one."""
    if not (RECIPES / "finetune.py").is_file():
        return f"v{__version__}"
    git = ["git", "-C", str(RECIPES), "rev-parse", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"


def execute_all(runs: list[Run], jobs: int) -> None:
    """Run all runs that have not ended well before, `jobs` at a time; a failed run does not stop the others."""
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
    """Run all rows and write their table; return the exit status: 1 if a run failed."""
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
