"""Decoding: turn a task's logits into classes, probabilities, scores and label names.

Each function computes in the precision of its logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .errors import InputError
from .task_spec import TaskSpec


def _tensor(logits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(logits if logits.flags.writeable and logits.flags.c_contiguous else logits.copy())


def decisions(task: TaskSpec, logits: np.ndarray) -> np.ndarray:
    """Class ids `(rows,)`, 0 and 1 `(rows, num_labels)` for a multi-label task, or scores `(rows,)`.

    Args:
        logits: `(rows, num_labels)`.

    Raises:
        InputError: for another shape, and for logits that are not finite.
    """
    logits = np.asarray(logits)
    if logits.ndim != 2 or logits.shape[1] != task.num_labels:
        raise InputError(f"task {task.name!r}: logits must be (rows, {task.num_labels}), but are {logits.shape}")
    if bad := int(np.sum(~np.isfinite(logits).all(axis=1))):
        raise InputError(
            f"task {task.name!r}: {bad} of {len(logits)} rows have logits that are not finite: the training has "
            "diverged; lower the learning rate, clip gradients, or leave float16 for bfloat16 or float32"
        )
    return task.kind.decisions(_tensor(logits)).numpy()


def probabilities(task: TaskSpec, logits: np.ndarray) -> np.ndarray:
    """Probabilities `(rows, labels)`, which sum to 1 except for a multi-label task; for a regression scores `(rows,)`.

    Args:
        logits: `(rows, num_labels)`.
    """
    return task.kind.probabilities(_tensor(np.asarray(logits))).numpy()


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
        return [[name for name, on in zip(task.classes, row, strict=True) if on] for row in chosen]
    return [task.classes[class_id] for class_id in chosen]
