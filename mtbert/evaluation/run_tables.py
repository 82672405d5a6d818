"""Result tables of many runs: one entry per row, over its seeds, with reasons to doubt a run's scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..data.sampling import Schedule
from .published import published_dev, published_test
from .table_files import main_metrics

AVERAGES = ("overall", "raw_mean")


class FinishedRun(Protocol):
    """A run of one row with one seed: its recipe file, and what it left: scores, record, recipe and log."""

    row: str
    path: Path
    seed: int
    failed: str
    scores: dict[str, float]
    record: dict[str, Any]

    @property
    def same_as(self) -> FinishedRun | None: ...

    @property
    def recipe(self) -> dict[str, Any]: ...

    @property
    def log(self) -> Sequence[Mapping[str, float]]: ...

    def commits(self) -> list[str]: ...


def doubts(run: FinishedRun, methods: Iterable[Any] = ()) -> list[str]:
    """Return the signs that the setting which a row varies had no effect on the run, such as "the adapter is missing".

    Args:
        run: the run.
        methods: classes of training methods; the `doubts` of those whose `section` the recipe sets are included.
    """
    recipe = run.recipe
    reasons = []
    by_task: dict[str, list[int]] = {task: [] for task in recipe["tasks"]}
    for counts in run.record["examples"].values():
        for task, values in by_task.items():
            values.append(counts.get(task, 0))
    for task, counts in by_task.items():
        if not sum(counts):
            reasons.append(f"{task} was not trained")
    annealed, epochs = recipe["schedule"]["name"] in ("annealed", "min_annealed"), len(run.record["examples"])
    if annealed and len(by_task) > 1:
        schedule = Schedule(**recipe["schedule"])
        if schedule.exponent(1, epochs) == schedule.exponent(epochs, epochs):
            reasons.append("α did not move")
    for settings_part in run.record["parameters"]:
        name = f"{settings_part['component']} {settings_part['task']}".strip()
        if "moved" in settings_part and settings_part["trainable"] and not settings_part["moved"]:
            reasons.append(f"{name} did not move")
        if "moved" in settings_part and not settings_part["trainable"] and settings_part["moved"]:
            reasons.append(f"{name} is frozen, but moved")
    has_adapter = bool(recipe.get("model", {}).get("adapter"))
    if has_adapter and not any(settings_part["component"] == "adapter" for settings_part in run.record["parameters"]):
        reasons.append("there is no adapter")
    measured = run.record.get("measured", {})
    settings = [recipe, *recipe.get("stages", ())]
    for method in methods:
        if any(settings_part.get(method.section) for settings_part in settings):
            reasons += method.doubts(measured, list(by_task))
    return reasons


def table(
    runs: Sequence[FinishedRun], published: Mapping[str, Mapping[str, Any]], methods: Iterable[Any] = ()
) -> list[dict[str, Any]]:
    """Return one entry per row: the scores of its seeds, the published figures, the cost, and doubts.

    Args:
        runs: the runs of all rows with all seeds.
        published: row → the published figures, and `what`, a description of the row; see `published.yaml`.
        methods: as for `doubts`.
    """
    entries = []
    for row in dict.fromkeys(run.row for run in runs):
        row_runs = [run for run in runs if run.row == row]
        done = [run for run in row_runs if not run.failed and run.record]
        what = published.get(row, {}).get("what") or describing_comment(row_runs[0].path)
        scores: dict[str, list[float]] = {}
        for run in done:
            recipe = run.recipe
            values = main_metrics(run.scores, list(recipe["tasks"]))
            values |= {name: run.scores[f"eval_{name}"] for name in AVERAGES if f"eval_{name}" in run.scores}
            for name, value in values.items():
                scores.setdefault(name, []).append(value)
        entries.append(
            {
                "row": row,
                "what": what,
                "scores": scores,
                "published": published_dev(published, row),
                "published_test": published_test(published, row),
                "seeds": [run.seed for run in done],
                "seconds": [run.record["seconds"] for run in done],
                "steps": done[0].record["steps"] if done else None,
                "trainable": done[0].record["parameters"][-1]["trainable"] if done else None,
                "encoder": done[0].recipe.get("encoder") if done else None,
                "rows": done[0].record.get("rows") if done else None,
                "commits": sorted({commit for run in done for commit in run.commits()}),
                "same_as": row_runs[0].same_as.row if row_runs[0].same_as else None,
                "doubts": sorted({doubt for run in done for doubt in doubts(run, methods)}),
                "failed": [f"seed {run.seed}: {run.failed}" for run in row_runs if run.failed],
            }
        )
    return entries


def describing_comment(path: Path) -> str:
    """Return the comment of a recipe that describes it."""
    lines = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return " ".join(line for line in lines if not line.startswith(("accelerate launch", "--encoder")))


def environment(runs: Sequence[FinishedRun], command: list[str]) -> dict[str, Any]:
    """Return the command, commits, data sizes, hardware and versions of the runs in a table."""
    record = next((run.record for run in runs if run.record), {})
    commits = sorted({commit for run in runs if run.record for commit in run.commits() or ["unknown"]})
    sizes: dict[str, dict[str, int]] = {}
    for run in runs:
        for split, counts in run.record.get("rows", {}).items():
            sizes[split] = sizes.get(split, {}) | counts
    about = {"command": " ".join(command), "commit": ", ".join(commits), "rows": sizes}
    return about | {key: record.get(key) for key in ("encoder", "device", "threads", "precision", "versions")}
