"""Fit the decision rule of a checkpoint's tasks on held-out rows, and write it into the checkpoint's config.json.

    mtbert calibrate CHECKPOINT [--split dev] [--tasks NAME,NAME] [--output DIR]
    mtbert calibrate CHECKPOINT --remove

For each classification a temperature; for each label of a multi-label task, and for the second of two classes, the
threshold with the highest F1 (or --precision, --recall); for tasks with one label a row, sets that hold the true label
with --coverage, and the confidence below which a person should decide (--accuracy); for regressions, intervals. The
figures are cross-fitted: each row is scored by a fit on other rows. docs/decisions.md explains them.

The data are those of the run's recipe.json, as for `mtbert evaluate`. Any key of the recipe can be changed on the
command line by its dotted name, such as `--tasks.NAME.data.dev FILE`. The model computes in fp32.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ..evaluation.calibration import Goals
from ..modeling.calibration_card import summary
from ..modeling.display import display
from ..runs.calibration import choose_tasks, fit_calibrations, remove_calibrations, write_calibrations
from ..runs.evaluation import find_recipe
from ..training.progress.phases import phase
from . import parsers_calibration
from .main import run as run_command


def main(argv: Sequence[str]) -> Path:
    """Fit and write the calibration, or remove it; return the folder of the checkpoint."""
    args = parsers_calibration.calibrate(argv)
    if args.remove:
        folder, tasks = remove_calibrations(args.checkpoint, args.tasks, args.output)
        print(display(f"{folder} has no calibration of {', '.join(tasks)} any more"))
        return folder
    names = choose_tasks(args.checkpoint, args.tasks, args.overwrite)
    recipe = find_recipe(args.checkpoint, args.recipe, args.changes)
    goals = Goals(args.precision, args.recall, args.coverage or None, args.accuracy or None)
    with phase(f"predicting the {args.split} rows, and fitting"):
        calibrations, figures, skipped = fit_calibrations(
            args.checkpoint, recipe, names, args.split, goals, args.folds, args.seed
        )
    folder = write_calibrations(args.checkpoint, args.output, calibrations, figures)
    for name, of_task in figures.items():
        title = f"{name}: {of_task['rows']:,} rows of the {of_task['split']} split, cross-fitted in {args.folds} folds"
        print(display(title))
        for what, figure in summary(of_task):
            print(display(f"  {what:<28}{figure}"))
        for note in of_task["notes"]:
            print(display(f"  note: {note}"))
        if of_task["approximate"]:
            print(display(f"  note: {of_task['approximate']}"))
    for sentence in skipped:
        print(display(f"not calibrated: {sentence}"))
    print(display(f"the calibration is in {folder}"))
    return folder


if __name__ == "__main__":
    sys.exit(run_command("calibrate"))
