"""Turn predictions into the answers of the server, by the same rule as `predict`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..modeling.answers import Prediction, fitted_names
from ..modeling.decoding import finite_rows

Answer = dict[str, Any]


def answers(prediction: Prediction) -> list[Answer | None]:
    """The answer of each row as JSON-ready values; None where the model's logits are not finite.

    Returns:
        Classifications: `label` (or `labels`, a list, where a row may have several), `confidence` (for each label,
        where there may be several) and `probabilities`. Regressions: `score`. Types with `answers` of their own: their
        `served`. Where the task was calibrated so:
        `set` or `interval`, and `abstained`. `truncated`, the number of tokens that were cut off, where there are any.
    """
    finite = finite_rows(prediction.logits)
    if not finite.all():
        logits = prediction.logits.copy()
        logits[~finite] = 0
        prediction = Prediction.of(prediction.task, logits, prediction.truncated, prediction.texts)
    columns = _columns(prediction)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if prediction.truncated is not None:
        for row, cut in zip(rows, prediction.truncated.tolist(), strict=True):
            row |= {"truncated": cut} if cut else {}
    return [row if fine else None for row, fine in zip(rows, finite.tolist(), strict=True)]


def _columns(prediction: Prediction) -> dict[str, Iterable[Any]]:
    task = prediction.task
    if task.kind.answers is not None:
        return dict(task.kind.answers.served(prediction))
    fitted = {name.rpartition(".")[2] for name in fitted_names(task)}
    if task.kind.numeric:
        columns: dict[str, Iterable[Any]] = {"score": prediction.scores.tolist()}
        return columns | ({"interval": map(list, prediction.sets)} if "low" in fitted else {})
    named = lambda values: [dict(zip(task.classes, row, strict=True)) for row in values.tolist()]  # noqa: E731
    several = task.kind.several
    columns = {"labels" if several else "label": prediction.labels}
    columns["confidence"] = named(prediction.confidence) if several else prediction.confidence.tolist()
    columns["probabilities"] = named(prediction.probabilities)
    if "set" in fitted:
        columns["set"] = prediction.sets
    if "abstained" in fitted:
        columns["abstained"] = prediction.abstained.tolist()
    return columns
