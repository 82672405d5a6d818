"""Find a task's labels in its data, for tasks whose recipe may leave them out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .labels import reader_class
from .splits import named_splits, read_split

if TYPE_CHECKING:
    from .spec import DataSpec


def find_labels(name: str, problem_type: str, data: DataSpec, data_dir: str | Path | None) -> tuple[str, ...]:
    """Return the labels in the train and dev splits of a task, in id order.

    Raises:
        ValueError, OSError: a split can not be read, has no label column, or no labels of the problem type.
    """
    cells, feature = [], None
    for split in named_splits(data):
        if split in ("train", "dev"):
            read = read_split(f"task {name!r}: data", data, split, data_dir)
            rows, label = read.rows, str(data.label)
            if label not in rows.column_names:
                where = f"task {name!r}, {split} split, {read.parts.shown}"
                raise InputError(f"{where}: no column {label!r} for label, in which labels could be found")
            feature = rows.features[label]
            cells += rows.with_format(None)[label][:]
    return reader_class(problem_type).labels_in(cells, feature)
