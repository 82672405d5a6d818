"""Rows as files and hubs write them → texts, labels (class ids, 0/1 vectors or scores) and what is wrong with each."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, List, Value

from ..modeling.configuration_mtbert import TaskSpec
from ..modeling.heads import IGNORED

# What is wrong with a row, one bit each; those about a text have one bit for each of two texts.
NO_LABEL, BAD_LABEL = 1, 2
EMPTY, NUL = (4, 8), (16, 32)
SHOWN = 5

# `datasets` names what `map` made by its function's name and arguments; as an argument, this names the code too.
CODE = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()

FLOAT32_MAX = 3.4028234663852886e38


def _number(value: Any) -> float | None:
    if isinstance(value, str) and "_" in value:  # float() reads 1_000
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def label_feature(problem_type: str) -> Value | List:
    """The type of a checked label column: int64, float32, or a list of float32 for multi-label tasks."""
    if problem_type == "regression":
        return Value("float32")
    if problem_type == "multi_label_classification":
        return List(Value("float32"))
    return Value("int64")


@dataclass(frozen=True)
class LabelReader:
    """Reads one task's label values. Plain data, so that `datasets` can fingerprint it.

    Attributes:
        problem_type: as in TaskSpec.
        labels: class names in id order.
        range: (lowest, highest) score of a regression, both included.
        ids: a class's name as the source writes it → its id.
        numbers: a whole number as the source writes it → a class id.
        unknown: whether -1 stands for a missing label, as in the test splits of hub datasets.
    """

    problem_type: str
    labels: tuple[str, ...] = ()
    range: tuple[float, float] | None = None
    ids: dict[str, int] | None = None
    numbers: dict[int, int] | None = None
    unknown: bool = False

    @classmethod
    def of(cls, task: TaskSpec, features: Features, column: str, minus_one: bool) -> LabelReader:
        """The reader for `task`'s labels in `column`.

        Numbers are ids, except where one of the task's labels is itself a number: then 2, 2.0, "2" and "2.0" all
        mean the class named "2". A ClassLabel column's numbers stand for its own names if any of these is a label
        of the task, which may list its labels in another order. Labels given by their number ("0", "1", …) are no
        names: they match a ClassLabel's ids.

        Args:
            minus_one: whether -1 may mean that a label is missing, where -1 is no label or score of the task.
        """
        if task.problem_type == "regression":
            unknown = minus_one and task.range is not None and task.range[0] > -1
            return cls(task.problem_type, range=task.range, unknown=unknown)
        labels = task.labels
        ids = {label.strip(): i for i, label in enumerate(labels)}
        named = {int(label): i for i, label in enumerate(labels) if re.fullmatch(r"\s*[+-]?\d+\s*", label)}
        numbers = named or {i: i for i in range(len(labels))}
        feature = features.get(column)
        feature = getattr(feature, "feature", feature)
        if isinstance(feature, ClassLabel):
            names = feature.names or []
            counted = labels == tuple(str(i) for i in range(len(labels)))
            by_name = set(names) == set(labels) or (not counted and set(names) & set(labels))
            as_names = {i: ids[name] for i, name in enumerate(names) if name in ids}
            numbers = as_names if by_name else {i: i for i in range(len(labels))}
            minus_one = True
        unknown = minus_one and -1 not in numbers and task.problem_type != "multi_label_classification"
        return cls(task.problem_type, labels, None, ids, numbers, unknown)

    @property
    def accepted(self) -> str:
        """What a label may be, for error messages."""
        if self.problem_type == "regression":
            where = f" from {self.range[0]:g} to {self.range[1]:g}" if self.range else ""
            return f"a finite number{where}"
        names = ", ".join(self.labels[:20]) + (", …" if len(self.labels) > 20 else "")
        if self.numbers == {i: i for i in range(len(self.labels))} and "0" not in self.labels:
            names += f" (or their ids, 0 to {len(self.labels) - 1})"
        if self.problem_type == "multi_label_classification":
            return f"a list of different names, or names separated by '|' or ',', out of: {names}"
        return f"one of: {names}"

    @property
    def blank(self) -> int | float | list[float]:
        """What stands in the label column of a row without a usable label."""
        if self.problem_type == "multi_label_classification":
            return [math.nan] * len(self.labels)
        return math.nan if self.problem_type == "regression" else IGNORED

    def missing(self, value: Any) -> bool:
        """Whether `value` says that the row has no label: None, NaN, an empty string, or -1 where that is no label."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return True
        if isinstance(value, str) and not value.strip():
            return True
        return self.unknown and _number(value) == -1

    def read(self, value: Any) -> int | float | list[float] | None:
        """The class id, score or 0/1 vector that `value` stands for; None if it stands for none."""
        if self.problem_type == "regression":
            return self._score(value)
        if self.problem_type == "multi_label_classification":
            return self._vector(value)
        return self._class_id(value)

    def _class_id(self, value: Any) -> int | None:
        if isinstance(value, (str, bool, float)) and (found := self.ids.get(str(value).strip())) is not None:
            return found
        number = _number(value)
        return self.numbers.get(int(number)) if number is not None and number.is_integer() else None

    def _vector(self, value: Any) -> list[float] | None:
        if isinstance(value, str) and value.strip() not in self.ids:
            value = value.split("|" if "|" in value else ",")
        parts = value if isinstance(value, (list, tuple)) else [value]
        found = [self._class_id(part) for part in parts]
        # A label given twice is most often a 0/1 vector, which would be read as ids.
        if None in found or len(set(found)) != len(found):
            return None
        return [float(i in found) for i in range(len(self.labels))]

    def _score(self, value: Any) -> float | None:
        number = _number(value)
        if number is None or not abs(number) <= FLOAT32_MAX:
            return None
        if self.range is not None and not self.range[0] <= number <= self.range[1]:
            return None
        return number


def check_batch(
    batch: dict[str, list],
    indices: list[int],
    text: tuple[str, ...],
    label: str,
    id: str | None,
    reader: LabelReader | None,
    code: str,
) -> dict[str, list]:
    """One batch in the output columns, plus `_status`, the bits of all that is wrong with a row."""
    status = np.zeros(len(indices), dtype=np.uint8)
    out: dict[str, list] = {}
    for k, (column, key) in enumerate(zip(text, ("text", "text_pair"), strict=False)):
        out[key] = ["" if value is None or value != value else str(value).strip() for value in batch[column]]
        for i, value in enumerate(out[key]):
            if not value:
                status[i] |= EMPTY[k]
            elif "\0" in value:
                status[i] |= NUL[k]
    if reader is not None:
        out["label"] = []
        for i, value in enumerate(batch[label]):
            missing = reader.missing(value)
            read = None if missing else reader.read(value)
            if read is None:
                status[i] |= NO_LABEL if missing else BAD_LABEL
            out["label"].append(reader.blank if read is None else read)
    out["row"] = [i + 1 for i in indices]
    if id is not None:
        out["id"] = ["" if value is None else str(value) for value in batch[id]]
    return out | {"_status": status}


def wrong_rows(
    dataset: Dataset, text: tuple[str, ...], label: str, reader: LabelReader | None, status: np.ndarray, where: str
) -> list[str]:
    """The rows that make a split unusable, as one sentence a column and rule."""
    kinds = [(label, BAD_LABEL, f"labels must be {reader.accepted}")] if reader else []
    for column, nul in zip(text, NUL, strict=False):
        kinds.append((column, nul, "NUL characters are refused; remove them"))
    found = []
    for column, bit, rule in kinds:
        if len(rows := np.flatnonzero(status & bit)):
            feature = dataset.features[column]
            values = [f"row {i + 1:,}: {_short(dataset[int(i)][column], feature)}" for i in rows[:SHOWN]]
            more = f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
            count = f"{len(rows):,} row{'s' if len(rows) > 1 else ''}"
            found.append(f"{where}: column {column!r} is wrong in {count}: {'; '.join(values)}{more}; {rule}")
    return found


def listed(columns: Sequence[str]) -> str:
    """Names of columns as an error shows them."""
    text = str(list(columns))
    return text if len(text) <= 500 else f"{text[:500]}… ({len(columns):,} in all)"


def _short(value: Any, feature: Any) -> str:
    text = repr(value)
    if isinstance(feature, ClassLabel) and 0 <= value < feature.num_classes:
        text += f" ({feature.int2str(value)!r})"
    return text if len(text) <= 60 else text[:57] + "..."
