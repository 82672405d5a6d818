"""How far predictions are from the labels: signed errors by length, and the shares within one class or one point."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from .rows import TaskRows
from .slices import by_length

MOST_POINTS = 2000  # most rows whose points are kept; a figure with more is one blot


def are_ordered(classes: Sequence[str]) -> bool:
    """Return whether there are three classes or more, named by whole numbers in ascending order, such as 1 to 5."""
    if len(classes) < 3 or not all(re.fullmatch(r"[+-]?[0-9]+", name) for name in classes):
        return False
    numbers = [int(name) for name in classes]
    return all(first < second for first, second in zip(numbers, numbers[1:], strict=False))


def within_one(rows: TaskRows) -> dict[str, float] | None:
    """Compute the shares of rows that are right, or nearly so; None if the task has no such measure, or no rows.

    Returns:
        For an ordinal task, or single labels with ordered classes (`are_ordered`): `exactly_right`, `one_class_away`,
        `further_away` (they sum to 1), and `within_one_class`, the sum of the first two. For a regression whose range
        is wider than 2: `within_one_point`, the share of rows with |predicted − label| ≤ 1 on the task's scale. In a
        narrower range the middle is within one point of every label.
    """
    if not len(rows):
        return None
    if rows.regression:
        low, high = rows.task.range or (0, 0)
        return {"within_one_point": float((rows.errors <= 1).mean())} if high - low > 2 else None
    kind = rows.task.kind
    if not (kind.ordered or (kind.exclusive and are_ordered(rows.task.classes))):
        return None
    away = np.abs(rows.predicted - rows.labels)
    right, near = float((away == 0).mean()), float((away == 1).mean())
    return {
        "exactly_right": right,
        "one_class_away": near,
        "further_away": float((away > 1).mean()),
        "within_one_class": float((away <= 1).mean()),
    }


def signed_errors(rows: TaskRows) -> dict[str, Any]:
    """Compute the signed error, predicted − label, of a regression, or in ranks of an ordinal task, by length in words.

    Returns:
        `length` (words of the row's texts together) and for pairs `length_difference` (absolute): the result of
        `by_length` for signed errors, with `points`: `length` and `error` of at most 2,000 rows, evenly chosen from all
        rows in their order, and `points_left_out`, the number of the other rows.
    """
    signed = rows.predicted - rows.labels
    lengths = {"length": rows.lengths.sum(axis=1)}
    if rows.task.texts == 2:
        lengths["length_difference"] = np.abs(np.diff(rows.lengths, axis=1)[:, 0])
    kept = evenly(len(rows), MOST_POINTS)
    result = {}
    for name, values in lengths.items():
        points = {"length": values[kept].tolist(), "error": signed[kept].tolist()}
        left_out = len(rows) - len(kept)
        result[name] = {**by_length(values, signed), "points": points, "points_left_out": left_out}
    return result


def evenly(count: int, most: int) -> np.ndarray:
    """Return at most `most` of the numbers 0 … count − 1, at even distances, the first and the last among them."""
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.int64)
