"""Where a model errs: by the length of texts, and by group."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from scipy import stats

from ..metrics import score_task
from .classification import class_rates
from .rows import TaskRows

BINS = 8
MOST_GROUPS = 20  # a column with more values is rather a number or an id


def by_length(lengths: np.ndarray, errors: np.ndarray, bins: int = BINS) -> dict[str, Any]:
    """Mean errors of rows of similar length.

    Args:
        lengths: (rows,) whole numbers.
        errors: (rows,).
        bins: of about as many rows each; rows of one length are never parted, so there may be fewer.

    Returns:
        `spearman` of length and error (0, and `spearman_undefined`, if either is constant), and `bins`: `low`, `high`
        (the shortest and the longest in it), `rows`, `error` (their mean) and `standard_error` of that mean, NaN for
        one row.
    """
    table = []
    inner = np.unique(np.quantile(lengths, np.linspace(0, 1, bins + 1)[1:-1])) if len(lengths) else []
    number = np.searchsorted(inner, lengths, side="left")
    for m in np.unique(number):
        own = number == m
        count, values = int(own.sum()), errors[own]
        spread = float(values.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
        table.append(
            {
                "low": int(lengths[own].min()),
                "high": int(lengths[own].max()),
                "rows": count,
                "error": float(values.mean()),
                "standard_error": spread,
            }
        )
    found: dict[str, Any] = {"spearman": 0.0, "spearman_undefined": 1.0}
    if len(lengths) > 1 and np.ptp(lengths) > 0 and np.ptp(errors) > 0:
        found = {"spearman": float(stats.spearmanr(lengths, errors).statistic)}
    return {**found, "bins": table}


def by_group(rows: TaskRows, values: tuple[str, ...], metric: str) -> dict[str, Any]:
    """Scores and rates of each group of rows, and how far the groups are apart.

    For a class, the gap of `selection_rate` is the demographic parity difference, and the larger of the gaps of
    `false_positive_rate` and `false_negative_rate` the equalized odds difference (Hardt, Price and Srebro, 2016,
    section 2).

    Args:
        values: the group of each row; the 20 largest groups are taken.
        metric: the task's main metric.

    Returns:
        `groups`: `group`, `rows`, the main metric (and `<metric>_undefined`); `mae` and `bias` (mean of predicted −
        label) of a regression; else `accuracy` with its Wilson interval of 95 %, `accuracy_low` and `accuracy_high`,
        and for each class (of two, the second; of a multi-label task, each label) `<rate> (<class>)`. `gaps`: `value`,
        `gap` (largest − smallest) and the two groups, `highest` and `lowest`, over groups for which it is defined.
        `left_out`: how many groups are not shown.
    """
    counts = Counter(values)
    names = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    array = np.array(values, dtype=object)
    table = [_group(rows, np.flatnonzero(array == name), name, metric) for name in names[:MOST_GROUPS]]
    leave = ("group", "rows", "accuracy_low", "accuracy_high")
    keys = [key for key in (table[0] if table else {}) if key not in leave and not key.endswith("_undefined")]
    gaps = []
    for key in dict.fromkeys(keys):
        known = [each for each in table if np.isfinite(each[key]) and f"{key}_undefined" not in each]
        if len(known) > 1:
            highest, lowest = max(known, key=lambda each: each[key]), min(known, key=lambda each: each[key])
            gap = highest[key] - lowest[key]
            gaps.append({"value": key, "gap": gap, "highest": highest["group"], "lowest": lowest["group"]})
    return {"groups": table, "gaps": gaps, "left_out": max(0, len(names) - MOST_GROUPS)}


def _group(rows: TaskRows, own: np.ndarray, name: str, metric: str) -> dict[str, Any]:
    found: dict[str, Any] = {"group": name, "rows": len(own)}
    scores = score_task(rows.task, rows.logits[own], rows.labels[own], metric, names=())
    if rows.regression:
        bias = float((rows.predicted[own] - rows.labels[own]).mean())
        return found | scores | {"mae": float(rows.errors[own].mean()), "bias": bias}
    right = int(rows.right[own].sum())
    interval = stats.binomtest(right, len(own)).proportion_ci(method="wilson")
    accuracy = {"accuracy": right / len(own), "accuracy_low": interval.low, "accuracy_high": interval.high}
    found |= {**scores, **{key: float(value) for key, value in accuracy.items()}}
    for rates in _rates(rows, own):
        for key in ("selection_rate", "false_positive_rate", "false_negative_rate"):
            found[f"{key} ({rates['class']})"] = rates[key]
    return found


def _rates(rows: TaskRows, own: np.ndarray) -> list[dict[str, Any]]:
    labels, predicted, names = rows.labels[own], rows.predicted[own], rows.task.labels
    if not rows.multi_label:
        table = class_rates(labels, predicted, names)
        return table[1:] if len(names) == 2 else table
    table = []
    for column, name in enumerate(names):
        known = ~np.isnan(labels[:, column])
        two = class_rates(labels[known, column].astype(int), predicted[known, column], ("not", name))
        table.append(two[1])
    return table
