"""Calibrate one task, and measure the calibration by cross-fitting: each row is scored by a fit without its fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import InputError
from ...modeling.calibration import Calibration
from ...modeling.decoding import confidence, decisions, in_sets, probabilities
from ...modeling.task_spec import TaskSpec
from ..report.classification import calibration as reliability
from ..report.distances import evenly
from ..report.rows import TaskRows
from .fitting import Goals, at_or_above, binary_parts, fit, log_losses, threshold_problems
from .folds import make_folds, strata, text_groups

MOST_POINTS = 200  # of a stored curve


@dataclass(frozen=True)
class Decided:
    """Decisions by each row's own fit; `nan` in columns of rows whose fit has no sets or abstention.

    Attributes:
        scaled: logits divided by the temperature, `(rows, num_labels)`.
        of_labels: probabilities `(rows, labels)`, or scores `(rows,)`.
        chosen: as `decisions`.
        members: as `in_sets`, in float; None where no fit has a coverage.
        abstained: `(rows,)`; None where no fit abstains.
    """

    scaled: np.ndarray
    of_labels: np.ndarray
    chosen: np.ndarray
    members: np.ndarray | None
    abstained: np.ndarray | None


def calibrate_task(rows: TaskRows, goals: Goals, folds: int = 5, seed: int = 0) -> tuple[Calibration, dict[str, Any]]:
    """Fit a task's calibration on all rows, and measure it by cross-fitting.

    Args:
        rows: labelled rows that the model was not trained on.
        goals: what to fit.
        folds: number of folds.
        seed: seed of the folds.

    Returns:
        The calibration, and its figures, ready for JSON: `rows`, `calibration`, `notes` (what was not fitted, and why),
        `folds` (the calibration of each), and what `measure` returns.

    Raises:
        InputError: there are fewer different texts than folds, or no calibration for the problem type.
    """
    if reason := rows.task.kind.refuses.get("calibrate"):
        raise InputError(f"task {rows.task.name!r}: {reason}")
    task, labels = replace(rows.task, calibration=None), rows.labels
    groups = text_groups(rows.texts)
    different = len(np.unique(groups))
    if different < folds:
        raise InputError(
            f"task {task.name!r} has {different:,} labelled rows with different texts, but {folds} folds need "
            f"{folds:,}; give more rows, or --folds"
        )
    problems = [] if task.kind.numeric else threshold_problems(task, labels)
    with_threshold = [not problem for problem in problems]
    calibration, notes = fit(task, rows.logits, labels, goals, with_threshold)
    names = task.classes if task.kind.several else task.classes[1:]
    notes = [f"no threshold for {name!r}: {why}" for name, why in zip(names, problems, strict=False) if why] + notes

    fold_of = make_folds(strata(task, labels), groups, folds, seed)
    fits = []
    for fold in range(folds):
        others = fold_of != fold
        fits.append(fit(task, rows.logits[others], labels[others], goals, with_threshold)[0])
    notes += fold_notes(calibration, fits)
    figures = {
        "rows": len(labels),
        "calibration": calibration.to_dict(),
        "notes": notes,
        "folds": [{"rows": int((fold_of == i).sum()), **each.to_dict()} for i, each in enumerate(fits)],
        **measure(task, rows.logits, labels, decide(task, rows.logits, fold_of, fits), calibration, goals),
    }
    return calibration, figures


def fold_notes(calibration: Calibration, fits: Sequence[Calibration]) -> list[str]:
    """A sentence for each part of a calibration that some folds could not fit."""
    notes = []
    for key, what in (("quantile", "sets"), ("abstain_below", "abstention"), ("thresholds", "thresholds")):
        lacking = sum(getattr(each, key) is None for each in fits)
        if getattr(calibration, key) is not None and lacking:
            notes.append(f"{lacking} of {len(fits)} folds could not fit {what}; the figures of {what} leave them out")
    fitted = sum(each.temperature != 1 for each in fits)
    if calibration.temperature != 1 and fitted < len(fits):
        notes.append(f"{len(fits) - fitted} of {len(fits)} folds could not fit a temperature, and use 1")
    return notes


def decide(task: TaskSpec, logits: np.ndarray, fold_of: np.ndarray, fits: Sequence[Calibration]) -> Decided:
    """Decode each row by the fit of its fold, `fits[fold_of[row]]`."""
    temperatures = np.array([each.temperature for each in fits])[fold_of]
    of_labels = probabilities(task, logits)
    chosen = decisions(task, logits)
    numeric_ends = np.full((len(logits), 2), np.nan) if task.kind.numeric else np.full(of_labels.shape, np.nan)
    has_sets = any(each.quantile is not None for each in fits)
    abstains = any(each.abstain_below is not None for each in fits)
    abstained = np.full(len(logits), np.nan)
    of_labels, chosen = of_labels.copy(), chosen.copy()
    for fold, fitted in enumerate(fits):
        here = np.flatnonzero(fold_of == fold)
        spec = replace(task, calibration=fitted)
        of_labels[here] = probabilities(spec, logits[here])
        chosen[here] = decisions(spec, logits[here])
        if fitted.quantile is not None:
            numeric_ends[here] = in_sets(spec, of_labels[here])
        if fitted.abstain_below is not None:
            abstained[here] = confidence(spec, of_labels[here], chosen[here]) < fitted.abstain_below
    return Decided(
        logits / temperatures[:, None],
        of_labels,
        chosen,
        numeric_ends if has_sets else None,
        abstained if abstains else None,
    )


def measure(
    task: TaskSpec,
    logits: np.ndarray,
    labels: np.ndarray,
    decided: Decided,
    calibration: Calibration,
    goals: Goals,
) -> dict[str, Any]:
    """The figures of cross-fitted decisions.

    Returns:
        For classifications `nll` (mean log loss), and `reliability` (`ece`, `mce`, `bins`) of the most probable label,
        each `before` and `after` the temperature; `accuracy` `without` and `with` thresholds, for one label a row;
        `thresholds`: label → see `threshold_figures`. `sets`: `asked`, `covered` (share of rows), `mean_size`, `empty`
        (share), `sizes` (size → share); `intervals`: `asked`, `covered`, `mean_width`. `abstention`: `asked`, `share`
        of rows, `accuracy_of_rest`, `accuracy_of_all`.
    """
    figures: dict[str, Any] = {}
    if not task.kind.numeric:
        before = probabilities(task, logits)
        sides = (("before", logits, before), ("after", decided.scaled, decided.of_labels))
        figures["nll"] = {side: float(log_losses(task, values, labels).mean()) for side, values, _ in sides}
        figures["reliability"] = {side: _reliability(task, of_labels, labels) for side, _, of_labels in sides}
        if calibration.thresholds is not None:
            figures["thresholds"] = threshold_figures(task, before, labels, decided, calibration.thresholds)
    if not (task.kind.numeric or task.kind.several):
        plain = decisions(task, logits)
        figures["accuracy"] = {"without": _share(plain == labels), "with": _share(decided.chosen == labels)}
    if calibration.quantile is not None and decided.members is not None:
        figures |= _set_figures(task, labels, decided.members, goals.coverage)
    if calibration.abstain_below is not None and decided.abstained is not None:
        measured = ~np.isnan(decided.abstained)
        kept, right = decided.abstained[measured] == 0, (decided.chosen == labels)[measured]
        figures["abstention"] = {
            "asked": goals.accuracy,
            "share": _share(~kept),
            "accuracy_of_rest": _share(right[kept]),
            "accuracy_of_all": _share(right),
        }
    return figures


def _reliability(task: TaskSpec, of_labels: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Reliability of the most probable label; over all known entries of a multi-label task."""
    if task.kind.several:
        known = ~np.isnan(labels)
        sure = np.maximum(of_labels, 1 - of_labels)[known]
        return reliability(sure, ((of_labels > 0.5) == (labels == 1))[known])
    return reliability(of_labels.max(axis=1), of_labels.argmax(axis=1) == labels)


def threshold_figures(
    task: TaskSpec, before: np.ndarray, labels: np.ndarray, decided: Decided, thresholds: Sequence[float | None]
) -> dict[str, Any]:
    """Label → what its threshold does.

    Returns:
        For each label `rows` that bear it, the `threshold` (None: none), `precision`, `recall` and `f1` `without`
        thresholds (the most probable, or more than ½) and `with` them, and `curve`: precision and recall at thresholds
        of the cross-fitted probabilities, at most 200 of them.
    """
    table = {}
    parts = binary_parts(task, decided.of_labels, labels)
    for i, (threshold, (name, scores, positive)) in enumerate(zip(thresholds, parts, strict=True)):
        if task.kind.several:
            known = ~np.isnan(labels[:, i])
            plain, given = before[known, i] > 0.5, decided.chosen[known, i] == 1
        else:
            plain, given = before.argmax(axis=1) == 1, decided.chosen == 1
        table[name] = {
            "rows": int(positive.sum()),
            "threshold": threshold,
            "without": _rates(plain, positive),
            "with": _rates(given, positive),
            "curve": _curve(scores, positive),
        }
    return table


def _rates(given: np.ndarray, positive: np.ndarray) -> dict[str, float | None]:
    hits, given_rows, bearers = int((given & positive).sum()), int(given.sum()), int(positive.sum())
    return {
        "precision": hits / given_rows if given_rows else None,
        "recall": hits / bearers if bearers else None,
        "f1": 2 * hits / (given_rows + bearers) if given_rows + bearers else None,
    }


def _curve(scores: np.ndarray, positive: np.ndarray) -> dict[str, list[float]]:
    values, given, hits = at_or_above(scores, positive)
    kept = evenly(len(values), MOST_POINTS)
    curves = {"threshold": values, "precision": hits / given, "recall": hits / max(1, positive.sum())}
    return {key: np.round(values[kept], 6).tolist() for key, values in curves.items()}


def _set_figures(task: TaskSpec, labels: np.ndarray, members: np.ndarray, asked: float | None) -> dict[str, Any]:
    measured = ~np.isnan(members).any(axis=1)
    members, truth = members[measured], labels[measured]
    if task.kind.numeric:
        held = (members[:, 0] <= truth) & (truth <= members[:, 1])
        width = float((members[:, 1] - members[:, 0]).mean())
        return {"intervals": {"asked": asked, "covered": _share(held), "mean_width": width}}
    sizes = members.sum(axis=1).astype(np.int64)
    held = np.take_along_axis(members, truth[:, None], axis=1)[:, 0] == 1
    shares = {str(size): _share(sizes == size) for size in np.unique(sizes).tolist()}
    sets = {"asked": asked, "covered": _share(held), "mean_size": float(sizes.mean()), "empty": _share(sizes == 0)}
    return {"sets": {**sets, "sizes": shares}}


def _share(which: np.ndarray) -> float | None:
    return float(np.mean(which)) if len(which) else None
