"""Scores of entities in tagged texts: span F1 as seqeval's default mode and conlleval compute it.

An entity is right if its type, its first and its last word are. The scores are micro averages: over all entities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError
from ..modeling.problem_types import IGNORED
from ..modeling.task_spec import TaskSpec
from ..modeling.token_labels import OUTSIDE
from .task_metric import TaskMetric


class EntityScores(TaskMetric):
    """Precision, recall and F1 of entities, and the share of words with the right tag.

    Predictions and references are ids of tags, (rows, most words); words whose reference is -100 do not count, as if
    they were not there. `compute` takes the tags as `classes`. Precision, recall or F1 is 0 if it is 0 / 0.
    """

    per_label = True
    names: ClassVar[tuple[str, ...]] = ("span_f1", "span_precision", "span_recall", "word_accuracy")

    def _score(self, x: np.ndarray, y: np.ndarray, classes: Sequence[str] = ()) -> dict[str, float]:
        if not classes:
            raise InputError("the scores of entities need the names of the tags; call compute(…, classes=task.classes)")
        x, y = self._class_ids(x, y)
        right, predicted, given = (int(count.sum()) for count in entity_counts(x, y, classes))
        known = y != IGNORED
        accuracy = float((x == y)[known].mean()) if known.any() else 0.0
        return {**_rates(right, predicted, given), "word_accuracy": accuracy}


def _rates(right: int, predicted: int, given: int) -> dict[str, float]:
    precision = right / predicted if predicted else 0.0
    recall = right / given if given else 0.0
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return {"span_f1": f1, "span_precision": precision, "span_recall": recall}


def entity_types(classes: Sequence[str]) -> list[str]:
    """The types of the tags, sorted."""
    return sorted({tag[2:] for tag in classes if tag != OUTSIDE})


def entity_counts(
    predicted: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of right, of predicted and of labelled entities of each of the `entity_types`, `(types,)` each.

    Args:
        predicted, labels: ids of tags, `(rows, most words)`; words with the label -100 are left out.
        classes: the tags, in id order.
    """
    right, (begins_x, kind_x), (begins_y, kind_y) = _entities(predicted, labels, classes)
    count = lambda mask, kind: np.bincount(kind[mask], minlength=len(entity_types(classes)))  # noqa: E731
    return count(right, kind_y), count(begins_x, kind_x), count(begins_y, kind_y)


def counts_by_row(predicted: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Number of right entities, of predicted entities and of right words in each row, `(rows, 3)`.

    Those of the labels themselves are the numbers of labelled entities, twice, and of labelled words.

    Args:
        predicted: ids of tags, `(rows, words)`.
        labels: ids of tags, `(rows, words)`, with -100 for words that are left out. One of both may have more words
            than the other; those of the predictions are left out, and those of the labels must be -100.
        classes: the tags, in id order.

    Raises:
        InputError: a labelled word has no prediction.
    """
    words = predicted.shape[1]
    if (labels[:, words:] != IGNORED).any():
        raise InputError(f"the predictions have at most {words:,} words a row, but the labels have more")
    labels = labels[:, :words]
    labels = np.pad(labels, ((0, 0), (0, words - labels.shape[1])), constant_values=IGNORED)
    right, (begins, _), _ = _entities(predicted, labels, classes)
    same = (predicted == labels) & (labels != IGNORED)
    return np.stack([right.sum(axis=1), begins.sum(axis=1), same.sum(axis=1)], axis=1)


def resampled(name: str, predicted: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Scores of resamples of the rows, `(resamples,)`; 0 if it is 0 / 0.

    Args:
        name: one of `EntityScores.names`.
        predicted: `counts_by_row` of the predictions, `(rows, 3)`.
        labels: those of the labels, `(rows, 3)`.
        weights: how often each resample holds each row, `(resamples, rows)`.
    """
    right, of_predicted, right_words = (weights @ predicted.astype(np.float64)).T
    given, _, words = (weights @ labels.astype(np.float64)).T
    shares = {
        "span_f1": (2 * right, of_predicted + given),
        "span_precision": (right, of_predicted),
        "span_recall": (right, given),
        "word_accuracy": (right_words, words),
    }
    above, below = shares[name]
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below > 0))


_Side = tuple[np.ndarray, np.ndarray]


def _entities(predicted: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> tuple[np.ndarray, _Side, _Side]:
    """Where a right entity begins; where one of the predictions begins, with each word's type; and of the labels."""
    types = entity_types(classes)
    type_of = np.array([-1 if tag == OUTSIDE else types.index(tag[2:]) for tag in classes])
    always = np.array([tag[0] in "BS" for tag in classes])  # begins an entity, whatever stands before it
    last = np.array([tag[0] in "ES" for tag in classes])  # whatever follows begins another one
    outside, known = list(classes).index(OUTSIDE), labels != IGNORED
    order = np.argsort(~known, axis=1, kind="stable")  # words that count come first, in their order
    known = np.take_along_axis(known, order, axis=1)
    sides = []
    for ids in (predicted, labels):
        tags = np.where(known, np.take_along_axis(ids, order, axis=1), outside)
        before = np.concatenate([np.full((len(tags), 1), outside), tags[:, :-1]], axis=1)
        kind = type_of[tags]
        begins = (kind >= 0) & (always[tags] | last[before] | (type_of[before] != kind))
        sides.append((begins, kind, _next_boundary(begins | (kind < 0))))
    (begins_x, kind_x, end_x), (begins_y, kind_y, end_y) = sides
    right = begins_x & begins_y & (kind_x == kind_y) & (end_x == end_y)
    return right, (begins_x, kind_x), (begins_y, kind_y)


def _next_boundary(boundary: np.ndarray) -> np.ndarray:
    """For each word the next one at which an entity that it is in must have ended, `(rows, most words)`."""
    rows, words = boundary.shape
    places = np.where(boundary, np.arange(words), words)
    nearest = np.minimum.accumulate(places[:, ::-1], axis=1)[:, ::-1]
    return np.concatenate([nearest[:, 1:], np.full((rows, 1), words)], axis=1)


def entity_table(task: TaskSpec, predicted: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """A report's table of the scores of each type of entity; see `metrics.part_tables`."""
    counts = zip(entity_types(task.classes), *entity_counts(predicted, labels, task.classes), strict=True)
    rows = []
    for kind, right, found, given in counts:
        rates = {key.removeprefix("span_"): value for key, value in _rates(int(right), int(found), int(given)).items()}
        rows.append({"entity": kind, "labelled": int(given), "predicted": int(found), "right": int(right), **rates})
    note = "An entity is right if its type, its first and its last word are (conlleval; seqeval's default mode)."
    return {"title": "Entities by type", "notes": [note], "rows": rows}
