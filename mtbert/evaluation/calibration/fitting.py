"""Fit the decision rule of one task: temperature, thresholds, conformal quantile, and the confidence to abstain below.

The temperature is that of Guo, Pleiss, Sun and Weinberger (2017, section 4.2). The quantile is that of split conformal
prediction (Angelopoulos and Bates, 2021, section 1), with 1 − p̂ of the true label, or |score − true score|, as the
nonconformity score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from scipy.optimize import minimize_scalar

from ...modeling.calibration import Calibration, thresholds_of
from ...modeling.decoding import confidence, decisions, probabilities
from ...modeling.task_spec import TaskSpec

TEMPERATURES = (0.05, 20.0)  # outside of these a fit means that the rows cannot tell the temperature
LEAST_ROWS = 20  # for a temperature
LEAST_BEARERS = 100  # rows that bear a label, for its threshold
LEAST_KEPT = 30  # rows at or above `abstain_below`
TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Goals:
    """What is fitted.

    Attributes:
        precision: thresholds have the highest recall at this precision; None: see `recall`.
        recall: thresholds have the highest precision at this recall; None, and no `precision`: the highest F1.
        coverage: share of sets or intervals that hold the true label or score; None: no sets.
        accuracy: accuracy of the rows that are not abstained from; None: no abstention.
    """

    precision: float | None = None
    recall: float | None = None
    coverage: float | None = 0.9
    accuracy: float | None = 0.9


def fit(
    task: TaskSpec, logits: np.ndarray, labels: np.ndarray, goals: Goals, with_threshold: Sequence[bool]
) -> tuple[Calibration, list[str]]:
    """Fit a task's calibration on labelled rows.

    Args:
        task: the task; its own calibration is not used.
        logits: `(rows, num_labels)`, float64.
        labels: class ids or scores `(rows,)`; 0, 1 or nan (missing) `(rows, num_labels)` for a multi-label task.
        goals: what to fit.
        with_threshold: whether to fit a threshold for each label that may have one (see `threshold_problems`).

    Returns:
        The calibration, and a sentence for each part that could not be fitted.
    """
    notes = []
    temperature = 1.0
    if not task.kind.numeric:
        temperature, problem = fit_temperature(task, logits, labels)
        notes += [f"no temperature: {problem}"] if problem else []
    spec = replace(task, calibration=Calibration(temperature))
    of_labels = probabilities(spec, logits)

    thresholds = []
    for wanted, (name, scores, positive) in zip(with_threshold, binary_parts(spec, of_labels, labels), strict=True):
        threshold, problem = fit_threshold(scores, positive, goals) if wanted else (None, "")
        thresholds.append(threshold)
        notes += [f"no threshold for {name!r}: {problem}"] if problem else []
    if any(value is not None for value in thresholds):
        spec = replace(spec, calibration=Calibration(temperature, tuple(thresholds)))

    quantile = abstain_below = None
    if goals.coverage is not None and not task.kind.several:
        quantile, problem = conformal_quantile(nonconformity(spec, of_labels, labels), goals.coverage)
        notes += [f"no {'interval' if task.kind.numeric else 'sets'}: {problem}"] if problem else []
    if goals.accuracy is not None and not (task.kind.several or task.kind.numeric):
        chosen = decisions(spec, logits)
        abstain_below, problem = fit_abstention(confidence(spec, of_labels, chosen), chosen == labels, goals.accuracy)
        notes += [f"no abstention: {problem}"] if problem else []
    coverage = None if quantile is None else goals.coverage
    fitted = spec.calibration.thresholds if spec.calibration else None
    return Calibration(temperature, fitted, coverage, quantile, abstain_below), notes


def true_probabilities(task: TaskSpec, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probability of each row's label, `(rows,)`; of every known entry, `(entries,)`, for a multi-label task."""
    if task.kind.several:
        of_truth = np.where(labels == 1, probabilities(task, logits), probabilities(task, -logits))
        return of_truth[~np.isnan(labels)]
    return np.take_along_axis(probabilities(task, logits), labels[:, None], axis=1)[:, 0]


def log_losses(task: TaskSpec, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """−ln of `true_probabilities`, in float64."""
    return -np.log(np.maximum(true_probabilities(task, logits, labels), TINY))


def fit_temperature(task: TaskSpec, logits: np.ndarray, labels: np.ndarray) -> tuple[float, str]:
    """The temperature with the lowest mean log loss, and why there is none (then 1)."""
    known = labels[~np.isnan(labels)] if task.kind.several else labels
    if len(labels) < LEAST_ROWS:
        return 1.0, f"it needs {LEAST_ROWS} rows, but there are {len(labels)}"
    if len(np.unique(known)) < 2:
        return 1.0, "all rows have the same label"
    bare = replace(task, calibration=None)

    def loss(log_temperature: float) -> float:
        return float(log_losses(bare, logits / math.exp(log_temperature), labels).mean())

    low, high = TEMPERATURES
    grid = np.linspace(math.log(low), math.log(high), 41)
    losses = [loss(value) for value in grid]
    best = int(np.argmin(losses))
    flat = max(losses) - min(losses) < 1e-9
    if flat or best in (0, len(grid) - 1):
        why = "every row is right, the logits are constant, or the model is no better than chance"
        return 1.0, f"the loss has no minimum at a temperature from {low:g} to {high:g} ({why})"
    found = minimize_scalar(loss, bounds=(grid[best - 1], grid[best + 1]), method="bounded", options={"xatol": 1e-7})
    return math.exp(found.x), ""


def binary_parts(task: TaskSpec, of_labels: np.ndarray, labels: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(label, probabilities, whether a row bears the label) of each label that may have a threshold.

    Each label of a multi-label task, over the rows that say whether they bear it; the second of two classes.
    """
    count = thresholds_of(task.kind, len(task.classes))
    if not task.kind.several:
        return [(task.classes[1], of_labels[:, 1], labels == 1)] if count else []
    known = ~np.isnan(labels)
    return [
        (name, of_labels[known[:, i], i], labels[known[:, i], i] == 1) for i, name in enumerate(task.classes[:count])
    ]


def threshold_problems(task: TaskSpec, labels: np.ndarray) -> list[str]:
    """For each label that may have a threshold, why it gets none: too few rows bear it; else empty."""
    if not task.kind.several:
        counts = {name: int((labels == i).sum()) for i, name in enumerate(task.classes)}
        few = [f"{count:,} rows are {name!r}" for name, count in counts.items() if count < LEAST_BEARERS]
        problem = f"only {' and '.join(few)}, but {LEAST_BEARERS} of each class are needed" if few else ""
        return [problem] * thresholds_of(task.kind, len(task.classes))
    problems = []
    for column in labels.T:
        bearers, others = int((column == 1).sum()), int((column == 0).sum())
        problem = "" if others else "every row bears it"
        if bearers < LEAST_BEARERS:
            problem = f"{bearers:,} rows bear it, but {LEAST_BEARERS} are needed"
        problems.append(problem)
    return problems


def fit_threshold(scores: np.ndarray, positive: np.ndarray, goals: Goals) -> tuple[float | None, str]:
    """The probability from which on a label is given, and why there is none.

    It lies between two scores of the rows, so that rounding moves no row to the other side.

    Args:
        scores: probabilities of the label, `(rows,)`.
        positive: whether each row bears it.
        goals: precision or recall to meet; without either, F1 is maximised.
    """
    values, given, hits = at_or_above(scores, positive)
    precision, recall = hits / given, hits / max(1, positive.sum())
    if goals.precision is not None:
        meets, order = precision >= goals.precision, np.lexsort((precision, recall))
        goal, highest = f"a precision of {goals.precision:g}", precision.max()
    elif goals.recall is not None:
        meets, order = recall >= goals.recall, np.lexsort((recall, precision))
        goal, highest = f"a recall of {goals.recall:g}", recall.max()
    else:
        return _just_below(values, int(np.argmax(2 * hits / (given + positive.sum())))), ""
    order = order[meets[order]]
    if not len(order):
        return None, f"no threshold reaches {goal}; the highest is {highest:.3f}"
    return _just_below(values, int(order[-1])), ""


def nonconformity(task: TaskSpec, of_labels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """1 − probability of the true label, or |score − true score|, `(rows,)`."""
    if task.kind.numeric:
        return np.abs(of_labels - labels)
    return 1 - np.take_along_axis(of_labels, labels[:, None], axis=1)[:, 0]


def conformal_quantile(scores: np.ndarray, coverage: float) -> tuple[float | None, str]:
    """The ⌈(n + 1) · coverage⌉-th smallest of n scores, and why there is none.

    Args:
        scores: nonconformity scores, `(n,)`.
        coverage: 1 − α, in (0, 1).
    """
    share, rows = Fraction(str(coverage)), len(scores)  # exact: .55 · 20 is above 11 in floats
    place = math.ceil(share * (rows + 1))
    if place > rows:
        needed = math.ceil(share / (1 - share))
        return None, f"a coverage of {coverage:g} needs {needed:,} rows, but there are {rows:,}"
    return float(np.partition(scores, place - 1)[place - 1]), ""


def fit_abstention(confidences: np.ndarray, right: np.ndarray, accuracy: float) -> tuple[float | None, str]:
    """The lowest confidence such that the rows at or above it have at least this accuracy, and why there is none."""
    values, kept, hits = at_or_above(confidences, right)
    meets = (hits / kept >= accuracy) & (kept >= LEAST_KEPT)
    if meets.any():
        return _just_below(values, int(np.flatnonzero(meets)[-1])), ""
    enough = kept >= LEAST_KEPT
    if not enough.any():
        return None, f"it needs {LEAST_KEPT} rows, but there are {len(right)}"
    highest = (hits / kept)[enough].max()
    return None, (
        f"no {LEAST_KEPT} rows or more of the highest confidence have an accuracy of {accuracy:g}; "
        f"the highest is {highest:.3f}"
    )


def at_or_above(scores: np.ndarray, hit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores in descending order; the number of rows at or above each, and of those that are a `hit`."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.flatnonzero(np.append(ordered[1:] < ordered[:-1], True)[: len(ordered)])
    return ordered[ends], ends + 1, np.cumsum(hit[order])[ends]


def _just_below(values: np.ndarray, place: int) -> float:
    """The middle between a value and the next lower one (0 behind the last), as far as floats can tell them apart."""
    value = float(values[place])
    lower = float(values[place + 1]) if place + 1 < len(values) else 0.0
    middle = (value + lower) / 2
    return middle if lower < middle else value
