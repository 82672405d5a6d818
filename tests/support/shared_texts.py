"""Tables of random texts with label columns of several kinds and blanks, for tests of sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import datasets
import numpy as np
from tiny import WORDS

from mtbert.modeling.task_spec import TaskSpec

# one task of each kind; the labels of each are blank in some rows
SINGLE = (
    TaskSpec("queue", labels=["billing", "bug", "other"], pooling="mean", dropout=0.0),
    TaskSpec("tags", "multi_label_classification", labels=["cat", "dog", "bird"], pooling="max", dropout=0.0),
    TaskSpec("mood", range=(0, 5), dropout=0.0, head={"output": "sigmoid"}),
    TaskSpec("urgency", "ordinal_classification", labels=4, dropout=0.0),
    TaskSpec("angry", "binary_classification", labels=["no", "yes"], dropout=0.0, head={"type": "attention"}),
)
PAIRS = (
    TaskSpec("same", "binary_classification", labels=["no", "yes"], texts=2, dropout=0.0),
    TaskSpec("near", range=(0, 5), texts=2, pair="siamese", dropout=0.0, head={"type": "cosine", "layers": 1}),
    TaskSpec("kind", labels=3, texts=2, pair="both", dropout=0.0, head={"type": "mlp", "layers": 1}),
    TaskSpec("far", range=(0, 5), texts=2, pair="siamese", dropout=0.0),
)


def sentence(random: np.random.Generator) -> str:
    """A sentence of 2 to 12 words."""
    return " ".join(random.choice(WORDS, size=random.integers(2, 13)))


def random_label(task: TaskSpec, random: np.random.Generator, text: str):
    """A label of a task for a text, as a user writes it."""
    if task.kind.numeric:
        return float(random.integers(0, 11)) / 2
    if task.kind.units.column:
        return [task.labels[tag] for tag in random.integers(len(task.labels), size=len(text.split()))]
    if task.kind.several:
        return [name for name in task.labels if random.random() < 0.5]
    return task.labels[random.integers(len(task.labels))]


def make_table(
    tasks: Sequence[TaskSpec], rows: int, seed: int = 0, blank: float = 0.4, unlabelled: int = 0
) -> datasets.Dataset:
    """Rows with `text` (and `text_pair`) and a column of labels for each task; the last rows have no label at all.

    Args:
        blank: share of blanks; every other row has at least one label.
        unlabelled: number of rows without any label.
    """
    random = np.random.default_rng([seed, rows])
    columns: dict[str, list] = {"text": [sentence(random) for _ in range(rows)]}
    if tasks[0].texts == 2:
        columns["text_pair"] = [sentence(random) for _ in range(rows)]
    has = random.random((rows, len(tasks))) >= blank
    has[np.arange(rows), random.integers(len(tasks), size=rows)] = True
    has[rows - unlabelled :] = False
    for place, task in enumerate(tasks):
        texts = enumerate(columns["text"])
        columns[task.name] = [random_label(task, random, text) if has[row, place] else None for row, text in texts]
    if any(task.kind.units.column for task in tasks):
        columns["text"] = [text.split() for text in columns["text"]]
    return datasets.Dataset.from_dict(columns)


def rows_of(task: TaskSpec, table: datasets.Dataset) -> datasets.Dataset:
    """The rows of a table that have a label of a task, as a data set of this task alone."""
    columns = ["text", "text_pair"][: task.texts]
    rows = table.select_columns([*columns, task.name]).rename_column(task.name, "label")
    return rows.filter(lambda row: row["label"] is not None)


def numbers_of(task: TaskSpec, table: datasets.Dataset) -> np.ndarray:
    """The numbers of these rows in the table."""
    return np.array([number for number, label in enumerate(table[task.name][:]) if label is not None])


def without_dropout(tasks: Sequence[TaskSpec]) -> tuple[TaskSpec, ...]:
    """The tasks without dropout of their heads."""
    return tuple(replace(task, dropout=0.0) for task in tasks)
