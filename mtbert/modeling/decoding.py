"""Decoding: turn a task's logits into classes, probabilities, scores, label names, sets and intervals.

This is the one rule of prediction, pipeline, files, reports, export and server. A task's `calibration` changes it.
Each function computes in the precision of its logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .calibration import above
from .errors import InputError
from .task_spec import TaskSpec

ROUNDING = 1e-6  # what fp32 may take from a probability: equal rows must not fall out of their sets


def _tensor(logits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(logits if logits.flags.writeable and logits.flags.c_contiguous else logits.copy())


def decisions(task: TaskSpec, logits: np.ndarray) -> np.ndarray:
    """Class ids `(rows,)`, 0 and 1 `(rows, num_labels)` for a multi-label task, or scores `(rows,)`.

    Args:
        logits: `(rows, num_labels)`; of a task that labels parts of rows `(rows, most parts, num_labels)`, which makes
            class ids `(rows, most parts)`.

    Raises:
        InputError: for another shape, and for logits that are not finite.
    """
    logits = np.asarray(logits)
    dims = task.kind.units.dims
    if logits.ndim != dims + 1 or logits.shape[-1] != task.num_labels:
        wanted = ", ".join(["rows", "most parts"][:dims])
        raise InputError(f"task {task.name!r}: logits must be ({wanted}, {task.num_labels}), but are {logits.shape}")
    if bad := int(np.sum(~finite_rows(logits))):
        raise InputError(
            f"task {task.name!r}: {bad} of {len(logits)} rows have logits that are not finite: the training has "
            "diverged; lower the learning rate, clip gradients, or leave float16 for bfloat16 or float32"
        )
    if task.calibration is None or task.calibration.thresholds is None:
        # a temperature moves the median of an ordinal task, and no other decision
        return task.kind.decisions(_tensor(scaled(task, logits) if task.kind.ordered else logits)).numpy()
    of_labels = probabilities(task, logits)
    if task.kind.several:
        return above(of_labels, task.calibration.thresholds).astype(np.int64)
    return above(of_labels[:, 1:], task.calibration.thresholds)[:, 0].astype(np.int64)


def finite_rows(logits: np.ndarray) -> np.ndarray:
    """Whether all logits of a row are finite, `(rows,)`."""
    return np.asarray(np.isfinite(logits).all(axis=tuple(range(1, logits.ndim))))


def probabilities(task: TaskSpec, logits: np.ndarray) -> np.ndarray:
    """Probabilities `(rows, labels)`, which sum to 1 except for a multi-label task; for a regression scores `(rows,)`.

    Args:
        logits: `(rows, num_labels)`.
    """
    return task.kind.probabilities(_tensor(scaled(task, logits))).numpy()


def scaled(task: TaskSpec, logits: np.ndarray) -> np.ndarray:
    """Logits divided by the task's fitted temperature, in their precision; without one, the logits themselves."""
    logits = np.asarray(logits)
    if task.calibration is None or task.calibration.temperature == 1:
        return logits
    return logits / np.asarray(task.calibration.temperature, dtype=logits.dtype)


def confidence(task: TaskSpec, of_labels: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Probability of each decision: `(rows,)`, for a multi-label task `(rows, labels)`.

    Args:
        of_labels: `probabilities` of a classification.
        chosen: its `decisions`.
    """
    if task.kind.several:
        return np.where(chosen == 1, of_labels, 1 - of_labels)
    return np.take_along_axis(of_labels, chosen[..., None], axis=-1)[..., 0]


def in_sets(task: TaskSpec, of_labels: np.ndarray) -> np.ndarray:
    """Which labels the set of each row holds, `(rows, labels)` of bool; for a regression its interval, `(rows, 2)`.

    Args:
        of_labels: `probabilities`, or a regression's scores `(rows,)`.

    Raises:
        InputError: the task has no fitted coverage.
    """
    if task.calibration is None or task.calibration.quantile is None:
        raise InputError(f"task {task.name!r} has no fitted coverage; fit one: mtbert calibrate CHECKPOINT")
    quantile = task.calibration.quantile
    if not task.kind.numeric:
        return np.asarray(of_labels >= 1 - quantile - ROUNDING)
    ends = np.stack([of_labels - quantile, of_labels + quantile], axis=1)
    return ends if task.range is None else ends.clip(*task.range)


def answer_columns(task: TaskSpec, answers: list[Any], of_labels: np.ndarray) -> dict[str, Any]:
    """Columns of a table: `<task>` with the answers, and for a classification `<task>:<label>` for each label.

    Args:
        answers: one for each row.
        of_labels: a number for each label, such as `probabilities`, `(rows, labels)`.
    """
    columns: dict[str, Any] = {task.name: answers}
    if not task.kind.numeric:
        columns |= {f"{task.name}:{name}": of_labels[:, i] for i, name in enumerate(task.classes)}
    return columns


def label_names(task: TaskSpec, chosen: np.ndarray) -> list[str] | list[list[str]]:
    """Label names of a classification's `decisions`: one for each row, or a list for rows of a multi-label task."""
    if task.kind.several:
        return label_sets(task, chosen)
    return [task.classes[class_id] for class_id in chosen]


def label_sets(task: TaskSpec, members: np.ndarray) -> list[list[str]]:
    """Names of the labels that each row holds.

    Args:
        members: which labels, `(rows, labels)`.
    """
    return [[name for name, on in zip(task.classes, row, strict=True) if on] for row in members]
