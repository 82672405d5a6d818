"""Callbacks that show the progress of a training in place of those of transformers' Trainer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from transformers import TrainerCallback

from ...modeling.display import display
from .scores import DEV, TaskFigures, evaluated_prefix, figures_of
from .styles import LINES, TABLE

LONGEST = 8  # tasks in a line
BELOW_THE_TABLE = 8  # lines of a terminal that the table leaves free
PAUSE = 0.1  # seconds between two updates of the live table
SKIPPED = ("nonfinite_skipped", "overflow_skipped")  # counts of steps without an update


class ShownProgress(TrainerCallback):
    """Base class: keeps the figures of a training on the main process, and passes each event on.

    Args:
        trainer: the trainer of the run, or of a stage of it.

    Attributes:
        figures: those of each task.
        step, total: steps taken and steps of the run; both count the stages before this one.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.figures: list[TaskFigures] = []
        self.step = self.total = self.stage = 0
        self.begun = time.monotonic()

    def began(self) -> None:
        """Show that the training begins."""

    def took_step(self) -> None:
        """Show that a step was taken."""

    def logged(self, logs: Mapping[str, Any], epoch: float) -> None:
        """Show a log of the training."""

    def evaluated(self, logs: Mapping[str, Any], epoch: float, prefix: str, scored: list[TaskFigures]) -> None:
        """Show the scores of an evaluation; `scored` are the figures of the tasks that it scored."""

    def close(self) -> None:
        """Show the last figures, and leave the terminal as it was; also called if the training fails."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        stage = getattr(self.trainer, "stage", None)
        self.stage, before = (0, 0) if stage is None else (stage.number, stage.step)
        self.step, self.total = before + state.global_step, before + state.max_steps
        self.begun = time.monotonic()
        self.figures = figures_of(self.trainer)
        if state.is_world_process_zero:
            self.began()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step = self.total - state.max_steps + state.global_step
        if state.is_world_process_zero:
            self.took_step()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        prefix, logs = evaluated_prefix(logs or {}), logs or {}
        if prefix is None:
            for figures in self.figures:
                figures.read_loss(logs)
            self.logged(logs, state.epoch or 0.0)
            return
        if not self.figures:  # an evaluation without a training before it
            self.figures = figures_of(self.trainer) if self.trainer.train_dataset is not None else []
        scored = [figures for figures in self.figures if figures.read_score(logs, prefix)]
        self.evaluated(logs, state.epoch or 0.0, prefix, scored)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.close()


class ProgressLines(ShownProgress):
    """Prints one short line for each log and each evaluation."""

    def logged(self, logs: Mapping[str, Any], epoch: float) -> None:
        if "train_runtime" in logs:
            self._print(f"trained in {logs['train_runtime']:,.0f} s, mean loss {logs['train_loss']:.4g}")
            return
        if "loss" not in logs:
            return
        losses = [f"{figures.name} {figures.loss:.4g}" for figures in self.figures if figures.loss_key in logs]
        in_tasks = self.figures and self.figures[0].is_task
        counts = [f"{key} {logs[key]:g}" for key in SKIPPED if logs.get(key)]
        text = f"loss {logs['loss']:.4g}{_in_brackets(losses if in_tasks else [])}"
        self._print(f"{self._place(epoch)}: {', '.join([text, *counts])}")

    def evaluated(self, logs: Mapping[str, Any], epoch: float, prefix: str, scored: list[TaskFigures]) -> None:
        name = "overall" if f"{prefix}_overall" in logs else "loss"
        scores = [f"{figures.name} {figures.metric} {figures.score:.3f}" for figures in scored if figures.is_task]
        value = logs.get(f"{prefix}_{name}", float("nan"))
        split = "dev" if prefix == DEV else prefix
        self._print(f"{self._place(epoch)}: {split} {name} {value:.4g}{_in_brackets(scores)}")

    def _place(self, epoch: float) -> str:
        """Return step, epoch and seconds."""
        stage = f"stage {self.stage}, " if self.stage else ""
        seconds = time.monotonic() - self.begun
        return f"{stage}step {self.step:,} of {self.total:,}, epoch {epoch:.3g}, {seconds:,.0f} s"

    def _print(self, line: str) -> None:
        print(display(line), flush=True)


class LiveTable(ShownProgress):
    """Shows one table of the tasks and below it one progress bar, both updated in place while the training runs.

    Args:
        trainer: the trainer.
        console: where to print; None: standard output.
    """

    def __init__(self, trainer: Any, console: Console | None = None):
        super().__init__(trainer)
        self.console = console
        self.live: Live | None = None
        self._drawn = 0.0
        self._plan: Any = None

    def began(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self.bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), auto_refresh=False)
        self.bar.add_task("training", total=self.total, completed=self.step)
        self._plan = self.trainer.plan()
        console = self.console or Console()
        self.live = Live(self._drawing(), console=console, auto_refresh=False, vertical_overflow="visible")
        self.live.start(refresh=True)

    def took_step(self) -> None:
        self._draw("training")

    def logged(self, logs: Mapping[str, Any], epoch: float) -> None:
        self._draw("training", at_once=True)

    def evaluated(self, logs: Mapping[str, Any], epoch: float, prefix: str, scored: list[TaskFigures]) -> None:
        self._draw("training", at_once=True)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._draw("evaluating")

    def close(self) -> None:
        if self.live is not None:
            self._draw("trained" if self.step >= self.total else "stopped", at_once=True)
            self.live.stop()
            self.live = None

    def _draw(self, activity: str, at_once: bool = False) -> None:
        """Update the table and the bar, at most once every `PAUSE` seconds unless `at_once`."""
        now = time.monotonic()
        if self.live is None or not (at_once or now - self._drawn >= PAUSE):
            return
        self._drawn = now
        self.bar.update(self.bar.task_ids[0], completed=self.step, description=activity)
        self.live.update(self._drawing(), refresh=True)

    def _drawing(self) -> Group:
        return Group(self.table(), self.bar.get_renderable())

    def table(self) -> Table:
        """Return the table of the tasks as it stands."""
        table = Table(title=f"Stage {self.stage}" if self.stage else None)
        for heading in ("task", "rows", "probability", "loss", "dev score", "best"):
            table.add_column(heading, justify="left" if heading == "task" else "right")
        probabilities = self._probabilities()
        height = (self.console or Console()).height
        room = max(1, height - BELOW_THE_TABLE)
        for figures in self.figures[:room]:
            p = None if probabilities is None else probabilities[figures.pool]
            score = "" if figures.score is None else f"{figures.metric} {figures.score:.3f}"
            cells = (f"{figures.rows:,}", _number(p), _number(figures.loss), score, _number(figures.best))
            table.add_row(Text(display(figures.name)), *cells)
        if len(self.figures) > room:
            table.add_row(f"and {len(self.figures) - room:,} more")
        return table

    def _probabilities(self) -> Any:
        """Return the probability of each pool in the current epoch; None for schedules that do not draw."""
        if self._plan is None:
            self._plan = self.trainer.plan()
        plan = self._plan
        before = self.total - self.trainer.state.max_steps
        return plan.probabilities(min(max(self.step - before, 0) // plan.steps_per_epoch, plan.epochs - 1))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _in_brackets(words: list[str]) -> str:
    """Return the first `LONGEST` words in brackets, and how many follow; empty without words."""
    more = [f"and {len(words) - LONGEST:,} more"] if len(words) > LONGEST else []
    return f" ({', '.join([*words[:LONGEST], *more])})" if words else ""


def make_display(trainer: Any, style: str) -> ShownProgress | None:
    """Return the callback of a style; None: transformers' own."""
    kinds: dict[str, type[ShownProgress]] = {TABLE: LiveTable, LINES: ProgressLines}
    return kinds[style](trainer) if style in kinds else None


@contextmanager
def closing_display(trainer: Any) -> Iterator[None]:
    """Context manager that leaves the terminal as it was if a training ends, also with an error or a signal."""
    try:
        yield
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, ShownProgress):
                callback.close()
