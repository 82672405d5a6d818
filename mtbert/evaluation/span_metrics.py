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
    count = lambda mask, kind: np.bincount(kind[mask], minlength=len(types))  # noqa: E731
    return count(right, kind_y), count(begins_x, kind_x), count(begins_y, kind_y)


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
