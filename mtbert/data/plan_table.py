"""What a plan draws from one of its steps on: rows, passes and probabilities of each task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


def counts_from(plan: Any, first: int = 0) -> Iterator[np.ndarray]:
    """Yield the rows of each task in each step of a run, from step number `first` (from 0) on, `(steps, tasks)`."""
    begin = first // plan.steps_per_epoch
    passed = begin * plan.steps_per_epoch
    for epoch in range(begin, plan.epochs):
        for counts in plan.epoch_counts(epoch):
            yield counts[min(max(first - passed, 0), len(counts)) :]
            passed += len(counts)


def plan_table(plan: Any, first: int = 0) -> list[dict[str, object]]:
    """Return one dict per task: its rows, rows per step, rows drawn, passes over the data and p_t.

    `batch` is the number of the task's rows in a step that contains the task; for mixed steps, the mean over all
    steps. `probability` holds p_t of the first and the last epoch.

    Args:
        plan: a `Plan`.
        first: the first step that counts, from 0; the steps before it were taken by a run that this one resumes.
    """
    steps, table = max(plan.total_steps - first, 0), []
    total = sum((counts.sum(0) for counts in counts_from(plan, first)), np.zeros(len(plan.names), np.int64))
    begin = min(first // plan.steps_per_epoch, plan.epochs - 1)
    p = [plan.probabilities(epoch) for epoch in sorted({begin, plan.epochs - 1})]
    for task, name in enumerate(plan.names):
        table.append(
            {
                "task": name,
                "rows": plan.rows[task],
                "batch": total[task] / max(steps, 1) if plan.schedule.mixed else plan.task_batches[task],
                "examples": int(total[task]),
                "passes": float(total[task] / plan.rows[task]),
                "probability": [float(p_epoch[task]) for p_epoch in p if p_epoch is not None] or None,
            }
        )
    return table
