"""One task's labelled rows with a model's predictions: the input of every analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from scipy.special import log_expit, log_softmax

from ...modeling.decoding import decisions, probabilities, scaled
from ...modeling.task_spec import TaskSpec
from ...modeling.token_labels import OUTSIDE, entity_spans
from ...modeling.words import find_words
from ..metrics import IGNORE_INDEX, labelled_rows, widened
from .token_weights import TokenWeights


@dataclass(frozen=True)
class TaskRows:
    """Labelled rows of one task, with logits.

    Attributes:
        task: the task.
        logits: shape (rows, num_labels), float64, finite.
        labels: class ids or scores, shape (rows,); for multi-label tasks 0, 1 or NaN (missing), (rows, num_labels); for
            tasks that label parts of rows class ids or -100 (missing, or no part), (rows, most parts).
        texts: the one or two texts of each row.
        names: the id of each row, or its number in the source.
        groups: column → the value of each row.
        show_texts: whether tables of examples quote the texts; otherwise they show names and labels only.
        attention: the tokens of each row with the weights of the head's attention; None: the head has none.
    """

    task: TaskSpec
    logits: np.ndarray
    labels: np.ndarray
    texts: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    show_texts: bool = True
    attention: TokenWeights | None = None

    @classmethod
    def of(
        cls,
        task: TaskSpec,
        split: Dataset,
        logits: np.ndarray,
        labels: np.ndarray | None,
        groups: Mapping[str, Sequence[Any]] | None = None,
        show_texts: bool = True,
        attention: TokenWeights | None = None,
    ) -> TaskRows:
        """Create from a split; rows without a label are dropped.

        Args:
            task: the task.
            split: a checked split (`check_rows`): columns `text`, `text_pair` for pairs, `row`, and optionally `id`.
            logits: shape (rows of the split, num_labels).
            labels: labels of the split's rows, as `MtBertTrainer.predict` returns them; None: no row has a label.
            groups: column → the value of each row of the split.
            show_texts: see the class.
            attention: weights of the split's rows.

        Raises:
            ValueError: a logit of a labelled row is not finite.
        """
        shape = (len(split), task.num_labels) if task.kind.several else np.shape(logits)[: task.kind.units.dims]
        labels = np.full(shape, np.nan) if labels is None else np.asarray(labels, dtype=np.float64)
        labels = widened(task, labels, np.asarray(logits))
        kept = np.flatnonzero(labelled_rows(task, labels)) if len(labels) else np.zeros(0, dtype=np.int64)
        labels = labels[kept]
        if task.kind.several:
            labels = np.where(labels == IGNORE_INDEX, np.nan, labels)
        elif not task.kind.numeric:
            labels = labels.astype(np.int64)
        columns = split.with_format(None).select(kept).to_dict()
        keys = ("text", "text_pair")[: task.texts]
        logits = np.asarray(logits, dtype=np.float64)[kept]
        decisions(task, logits)  # raises now if a logit is not finite
        texts = tuple(zip(*(columns[key] for key in keys), strict=True))
        names = [str(name) for name in columns.get("id", columns["row"])]
        if not show_texts and not set(names).isdisjoint(text for row in texts for text in row):
            names = [str(name) for name in columns["row"]]  # an id may be the text itself, which must not be shown
        return cls(
            task,
            logits,
            labels,
            texts,
            tuple(names),
            {name: tuple(str(values[int(i)]) for i in kept) for name, values in (groups or {}).items()},
            show_texts,
            None if attention is None else attention.select(kept),
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def multi_label(self) -> bool:
        """Whether several labels of a row may be true."""
        return self.task.kind.several

    @property
    def regression(self) -> bool:
        """Whether the labels are scores."""
        return self.task.kind.numeric

    @property
    def of_parts(self) -> bool:
        """Whether labels are of parts of rows."""
        return self.task.kind.units.dims > 1

    @cached_property
    def predicted(self) -> np.ndarray:
        """Predicted class ids or scores, shape (rows,); for multi-label tasks 0 or 1, shape (rows, num_labels).

        For tasks that label parts of rows class ids, -100 where the label is missing, shape (rows, most parts).
        """
        chosen = decisions(self.task, self.logits)
        return np.where(self.labels == IGNORE_INDEX, IGNORE_INDEX, chosen) if self.of_parts else chosen

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Class probabilities, shape (rows, classes); for multi-label tasks of each label, shape (rows, num_labels)."""
        return probabilities(self.task, self.logits)

    @cached_property
    def right(self) -> np.ndarray:
        """Whether each prediction is right, shape (rows,); for rows of several labels, all their known ones."""
        same = self.predicted == self.labels
        if self.of_parts:
            return np.asarray(same.all(axis=1))
        return (same | np.isnan(self.labels)).all(axis=1) if self.multi_label else same

    @cached_property
    def errors(self) -> np.ndarray:
        """Error of each row, shape (rows,).

        |predicted − label| for a regression, the share of wrong known labels for rows of several labels, else 0 or 1.
        """
        if self.regression:
            return np.abs(self.predicted - self.labels)
        if not (self.multi_label or self.of_parts):
            return (~self.right).astype(np.float64)
        labelled = self.labels != IGNORE_INDEX if self.of_parts else ~np.isnan(self.labels)
        return ((self.predicted != self.labels) & labelled).sum(axis=1) / labelled.sum(axis=1)

    @cached_property
    def losses(self) -> np.ndarray:
        """Loss of each row, shape (rows,).

        The squared error for a regression; else −ln p̂ of the label, for rows of several its mean over known labels.
        """
        if self.regression:
            return self.errors**2
        if self.task.kind.exclusive:
            of_classes = self.task.kind.class_logits(torch.from_numpy(scaled(self.task, self.logits))).numpy()
            chosen = np.maximum(self.labels, 0)[..., None]
            log_p = np.take_along_axis(log_softmax(of_classes, axis=-1), chosen, axis=-1)[..., 0]
            known = self.labels != IGNORE_INDEX
            return -np.where(known, log_p, 0).sum(axis=1) / known.sum(axis=1) if self.of_parts else -log_p
        labels = self.labels if self.multi_label else self.labels[:, None]
        labelled = ~np.isnan(labels)
        logits = scaled(self.task, self.logits)
        losses = -log_expit(np.where(labels == 1, logits, -logits))
        return np.where(labelled, losses, 0).sum(axis=1) / labelled.sum(axis=1)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Number of words, separated by white space, of each text; shape (rows, texts)."""
        return np.array([[len(text.split()) for text in row] for row in self.texts]).reshape(-1, self.task.texts)

    def label_text(self, values: np.ndarray | float, row: int | None = None) -> str:
        """Format a row's label or prediction; tags of words as entities, if the row is given and texts are shown."""
        if self.regression:
            return f"{float(values):.3g}"
        if self.multi_label:
            return (
                ", ".join(name for name, value in zip(self.task.classes, np.asarray(values), strict=True) if value == 1)
                or "none"
            )
        if self.of_parts and row is not None and self.show_texts:
            return self._entities(np.asarray(values).tolist(), self.texts[row][0])
        if self.of_parts:
            return " ".join(self.task.classes[i] for i in np.asarray(values).tolist() if i != IGNORE_INDEX)
        return self.task.classes[int(values)]

    def _entities(self, tags: list[int], text: str) -> str:
        """Quote the words of each entity after its type; words without a label end an entity."""
        text, places = find_words(text)
        names = [self.task.classes[tag] if tag != IGNORE_INDEX else OUTSIDE for tag in tags]
        found = entity_spans(names[: len(places)])
        return "; ".join(f"{kind} {text[places[a][0] : places[b - 1][1]]}" for kind, a, b in found) or "none"

    def example(self, row: int, **more: Any) -> dict[str, Any]:
        """Return a table row: `row`, `text` and `text_pair` if shown, `label`, `predicted`, and the keys of `more`."""
        texts = dict(zip(("text", "text_pair"), self.texts[row] if self.show_texts else (), strict=False))
        labels, predicted = self.labels[row], self.predicted[row]
        sides = {"label": self.label_text(labels, row), "predicted": self.label_text(predicted, row)}
        return {"row": self.names[row], **texts, **sides, **more}
