"""One task's labelled rows and what a model says of them: what every analysis begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.special import log_expit, log_softmax

from ...modeling.configuration_mtbert import TaskSpec
from ...modeling.decoding import decisions, probabilities
from ..metrics import IGNORE_INDEX, labelled_rows


@dataclass(frozen=True)
class TaskRows:
    """Labelled rows of one task.

    Attributes:
        task: the task.
        logits: (rows, num_labels) float64, finite.
        labels: (rows,) class ids or scores; (rows, num_labels) of 0, 1 and NaN (missing) for multi-label tasks.
        texts: for each row its one or two texts.
        names: what identifies a row: its id, or its number in the source.
        groups: column → the value of each row.
        show_texts: whether tables of examples quote the texts; else they name rows and labels alone.
    """

    task: TaskSpec
    logits: np.ndarray
    labels: np.ndarray
    texts: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    show_texts: bool = True

    @classmethod
    def of(
        cls,
        task: TaskSpec,
        split: Dataset,
        logits: np.ndarray,
        labels: np.ndarray | None,
        groups: Mapping[str, Sequence[Any]] | None = None,
        show_texts: bool = True,
    ) -> TaskRows:
        """Keep the rows that have a label.

        Args:
            split: a checked split (`check_rows`): columns `text`, `text_pair` for pairs, `row`, and `id` if it has one.
            logits: (rows of the split, num_labels).
            labels: of the split's rows, as `MtBertTrainer.predict` returns them; None: no row has one.
            groups: column → the value of each row of the split.
            show_texts: see the class.

        Raises:
            ValueError: a logit of a labelled row is not finite.
        """
        shape = (len(split), task.num_labels) if task.kind.several else (len(split),)
        labels = np.full(shape, np.nan) if labels is None else np.asarray(labels, dtype=np.float64)
        kept = np.flatnonzero(labelled_rows(task, labels)) if len(labels) else np.zeros(0, dtype=np.int64)
        labels = labels[kept]
        if task.kind.several:
            labels = np.where(labels == IGNORE_INDEX, np.nan, labels)
        elif not task.kind.numeric:
            labels = labels.astype(np.int64)
        columns = split.with_format(None).select(kept).to_dict()
        keys = ("text", "text_pair")[: task.texts]
        logits = np.asarray(logits, dtype=np.float64)[kept]
        decisions(task, logits)  # refuses what is not finite before anything is computed
        texts = tuple(zip(*(columns[key] for key in keys), strict=True))
        names = [str(name) for name in columns.get("id", columns["row"])]
        if not show_texts and not set(names).isdisjoint(text for row in texts for text in row):
            names = [str(name) for name in columns["row"]]  # a text may also be what identifies its row
        return cls(
            task,
            logits,
            labels,
            texts,
            tuple(names),
            {name: tuple(str(values[i]) for i in kept) for name, values in (groups or {}).items()},
            show_texts,
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

    @cached_property
    def predicted(self) -> np.ndarray:
        """(rows,) class ids or scores; (rows, num_labels) of 0 and 1 for multi-label tasks."""
        return decisions(self.task, self.logits)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(rows, classes), each row summing to 1; (rows, num_labels) of each label's own for multi-label tasks."""
        return probabilities(self.task, self.logits)

    @cached_property
    def right(self) -> np.ndarray:
        """(rows,) whether a classification's prediction is the label; of multi-label rows, every known one."""
        same = self.predicted == self.labels
        return (same | np.isnan(self.labels)).all(axis=1) if self.multi_label else same

    @cached_property
    def errors(self) -> np.ndarray:
        """(rows,) |predicted − label| of a regression; 0 or 1; or the share of a row's known labels that are wrong."""
        if self.regression:
            return np.abs(self.predicted - self.labels)
        if not self.multi_label:
            return (~self.right).astype(np.float64)
        known = ~np.isnan(self.labels)
        return ((self.predicted != self.labels) & known).sum(axis=1) / known.sum(axis=1)

    @cached_property
    def losses(self) -> np.ndarray:
        """(rows,) −ln p̂ of the label, the mean of it over a multi-label row's known entries, or the squared error."""
        if self.regression:
            return self.errors**2
        if self.task.kind.exclusive:
            return -log_softmax(self.logits, axis=1)[np.arange(len(self)), self.labels]
        labels = self.labels if self.multi_label else self.labels[:, None]
        known = ~np.isnan(labels)
        losses = -log_expit(np.where(labels == 1, self.logits, -self.logits))
        return np.where(known, losses, 0).sum(axis=1) / known.sum(axis=1)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(rows, texts) words, as white space separates them."""
        return np.array([[len(text.split()) for text in row] for row in self.texts]).reshape(-1, self.task.texts)

    def label_text(self, values: np.ndarray | float) -> str:
        """A row's label or prediction, as a reader wants it."""
        if self.regression:
            return f"{float(values):.3g}"
        if self.multi_label:
            return ", ".join(name for name, value in zip(self.task.labels, values, strict=True) if value == 1) or "none"
        return self.task.labels[int(values)]

    def example(self, row: int, **more: Any) -> dict[str, Any]:
        """One row for a table: `row`, `text` and `text_pair` if shown, `label`, `predicted`, and what `more` says."""
        texts = dict(zip(("text", "text_pair"), self.texts[row] if self.show_texts else (), strict=False))
        sides = {"label": self.label_text(self.labels[row]), "predicted": self.label_text(self.predicted[row])}
        return {"row": self.names[row], **texts, **sides, **more}
