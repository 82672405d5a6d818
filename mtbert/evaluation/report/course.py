"""Analyse a run's log: learning curves, sampled rows, gradient conflicts, time and energy."""

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
from ..task_affinity import summarise

Log = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class RunLog:
    """The log, record and scores of a run.

    Attributes:
        folder: the run's folder.
        log: `log_history` of its trainer_state.json.
        record: contents of its record.json.
        scores: contents of its scores.json.
    """

    folder: Path
    log: Log = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StagedPlan:
    """The plans of a run's successive stages; every stage but the last consists of whole epochs."""

    stages: tuple[Plan, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of their ids."""
        return self.stages[0].names

    def probabilities(self, epoch: int) -> np.ndarray | None:
        """Return p_t in an epoch of the run, from 0; None in a stage whose schedule does not draw."""
        plan, stage_epoch = self._at(epoch)
        return plan.probabilities(stage_epoch)

    def epoch_rows(self, epoch: int) -> np.ndarray:
        """Return the number of rows of each task that an epoch of the run draws, shape `(tasks,)`."""
        plan, stage_epoch = self._at(epoch)
        return plan.epoch_rows(stage_epoch)

    def _at(self, epoch: int) -> tuple[Plan, int]:
        for plan in self.stages[:-1]:
            if epoch < plan.epochs:
                return plan, epoch
            epoch -= plan.epochs
        return self.stages[-1], epoch


def read_run(folder: str | Path) -> RunLog:
    """Read the log, record and scores of a run's folder or checkpoint; missing files give empty values."""

    def read(name: str) -> dict[str, Any]:
        path = Path(folder, f"{name}.json")
        return read_json(path, "start the run again", limited=False) if path.is_file() else {}

    return RunLog(Path(folder), read("trainer_state").get("log_history", ()), read("record"), read("scores"))


def logged_curve(log: Log, key: str) -> list[dict[str, float]]:
    """Return the logged values of a key as dicts of `epoch`, `step` and `value`, one for each step.

    The first value of a step is taken: at its end a run scores the model that it keeps, which may stem from an earlier
    step.
    """
    first: dict[float, dict[str, float]] = {}
    for entry in log:
        if entry.get(key) is not None:
            first.setdefault(entry["step"], {"epoch": entry["epoch"], "step": entry["step"], "value": entry[key]})
    return [first[step] for step in sorted(first)]


def best(course: Sequence[Mapping[str, float]], rises: bool = True) -> Mapping[str, float] | None:
    """Return the point of a learning curve with the best finite value, the first of equal ones, or None."""
    finite = [point for point in course if math.isfinite(point["value"])]
    return max(finite, key=lambda point: point["value"] if rises else -point["value"], default=None)


def learning_curves(log: Log, main: Mapping[str, str]) -> dict[str, Any]:
    """Collect the curves of each task's loss and metrics.

    A curve is a list of points, dicts of `epoch`, `step` and `value`.

    Args:
        log: a run's `log_history`.
        main: task name → main metric.

    Returns:
        `tasks`: task name → `loss`, the curve of the mean training loss; `dev` and `train` (if the training split was
        evaluated): metric or `loss` → curve; `main`, the main metric; and `best`, the point with the best dev score.
        `overall`: `dev`, the curve of the mean over tasks, and `best`, its best point.
    """
    by_task = {}
    for task, metric in main.items():
        scores = {}
        for split, prefix in (("dev", "eval"), ("train", "train")):
            courses = {name: logged_curve(log, f"{prefix}_{task}_{name}") for name in (*METRICS, "loss")}
            scores[split] = {name: course for name, course in courses.items() if course}
        best_point = best(scores["dev"].get(metric, ()))
        by_task[task] = {"main": metric, "loss": logged_curve(log, f"loss_{task}"), **scores, "best": best_point}
    overall = logged_curve(log, "eval_overall")
    return {"tasks": by_task, "overall": {"dev": overall, "best": best(overall)}}


def pretraining_losses(log: Log, use_epoch: int | None = None) -> dict[str, Any] | None:
    """Collect the losses of a masked-language model in pre-training; None if none was logged.

    Args:
        log: `log_history` of the pre-training.
        use_epoch: the epoch whose encoder was fine-tuned; None: unknown, or the last.

    Returns:
        `train` and `dev`: the curves of the mean cross-entropy of a chosen token, of training since the last logged
        value and of the dev texts; `best`, the point with the lowest dev loss, or None; and `use_epoch`.
    """
    train, dev = logged_curve(log, "loss"), logged_curve(log, "eval_loss")
    if not (train or dev):
        return None
    return {"train": train, "dev": dev, "best": best(dev, rises=False), "use_epoch": use_epoch}


def sampling(log: Log, tasks: Sequence[str], plan: Plan | StagedPlan | None) -> list[dict[str, Any]]:
    """Count the sampled rows of each epoch.

    Args:
        log: a run's `log_history`. An entry counts for the epoch in which it was logged.
        tasks: names of the tasks.
        plan: the run's plan; None if unknown.

    Returns:
        A dict for each epoch with log entries: `epoch`, from 1; `sampled`, logged rows by task; and with a plan
        `planned`, planned rows by task of this epoch and of epochs directly before it without log entries, and
        `probability`, p_t by task (None for schedules that do not draw).
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
            planned = np.sum([plan.epoch_rows(number) for number in range(before, epoch)], axis=0)
            row["planned"] = dict(zip(plan.names, planned.tolist(), strict=True))
            row["probability"] = None if p is None else dict(zip(plan.names, p.tolist(), strict=True))
        table.append(row)
        before = epoch
    return table


def conflicts(log: Log, tasks: Sequence[str]) -> dict[str, Any] | None:
    """Collect the cosines, conflicts and norms of the tasks' gradients; None if the run logged none of them.

    Returns:
        `tasks`: the names; `cosines`: mean of each pair's logged cosines, shape `(tasks, tasks)`, 1 on the diagonal and
        NaN for pairs that were not logged; `course`: "a, b" → curve of the pair's cosine; `conflicts`: curve of the
        logged share of conflicts; `norms`: task → curve of its gradient norm.
    """
    matrix, course = np.full((len(tasks), len(tasks)), np.nan), {}
    np.fill_diagonal(matrix, 1.0)
    for (i, first), (j, second) in combinations(enumerate(tasks), 2):
        logged = logged_curve(log, f"cos_{first}_{second}") or logged_curve(log, f"cos_{second}_{first}")
        if logged:
            course[f"{first}, {second}"] = logged
            matrix[i, j] = matrix[j, i] = np.mean([point["value"] for point in logged])
    counts = logged_curve(log, "conflicts")
    norms = {task: logged_curve(log, f"gradient_norm_{task}") for task in tasks}
    norms = {task: curve for task, curve in norms.items() if curve}
    if not (course or counts or norms):
        return None
    return {"tasks": list(tasks), "cosines": matrix.tolist(), "course": course, "conflicts": counts, "norms": norms}


def affinity(folder: Path) -> dict[str, Any] | None:
    """Return the summary (see `task_affinity.summarise`) of the affinities that a run measured, or None."""
    file = folder / "affinity.json"  # as `training.methods.affinity` names it
    measured = read_json(file, "remove it, or run the training again", limited=False) if file.is_file() else {}
    return summarise([measured]) if measured.get("measured") else None


def cost(log: Log, record: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Compute time, throughput and energy of a run.

    Args:
        log: a run's `log_history`.
        record: contents of its `record.json`; may be empty.
        folder: folder of codecarbon's `emissions.csv` (with `report_to: codecarbon`).

    Returns:
        `seconds` of training over all stages, evaluations included; `evaluation_seconds`; `steps`; `examples`;
        `examples_per_second` and `steps_per_second`, without the evaluations; `device`, `processes`, `threads` and
        `precision` as recorded; `kwh` and `co2_kg` by codecarbon. Unknown values are left out.
    """
    ends = [i for i, entry in enumerate(log) if "train_runtime" in entry]  # the last entry of each stage
    seconds = sum(log[end]["train_runtime"] for end in ends) if ends else None
    evaluating = sum(entry.get("eval_runtime", 0.0) for entry in log[: ends[-1] if ends else len(log)])
    examples = sum(int(value) for entry in log for key, value in entry.items() if key.startswith("examples_"))
    steps = max((entry["step"] for entry in log if "step" in entry), default=0)
    costs: dict[str, Any] = {"steps": steps, "examples": examples, "evaluation_seconds": evaluating}
    if seconds is not None:
        costs["seconds"] = seconds
        if seconds > evaluating:
            costs["examples_per_second"] = examples / (seconds - evaluating)
            costs["steps_per_second"] = steps / (seconds - evaluating)
    costs |= {key: record[key] for key in ("device", "processes", "threads", "precision") if record.get(key)}
    energy = read_energy(folder)
    costs |= {key: energy[key] for key in ("kwh", "co2_kg") if key in energy}
    return costs
