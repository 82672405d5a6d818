"""A run's course, out of what it logged: learning curves, what was sampled, gradient conflicts, time and energy."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ...data.sampling import Plan
from ...modeling.checkpoint_loading import read_json
from ..energy import read_energy
from ..metrics import METRICS

Log = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class RunLog:
    """What a run has left beside its weights.

    Attributes:
        folder: where it lies.
        log: `log_history` of its trainer_state.json.
        record: its record.json.
        scores: its scores.json.
    """

    folder: Path
    log: Log = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StagedPlan:
    """The plans of a run's stages, one after the other; every stage but the last ends with a whole epoch."""

    stages: tuple[Plan, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Tasks, in the order of their ids."""
        return self.stages[0].names

    def probabilities(self, epoch: int) -> np.ndarray | None:
        """p_t in an epoch of the run, from 0; None in a stage whose schedule does not draw."""
        plan, own = self._at(epoch)
        return plan.probabilities(own)

    def epoch_rows(self, epoch: int) -> np.ndarray:
        """Rows of each task that an epoch of the run passes, `(tasks,)`."""
        plan, own = self._at(epoch)
        return plan.epoch_rows(own)

    def _at(self, epoch: int) -> tuple[Plan, int]:
        for plan in self.stages[:-1]:
            if epoch < plan.epochs:
                return plan, epoch
            epoch -= plan.epochs
        return self.stages[-1], epoch


def read_run(folder: str | Path) -> RunLog:
    """Read what a run's folder, or one of its checkpoints, has; what is not there stays empty."""

    def read(name: str) -> dict[str, Any]:
        path = Path(folder, f"{name}.json")
        return read_json(path, "start the run again", limited=False) if path.is_file() else {}

    return RunLog(Path(folder), read("trainer_state").get("log_history", ()), read("record"), read("scores"))


def _course(log: Log, key: str) -> list[dict[str, float]]:
    """`epoch`, `step` and `value` of a key, one for each step.

    A step's first value counts: at the end a run scores the model that it keeps, which may be that of another step.
    """
    first: dict[int, dict[str, float]] = {}
    for entry in log:
        if entry.get(key) is not None:
            first.setdefault(entry["step"], {"epoch": entry["epoch"], "step": entry["step"], "value": entry[key]})
    return [first[step] for step in sorted(first)]


def best(course: Sequence[Mapping[str, float]], rises: bool = True) -> Mapping[str, float] | None:
    """The first of the best values of a course; None if it has none that is finite."""
    finite = [each for each in course if math.isfinite(each["value"])]
    return max(finite, key=lambda each: each["value"] if rises else -each["value"], default=None)


def learning_curves(log: Log, main: Mapping[str, str]) -> dict[str, Any]:
    """What each task's loss and metrics were, by epoch.

    Args:
        log: a run's `log_history`.
        main: task → its main metric.

    Returns:
        Task → `loss`, the mean loss of the rows that training steps held; `dev` and `train` (if the training split was
        evaluated): metric or `loss` → course; `main`, the main metric's name; `best`, where its dev score is best. And
        `overall`: the course of the mean over tasks, and where it is best.
    """
    found = {}
    for task, metric in main.items():
        scores = {}
        for split, prefix in (("dev", "eval"), ("train", "train")):
            courses = {name: _course(log, f"{prefix}_{task}_{name}") for name in (*METRICS, "loss")}
            scores[split] = {name: course for name, course in courses.items() if course}
        top = best(scores["dev"].get(metric, ()))
        found[task] = {"main": metric, "loss": _course(log, f"loss_{task}"), **scores, "best": top}
    overall = _course(log, "eval_overall")
    return {"tasks": found, "overall": {"dev": overall, "best": best(overall)}}


def sampling(log: Log, tasks: Sequence[str], plan: Plan | StagedPlan | None) -> list[dict[str, Any]]:
    """What every epoch drew.

    Args:
        log: a run's `log_history`. An entry counts for the epoch that it was logged in.
        plan: the run's plan; None if it is not known.

    Returns:
        For each epoch that has begun `epoch`, from 1; `sampled`, rows by task as the log counts them; and, with a plan,
        `planned`, rows by task of this epoch and of those before it in which nothing was logged, and `probability`, p_t
        by task (None for schedules that do not draw).
    """
    sampled: dict[int, dict[str, int]] = defaultdict(lambda: dict.fromkeys(tasks, 0))
    for entry in log:
        for task in tasks:
            if f"examples_{task}" in entry:
                sampled[max(1, math.ceil(entry["epoch"] - 1e-6))][task] += int(entry[f"examples_{task}"])
    table, before = [], 0
    for epoch in sorted(sampled):
        row: dict[str, Any] = {"epoch": epoch, "sampled": sampled[epoch]}
        if plan is not None:
            p = plan.probabilities(epoch - 1)
            planned = np.sum([plan.epoch_rows(each) for each in range(before, epoch)], axis=0)
            row["planned"] = dict(zip(plan.names, planned.tolist(), strict=True))
            row["probability"] = None if p is None else dict(zip(plan.names, p.tolist(), strict=True))
        table.append(row)
        before = epoch
    return table


def conflicts(log: Log, tasks: Sequence[str]) -> dict[str, Any] | None:
    """How the tasks' gradients agreed; None if the run logged no cosine, conflict or norm.

    Returns:
        `cosines`: `(tasks, tasks)` means over the log of the logged cosines, 1 on the diagonal and NaN where a pair was
        not logged; `course`: "a, b" → the course of a pair's cosine; `conflicts`: the course of the logged count;
        `norms`: task → the course of its gradient's norm.
    """
    matrix, course = np.full((len(tasks), len(tasks)), np.nan), {}
    np.fill_diagonal(matrix, 1.0)
    for (i, first), (j, second) in combinations(enumerate(tasks), 2):
        logged = _course(log, f"cos_{first}_{second}") or _course(log, f"cos_{second}_{first}")
        if logged:
            course[f"{first}, {second}"] = logged
            matrix[i, j] = matrix[j, i] = np.mean([each["value"] for each in logged])
    counts = _course(log, "conflicts")
    norms = {task: logged for task in tasks if (logged := _course(log, f"gradient_norm_{task}"))}
    if not (course or counts or norms):
        return None
    return {"tasks": list(tasks), "cosines": matrix.tolist(), "course": course, "conflicts": counts, "norms": norms}


def cost(log: Log, record: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Time, throughput and energy.

    Args:
        log: a run's `log_history`.
        record: what is in its `record.json`; may be empty.
        folder: where codecarbon has left its `emissions.csv`, if it was asked to (`report_to: codecarbon`).

    Returns:
        `seconds` of training over all stages with the evaluations in it, `evaluation_seconds` of these, `steps`,
        `examples`, and `examples_per_second` and `steps_per_second` without the evaluations; `device`, `processes`,
        `threads` and `precision` as recorded; `kwh` and `co2_kg` by codecarbon. What is not known is left out.
    """
    ends = [i for i, entry in enumerate(log) if "train_runtime" in entry]  # of each stage
    seconds = sum(log[end]["train_runtime"] for end in ends) if ends else None
    evaluating = sum(entry.get("eval_runtime", 0.0) for entry in log[: ends[-1] if ends else len(log)])
    examples = sum(int(value) for entry in log for key, value in entry.items() if key.startswith("examples_"))
    steps = max((entry["step"] for entry in log if "step" in entry), default=0)
    found: dict[str, Any] = {"steps": steps, "examples": examples, "evaluation_seconds": evaluating}
    if seconds is not None:
        found["seconds"] = seconds
        if seconds > evaluating:
            found["examples_per_second"] = examples / (seconds - evaluating)
            found["steps_per_second"] = steps / (seconds - evaluating)
    found |= {key: record[key] for key in ("device", "processes", "threads", "precision") if record.get(key)}
    energy = read_energy(folder)
    found |= {key: energy[key] for key in ("kwh", "co2_kg") if key in energy}
    return found
