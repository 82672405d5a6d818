"""Compare what two source trees made of the same ways: every weight and every logged number, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

TIMES = ("_runtime", "_per_second")  # endings of log keys
LOGS = ("trainer_state.json", "scores.json")


@dataclass(frozen=True)
class Outcome:
    """The comparison of one way.

    Attributes:
        text: `same`, or what differs first.
        failed: whether that is a failure.
        numbers: how many numbers were compared.
        compared: whether both trees trained in this way.
    """

    text: str
    failed: bool = False
    numbers: int = 0
    compared: bool = True


NEW_FILES = ("log_sums.safetensors",)  # of checkpoints, which older trees do not write


def compare_way(base: Path, new: Path, folder: str) -> Outcome:
    """Compare the results of one way in the folders of two trees."""
    ended = [json.loads((out / f"{folder}.json").read_text(encoding="utf-8")) for out in (base, new)]
    errors = [each["error"] for each in ended]
    if all(errors):
        return Outcome(f"it fails in both trees: {errors[1]}", failed=True, compared=False)
    if errors[0] and ended[0]["refused"]:
        return Outcome(f"not compared, the base has no such feature: {errors[0]}", compared=False)
    if any(errors):
        tree = "base" if errors[0] else "new tree"
        return Outcome(f"it fails in the {tree} only: {errors[0] or errors[1]}", failed=True, compared=False)
    return compare_folders(base / folder, new / folder)


def compare_folders(base: Path, new: Path) -> Outcome:
    """Compare the logs, scores and weights in two folders, and in the folders inside them."""
    files = [_results(folder) for folder in (base, new)]
    for name in files[0]:
        if name not in files[1]:
            return Outcome(f"{name} is missing in the new tree", failed=True)
    for name in files[1]:
        if name not in files[0] and Path(name).name not in NEW_FILES:
            return Outcome(f"{name} is missing in the base", failed=True)
    if not any(name.endswith("safetensors") for name in files[0]):
        return Outcome("neither tree saved any weights", failed=True)
    numbers = 0
    for name in files[0]:
        compare = _compare_weights if name.endswith(".safetensors") else _compare_logs
        count, difference = compare(base / name, new / name)
        if difference:
            return Outcome(f"{name}: {difference}", failed=True, numbers=numbers)
        numbers += count
    return Outcome("same", numbers=numbers)


def _results(folder: Path) -> list[str]:
    """Paths of logs, then of weights, relative to the folder."""
    logs = sorted(path for name in LOGS for path in folder.rglob(name))
    weights = sorted(folder.rglob("*.safetensors"))
    return [str(path.relative_to(folder)) for path in (*logs, *weights)]


def _compare_logs(base: Path, new: Path) -> tuple[int, str | None]:
    """How many numbers were compared, and what differs first."""
    values = [json.loads(path.read_text(encoding="utf-8")) for path in (base, new)]
    logs = [each.get("log_history", [each]) for each in values]
    count = 0
    for number, (one, other) in enumerate(zip(*logs)):
        where = f"step {one['step']}" if "step" in one else f"entry {number + 1}"
        for key in (*one, *(key for key in other if key not in one)):
            if key.endswith(TIMES):
                continue
            left, right = (entry.get(key, "nothing") for entry in (one, other))
            if repr(left) != repr(right):
                return count, f"{where}: {key} is {left!r} in the base and {right!r} in the new tree"
            count += 1
    if len(logs[0]) != len(logs[1]):
        return count, f"there are {len(logs[0])} entries in the base and {len(logs[1])} in the new tree"
    return count, None


def _compare_weights(base: Path, new: Path) -> tuple[int, str | None]:
    """How many weights were compared, and what differs first."""
    one, other = load_file(base), load_file(new)
    count = 0
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            return count, f"{name} is missing in the {'new tree' if name in one else 'base'}"
        difference = _first_difference(one[name], other[name])
        if difference:
            return count, f"{name}{difference}"
        count += one[name].size
    return count, None


def _first_difference(one: np.ndarray, other: np.ndarray) -> str | None:
    if one.shape != other.shape or one.dtype != other.dtype:
        return f" is {one.dtype} {one.shape} in the base and {other.dtype} {other.shape} in the new tree"
    bits = [np.ascontiguousarray(each).reshape(-1).view(np.uint8).reshape(each.size, -1) for each in (one, other)]
    places = np.flatnonzero((bits[0] != bits[1]).any(axis=1))
    if not len(places):
        return None
    place = tuple(int(each) for each in np.unravel_index(places[0], one.shape))
    values = f"{one[place]!r} in the base and {other[place]!r} in the new tree"
    return f"{list(place)} is {values}; {len(places)} of its {one.size} numbers differ"


def report(base: Path, new: Path, ways: Sequence[tuple[str, str]]) -> Iterator[tuple[str, bool]]:
    """Lines of the report, and whether each is a failure; the last line is the sum.

    Args:
        ways: name and folder of each.
    """
    outcomes: list[tuple[str, Any]] = []
    for name, folder in ways:
        outcome = compare_way(base, new, folder)
        outcomes.append((name, outcome))
        yield f"{name}: {outcome.text}", outcome.failed
    compared = [outcome for _, outcome in outcomes if outcome.compared]
    failures = [name for name, outcome in outcomes if outcome.failed]
    total = sum(outcome.numbers for outcome in compared)
    line = f"{len(compared)} of {len(outcomes)} ways and {total:,} numbers were compared: "
    yield line + (f"{len(failures)} ways differ or fail" if failures else "all are the same"), bool(failures)
