"""Read a label cell: a class by name, value or id, several classes, a 0/1 vector, a mapping of names to 0/1, a score.

A cell may have several readings: `[0, 1]` is two ids or a 0/1 vector. `LabelReader.readings` returns all of them.
`check_rows` chooses between them by the other cells of the column, and rejects the cell if these do not decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from datasets import ClassLabel, Features, Value

from ..modeling.problem_types import IGNORED, PROBLEM_TYPES, ProblemType
from ..modeling.task_spec import TaskSpec
from .label_cells import number_of, opened, plain

LIST, VECTOR, MAPPING = "as a list of labels", "as a 0/1 vector", "as a mapping"
ONE_COLUMN = "as true or false of a label that the column does not name"
FLOAT32_MAX = 3.4028234663852886e38
UNKNOWN, NONE = "unlabelled", "none"  # what an empty cell means
TRUE, FALSE = {"true", "yes", "t", "y", "on"}, {"false", "no", "f", "n", "off"}

Label = int | float | list[float]


@dataclass(frozen=True)
class LabelReader:
    """Reads the label cells of one column. Plain data, so that `datasets` can fingerprint it.

    Attributes:
        problem_type: as in TaskSpec.
        labels: class names in id order.
        range: (lowest, highest) score of a regression, both included.
        names: class name without surrounding white space → ids of the classes with this name.
        numbers: a number → ids of the classes whose name is this number; None: no class name is a number, so that
            numbers are ids.
        stored: the names that the numbers of a ClassLabel column stand for; None: the numbers stand for themselves.
        truth: (id of false, id of true) if the two classes are named so, else None.
        unknown: numbers that mark a missing label.
        form: how numbers of a multi-label column are read, `LIST` or `VECTOR`; None: not decided yet.
        separator: the only text that separates several labels of a cell, a space for any white space; None: the first
            of `|` and `;` that the cell has, else a comma, else white space between 0 and 1.
        empty: what an empty cell of a multi-label task means: `UNKNOWN`, `NONE` of the labels, or None: not said.
        columns: for a task with a 0/1 column for each label their names, in id order; otherwise empty.
        partial: whether single entries of a 0/1 vector may be missing, as with `empty: unlabelled`.
    """

    problem_type: str
    labels: tuple[str, ...] = ()
    range: tuple[float, float] | None = None
    names: dict[str, tuple[int, ...]] = field(default_factory=dict)
    numbers: dict[float, tuple[int, ...]] | None = None
    stored: tuple[str, ...] | None = None
    truth: tuple[int, int] | None = None
    unknown: tuple[int, ...] = ()
    form: str | None = None
    separator: str | None = None
    empty: str | None = None
    columns: tuple[str, ...] = ()
    partial: bool = False
    fits_rule: ClassVar[str] = ""  # the end of an error message for labels that do not fit their text
    finds_labels: ClassVar[bool] = False  # whether `labels_in` finds a task's labels in its data

    @classmethod
    def of(
        cls,
        task: TaskSpec,
        features: Features,
        column: str,
        minus_one: bool,
        separator: str | None = None,
        empty: str | None = None,
    ) -> LabelReader:
        """Return a reader for `task`'s labels in `column`.

        Numbers are ids, unless one of the task's labels is a number: then 2, 2.0, "2" and "2.0" all mean the class
        named "2" or "2.0". The numbers of a ClassLabel column stand for its names, which the task may list in another
        order. They are ids if the task declares only the number of its labels, or if the column's names are "0",
        "1", ….

        Args:
            minus_one: whether -1 marks a missing label, provided that -1 is no label or score of the task.
            separator, empty: as in the class.
        """
        feature = features.get(column)
        feature = getattr(feature, "feature", feature)
        stored = tuple(feature.names or ()) or None if isinstance(feature, ClassLabel) else None
        minus_one = minus_one or stored is not None
        if task.kind.numeric:
            no_score = stored is not None or (task.range is not None and task.range[0] > -1)
            unknown = (-1,) if minus_one and no_score else ()
            return cls(task.kind.name, range=task.range, stored=stored, unknown=unknown)
        labels, several = task.classes, task.kind.several
        single = isinstance(feature, Value) and feature.dtype in ("float32", "float16")  # 0.1 of fp32 is not 0.1
        rounded = np.dtype(feature.dtype).type if single else float
        values = [None if number is None else float(rounded(number)) for number in map(number_of, labels)]
        finite = [(value, i) for i, value in enumerate(values) if value is not None and math.isfinite(value)]
        numbers = _index(finite) or None
        lowered = [label.strip().lower() for label in labels]
        truth = None
        if len(labels) == 2 and not several:
            for no, yes in ((0, 1), (1, 0)):
                if lowered[no] in FALSE and lowered[yes] in TRUE:
                    truth = (no, yes)
        reader = cls(
            task.kind.name,
            labels,
            names=_index((label.strip(), i) for i, label in enumerate(labels)),
            numbers=numbers,
            truth=truth,
            separator=separator,
            empty=empty,
            unknown=(-1,) if minus_one and not several and -1 not in (numbers or ()) else (),
        )
        if stored is not None:
            counted = tuple(str(i) for i in range(max(len(stored), len(labels))))
            by_name = [name for name in stored if reader._named(name)]
            if labels == counted[: len(labels)]:
                by_name = by_name if set(map(str.strip, stored)) == set(labels) else []
                stored = stored if by_name else None
            elif not by_name and stored == counted[: len(stored)]:
                stored = None
        return cls(**{**reader.__dict__, "stored": stored})

    @classmethod
    def of_checked(cls, task: TaskSpec) -> LabelReader:
        """Return a reader for labels in the form that `check_rows` writes: ids, 0/1 vectors or scores."""
        return cls(task.kind.name, task.classes, task.range, unknown=(IGNORED,), form=VECTOR, partial=True)

    def with_masks(self) -> LabelReader:
        """A reader for which -100, too, marks a missing label, unless it is a score or a label of the task."""
        low, high = self.range or (-math.inf, math.inf)
        is_label = low <= IGNORED <= high if self.kind.numeric else IGNORED in (self.numbers or {})
        return self if is_label else replace(self, unknown=(*self.unknown, IGNORED))

    @property
    def kind(self) -> ProblemType:
        """The entry of `problem_type` in `PROBLEM_TYPES`."""
        return PROBLEM_TYPES[self.problem_type]

    @property
    def several(self) -> bool:
        """Whether a row may have several labels."""
        return self.kind.several

    @property
    def accepted(self) -> str:
        """Description of the valid labels for error messages."""
        if self.kind.numeric:
            where = f" from {self.range[0]:g} to {self.range[1]:g}" if self.range else ""
            return f"a finite number{where}"
        names = ", ".join(self.labels[:20]) + (", …" if len(self.labels) > 20 else "")
        if self.stored is not None:
            stored = ", ".join(self.stored[:20]) + (", …" if len(self.stored) > 20 else "")
            names += f" (the column's numbers stand for its own names: {stored}; list these as the task's labels)"
        elif self.numbers is None:
            names += f" (or their ids, 0 to {len(self.labels) - 1})"
        if self.several:
            marks = "'|', ';' or ','" if self.separator is None else repr(self.separator)
            return (
                f"a list of different names, or names separated by {marks}, out of: {names}; or 0 or 1 for "
                "each label, as a list or a mapping; [] says that none is true"
            )
        return f"one of: {names}"

    @property
    def blank(self) -> Label:
        """The value of the label column in rows without a usable label: -100 or nan."""
        if self.several:
            return [math.nan] * len(self.labels)
        return math.nan if self.kind.numeric else IGNORED

    def missing(self, value: Any) -> bool:
        """Return whether `value` marks a missing label.

        Such values are None, NaN, an empty string, the numbers in `unknown`, and a list or mapping whose values are
        all None, NaN or -100.
        """
        value = plain(value)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return True
        if isinstance(value, str) and not value.strip():
            return True
        if isinstance(value, list | Mapping):
            parts = list(value.values()) if isinstance(value, Mapping) else value
            return len(parts) > 0 and all(part is None or part != part or part == IGNORED for part in parts)
        return number_of(value) in self.unknown

    def readings(self, value: Any) -> Mapping[str, Label | None]:
        """Return every reading of a cell: description → class id, score or 0/1 vector; None for an unusable reading."""
        value = plain(value)
        if self.stored is not None and isinstance(value, int):
            value = self.stored[value] if 0 <= value < len(self.stored) else None
        if self.kind.numeric:
            score = self._score(value)
            return {} if score is None else {"as a score": score}
        if not self.several:
            return self._one(value)
        readings = self._several(value)
        if self.form == LIST:
            return {how: label for how, label in readings.items() if how not in (VECTOR, ONE_COLUMN)}
        if self.form == VECTOR:
            return {how: label for how, label in readings.items() if how == VECTOR or label == [0.0] * len(self.labels)}
        return readings

    @staticmethod
    def labels_in(cells: Iterable[Any], feature: Any) -> tuple[str, ...]:
        """Return the labels of a label column, in id order, for a task whose recipe lists none.

        Args:
            cells: the column's cells.
            feature: its type in the data set.
        """
        return ()

    @staticmethod
    def as_stored(text: str) -> str:
        """A text as a checked split stores it."""
        return text

    def fits(self, text: str, label: Label) -> bool:
        """Return whether a row may have this text and this checked label."""
        return True

    def counts(self, text: str, value: Any) -> str:
        """Return the numbers of a row whose text and label cell do not fit, for error messages."""
        return ""

    def wrong_part(self, value: Any) -> Any:
        """Return the part of an invalid label cell that an error message shows."""
        return value

    def shown(self, label: Label | None) -> str:
        """Format a reading for error messages."""
        if isinstance(label, list):
            return ", ".join(repr(self.labels[i]) for i, on in enumerate(label) if on) or "none"
        return repr(self.labels[label]) if isinstance(label, int) else "nothing"

    # ---- one class ----

    def _class(self, value: Any) -> dict[str, int]:
        """Return every class that a single value may mean: description → class id."""
        if self.stored is not None and isinstance(value, int):
            value = self.stored[value] if 0 <= value < len(self.stored) else None
        if isinstance(value, list | Mapping | frozenset | bytes | None):
            return {}
        named = self._named(value)
        if named:
            return named
        number = number_of(value)
        if isinstance(value, bool):
            if self.truth is not None:
                return {"as true or false": self.truth[value]}
            number = number if len(self.labels) == 2 and not self.several else None
        if number is None or self.numbers is not None or self.stored is not None:
            return {}
        readings = {}
        if number.is_integer() and 0 <= number < len(self.labels):
            readings["by id"] = int(number)
        if self.truth is not None and number in (0, 1):
            readings["as true or false"] = self.truth[int(number)]
        return readings

    def _named(self, value: Any) -> dict[str, int]:
        """Return the classes whose name equals a value, as text or as a number."""
        classes = self.names.get(str(value).strip(), ())
        number = number_of(value)
        if not classes and self.numbers is not None and number is not None:
            classes = self.numbers.get(number, ())
        if len(classes) == 1:
            return {"by name": classes[0]}
        return {f"by the name {self.labels[i]!r}": i for i in classes}

    def _one(self, value: Any) -> dict[str, int]:
        """Return the readings of a single-label cell: a value, a list of one, or a vector or mapping with one 1."""
        if isinstance(value, Mapping):
            vector, how = self._mapping(value), MAPPING
        elif isinstance(value, list) and len(value) > 1:
            vector, how = self._vector(value), VECTOR
        elif isinstance(value, list | frozenset):
            return self._class(next(iter(value))) if len(value) == 1 else {}
        else:
            return self._class(value)
        return {how: vector.index(1.0)} if vector is not None and sum(vector) == 1 else {}

    # ---- several classes ----

    def _several(self, value: Any) -> dict[str, list[float] | None]:
        if isinstance(value, Mapping):
            vector = self._mapping(value)
            return {} if vector is None else {MAPPING: vector}
        if isinstance(value, list | frozenset):
            return self._parts(value)
        readings: dict[str, list[float] | None]
        if len(self.labels) == 1 and self.stored is None:
            readings = self._parts([value])
        else:
            readings = {how: self._vector_of([i]) for how, i in self._class(value).items()}
            if self.stored is None and number_of(value) in (0, 1):
                readings[ONE_COLUMN] = None
        if isinstance(value, str):
            inside, mark = opened(value), self._mark(value.strip())
            if inside is not value:
                readings |= self._several(inside)
            elif mark is not None:
                readings |= self._parts(value.strip().split(None if mark == " " else mark))
        return readings

    def _mark(self, text: str) -> str | None:
        """Return what separates the labels of a text; None if nothing does."""
        if self.separator is not None:
            parted = len(text.split()) > 1 if self.separator == " " else self.separator in text
            return self.separator if parted else None
        mark = next((mark for mark in "|;," if mark in text), None)
        digits = text.split()
        if mark is None and len(digits) > 1 and len(digits) == len(self.labels) and set(digits) <= {"0", "1"}:
            return " "
        return mark

    def written_as(self, value: Any) -> str | None:
        """Return how a cell of several labels is written: a separator, or `[` or `{` of a list or a mapping."""
        value = opened(plain(value))
        if isinstance(value, str):
            return self._mark(value.strip())
        if isinstance(value, Mapping):
            return "{"
        return "[" if isinstance(value, list | frozenset) else None

    def _parts(self, parts: list[Any] | frozenset[Any]) -> dict[str, list[float] | None]:
        """Return the readings of a list: as names or ids of labels, or as 0 or 1 for each label."""
        readings: dict[str, list[float] | None] = {}
        vector = self._vector(parts) if isinstance(parts, list) else None
        if vector is not None:
            readings[VECTOR] = vector
            if any(isinstance(part, bool | float) for part in parts):  # ids are whole numbers
                return readings
        classes = [set(self._class(part).values()) for part in parts]
        if all(len(ids) == 1 for ids in classes) and len(set().union(*classes)) == len(classes):
            readings[LIST] = self._vector_of(set().union(*classes))
        return readings

    def _vector(self, parts: list[Any]) -> list[float] | None:
        """Return a list of 0 or 1 for each label as floats, in id order; None for any other list."""
        numbers: list[Any] = [number_of(part) for part in parts]
        known = numbers
        if self.partial or self.empty == UNKNOWN:
            numbers = [math.nan if part is None or part == "" else number_of(part) for part in parts]
            known = [number for number in numbers if number is None or not math.isnan(number)]
        if self.stored is not None or len(numbers) != len(self.labels) or not set(known) <= {0.0, 1.0}:
            return None
        return numbers

    def _mapping(self, marks: Mapping[Any, Any]) -> list[float] | None:
        """Return the 0/1 vector of a mapping that has 0 or 1 for every label, and nothing else; otherwise None."""
        marks_by_id: dict[int, float] = {}
        for name, mark in marks.items():
            classes, number = set(self._class(name).values()), number_of(mark)
            if len(classes) != 1 or number not in (0.0, 1.0) or not classes.isdisjoint(marks_by_id):
                return None
            marks_by_id[classes.pop()] = number
        return [marks_by_id[i] for i in range(len(self.labels))] if len(marks_by_id) == len(self.labels) else None

    def _vector_of(self, ids: Iterable[int]) -> list[float]:
        return [float(i in ids) for i in range(len(self.labels))]

    # ---- scores ----

    def _score(self, value: Any) -> float | None:
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        number = number_of(value)
        if number is None or not abs(number) <= FLOAT32_MAX:
            return None
        if self.range is not None and not self.range[0] <= number <= self.range[1]:
            return None
        return number


def _index(pairs: Iterable[tuple[Any, int]]) -> dict[Any, tuple[int, ...]]:
    """Group the values by key."""
    values_by_key: dict[Any, tuple[int, ...]] = {}
    for key, value in pairs:
        values_by_key[key] = (*values_by_key.get(key, ()), value)
    return values_by_key
