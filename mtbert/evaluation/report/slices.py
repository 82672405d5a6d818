"""Errors of a model by length of the texts and by group."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from scipy import stats

from ..metrics import score_task
from .classification import class_rates
from .rows import TaskRows

BINS = 8
MOST_GROUPS = 20  # most groups shown; a column with more values is probably a number or an id


def by_length(lengths: np.ndarray, errors: np.ndarray, bins: int = BINS) -> dict[str, Any]:
    """Compute the mean error of rows of similar length.

    Args:
        lengths: whole numbers, shape (rows,).
        errors: absolute or signed, shape (rows,).
        bins: number of bins with about equally many rows. Rows of equal length share a bin, so there may be fewer.

    Returns:
        `spearman`, the rank correlation of length and error (if either is constant: 0, with `spearman_undefined`), and
        `bins`: `low` and `high` (shortest and longest length), `rows`, `error` (mean) and `standard_error` of the mean
        (NaN for one row).
    """
    table = []
    inner: np.ndarray | list[float] = []
    if len(lengths):
        inner = np.unique(np.quantile(lengths, np.linspace(0, 1, bins + 1)[1:-1]))
    bin_of = np.searchsorted(inner, lengths, side="left")
    for m in np.unique(bin_of):
        in_bin = bin_of == m
        count, values = int(in_bin.sum()), errors[in_bin]
        spread = float(values.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
        table.append(
            {
                "low": int(lengths[in_bin].min()),
                "high": int(lengths[in_bin].max()),
                "rows": count,
                "error": float(values.mean()),
                "standard_error": spread,
            }
        )
    correlation: dict[str, Any] = {"spearman": 0.0, "spearman_undefined": 1.0}
    if len(lengths) > 1 and np.ptp(lengths) > 0 and np.ptp(errors) > 0:
        correlation = {"spearman": float(stats.spearmanr(lengths, errors).statistic)}
    return {**correlation, "bins": table}


def by_group(rows: TaskRows, values: tuple[str, ...], metric: str) -> dict[str, Any]:
    """Compute the scores and rates of each group of rows, and the gaps between groups.

    For a class, the gap of `selection_rate` is the demographic parity difference. The larger of the gaps of
    `false_positive_rate` and `false_negative_rate` is the equalized odds difference (Hardt, Price and Srebro, 2016,
    section 2).

    Args:
        rows: the task's rows.
        values: the group of each row; only the 20 largest groups are shown.
        metric: the task's main metric.

    Returns:
        `groups`: for each group `group`, `rows` and the main metric (and `<metric>_undefined`). For a regression also
        `mae` and `bias` (mean of predicted − label); otherwise `accuracy` with its 95 % Wilson interval `accuracy_low`
        to `accuracy_high`, and `<rate> (<class>)` for each class (of two classes, the second; of a multi-label task,
        each label). `gaps`: `value`, `gap` (largest − smallest) and the two groups `highest` and `lowest`, over groups
        with a defined value. `left_out`: number of groups that are not shown.
    """
    counts = Counter(values)
    names = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    array = np.array(values, dtype=object)
    table = [_group(rows, np.flatnonzero(array == name), name, metric) for name in names[:MOST_GROUPS]]
    leave = ("group", "rows", "accuracy_low", "accuracy_high")
    keys = [key for key in (table[0] if table else {}) if key not in leave and not key.endswith("_undefined")]
    gaps = []
    for key in dict.fromkeys(keys):
        defined = [group for group in table if np.isfinite(group[key]) and f"{key}_undefined" not in group]
        if len(defined) > 1:
            highest = max(defined, key=lambda group: group[key])
            lowest = min(defined, key=lambda group: group[key])
            gap = highest[key] - lowest[key]
            gaps.append({"value": key, "gap": gap, "highest": highest["group"], "lowest": lowest["group"]})
    return {"groups": table, "gaps": gaps, "left_out": max(0, len(names) - MOST_GROUPS)}


def _group(rows: TaskRows, own: np.ndarray, name: str, metric: str) -> dict[str, Any]:
    group: dict[str, Any] = {"group": name, "rows": len(own)}
    scores = score_task(rows.task, rows.logits[own], rows.labels[own], metric, names=())
    if rows.regression:
        bias = float((rows.predicted[own] - rows.labels[own]).mean())
        return group | scores | {"mae": float(rows.errors[own].mean()), "bias": bias}
    right = int(rows.right[own].sum())
    interval = stats.binomtest(right, len(own)).proportion_ci(method="wilson")
    accuracy = {"accuracy": right / len(own), "accuracy_low": interval.low, "accuracy_high": interval.high}
    group |= {**scores, **{key: float(value) for key, value in accuracy.items()}}
    for rates in _rates(rows, own):
        for key in ("selection_rate", "false_positive_rate", "false_negative_rate"):
            group[f"{key} ({rates['class']})"] = rates[key]
    return group


def _rates(rows: TaskRows, own: np.ndarray) -> list[dict[str, Any]]:
    labels, predicted, names = rows.labels[own], rows.predicted[own], rows.task.classes
    if rows.of_parts:
        return []
    if not rows.multi_label:
        table = class_rates(labels, predicted, names)
        return table[1:] if len(names) == 2 else table
    table = []
    for column, name in enumerate(names):
        labelled = ~np.isnan(labels[:, column])
        both_rates = class_rates(labels[labelled, column].astype(int), predicted[labelled, column], ("not", name))
        table.append(both_rates[1])
    return table
