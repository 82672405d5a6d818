"""Logits → answers: here a task's logits become classes, probabilities, scores and names, for all that shows them.

Each function computes in the precision of the logits it is given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .configuration_mtbert import TaskSpec
from .errors import InputError


def _tensor(logits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(logits if logits.flags.writeable and logits.flags.c_contiguous else logits.copy())


def decisions(task: TaskSpec, logits: np.ndarray) -> np.ndarray:
    """What a task answers: class ids `(rows,)`, 0 and 1 `(rows, num_labels)` for a multi-label task, or scores.

    Args:
        logits: `(rows, num_labels)`.

    Raises:
        InputError: the shape is another one, or a logit is not finite.
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
    """Each label's probability `(rows, labels)`, which sum to 1 but for a multi-label task; scores `(rows,)`.

    Args:
        logits: `(rows, num_labels)`.
    """
    return task.kind.probabilities(_tensor(np.asarray(logits))).numpy()


def answer_columns(task: TaskSpec, answers: list, of_labels: np.ndarray) -> dict[str, Any]:
    """Columns of a table: `<task>`, its answers, and for a classification `<task>:<label>`, of each label.

    Args:
        answers: one a row.
        of_labels: `(rows, labels)`, such as `probabilities`.
    """
    each = {} if task.kind.numeric else {f"{task.name}:{name}": of_labels[:, i] for i, name in enumerate(task.labels)}
    return {task.name: answers, **each}


def label_names(task: TaskSpec, chosen: np.ndarray) -> list[str] | list[list[str]]:
    """Names of `decisions` of a classification: one a row, or a list of those that are true for a multi-label task."""
    if task.kind.several:
        return [[name for name, on in zip(task.labels, row, strict=True) if on] for row in chosen]
    return [task.labels[each] for each in chosen]
