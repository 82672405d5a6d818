"""Further training rows: pairs in the other order, and texts without labels."""

from __future__ import annotations

import datasets
from datasets import Dataset

from ..modeling.task_spec import TaskSpec
from .labels import reader_class


def in_both_orders(pairs: Dataset) -> Dataset:
    """Return checked rows of pairs, followed by the same rows with their texts exchanged."""
    exchanged = pairs.rename_columns({"text": "text_pair", "text_pair": "text"})
    return datasets.concatenate_datasets([pairs, exchanged.select_columns(pairs.column_names)])


def with_unlabelled(task: TaskSpec, train: Dataset, more: Dataset, numbered: int) -> Dataset:
    """Append the rows of `more` to `train`, with missing labels and row numbers that start after `numbered`."""
    blank = reader_class(task.kind.name)(task.kind.name, task.classes).blank
    columns = {"label": [blank] * len(more), "row": [numbered + row for row in more["row"]]}
    if "id" not in more.column_names:
        columns["id"] = [""] * len(more)
    for name in [name for name in columns if name in train.column_names]:
        rest = more.remove_columns(name) if name in more.column_names else more
        more = rest.add_column(name, columns[name], feature=train.features[name])
    return datasets.concatenate_datasets([train, more.select_columns(train.column_names)])
