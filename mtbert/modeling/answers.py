"""Answers: what a model predicts of one task for some rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from .decoding import answer_columns, confidence, decisions, in_sets, label_names, label_sets, probabilities
from .errors import InputError, UnknownTaskError, deprecated
from .task_spec import TaskSpec

SHOWN = 5  # the repr of a Prediction shows so many answers


@dataclass(frozen=True, repr=False)
class Prediction:
    """Predictions of one task for some rows.

    Attributes:
        task: the task.
        logits: the model's logits, `(rows, num_labels)`, fp32.
        scores: probabilities `(rows, labels)`, which sum to 1 except for a multi-label task; for a regression scores
            `(rows,)` on its scale. Calibrated, if the task is.
        truncated: `(rows,)`, number of tokens that were cut off each row; None if unknown.
        texts: the (first) text of each row; None if unknown.
    """

    task: TaskSpec
    logits: np.ndarray
    scores: np.ndarray
    truncated: np.ndarray | None = None
    texts: Sequence[str] | None = None

    @classmethod
    def of(
        cls,
        task: TaskSpec,
        logits: np.ndarray,
        truncated: np.ndarray | None = None,
        texts: Sequence[str] | None = None,
    ) -> Prediction:
        """Make a Prediction from logits `(rows, num_labels)`."""
        return cls(task, logits, probabilities(task, logits), truncated, texts)

    @property
    def labels(self) -> list[Any]:
        """For each row the most probable label (the median of an ordinal task), the labels above ½, or the score.

        Fitted thresholds of the task take the place of ½.
        """
        if self.task.kind.answers is not None:
            return list(self.task.kind.answers.labels(self))
        if self.task.kind.numeric:
            return self.scores.tolist()
        return label_names(self.task, decisions(self.task, self.logits))

    @property
    def entities(self) -> list[list[dict[str, Any]]]:
        """For each row of a task that labels words, its entities: `entity`, `word`, `start`, `end` and `score`.

        Raises:
            InputError: the task labels rows, or the prediction has no texts.
        """
        if not hasattr(self.task.kind.answers, "entities"):
            raise InputError(f"task {self.task.name!r} labels rows, and finds no entities; take its labels")
        return list(self.task.kind.answers.entities(self))

    @property
    def probabilities(self) -> np.ndarray:
        """The `scores` of a classification, `(rows, labels)`; raise InputError for a regression."""
        self._refuse_regression("probabilities")
        return self.scores

    @property
    def confidence(self) -> np.ndarray:
        """Probability of each decision, `(rows,)`, or `(rows, labels)`; raise InputError for a regression."""
        self._refuse_regression("confidence")
        return confidence(self.task, self.scores, decisions(self.task, self.logits))

    @property
    def sets(self) -> list[Any]:
        """For each row the labels of its set at the fitted coverage; the interval `(low, high)` of a regression.

        Raises:
            InputError: the task has no fitted coverage.
        """
        members = in_sets(self.task, self.scores)
        if self.task.kind.numeric:
            return [tuple(row) for row in members.tolist()]
        return label_sets(self.task, members)

    @property
    def abstained(self) -> np.ndarray:
        """Whether a row's confidence is below the fitted `abstain_below`, `(rows,)`; never, where none was fitted."""
        below = self.task.calibration and self.task.calibration.abstain_below
        return np.zeros(len(self), dtype=bool) if below is None else self.confidence < below

    def _refuse_regression(self, what: str) -> None:
        if self.task.kind.numeric:
            raise InputError(f"task {self.task.name!r} is a regression, which has no {what}; take its scores")

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, name: str) -> Prediction:
        """Deprecated: this Prediction, by its task's name. `predict(rows, tasks="NAME")` used to return a dict."""
        if name != self.task.name:
            raise UnknownTaskError(f"no task {name!r}: this is the Prediction of {self.task.name!r}")
        deprecated('predict(..., tasks="NAME")["NAME"]', 'predict(..., tasks="NAME") or tasks=["NAME"]', since="0.2")
        return self

    def __repr__(self) -> str:
        if not np.isfinite(self.logits).all():
            return f"Prediction of {self.task.name!r} for {len(self):,} rows, some of which are not finite"
        first = ", ".join(f"{label:.4g}" if isinstance(label, float) else repr(label) for label in self.labels[:SHOWN])
        more = ", …" if len(self) > SHOWN else ""
        return f"Prediction of {self.task.name!r} for {len(self):,} rows: {first}{more}"

    def to_dict(self) -> dict[str, list[Any]]:
        """Columns with one value for each row, as in the files that `mtbert predict` writes.

        Returns:
            `<task>`: the label, a list of labels for a multi-label task, or a regression's score; `<task>:<label>`: the
            probability of each label. `<task>.set` (a list of labels), or `<task>.low` and `<task>.high`, if a coverage
            was fitted; `<task>.abstained` (a bool), if the task may abstain.
        """
        own = self.task.kind.answers
        table = answer_columns(self.task, self.labels, self.scores) if own is None else own.columns(self)
        table |= self.fitted_columns()
        return {name: values if isinstance(values, list) else values.tolist() for name, values in table.items()}

    def fitted_columns(self) -> dict[str, Any]:
        """The columns of `to_dict` that a fitted coverage and `abstain_below` add; see `fitted_names`."""
        values: dict[str, Any] = {}
        names = fitted_names(self.task)
        if f"{self.task.name}.low" in names:
            low, high = in_sets(self.task, self.scores).T
            values |= {f"{self.task.name}.low": low, f"{self.task.name}.high": high}
        if f"{self.task.name}.set" in names:
            values[f"{self.task.name}.set"] = self.sets
        if f"{self.task.name}.abstained" in names:
            values[f"{self.task.name}.abstained"] = self.abstained
        return values

    def to_pandas(self) -> Any:
        """`to_dict` as a `pandas.DataFrame` with a row for each input."""
        return import_module("pandas").DataFrame(
            self.to_dict()
        )  # not a plain import: a checkpoint's code must load without pandas


def fitted_names(task: TaskSpec) -> list[str]:
    """Names of the columns that a task's calibration adds to its answers."""
    fitted, suffixes = task.calibration, []
    if fitted is not None and fitted.quantile is not None:
        suffixes += ["low", "high"] if task.kind.numeric else ["set"]
    if fitted is not None and fitted.abstain_below is not None:
        suffixes.append("abstained")
    return [f"{task.name}.{suffix}" for suffix in suffixes]
