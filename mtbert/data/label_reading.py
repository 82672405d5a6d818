"""Read a label cell: a class by name, value or id, several classes, a 0/1 vector, a mapping of names to 0/1, a score.

A cell may have several readings: `[0, 1]` is two ids or a 0/1 vector. `LabelReader.readings` returns all of them, and
`check_rows` refuses what the rest of the column does not decide.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import ClassLabel, Features, Value

from ..modeling.configuration_mtbert import TaskSpec
from ..modeling.problem_types import IGNORED, PROBLEM_TYPES, ProblemType

LIST, VECTOR, MAPPING = "as a list of labels", "as a 0/1 vector", "as a mapping"
ONE_COLUMN = "as true or false of a label that the column does not name"
FLOAT32_MAX = 3.4028234663852886e38
LONGEST_TEXT = 100_000  # characters of a list or mapping that is written as text
TRUE, FALSE = {"true", "yes", "t", "y", "on"}, {"false", "no", "f", "n", "off"}

Label = int | float | list[float]


@dataclass(frozen=True)
class LabelReader:
    """Reads the label cells of one column. Plain data, so that `datasets` can fingerprint it.

    Attributes:
        problem_type: as in TaskSpec.
        labels: class names in id order.
        range: (lowest, highest) score of a regression, both included.
        names: a class's name → ids of the classes with this name; names differ only in white space around them.
        numbers: a number → ids of the classes whose name is this number; None: numbers are ids.
        stored: names that the numbers of a ClassLabel column stand for; None: its numbers are what they are.
        truth: (id of false, id of true) of two classes named so; None: other classes.
        unknown: numbers that stand for a missing label.
        form: how numbers of a multi-label column are read, `LIST` or `VECTOR`; None: not decided.
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

    @classmethod
    def of(cls, task: TaskSpec, features: Features, column: str, minus_one: bool) -> LabelReader:
        """Reader of `task`'s labels in `column`.

        Numbers are ids, except where one of the task's labels is itself a number: then 2, 2.0, "2" and "2.0" all
        mean the class named "2" or "2.0". The numbers of a ClassLabel column stand for its names, which the task may
        list in another order; where the task gives its labels by their number, or the column has no names but "0",
        "1", …, they are ids.

        Args:
            minus_one: whether -1 may mean that a label is missing, where -1 is no label or score of the task.
        """
        feature = features.get(column)
        feature = getattr(feature, "feature", feature)
        stored = tuple(feature.names or ()) or None if isinstance(feature, ClassLabel) else None
        minus_one = minus_one or stored is not None
        if task.kind.numeric:
            no_score = stored is not None or (task.range is not None and task.range[0] > -1)
            unknown = (-1,) if minus_one and no_score else ()
            return cls(task.problem_type, range=task.range, stored=stored, unknown=unknown)
        labels, several = task.labels, task.kind.several
        single = isinstance(feature, Value) and feature.dtype in ("float32", "float16")  # 0.1 of fp32 is not 0.1
        rounded = np.dtype(feature.dtype).type if single else float
        values = [None if number is None else float(rounded(number)) for number in map(number_of, labels)]
        finite = [(value, i) for i, value in enumerate(values) if value is not None and math.isfinite(value)]
        numbers = _index(finite) or None
        low = [label.strip().lower() for label in labels]
        truth = None
        if len(labels) == 2 and not several:
            for no, yes in ((0, 1), (1, 0)):
                truth = (no, yes) if low[no] in FALSE and low[yes] in TRUE else truth
        reader = cls(
            task.problem_type,
            labels,
            names=_index((label.strip(), i) for i, label in enumerate(labels)),
            numbers=numbers,
            truth=truth,
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
        """Reader of labels that `check_rows` has brought into its form: ids, 0/1 vectors or scores."""
        return cls(task.problem_type, task.labels or (), task.range, unknown=(IGNORED,), form=VECTOR)

    @property
    def kind(self) -> ProblemType:
        """The row of the table of problem types."""
        return PROBLEM_TYPES[self.problem_type]

    @property
    def several(self) -> bool:
        """Whether a row may have several labels."""
        return self.kind.several

    @property
    def accepted(self) -> str:
        """What a label may be, for error messages."""
        if self.kind.numeric:
            where = f" from {self.range[0]:g} to {self.range[1]:g}" if self.range else ""
            return f"a finite number{where}"
        names = ", ".join(self.labels[:20]) + (", …" if len(self.labels) > 20 else "")
        if self.stored is not None:
            own = ", ".join(self.stored[:20]) + (", …" if len(self.stored) > 20 else "")
            names += f" (the column's numbers stand for its own names: {own}; list these as the task's labels)"
        elif self.numbers is None:
            names += f" (or their ids, 0 to {len(self.labels) - 1})"
        if self.several:
            return (
                f"a list of different names, or names separated by '|', ';' or ',', out of: {names}; or 0 or 1 for "
                "each label, as a list or a mapping; [] says that none is true"
            )
        return f"one of: {names}"

    @property
    def blank(self) -> Label:
        """What stands in the label column of a row without a usable label."""
        if self.several:
            return [math.nan] * len(self.labels)
        return math.nan if self.kind.numeric else IGNORED

    def missing(self, value: Any) -> bool:
        """Whether `value` says that the row has no label.

        So do None, NaN, an empty string, numbers in `unknown`, and a mapping or list of nothing but None, NaN or -100.
        """
        value = _plain(value)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return True
        if isinstance(value, str) and not value.strip():
            return True
        if isinstance(value, list | Mapping):
            parts = list(value.values()) if isinstance(value, Mapping) else value
            return len(parts) > 0 and all(part is None or part != part or part == IGNORED for part in parts)
        return number_of(value) in self.unknown

    def readings(self, value: Any) -> dict[str, Label | None]:
        """Every way to read a cell: how → class id, score or 0/1 vector; None: nothing that a row can be trained on."""
        value = _plain(value)
        if self.stored is not None and isinstance(value, int):
            value = self.stored[value] if 0 <= value < len(self.stored) else None
        if self.kind.numeric:
            score = self._score(value)
            return {} if score is None else {"as a score": score}
        if not self.several:
            return self._one(value)
        found = self._several(value)
        if self.form == LIST:
            return {how: label for how, label in found.items() if how not in (VECTOR, ONE_COLUMN)}
        if self.form == VECTOR:
            return {how: label for how, label in found.items() if how == VECTOR or label == [0.0] * len(self.labels)}
        return found

    def shown(self, label: Label | None) -> str:
        """A reading as an error shows it."""
        if isinstance(label, list):
            return ", ".join(repr(self.labels[i]) for i, on in enumerate(label) if on) or "none"
        return repr(self.labels[label]) if isinstance(label, int) else "nothing"

    # ---- one class ----

    def _class(self, value: Any) -> dict[str, int]:
        """Every class that a plain value may mean."""
        if self.stored is not None and isinstance(value, int):
            value = self.stored[value] if 0 <= value < len(self.stored) else None
        if isinstance(value, list | Mapping | frozenset | bytes | None):
            return {}
        if found := self._named(value):
            return found
        number = number_of(value)
        if isinstance(value, bool):
            if self.truth is not None:
                return {"as true or false": self.truth[value]}
            number = number if len(self.labels) == 2 and not self.several else None
        if number is None or self.numbers is not None or self.stored is not None:
            return {}
        found = {"by id": int(number)} if number.is_integer() and 0 <= number < len(self.labels) else {}
        if self.truth is not None and number in (0, 1):
            found["as true or false"] = self.truth[int(number)]
        return found

    def _named(self, value: Any) -> dict[str, int]:
        """Classes whose name, or number, a value is."""
        classes = self.names.get(str(value).strip(), ())
        number = number_of(value)
        if not classes and self.numbers is not None and number is not None:
            classes = self.numbers.get(number, ())
        if len(classes) == 1:
            return {"by name": classes[0]}
        return {f"by the name {self.labels[i]!r}": i for i in classes}

    def _one(self, value: Any) -> dict[str, int]:
        """Readings of a cell that has one class: a plain value, a list of one, or a vector or mapping with one 1."""
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
        if len(self.labels) == 1 and self.stored is None:
            found = self._parts([value])
        else:
            found = {how: self._vector_of([i]) for how, i in self._class(value).items()}
            if self.stored is None and number_of(value) in (0, 1):
                found[ONE_COLUMN] = None
        if isinstance(value, str):
            text = value.strip()
            separator = next((mark for mark in "|;" if mark in text), ",")
            if text[:1] in ("[", "{", "("):
                parsed = _parsed(text)
                found |= self._several(parsed) if isinstance(parsed, list | Mapping | frozenset) else {}
            elif separator in text:
                found |= self._parts(text.split(separator))
        return found

    def _parts(self, parts: list | frozenset) -> dict[str, list[float]]:
        """Readings of a list of names, of ids, or of 0 or 1 for each label."""
        found = {}
        vector = self._vector(parts) if isinstance(parts, list) else None
        if vector is not None:
            found[VECTOR] = vector
            if any(isinstance(part, bool | float) for part in parts):  # ids are whole numbers
                return found
        classes = [set(self._class(part).values()) for part in parts]
        if all(len(some) == 1 for some in classes) and len(set().union(*classes)) == len(classes):
            found[LIST] = self._vector_of(set().union(*classes))
        return found

    def _vector(self, parts: list) -> list[float] | None:
        """0 or 1 for each label, in id order; None for any other list."""
        numbers = [number_of(part) for part in parts]
        if self.stored is not None or len(numbers) != len(self.labels) or not set(numbers) <= {0.0, 1.0}:
            return None
        return numbers

    def _mapping(self, marks: Mapping) -> list[float] | None:
        """The vector of a mapping that has 0 or 1 for every label, and nothing else."""
        found: dict[int, float] = {}
        for name, mark in marks.items():
            classes, number = set(self._class(name).values()), number_of(mark)
            if len(classes) != 1 or number not in (0.0, 1.0) or not classes.isdisjoint(found):
                return None
            found[classes.pop()] = number
        return [found[i] for i in range(len(self.labels))] if len(found) == len(self.labels) else None

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


def number_of(value: Any) -> float | None:
    """The number that a value is or says; None if it is none."""
    if isinstance(value, str) and "_" in value:  # float() reads 1_000
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _plain(value: Any) -> Any:
    """A value of numpy, or a tuple or set, as plain Python's; tuples become lists, sets frozensets."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, set | frozenset):
        return frozenset(value)
    return value


def _parsed(text: str) -> Any:
    """A list, mapping or set that is written as JSON or as Python prints it; None for any other text."""
    if len(text) > LONGEST_TEXT:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            return _plain(read(text))
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _index(pairs: Iterable[tuple[Any, int]]) -> dict[Any, tuple[int, ...]]:
    """Each key → all values that come with it."""
    found: dict[Any, tuple[int, ...]] = {}
    for key, value in pairs:
        found[key] = (*found.get(key, ()), value)
    return found
