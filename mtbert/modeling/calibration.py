"""What `mtbert calibrate` fits for a task on held-out rows, and how it turns logits into decisions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .config_checks import make_plain, type_problems
from .errors import Problem

if TYPE_CHECKING:
    from .problem_types import ProblemType


LEAST = 1e-4  # lowest temperature


@dataclass(frozen=True)
class Calibration:
    """The decision rule of a task; every field that is None leaves the answers as they are without it.

    Attributes:
        temperature: T; logits are divided by it before they become probabilities (Guo et al., 2017). 1 for a
            regression.
        thresholds: for each label of a multi-label task, or for the second of two classes, the calibrated probability
            from which on the label is given; None in place of a number: more than ½.
        coverage: the share 1 − α of rows whose set holds the true label, or whose interval holds the true score.
        quantile: the ⌈(n + 1)(1 − α)⌉ / n quantile of the nonconformity scores of the n rows (Angelopoulos and Bates,
            2021): 1 − probability of the true label, or |score − true score|. A set holds the labels with a
            probability of at least 1 − quantile; an interval is score ± quantile.
        abstain_below: the confidence below which a row is marked as one that a person should decide.
    """

    temperature: float = 1.0
    thresholds: tuple[float | None, ...] | None = None
    coverage: float | None = None
    quantile: float | None = None
    abstain_below: float | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        if isinstance(self.thresholds, list):
            object.__setattr__(self, "thresholds", tuple(self.thresholds))

    def problems(self, kind: ProblemType, classes: int) -> list[Problem]:
        """Return a `Problem` for each field that is invalid for a task of this kind.

        Args:
            kind: the problem type.
            classes: number of labels.
        """
        problems = type_problems(self)
        if problems:
            return problems
        if reason := kind.refuses.get("calibrate"):
            return [Problem((), f"is set, but {reason}")]
        if not self.temperature > 0:
            problems.append(Problem(("temperature",), f"is {self.temperature}, but must be positive"))
        elif not LEAST <= self.temperature <= 1 / LEAST:  # logits divided by it would not be finite, or all alike
            limits = f"must be from {LEAST:g} to {1 / LEAST:g}"
            problems.append(Problem(("temperature",), f"is {self.temperature}, but {limits}"))
        if kind.numeric and self.temperature != 1:
            problems.append(Problem(("temperature",), f"is {self.temperature}, but a regression has none; drop it"))
        if self.thresholds is not None:
            expected = thresholds_of(kind, classes)
            if len(self.thresholds) != expected:
                has = f"{expected or 'none'}: one for each label of a multi-label task, one for two classes"
                problems.append(Problem(("thresholds",), f"has {len(self.thresholds)} numbers, but must have {has}"))
            if any(value is not None and not 0 <= value <= 1 for value in self.thresholds):
                problems.append(Problem(("thresholds",), f"is {list(self.thresholds)}, but must lie in [0, 1]"))
        for key in ("coverage", "abstain_below"):
            value = getattr(self, key)
            if value is not None and not 0 <= value <= 1:
                problems.append(Problem((key,), f"is {value}, but must lie in [0, 1]"))
        if self.quantile is not None and not self.quantile >= 0:
            problems.append(Problem(("quantile",), f"is {self.quantile}, but must be 0 or more"))
        if (self.quantile is None) != (self.coverage is None):
            problems.append(Problem(("quantile",), "and coverage belong together; give both or none"))
        if self.quantile is not None and kind.several:
            problems.append(Problem(("quantile",), "is for one label or score a row, not for a multi-label task"))
        if self.abstain_below is not None and (kind.numeric or kind.several):
            problems.append(Problem(("abstain_below",), "is for tasks with one label a row"))
        return problems

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def thresholds_of(kind: ProblemType, classes: int) -> int:
    """The number of thresholds that a task may have: one for each of several labels, one for two classes, else none."""
    if kind.several:
        return classes
    return int(not kind.numeric and classes == 2)


def above(probabilities: np.ndarray, thresholds: tuple[float | None, ...]) -> np.ndarray:
    """Whether each probability reaches its label's threshold, `(rows, labels)`; more than ½ where it has none."""
    levels = np.array([np.nan if value is None else value for value in thresholds])
    return np.where(np.isnan(levels), probabilities > 0.5, probabilities >= levels)
