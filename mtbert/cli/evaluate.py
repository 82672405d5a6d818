"""Score a run or a checkpoint and write a report: one HTML file, its figures, and all numbers as JSON.

    mtbert evaluate RUN_DIR [--against RUN_DIR] [--split dev] [--group COLUMN | TASK:COLUMN ...]

The data are those of the run's recipe.json. Any key of the recipe can be changed on the command line by its dotted
name, such as `--data_dir DIR`. The model computes in fp32 unless the recipe or `--mixed_precision bf16` says otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from datasets import Dataset

from ..data.pools import TaskSplits
from ..data.sampling import Plan
from ..data.sources import with_leaks_of_pools
from ..data.splits import LoadedTask, load_column
from ..errors import InputError
from ..evaluation.metrics import default_metrics
from ..evaluation.report import (
    RunLog,
    StagedPlan,
    TaskRows,
    TokenWeights,
    analyse_run,
    check_folder,
    compare_runs,
    data_facts,
    pretraining_losses,
    read_run,
    write_report,
)
from ..modeling.calibration_file import figures_of
from ..modeling.encoder_loading import load_tokenizer
from ..modeling.task_spec import TaskSpec
from ..recipe import Recipe, load_rows
from ..runs.evaluation import find_recipe, load_model, predict_split
from ..runs.report_setup import report_setup
from ..training.checkpoints.run_folder import PRETRAINING
from ..training.progress.phases import phase
from ..training.settings import PLAN_ARGUMENTS
from . import arguments
from .main import run as run_command


@dataclass(frozen=True)
class Evaluated:
    """A run with its predictions: rows and main metric by task, plan, pre-training's losses, notes for the report.

    `decisions` are the figures of calibrated tasks (see `figures_of`), `facts` are those of the data (see
    `data_facts`), and `setup` says how the model was trained (see `report_setup`).
    """

    run: RunLog
    tasks: dict[str, TaskRows]
    metrics: dict[str, str]
    plan: Plan | StagedPlan | None
    pretraining: dict[str, Any] | None
    notes: tuple[str, ...]
    decisions: dict[str, dict[str, Any]]
    facts: dict[str, dict[str, Any]]
    setup: dict[str, Any]


def make_plan(recipe: Recipe, data: dict[str, LoadedTask], processes: int) -> Plan:
    """Return the plan of a run with one stage."""
    values = {key: recipe.training_value(key) for key in PLAN_ARGUMENTS}
    rows = {name: len(data[name].splits["train"]) for name in recipe.tasks}
    return recipe.settings().plan(rows, SimpleNamespace(world_size=processes, **values))


def plan_run(recipe: Recipe, data: dict[str, LoadedTask], processes: int) -> Plan | StagedPlan | None:
    """Return the plan of a run with all its stages.

    None if a stage but the last ends within an epoch, and with a budget of tokens, for which texts must be encoded.
    """
    stages = recipe.in_stages()
    if any(stage.training_value("max_tokens_per_step") is not None for stage in stages):
        return None
    are_whole = [float(stage.training_value("num_train_epochs")).is_integer() for stage in stages[:-1]]
    if not all(are_whole) or any(stage.training_value("max_steps") > 0 for stage in stages[:-1]):
        return None
    plans = tuple(make_plan(stage, data, processes) for stage in stages)
    return StagedPlan(plans) if len(plans) > 1 else plans[0]


def read_pretraining(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """Return the losses of a run's pre-training; None if it had none, or they are not in its folder any more."""
    if recipe.pretraining is None:
        return None
    given = recipe.pretraining.get("output_dir")
    candidates = [Path(given)] if given else [parent / PRETRAINING for parent in (folder, folder.resolve().parent)]
    for candidate in candidates:
        losses = pretraining_losses(read_run(candidate).log, recipe.pretraining.get("use_epoch"))
        if losses is not None:
            return losses
    return None


def check_hidden(recipe: Recipe, wanted: Sequence[str]) -> None:
    """Check that no group is a text, which the report must not show with --hide_texts.

    Raises:
        ValueError: a column of --group is a text column of a task.
    """
    texts = {column: name for name, task in recipe.tasks.items() for column in task.data.text}
    for column in (group.rpartition(":")[2] for group in wanted):
        if column in texts:
            raise InputError(
                f"--group {column}: it holds texts of the task {texts[column]!r}, which --hide_texts keeps out of the "
                "report; give another column, or leave one of the two out"
            )


def read_groups(
    recipe: Recipe, raw: dict[str, Dataset], specs: Sequence[TaskSpec], split: str, wanted: Sequence[str]
) -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """Read the columns of --group.

    Returns:
        Task name → column → value of each row; and notes on tasks that lack a column requested for all tasks.

    Raises:
        ValueError: no task has a requested column.
    """
    groups: dict[str, dict[str, list[str]]] = {name: {} for name in raw}
    notes = []
    for group in wanted:
        only, colon, column = group.rpartition(":")
        tasks = [task for task in specs if task.name in raw and (not colon or only == task.name)]
        if not tasks:
            raise InputError(f"--group {group}: no task {only!r} has a {split} split; these have: {', '.join(raw)}")
        lacking = {}
        for task in tasks:
            try:
                values = load_column(task, recipe.tasks[task.name].data, split, column, recipe.data_dir)
                groups[task.name][column] = [values[row] for row in raw[task.name].with_format(None)["row"][:]]
            except ValueError as error:
                lacking[task.name] = error
        if len(lacking) == len(tasks):
            raise InputError(f"--group {group}: {next(iter(lacking.values()))}")
        if lacking:
            notes.append(f"No column {column!r} in the data of: {', '.join(lacking)}.")
    return groups, notes


def notes_on_calibration(tasks: Sequence[TaskSpec], decisions: dict[str, dict[str, Any]], split: str) -> list[str]:
    """Return sentences on calibrated tasks: those whose scores are of the rows that their thresholds were fitted on."""
    calibrated = [task.name for task in tasks if task.calibration is not None]
    fitted_here = [name for name in calibrated if name in decisions and decisions[name]["split"] == split]
    unknown = [name for name in calibrated if name not in decisions]
    notes = []
    if fitted_here:
        names = ", ".join(fitted_here)
        notes.append(f"Calibrated on these rows, so that scores with thresholds are too good: {names}; see Decisions.")
    if unknown:
        notes.append(f"Calibrated, but without figures beside the checkpoint: {', '.join(unknown)}.")
    return notes


def evaluate(folder: Path, recipe: Recipe, split: str, wanted: Sequence[str], show_texts: bool = True) -> Evaluated:
    """Load a run's model and data, and predict every row of a split."""
    if not show_texts:
        check_hidden(recipe, wanted)
    with phase(f"loading {folder} and its rows"):
        tokenizer = load_tokenizer(folder)
        model = load_model(folder, recipe)
        in_recipe = [task for task in model.tasks if task.name in recipe.tasks]
        data = load_rows(recipe, in_recipe, masked=True)
    sources = {name: [task for task in tasks if task in data] for name, tasks in recipe.drawn_sources.items()}
    # with `drop`, the plan is that of the rows that were trained on
    data = with_leaks_of_pools(data, sources, drop=recipe.leaks == "drop")
    raw = {task.name: data[task.name].splits[split] for task in in_recipe if split in data[task.name].splits}
    lacking = [task.name for task in model.tasks if task.name not in raw]
    if not raw:
        raise InputError(f"no task of the recipe has a {split} split; name one with --tasks.NAME.data.{split}")
    groups, notes = read_groups(recipe, raw, in_recipe, split, wanted)
    with_rows = [task for task in in_recipe if task.name in raw]
    if lacking:
        notes.append(f"Without a {split} split, and so without scores: {', '.join(lacking)}.")

    rows = TaskSplits({task.name: raw[task.name] for task in with_rows}, sources)
    with phase(f"predicting the {split} rows"):
        encoded, predicted, recorded, cuts = predict_split(model, tokenizer, recipe, rows, split)
    tasks = {}
    for task in with_rows:
        name = task.name
        logits, labels = predicted.predictions[name], predicted.label_ids[name]
        weights = TokenWeights.of(recorded[name], task, encoded[name], tokenizer) if name in recorded else None
        tasks[name] = TaskRows.of(task, raw[name], logits, labels, groups[name], show_texts, weights)
    metrics = {task.name: recipe.tasks[task.name].metric or default_metrics(task)[0] for task in in_recipe}
    run = read_run(folder)
    is_whole = len(data) == len(recipe.tasks) and not recipe.drawn_sources
    plan = plan_run(recipe, data, run.record.get("processes", 1)) if is_whole else None
    if recipe.drawn_sources:
        notes.append("The schedule draws texts with labels of several tasks, so that its plan is not shown by task.")
    if any(stage.training_value("max_tokens_per_step") is not None for stage in recipe.in_stages()):
        notes.append("Steps were bounded by tokens, so that the plan depends on encoded texts and is not shown.")
    pretraining = read_pretraining(folder, recipe)
    if recipe.pretraining is not None and pretraining is None:
        notes.append("The log of the pre-training is not there, so that its losses are not shown.")
    decisions = figures_of(with_rows, folder)
    notes += notes_on_calibration(with_rows, decisions, split)
    facts, setup = data_facts(with_rows, data, split, cuts), report_setup(recipe, run.record, split)
    return Evaluated(run, tasks, metrics, plan, pretraining, tuple(notes), decisions, facts, setup)


def main(argv: Sequence[str]) -> Path:
    """Write the report; return the path of its page."""
    args = arguments.evaluate(argv)
    check_folder(args.output, args.overwrite)
    folders = [args.run, args.against] if args.against else [args.run]
    recipes = {folder: find_recipe(folder, args.recipe, args.changes) for folder in folders}
    evaluated = {}
    for folder, recipe in recipes.items():
        evaluated[folder] = evaluate(folder, recipe, args.split, args.group, not args.hide_texts)

    a = evaluated[args.run]
    about = {"data": a.facts, "setup": a.setup, "seed": args.seed, "resamples": args.resamples}
    numbers = analyse_run(a.tasks, a.metrics, a.run, a.plan, args.examples, a.pretraining, **about)
    for name, figures in a.decisions.items():
        numbers["tasks"][name]["decisions"] = figures
    numbers["run"] = {
        "name": str(args.run),
        "against": str(args.against) if args.against else None,
        "split": args.split,
        "examples": args.examples,
        "resamples": args.resamples,
        "seed": args.seed,
        "notes": list(a.notes),
    }
    if args.against:
        b = evaluated[args.against]
        numbers["comparison"] = compare_runs(a.tasks, b.tasks, a.metrics, args.seed, args.resamples)
    with phase("writing the report"):
        page = write_report(args.output, numbers, args.overwrite)
    print(f"the report is {page}")
    return page


if __name__ == "__main__":
    sys.exit(run_command("evaluate"))
