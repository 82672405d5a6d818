"""What many runs come to: one entry a row of a table, over its seeds, and reasons to doubt what a run says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..data.sampling import Schedule
from ..modeling.checkpoint_loading import read_json
from .table_files import main_metrics

AVERAGES = ("overall", "raw_mean")


class FinishedRun(Protocol):
    """One row with one seed: its recipe file, its output folder, and the scores and the record that it left there."""

    row: str
    path: Path
    seed: int
    failed: str
    scores: dict[str, float]
    record: dict[str, Any]
    same_as: FinishedRun | None

    @property
    def output(self) -> Path: ...

    def commits(self) -> list[str]: ...


def _recipe(run: FinishedRun) -> dict[str, Any]:
    return read_json(run.output / "recipe.json", "run it again", limited=False)


def doubts(run: FinishedRun, methods: Iterable[Any] = ()) -> list[str]:
    """Why a run's scores would say nothing about what its row varies; empty if all of it acted.

    Args:
        methods: classes of training methods, whose `doubts` are asked where a run's recipe sets their `section`.
    """
    recipe = _recipe(run)
    found = []
    by_task: dict[str, list[int]] = {task: [] for task in recipe["tasks"]}
    for counts in run.record["examples"].values():
        for task, values in by_task.items():
            values.append(counts.get(task, 0))
    for task, counts in by_task.items():
        if not sum(counts):
            found.append(f"{task} was not trained")
    annealed, epochs = recipe["schedule"]["name"] in ("annealed", "min_annealed"), len(run.record["examples"])
    if annealed and len(by_task) > 1:
        schedule = Schedule(**recipe["schedule"])
        if schedule.exponent(1, epochs) == schedule.exponent(epochs, epochs):
            found.append("α did not move")
    for part in run.record["parameters"]:
        name = f"{part['component']} {part['task']}".strip()
        if "moved" in part and part["trainable"] and not part["moved"]:
            found.append(f"{name} did not move")
        if "moved" in part and not part["trainable"] and part["moved"]:
            found.append(f"{name} is frozen, but moved")
    has_adapter = bool(recipe.get("model", {}).get("adapter"))
    if has_adapter and not any(part["component"] == "adapter" for part in run.record["parameters"]):
        found.append("there is no adapter")
    measured = run.record.get("measured", {})
    settings = [recipe, *recipe.get("stages", ())]
    for method in methods:
        if any(part.get(method.section) for part in settings):
            found += method.doubts(measured, list(by_task))
    return found


def table(
    runs: Sequence[FinishedRun], published: Mapping[str, Mapping[str, Any]], methods: Iterable[Any] = ()
) -> list[dict[str, Any]]:
    """One entry a row, with the scores of its seeds, what was published, cost, and doubts.

    Args:
        runs: all seeds of all rows.
        published: row → the figures that its report prints, and `what` it is.
        methods: as for `doubts`.
    """
    entries = []
    for row in dict.fromkeys(run.row for run in runs):
        own = [run for run in runs if run.row == row]
        done = [run for run in own if not run.failed and run.record]
        what = published.get(row, {}).get("what") or _comment(own[0].path)
        scores: dict[str, list[float]] = {}
        for run in done:
            recipe = _recipe(run)
            values = main_metrics(run.scores, list(recipe["tasks"]))
            values |= {name: run.scores[f"eval_{name}"] for name in AVERAGES if f"eval_{name}" in run.scores}
            for name, value in values.items():
                scores.setdefault(name, []).append(value)
        entries.append(
            {
                "row": row,
                "what": what,
                "scores": scores,
                "published": {k: v for k, v in published.get(row, {}).items() if k != "what"},
                "seeds": [run.seed for run in done],
                "seconds": [run.record["seconds"] for run in done],
                "steps": done[0].record["steps"] if done else None,
                "trainable": done[0].record["parameters"][-1]["trainable"] if done else None,
                "encoder": _recipe(done[0]).get("encoder") if done else None,
                "rows": done[0].record.get("rows") if done else None,
                "commits": sorted({commit for run in done for commit in run.commits()}),
                "same_as": own[0].same_as.row if own[0].same_as else None,
                "doubts": sorted({doubt for run in done for doubt in doubts(run, methods)}),
                "failed": [f"seed {run.seed}: {run.failed}" for run in own if run.failed],
            }
        )
    return entries


def _comment(path: Path) -> str:
    """The sentence about itself that a recipe opens with."""
    lines = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return " ".join(line for line in lines if not line.startswith(("accelerate launch", "--encoder")))


def environment(runs: Sequence[FinishedRun], command: list[str]) -> dict[str, Any]:
    """What the table was made with; commits are those of its runs."""
    done = next((run.record for run in runs if run.record), {})
    commits = sorted({commit for run in runs if run.record for commit in run.commits() or ["unknown"]})
    sizes: dict[str, dict[str, int]] = {}
    for run in runs:
        for split, counts in run.record.get("rows", {}).items():
            sizes[split] = sizes.get(split, {}) | counts
    found = {"command": " ".join(command), "commit": ", ".join(commits), "rows": sizes}
    return found | {key: done.get(key) for key in ("encoder", "device", "threads", "precision", "versions")}
