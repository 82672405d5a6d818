"""Base class of mtbert's metrics, which are `evaluate.Metric` classes that need no network."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy import stats

from ..errors import InputError


class TaskMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Base class of mtbert's metrics.

    Inputs are kept in memory and each instance has a unique experiment id, so that two metrics never wait for the same
    cache file. A subclass implements `_score(x, y, **options)`, which returns scores by name for predictions x and
    references y, both float64.
    """

    per_label = False  # whether (rows, labels) inputs are accepted besides (rows,) ones

    def __init__(self, config_name: str | None = None, **kwargs: Any):
        kwargs = {"keep_in_memory": True, "experiment_id": uuid.uuid4().hex, **kwargs}
        super().__init__(config_name, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        # Class ids are floats, too: an integer feature would silently truncate logits that are passed by mistake.
        kinds = [datasets.Value("float32")]
        if self.per_label:
            kinds.append(datasets.Sequence(datasets.Value("float32")))
        features = [datasets.Features({"predictions": kind, "references": kind}) for kind in kinds]
        return evaluate.MetricInfo(
            description=(type(self).__doc__ or "").strip(),
            citation="",
            inputs_description="predictions, references: (rows,)" + (" or (rows, labels)" if self.per_label else ""),
            features=features if self.per_label else features[0],
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add a batch of predictions and references; arrays of shape (rows, 1) keep their shape."""
        # `evaluate` would read a row of one number as that number: float() accepts arrays of one number, but no lists.
        if getattr(predictions, "ndim", 1) > 1:
            predictions = np.asarray(predictions).tolist()
        if getattr(references, "ndim", 1) > 1:
            references = np.asarray(references).tolist()
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def _compute(self, predictions: Any, references: Any, **options: Any) -> dict[str, float]:
        return self._score(np.asarray(predictions, np.float64), np.asarray(references, np.float64), **options)

    def _class_ids(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        for name, values in (("predictions", x), ("references", y)):
            if np.any(values != np.round(values)):
                fraction = values[values != np.round(values)][0]
                raise InputError(
                    f"{self.name}: {name} must be class ids, but hold {fraction}; use modeling.decoding.decisions"
                )
        return x.astype(np.int64), y.astype(np.int64)

    def _or_undefined(self, name: str, compute: Callable[[], float], defined: bool) -> dict[str, float]:
        value = float("nan")
        if defined:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", stats.ConstantInputWarning)
                warnings.simplefilter("ignore", stats.NearConstantInputWarning)
                value = float(compute())
        return {name: value} if np.isfinite(value) else {name: 0.0, f"{name}_undefined": 1.0}
