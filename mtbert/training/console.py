"""Terminal output: the plan and the parameters before training, the scores after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..data.sampling import Plan
from ..data.token_plan import TokenPlan
from ..modeling.display import display


def plan_title(plan: Plan, first: int = 0) -> str:
    """Return the schedule and the steps of a plan; `first` as in `print_plan`."""
    schedule = plan.schedule.name + (" (mixed)" if plan.schedule.mixed else "")
    total, epoch = plan.total_steps, plan.steps_per_epoch
    steps = f"{total:,} step{'' if total == 1 else 's'}"
    title = f"Plan: {schedule}, {plan.epochs:,} epoch{'' if plan.epochs == 1 else 's'} × {epoch:,} steps = {steps}"
    if total % epoch:
        title = f"Plan: {schedule}, {steps} = {total / epoch:.3f} epochs of {epoch:,} steps"
    if isinstance(plan, TokenPlan):
        title += f" of at most {plan.budget.tokens:,} tokens"
    return title + (f"; the {max(total - first, 0):,} steps that are left" if first else "")


def print_plan(plan: Plan, console: Console | None = None, first: int = 0) -> None:
    """Print the rows, examples and passes of each task, and its probability in the first and the last epoch.

    With a budget of tokens, the rows a step are a mean, followed by the fewest and the most.

    Args:
        plan: the plan of the whole run.
        console: where to print; None: standard output.
        first: number of steps that were taken before this run resumed; the table is of those that are left.
    """
    table = Table(title=plan_title(plan, first))
    for heading in ("task", "rows", "rows a step", "examples", "passes", "probability"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for row in plan.describe(first):
        p: Any = row["probability"]
        batch = format(row["batch"], ",.2f" if plan.schedule.mixed or "most" in row else ",")
        if "most" in row:
            batch += f" ({row['fewest']:,}–{row['most']:,})"
        table.add_row(
            Text(display(row["task"])),
            f"{row['rows']:,}",
            batch,
            f"{row['examples']:,}",
            f"{row['passes']:.2f}",
            "" if p is None else " → ".join(f"{probability:.3f}" for probability in p),
        )
    (console or Console()).print(table)


def print_parameters(rows: Iterable[Mapping[str, str | int | float]], console: Console | None = None) -> None:
    """Print a model's `parameter_table`: the size of each part, and how much of it is trained."""
    table = Table(title="Parameters")
    for heading in ("component", "task", "parameters", "trained", "× encoder"):
        table.add_column(heading, justify="left" if heading in ("component", "task") else "right")
    for row in rows:
        numbers = f"{row['parameters']:,}", f"{row['trainable']:,}", f"{row['ratio']:.3f}"
        table.add_row(str(row["component"]), Text(display(row["task"])), *numbers)
    (console or Console()).print(table)


def print_lines(lines: Iterable[str | None], console: Console | None = None) -> None:
    """Print one sentence a line; leave out None."""
    for line in lines:
        if line is not None:
            (console or Console()).print(display(line, lines=True), highlight=False, markup=False)


def print_scores(columns: Mapping[str, Mapping[str, float]], console: Console | None = None) -> None:
    """Print a table with a row for each metric and a column for each set of scores, such as before and after training.

    Args:
        columns: heading of a column → its scores; cells of missing metrics are empty.
    """
    hidden = ("_runtime", "_per_second", "epoch", "step", "_loss")
    columns = {heading: scores for heading, scores in columns.items() if scores}
    names = [name for scores in columns.values() for name in scores if not name.endswith(hidden)]
    if not names:
        return
    table = Table(title="Scores")
    table.add_column("metric")
    for heading in columns:
        table.add_column(Text(display(heading)), justify="right")
    for name in dict.fromkeys(names):
        values = [f"{scores[name]:.3f}" if name in scores else "" for scores in columns.values()]
        table.add_row(Text(display(name.removeprefix("eval_"))), *values)
    (console or Console()).print(table)
