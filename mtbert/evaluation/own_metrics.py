"""Metrics of one's own, under the names that recipes and settings have for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ..errors import InputError
from ..modeling.problem_types import PROBLEM_TYPES
from .metrics import METRICS, MetricSpec, TaskMetric

_BUILT_IN = tuple(METRICS)


class OwnMetric(TaskMetric):
    """A registered metric.

    Args:
        name: of the score.
        score: (predictions, references), both float64, → a number; not finite: undefined.
    """

    per_label = True

    def __init__(self, name: str, score: Callable[[np.ndarray, np.ndarray], float]):
        super().__init__()
        self._own_name, self._own_score = name, score

    def _score(self, x, y):
        return self._or_undefined(self._own_name, lambda: self._own_score(x, y), True)


def register_metric(
    name: str,
    score: Callable[[np.ndarray, np.ndarray], float],
    problem_types: Sequence[str] = tuple(PROBLEM_TYPES),
    rises: bool = True,
) -> None:
    """Make a metric of one's own known as `metric: name` of a task.

    Args:
        name: of the score in logs and files; letters, digits and underscores.
        score: from the predictions and the labels of the labelled rows, both float64 arrays, to a number: class ids
            `(rows,)`, scores `(rows,)`, or 0 and 1 `(rows, labels)` for a multi-label task.
        problem_types: the kinds of task it can score.
        rises: whether higher is better, as the averages and the best checkpoint need it.

    Raises:
        InputError: if the name is taken or has other characters, or a kind of task is unknown.
    """
    if not isinstance(name, str) or not name.isidentifier() or name == "loss":
        raise InputError(f"the name of a metric is {name!r}, but must have letters, digits and underscores; not loss")
    if unknown := [kind for kind in problem_types if kind not in PROBLEM_TYPES]:
        raise InputError(f"metric {name!r}: problem_types has {unknown}; known ones: {', '.join(PROBLEM_TYPES)}")
    if name in _BUILT_IN:
        raise InputError(f"there is a metric {name!r} already; give another name")
    METRICS[name] = MetricSpec(partial(OwnMetric, name, score), tuple(problem_types), rises)
