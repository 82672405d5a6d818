"""Dev curves of the rows of a table: means over each row's seeds, as numbers and as one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from .report import figures
from .report.course import logged_curve
from .report.write import write_figure
from .run_tables import FinishedRun
from .table_files import main_keys

Curves = dict[str, list[dict[str, float]]]  # name of a score → points with `epoch`, `step` and `value`


def table_curves(runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """Collect the dev curves of finished runs by row.

    A row's curve is the mean over its seeds, at the steps at which all of them were evaluated. A run that was evaluated
    fewer than two times has no curve, and is left out of the mean.

    Args:
        runs: the runs of all rows with all seeds.

    Returns:
        - `curves`: `overall`, then `<task> <metric>` for the main metric of each task → row → points with `epoch`,
          `step` and `value`; a row without the task or metric is absent there;
        - `seeds`: row → the seeds in its mean;
        - `left_out`: row → why it has no curve.
    """
    by_score: dict[str, Curves] = {"overall": {}}
    seeds: dict[str, list[int]] = {}
    left_out: dict[str, str] = {}
    for row in dict.fromkeys(run.row for run in runs):
        row_runs = [run for run in runs if run.row == row]
        done = [run for run in row_runs if not run.failed and run.record]
        with_curves = {run.seed: curves for run in done if (curves := run_curves(run))}
        means = mean_curves(list(with_curves.values()))
        same_as = row_runs[0].same_as
        if same_as is not None:
            left_out[row] = f"its runs are those of {same_as.row}"
        elif not done:
            left_out[row] = "no run has ended well"
        elif not with_curves:
            left_out[row] = "its runs were evaluated fewer than two times"
        elif len(means["overall"]) < 2:
            left_out[row] = "its seeds were evaluated at fewer than two common steps"
        else:
            seeds[row] = list(with_curves)
            for name, points in means.items():
                by_score.setdefault(name, {})[row] = points
    return {"curves": by_score, "seeds": seeds, "left_out": left_out}


def run_curves(run: FinishedRun) -> Curves:
    """Return the curves of a run's overall score and of each task's main metric; empty with fewer than two evaluations.

    Scores that were not logged are absent.
    """
    curves = {"overall": logged_curve(run.log, "eval_overall")}
    if len(curves["overall"]) < 2:
        return {}
    for task, key in main_keys(run.scores, list(run.recipe["tasks"])).items():
        curves[f"{task} {key.removeprefix(f'eval_{task}_')}"] = logged_curve(run.log, key)
    return {name: points for name, points in curves.items() if points}


def mean_curves(runs: Sequence[Curves]) -> Curves:
    """Return the mean of several runs' curves at their common steps; scores that a run lacks are absent."""
    means: Curves = {}
    for name in runs[0] if runs else ():
        by_step = [{point["step"]: point for point in curves.get(name, ())} for curves in runs]
        common = [step for step in by_step[0] if all(step in curve for curve in by_step)]
        means[name] = []
        for step in common:
            value = mean(curve[step]["value"] for curve in by_step)
            means[name].append({"epoch": by_step[0][step]["epoch"], "step": step, "value": value})
    return {name: points for name, points in means.items() if points or name == "overall"}


def write_curves(runs: Sequence[FinishedRun], folder: Path, title: str) -> None:
    """Write the curves as `<title>-curves.json` and `<title>-curves.png`; nothing if no row has a curve.

    Args:
        runs: as for `table_curves`.
        folder: the folder of the table.
        title: name of the table's files.
    """
    found = table_curves(runs)
    if not found["seeds"]:
        return
    write_figure(folder, f"{title}-curves", found, lambda numbers: figures.table_curves(numbers["curves"]))
