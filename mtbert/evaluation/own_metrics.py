"""Registration of user-defined metrics, for use by name in recipes and settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ..errors import InputError
from ..modeling.problem_types import PROBLEM_TYPES
from .metrics import METRICS, MetricSpec, TaskMetric
from .span_metrics import EntityScores

# names that came after `register_metric`, so that programs may have registered their own under them
_LATER = ("qwk", "within_one", *EntityScores.names)
_OF_ROWS = tuple(name for name, kind in PROBLEM_TYPES.items() if kind.units.dims == 1)
_BUILT_IN = tuple(name for name in METRICS if name not in _LATER)


class OwnMetric(TaskMetric):
    """A metric that a user has registered.

    Args:
        name: name of the score.
        score: maps (predictions, references), both float64, to a number; a number that is not finite is undefined.
    """

    per_label = True

    def __init__(self, name: str, score: Callable[[np.ndarray, np.ndarray], float]):
        super().__init__()
        self._own_name, self._own_score = name, score

    def _score(self, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        return self._or_undefined(self._own_name, lambda: self._own_score(x, y), True)


def register_metric(
    name: str,
    score: Callable[[np.ndarray, np.ndarray], float],
    problem_types: Sequence[str] = _OF_ROWS,
    rises: bool = True,
) -> None:
    """Register a metric, for use as `metric: name` of a task.

    Args:
        name: name of the score in logs and files; letters, digits and underscores.
        score: maps the predictions and the labels of the labelled rows to a number. Both are float64 arrays: class ids
            or scores, shape `(rows,)`, or 0 and 1 of shape `(rows, labels)` for a multi-label task. Of a task that
            labels words class ids, shape `(rows, most words)`; words whose label is -100 do not count.
        problem_types: the problem types that the metric can score; by default all that label rows.
        rises: whether higher is better; only such a metric can be averaged or choose the best checkpoint.

    A metric named `qwk` or `within_one` takes the place of mtbert's, and scores ordinal tasks, too. So does one with
    the name of a score of entities, for tasks that label words.

    Raises:
        InputError: the name is taken or has other characters, or a problem type is unknown.
    """
    if not isinstance(name, str) or not name.isidentifier() or name == "loss":
        raise InputError(f"the name of a metric is {name!r}, but must have letters, digits and underscores; not loss")
    unknown = [kind for kind in problem_types if kind not in PROBLEM_TYPES]
    if unknown:
        raise InputError(f"metric {name!r}: problem_types has {unknown}; known ones: {', '.join(PROBLEM_TYPES)}")
    if name in _BUILT_IN:
        raise InputError(f"there is a metric {name!r} already; give another name")
    replaced = METRICS[name].problem_types if name in _LATER else ()
    suits = tuple(dict.fromkeys((*problem_types, *replaced)))
    METRICS[name] = MetricSpec(partial(OwnMetric, name, score), suits, rises)
