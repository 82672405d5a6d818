"""What a reader must know before trusting the scores of a report: cautions, the weightiest first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SHOWN = 3  # cautions on the first screen
NAMED = 2  # tasks or labels that one caution names
LARGE, SMALL = 0.05, 0.01  # shares of rows
FEW_TRAIN_ROWS = 10  # a label with fewer training rows is hardly learned
FREQUENT = 0.8  # share of the training rows of a label that makes a task imbalanced
WIDE = 0.1  # width of a score's interval that is said
ECE, LARGE_ECE = 0.05, 0.15
LOST = 0.02  # of the best dev score


@dataclass(frozen=True)
class Caution:
    """A reason to doubt scores.

    Attributes:
        kind: its name, one of `KINDS`.
        serious: whether the scores can mislead because of it.
        title: what is the matter, in a few words.
        text: the tasks that it concerns, with numbers, and what follows.
        tasks: names of these tasks.
    """

    kind: str
    serious: bool
    title: str
    text: str
    tasks: tuple[str, ...]


def ranked_cautions(numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the cautions of a report, as dicts of the fields of `Caution`: serious ones first, then as in `KINDS`.

    There is at most one of a kind; it names the tasks that it concerns, those with the largest figure first.

    Args:
        numbers: the result of `analyse_run`.
    """
    checks = [check(numbers) for check in KINDS.values()]
    found = [caution for caution in checks if caution is not None]
    return [asdict(caution) for caution in sorted(found, key=lambda caution: not caution.serious)]


Found = list[tuple[float, str, str]]  # figure by which tasks are sorted, task, sentence


def _caution(kind: str, title: str, found: Found, large: float, rest: str = "") -> Caution | None:
    """Make one caution of what was found in several tasks; serious if a figure reaches `large`."""
    if not found:
        return None
    found = sorted(found, key=lambda each: -each[0])
    said = [f"{name}: {text}" for _, name, text in found[:NAMED]]
    more = [f"{len(found) - NAMED} more"] if len(found) > NAMED else []
    text = "; ".join([*said, *more]) + "."
    tasks = tuple(name for _, name, _ in found)
    return Caution(kind, found[0][0] >= large, title, f"{text} {rest}".strip(), tasks)


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({100 * part / whole:.1f} %)"


def _scored(numbers: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: task for name, task in numbers["tasks"].items() if task["rows"]}


def _baseline(numbers: Mapping[str, Any]) -> Caution | None:
    found: Found = []
    for name, task in _scored(numbers).items():
        base = task.get("baseline")
        if base and (base["difference_low"] <= 0 or (math.isnan(base["difference_low"]) and base["difference"] <= 0)):
            score = f"{task['main']} {task['scores'][task['main']]:.3f}, against {base['score']:.3f}"
            found.append((1.0, name, f"{score} of the same answer ({_short(base['answer'])}) for every row"))
    return _caution("baseline", "No better than a constant answer", found, 0)


def _leaks(numbers: Mapping[str, Any]) -> Caution | None:
    found: Found = []
    split = numbers["setup"]["split"]
    for name, facts in numbers["data"].items():
        rows = facts["rows"].get(split, 0)
        if facts.get("shared") and rows:
            text = f"{_of(facts['shared'], rows)} {split} rows have the text of a training row"
            found.append((facts["shared"] / rows, name, text))
        elif facts.get("leaks", {}).get("same"):
            text = f"{_of(facts['leaks']['same'], facts['rows']['train'])} training rows have the text of a {split} row"
            found.append((facts["leaks"]["same"] / facts["rows"]["train"], name, text))
    title = f"Training texts stand in the {split} split"
    return _caution("leaks", title, found, 0, "Such scores say little about new texts.")


def _skipped(numbers: Mapping[str, Any]) -> Caution | None:
    skipped = {key: n for key, n in numbers["setup"].get("measured", {}).items() if key.endswith("_skipped") and n}
    if not skipped:
        return None
    text = f"{sum(skipped.values()):,.0f} steps were left out of training, since a loss or gradient was not finite."
    return Caution("skipped", True, "Training skipped steps", text, ())


def _contradictory(numbers: Mapping[str, Any]) -> Caution | None:
    found: Found = []
    for name, facts in numbers["data"].items():
        count, rows = facts.get("repeated", {}).get("contradictory", 0), facts["rows"].get("train", 0)
        if count and count / rows >= SMALL:
            found.append((count / rows, name, f"{_of(count, rows)} training rows"))
    return _caution("contradictory", "The same text has different labels", found, LARGE)


def _cut(numbers: Mapping[str, Any]) -> Caution | None:
    found: Found = []
    for name, facts in numbers["data"].items():
        cut = facts.get("cut", {})
        if cut.get("rows") and cut["rows"] / cut["total"] >= SMALL:
            found.append((cut["rows"] / cut["total"], name, f"{_of(cut['rows'], cut['total'])} inputs"))
    return _caution("cut", "Texts are cut", found, LARGE, "The model does not read the ends of these texts.")


def _rare(numbers: Mapping[str, Any]) -> Caution | None:
    found: Found = []
    for name, facts in numbers["data"].items():
        counts = facts.get("labels", {}).get("counts", {})
        rare = sorted((n, label) for label, n in counts.items() if n < FEW_TRAIN_ROWS)
        if rare:
            labels = ", ".join(f"{_short(label)} ({n})" for n, label in rare[:NAMED])
            more = f" and {len(rare) - NAMED:,} more labels" if len(rare) > NAMED else ""
            found.append((1.0 if rare[0][0] == 0 else len(rare) / len(counts), name, f"{labels}{more}"))
    return _caution("rare", f"Labels with fewer than {FEW_TRAIN_ROWS} training rows", found, 0.5)


def _phrases(numbers: Mapping[str, Any]) -> Caution | None:
    found: Found = []
    for name, facts in numbers["data"].items():
        count, rows = facts.get("leaks", {}).get("phrases", 0), facts["rows"].get("train", 0)
        if count and count / rows >= SMALL:
            found.append((count / rows, name, f"{_of(count, rows)} training rows"))
    split = numbers["setup"]["split"]
    return _caution("phrases", f"Training rows share phrases with {split} rows", found, LARGE)


def _imbalance(numbers: Mapping[str, Any]) -> Caution | None:
    found: Found = []
    for name, facts in numbers["data"].items():
        labels, task = facts.get("labels", {}), numbers["tasks"].get(name, {})
        counts = labels.get("counts")
        if not counts or "known" in labels or not labels["total"] or "classes" not in task:
            continue
        label = max(counts, key=lambda each: counts[each])
        share = counts[label] / labels["total"]
        if share >= FREQUENT:
            trusted = 0.0 if task["main"] == "accuracy" else 1.0  # other metrics count rare labels, too
            found.append((share - trusted, name, f"{100 * share:.0f} % of the training rows are {_short(label)}"))
    return _caution("imbalance", "One label dominates", found, FREQUENT, "Read F1 and the labels, not accuracy.")


def _lost(numbers: Mapping[str, Any]) -> Caution | None:
    found: Found = []
    if numbers["setup"]["split"] != "dev":
        return None
    for name, task in _scored(numbers).items():
        best = numbers["curves"]["tasks"].get(name, {}).get("best")
        score = task["scores"][task["main"]]
        if best and best["value"] - score >= LOST:
            text = f"{task['main']} {score:.3f}, but {best['value']:.3f} after epoch {best['epoch']:g}"
            found.append((best["value"] - score, name, text))
    return _caution("lost", "An earlier checkpoint was better", found, LARGE)


def _calibration(numbers: Mapping[str, Any]) -> Caution | None:
    found: Found = []
    for name, task in _scored(numbers).items():
        error = task.get("calibration", {}).get("ece", float("nan"))
        if error >= ECE and not task.get("calibrated"):
            found.append((error, name, f"calibration error {error:.3f}"))
    text = "Do not read probabilities as chances; mtbert calibrate fits them."
    return _caution("calibration", "Probabilities are not calibrated", found, LARGE_ECE, text)


def _chosen(numbers: Mapping[str, Any]) -> Caution | None:
    if numbers["setup"]["split"] != "dev" or not numbers["setup"].get("chosen_on_dev"):
        return None
    text = "The dev scores are slightly too high; score a test split to know by how much."
    return Caution("chosen", False, "Dev rows chose the checkpoint", text, tuple(_scored(numbers)))


def _wide(numbers: Mapping[str, Any]) -> Caution | None:
    found: Found = []
    for name, task in _scored(numbers).items():
        low, high = (task.get("interval") or {}).get("low"), (task.get("interval") or {}).get("high")
        if low is not None and not high - low < WIDE:
            width = "one row has no interval" if math.isnan(high - low) else f"{task['main']} {low:.2f} to {high:.2f}"
            found.append((0.0 if math.isnan(high - low) else high - low, name, f"{task['rows']:,} rows, {width}"))
    return _caution("wide", "Few rows: the scores are uncertain", found, math.inf)


def _repeated(numbers: Mapping[str, Any]) -> Caution | None:
    found: Found = []
    for name, facts in numbers["data"].items():
        count, rows = facts.get("repeated", {}).get("rows", 0), facts["rows"].get("train", 0)
        if count and count / rows >= LARGE:
            found.append((count / rows, name, f"{_of(count, rows)} training rows"))
    return _caution("repeated", "Training texts are repeated", found, math.inf)


def _short(name: str) -> str:
    return f"{name[:40]}…" if len(name) > 40 else name


KINDS = {
    "baseline": _baseline,
    "leaks": _leaks,
    "skipped": _skipped,
    "contradictory": _contradictory,
    "cut": _cut,
    "rare": _rare,
    "phrases": _phrases,
    "imbalance": _imbalance,
    "lost": _lost,
    "calibration": _calibration,
    "chosen": _chosen,
    "wide": _wide,
    "repeated": _repeated,
}


def first_cautions(found: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the cautions of the first screen."""
    return found[:SHOWN]
