"""The first screen of a report: scores with their intervals, baselines and starts, cautions, and how it was trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .cautions import first_cautions
from .parts import shown

BAR, HEIGHT = 150, 20  # units of an interval's picture
SPARK, SPARK_HEIGHT = 84, 24  # units of a course's picture
TEXT = 48  # characters of a label that the table shows
KINDS = {
    "single_label_classification": "one of several labels",
    "binary_classification": "one of two labels",
    "multi_label_classification": "any of several labels",
    "ordinal_classification": "ordered labels",
    "regression": "a score",
    "token_classification": "tags of words",  # nosec B105
}


@dataclass(frozen=True)
class Mark:
    """Places on a score's scale, in units of its picture: None where unknown."""

    score: float
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    start: float | None = None


@dataclass(frozen=True)
class ScoreRow:
    """A row of the table of scores, as texts; `anchor` is the number of the task's section, None for averages."""

    name: str
    kind: str
    metric: str
    score: str
    interval: str
    baseline: str
    answer: str
    start: str
    change: str
    rows: str
    mark: Mark | None
    spark: str
    spark_title: str
    better: bool | None
    anchor: int | None = None


@dataclass(frozen=True)
class Summary:
    """The first screen.

    Attributes:
        title, split, against: the run, the evaluated split, and the run that it is compared with, or None.
        scores: a row for each task, then one for each average.
        start: heading of the column of first scores; empty: there are none.
        cautions: at most three, as dicts of the fields of `Caution`.
        more: number of the other cautions.
        facts: what was trained, and how: name → value.
        notes: sentences below the table.
    """

    title: str
    split: str
    against: str | None
    scores: tuple[ScoreRow, ...]
    start: str
    cautions: Sequence[Mapping[str, Any]]
    more: int
    facts: Mapping[str, str]
    notes: tuple[str, ...]


def summary(numbers: Mapping[str, Any], notes: Sequence[str]) -> Summary:
    """Arrange the first screen.

    Args:
        numbers: as for `page.sections`.
        notes: sentences below the table.
    """
    run, curves = numbers["run"], numbers["curves"]
    on_dev = run["split"] == "dev"
    rows = []
    for anchor, (name, task) in enumerate(numbers["tasks"].items()):
        course = curves["tasks"].get(name, {}).get("dev", {}).get(task["main"], ()) if on_dev else ()
        rows.append(_task_row(name, task, course, anchor))
    for name, value in reversed(numbers["averages"].items()):
        course = curves["overall"]["dev"] if name == "overall" and on_dev else ()
        rows.append(_average_row(name, value, course))
    cautions = numbers["cautions"]
    title = run["name"].rstrip("/").rpartition("/")[2] or run["name"]
    return Summary(
        title=title,
        split=run["split"],
        against=run["against"],
        scores=tuple(rows),
        start=_start_heading(curves) if on_dev else "",
        cautions=first_cautions(cautions),
        more=len(cautions) - len(first_cautions(cautions)),
        facts=_facts(numbers),
        notes=tuple(notes),
    )


def _start_heading(curves: Mapping[str, Any]) -> str:
    first = [course[0] for task in curves["tasks"].values() for course in task["dev"].values() if course]
    if not first:
        return ""
    return "Before training" if all(point["step"] == 0 for point in first) else "First dev score"


def _task_row(name: str, task: Mapping[str, Any], course: Sequence[Mapping[str, float]], anchor: int) -> ScoreRow:
    metric, kind = task["main"], KINDS.get(task["problem_type"], task["problem_type"].replace("_", " "))
    if not task["rows"]:
        return ScoreRow(name, kind, metric, "–", "", "", "", "", "", "0", None, "", "", None, anchor)
    score, interval, base = task["scores"][metric], task["interval"], task["baseline"]
    first = course[0]["value"] if course else None
    low, high = interval["low"], interval["high"]
    return ScoreRow(
        name=name,
        kind=kind,
        metric=metric,
        score=shown(score),
        interval="" if math.isnan(low) else f"{low:.3f} – {high:.3f}",
        baseline=shown(base["score"]),
        answer=f"{base['kind']}: {_cut(base['answer'])}",
        start="" if first is None else shown(first),
        change="" if first is None else _signed(score - first),
        rows=shown(task["rows"]),
        mark=_mark(score, low, high, base["score"], first),
        spark=spark(course),
        spark_title=_spark_title(course),
        better=base["difference_low"] > 0,
        anchor=anchor,
    )


def _average_row(name: str, value: float, course: Sequence[Mapping[str, float]]) -> ScoreRow:
    first = course[0]["value"] if course else None
    what = "mean with r as (1 + r)/2" if name == "overall" else "mean of the scores"
    return ScoreRow(
        name=name.replace("_", " "),
        kind=what,
        metric="",
        score=shown(value),
        interval="",
        baseline="",
        answer="",
        start="" if first is None else shown(first),
        change="" if first is None else _signed(value - first),
        rows="",
        mark=None,
        spark=spark(course),
        spark_title=_spark_title(course),
        better=None,
    )


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _cut(text: str) -> str:
    return f"{text[:TEXT]}…" if len(text) > TEXT else text


def _mark(score: float, low: float, high: float, baseline: float, start: float | None) -> Mark | None:
    """Return the places of a score on a scale from 0 (or −1, if a value is below 0) to 1; None if it is not finite."""
    values = [value for value in (score, low, baseline, start) if value is not None and math.isfinite(value)]
    if not math.isfinite(score):
        return None
    bottom = -1.0 if min(values) < 0 else 0.0

    def place(value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        share = (min(1.0, max(bottom, value)) - bottom) / (1 - bottom)
        return round(5 + share * (BAR - 10), 1)

    return Mark(place(score) or 0.0, place(low), place(high), place(baseline), place(start))


def spark(course: Sequence[Mapping[str, float]]) -> str:
    """Return a learning curve as the points of a small polyline; empty with fewer than two finite values."""
    points = [(point["epoch"], point["value"]) for point in course if math.isfinite(point["value"])]
    if len(points) < 2:
        return ""
    (left, right), values = (points[0][0], points[-1][0]), [value for _, value in points]
    width, height = (right - left) or 1.0, (max(values) - min(values)) or 1.0
    places = []
    for x, y in points:
        across = 4 + (x - left) / width * (SPARK - 8)
        down = SPARK_HEIGHT - 4 - (y - min(values)) / height * (SPARK_HEIGHT - 8)
        places.append(f"{across:.1f},{down:.1f}")
    return " ".join(places)


def _spark_title(course: Sequence[Mapping[str, float]]) -> str:
    return "; ".join(f"epoch {point['epoch']:g}: {shown(point['value'])}" for point in course[-12:])


def _facts(numbers: Mapping[str, Any]) -> dict[str, str]:
    setup, cost, facts = numbers["setup"], numbers["cost"], {}
    for key in ("encoder", "recipe", "methods"):
        if setup.get(key):
            facts[key.capitalize()] = str(setup[key])
    sizes: dict[str, int] = {}
    for of_task in numbers["data"].values():
        for split, count in of_task["rows"].items():
            sizes[split] = sizes.get(split, 0) + count
    if sizes:
        facts["Labelled rows"] = ", ".join(f"{count:,} {split}" for split, count in sizes.items() if count)
    trained = [f"{cost['steps']:,} steps"] if cost.get("steps") else []
    trained += [_time(cost["seconds"])] if cost.get("seconds") else []
    trained += [str(cost["device"])] if cost.get("device") else []
    if trained:
        facts["Training"] = ", ".join(trained)
    facts["Commit"] = setup["commit"][:10] if setup.get("commit") else "not recorded"
    return facts


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
