"""Choose the kind of task that a column of labels makes, and its settings. Pure functions, which read no file."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ...data.label_cells import number_of, plain
from ...data.label_forms import LISTS, MAPPINGS, ONE, SEPARATED, VECTORS, LabelForm, label_form
from .columns import OTHER_NAME, as_object, as_parts, is_number
from .usual_names import DENIALS, LIKE_MISSING, NO_NAMES, NOMINAL_NAME, ODD_NUMBERS, SCALES, SCORE_NAME

CLASSES, BINARY, ORDINAL, SCORES, SEVERAL, TOKENS = KINDS = (
    *("classification", "binary", "ordinal", "regression", "multi_label", "tokens"),
)
MOST_LABELS = 1_000
LONGEST_RUN = 10  # from the lowest of ordinal labels to the highest
LARGEST_SCORE = 1e38


@dataclass(frozen=True)
class LabelCells:
    """The filled cells of a column that may be one of labels.

    Attributes:
        name: the column's name.
        cells: each different cell with the number of its rows.
        empty: number of rows without a label.
        names: the names that its whole numbers stand for; None: they stand for themselves.
    """

    name: str
    cells: tuple[tuple[Any, int], ...] = field(repr=False)
    empty: int = 0
    names: tuple[str, ...] | None = None

    @property
    def filled(self) -> int:
        """Number of rows with a label."""
        return sum(rows for _, rows in self.cells)

    @cached_property
    def texts(self) -> Counter[str]:
        """Each different cell as text, without white space around it, with the number of its rows."""
        counts: Counter[str] = Counter()
        for cell, rows in self.cells:
            counts[str(cell).strip()] += rows
        return counts

    @cached_property
    def are_numbers(self) -> bool:
        """Whether all cells are finite numbers, or texts of such."""
        return not any(isinstance(cell, bool) for cell, _ in self.cells) and all(map(is_number, self.texts))

    @cached_property
    def values(self) -> dict[float, int]:
        """Each different number of cells that `are_numbers`, in order, with its rows."""
        values: Counter[float] = Counter()
        for text, rows in self.texts.items():
            values[number_of(text) or 0.0] += rows
        return dict(sorted(values.items()))

    @cached_property
    def form(self) -> LabelForm:
        """The form of its cells."""
        return label_form(cell for cell, _ in self.cells)


@dataclass(frozen=True)
class Reading:
    """A column read as the labels of a task.

    Attributes:
        kind: one of `KINDS`; empty: the column makes no task.
        settings: keys of the task in a recipe, and their values.
        rows: label → number of its rows.
        remarks: sentences for the person who reads the recipe.
        instead: other ways to read the column: why, and the settings.
        doubt: why the column may be no label at all; None: it is likely to be one.
    """

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    instead: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    doubt: str | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the order of the recipe; none for scores."""
        return tuple(self.settings.get("labels", ()))


def no_task(reason: str) -> Reading:
    """Return the reading of a column that makes no task."""
    return Reading("", doubt=reason)


def read_labels(column: LabelCells, kind: str | None = None) -> Reading:
    """Choose the kind of task for a column.

    Args:
        column: its cells.
        kind: one of `KINDS`, if a person has chosen; None: the likeliest.
    """
    if not column.cells:
        return no_task("it is empty")
    reading = _AS[kind](column) if kind is not None else _likeliest(column)
    if reading.kind and kind is None and reading.doubt is None and OTHER_NAME.fullmatch(column.name.strip()):
        reading = replace(reading, doubt="its name is seldom that of a label")
    return replace(reading, remarks=(*reading.remarks, *_remarks(column, reading)))


def _likeliest(column: LabelCells) -> Reading:
    if column.names is not None:
        return _classes(column)
    if column.are_numbers:
        return _numbers(column)
    for form, oddity, remedy in ODD_NUMBERS:
        if all(map(form.fullmatch, column.texts)):
            return no_task(f"its cells are numbers with {oddity}, such as {next(iter(column.texts))!r}; {remedy}")
    return _several(column) if column.form.several else _classes(column)


# ---- numbers ----


def _numbers(column: LabelCells) -> Reading:
    values = list(column.values)
    lowest, highest, whole = values[0], values[-1], all(value.is_integer() for value in values)
    if len(values) == 1:
        return no_task(f"it holds {_shown(lowest)} in every row")
    if whole and len(values) == 2:
        return _binary(column)
    if whole and highest - lowest <= LONGEST_RUN:
        ordinal, classes = _ordinal(column), {"labels": _number_names(values)}
        scores = (f"if {lowest + 0.5:g} is an answer, too", {"range": _range(lowest, highest)})
        if NOMINAL_NAME.fullmatch(column.name.strip()):
            why = "if the numbers have an order, such as degrees"
            return replace(_classes(column), instead=((why, {"ordinal": True, **classes}), scores))
        return replace(ordinal, instead=(("if the numbers are mere names of classes", classes), scores))
    complete = whole and lowest in (0, 1) and highest - lowest == len(values) - 1
    many_each = len(values) <= MOST_LABELS and column.filled >= 5 * len(values)
    if complete and many_each and not SCORE_NAME.fullmatch(column.name.strip()):
        scores = ("if the numbers are scores", {"range": _range(lowest, highest)})
        return replace(_classes(column), instead=(scores,))
    return _scores(column)


def _scores(column: LabelCells) -> Reading:
    if not column.are_numbers:
        wrong = next((text for text in column.texts if not is_number(text)), "")
        return no_task(f"a regression needs numbers, but it holds {wrong[:50]!r}")
    values = list(column.values)
    if len(values) < 2:
        return no_task(f"it holds {_shown(values[0])} in every row")
    if max(map(abs, values)) > LARGEST_SCORE:
        return no_task(f"its numbers are too large for scores: {_shown(max(values, key=abs))}")
    doubt = None
    if len(values) > 0.9 * column.filled and len(values) > 20 and all(value.is_integer() for value in values):
        doubt = "almost every row has a number of its own"
    return Reading(SCORES, {"range": _range(values[0], values[-1])}, doubt=doubt)


def _range(lowest: float, highest: float) -> list[int]:
    """The nearest whole numbers that enclose all scores."""
    return [math.floor(lowest), math.ceil(highest)]


def _number_names(values: Sequence[float]) -> list[str]:
    return [_shown(value) for value in values]


def _shown(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


# ---- one label a row ----


def _named(column: LabelCells) -> dict[str, int]:
    """Each label with its rows, in the order of a recipe: numbers by value, then names by alphabet."""
    if column.names is not None:
        rows = {int(cell): count for cell, count in column.cells}
        return {name: rows.get(i, 0) for i, name in enumerate(column.names)}
    if column.are_numbers:
        return {_shown(value): rows for value, rows in column.values.items()}
    return {text: column.texts[text] for text in sorted(column.texts, key=_order)}


def _order(name: str) -> tuple[bool, float, list[tuple[int, str]], str]:
    """A key that sorts numbers by value before names, and `P2` before `P10`."""
    number = number_of(name) if is_number(name) else None
    parts = re.split(r"(\d+)", name)
    natural = [(int(part) if part.isdecimal() and len(part) < 16 else -1, part) for part in parts]
    return number is None, number or 0.0, natural, name


def _classes(column: LabelCells) -> Reading:
    if column.names is None and len(column.texts) > MOST_LABELS and not column.are_numbers:
        return no_task(_too_many(column, column.texts))  # before so many are sorted
    rows = _named(column)
    if len(rows) == 1:
        name = next(iter(rows))
        more = f" and nothing in {column.empty:,} others" if column.empty else ""
        remedy = "; if these mean no, write that there, for a binary task" if column.empty else ""
        return no_task(f"it holds {name[:50]!r} in {column.filled:,} rows{more}{remedy}")
    if len(rows) == 2:
        return _binary(column)
    doubt = None
    if column.names is None and len(rows) > 10:
        share = column.filled / len(rows)
        if share < 1.2 or len(rows) > MOST_LABELS:
            return no_task(_too_many(column, rows))
        if share < 2:
            doubt = f"{len(rows):,} values in {column.filled:,} rows are many for labels"
    ordered = _scale(list(rows))
    instead = () if ordered is None else (("if the labels have this order", {"ordinal": True, "labels": ordered}),)
    return Reading(CLASSES, {"labels": list(rows)}, rows, instead=instead, doubt=doubt)


def _too_many(column: LabelCells, rows: Mapping[str, int]) -> str:
    words = [text for text in rows if not is_number(text)]
    if 0 < len(words) <= 5:
        shown = ", ".join(repr(word[:30]) for word in sorted(words, key=_order))
        return f"it holds numbers, but for {shown}; empty these cells for a regression"
    return f"it has {len(rows):,} values in {column.filled:,} rows, too many for labels"


def _binary(column: LabelCells) -> Reading:
    rows = _named(column)
    if len(rows) != 2:
        return no_task(f"a binary task has two labels, but it has {len(rows):,}")
    first, second = rows
    if _denies(second, first):
        first, second = second, first
    labels = [first, second]
    why = "if the two labels are alike, neither the positive one"
    if column.names is not None:
        labels = list(column.names)
    return Reading(
        BINARY,
        {"problem_type": "binary_classification", "labels": labels},
        {label: rows[label] for label in labels},
        instead=((why, {"labels": labels}),),
    )


def _denies(name: str, other: str) -> bool:
    """Whether a label is the negative one of two."""
    name, other = name.lower(), other.lower()
    if name in NO_NAMES or other in NO_NAMES:
        return name in NO_NAMES and other not in NO_NAMES
    return any(name.startswith(prefix) for prefix in DENIALS) and name.endswith(other)


def _ordinal(column: LabelCells) -> Reading:
    rows = _named(column)
    if len(rows) < 2:
        return no_task("an ordinal task needs two labels or more, but it has one")
    labels = _scale(list(rows)) or list(rows)
    return Reading(ORDINAL, {"ordinal": True, "labels": labels}, {label: rows[label] for label in labels})


def _scale(names: Sequence[str]) -> list[str] | None:
    """The names in their order, if they are of a usual scale, or one word with numbers, such as P1 to P4."""
    by_name = {name.lower(): name for name in names}
    for scale in SCALES:
        if len(by_name) == len(names) > 2 and set(by_name) <= set(scale):
            return [by_name[word] for word in scale if word in by_name]
    parts = [re.fullmatch(r"(\D*)(\d{1,2})(\D*)", name) for name in names]
    if all(parts) and len({(part[1], part[3].rstrip("s")) for part in parts if part}) == 1:
        return sorted(names, key=lambda name: int(re.sub(r"\D", "", name)))
    return None


# ---- several labels a row ----


def _several(column: LabelCells) -> Reading:
    form = column.form
    if form.odd:
        odd = str(column.cells[form.odd[0]][0])[:50]
        return no_task(f"its cells have several forms: most are {form.form}, but one is {odd!r}; write all in one")
    rows: Counter[str] = Counter()
    lengths = set()
    for cell, count in column.cells:
        names = _parts(cell, form)
        if names is None:
            return no_task(f"its lists hold no labels, but {str(cell)[:50]!r}")
        if len(set(names)) < len(names):
            return no_task(f"a cell names a label twice: {str(cell)[:50]!r}")
        lengths.add(len(names))
        for name in names:
            rows[name] += count
    if form.form == LISTS and lengths == {1}:
        return _unwrapped(column)
    labels = sorted(form.labels if form.form in (VECTORS, MAPPINGS) else rows, key=_order)
    if not labels or "" in labels or len(labels) > MOST_LABELS:
        return no_task(f"it has {len(labels):,} different labels, or one without a name")
    doubt = None
    if len(labels) > 10 and sum(rows.values()) < 2 * len(labels):
        doubt = f"{len(labels):,} different words in {column.filled:,} rows are many for labels"
    remarks = ("the places of its vectors have no names; write these instead of the numbers",)
    return Reading(
        SEVERAL,
        {"problem_type": "multi_label_classification", "labels": labels},
        {label: rows[label] for label in labels},
        remarks if form.form == VECTORS else (),
        doubt=doubt,
    )


def _parts(cell: Any, form: LabelForm) -> list[str] | None:
    """The labels of a cell; None if it holds other things than labels."""
    if form.form == ONE:
        return [str(cell).strip()]
    if form.form == SEPARATED:
        if str(cell).strip() == "[]":
            return []
        return [part.strip() for part in str(cell).split(form.separator)]
    if form.form == MAPPINGS:
        marks = as_object(cell) or {}
        if not all(number_of(mark) in (0.0, 1.0) for mark in marks.values()):
            return None
        return [str(name).strip() for name, mark in marks.items() if number_of(mark)]
    parts = plain(as_parts(cell))
    if parts is None:  # a vector without brackets
        parts = re.split(r"\s*[\s,;|]\s*", str(cell).strip())
    if form.form == VECTORS:
        return [str(i) for i, mark in enumerate(parts) if number_of(mark)]
    if any(isinstance(part, list | Mapping | frozenset | None) for part in parts):
        return None
    if any(isinstance(part, float) and not part.is_integer() for part in parts):
        return None
    return [str(int(part)) if isinstance(part, float) else str(part).strip() for part in parts]


def _unwrapped(column: LabelCells) -> Reading:
    """Read lists of one label each as this label."""
    cells = tuple(((as_parts(cell) or [""])[0], rows) for cell, rows in column.cells)
    return _likeliest(replace(column, cells=cells))


def _remarks(column: LabelCells, reading: Reading) -> list[str]:
    """Sentences about labels that may be mistakes."""
    remarks = []
    folded = Counter(label.casefold() for label in reading.rows)
    clashing = sorted(label for label in reading.rows if folded[label.casefold()] > 1)
    if clashing:
        remarks.append(f"these labels differ in capitals only: {', '.join(map(repr, clashing[:6]))}")
    for label in reading.rows:
        if label.lower() in LIKE_MISSING and not (label.lower() == "none" and reading.kind == SEVERAL):
            rows = f"{reading.rows[label]:,} rows"
            remarks.append(f"{label!r} ({rows}) is taken for a label; if it means that there is none, empty its cells")
    words = [label for label in reading.rows if not is_number(label)]
    if 0 < len(words) <= 2 and len(reading.rows) - len(words) > 2:
        shown = " and ".join(map(repr, words))
        remarks.append(f"but for {shown} the labels are numbers; without these cells they make an ordinal task")
    rare = [label for label, rows in reading.rows.items() if rows < 5]
    if rare and reading.kind != SCORES:
        shown = ", ".join(repr(label[:40]) for label in rare[:5]) + (", …" if len(rare) > 5 else "")
        remarks.append(f"{len(rare):,} of the labels have fewer than 5 rows each: {shown}")
    return remarks


_AS: dict[str, Callable[[LabelCells], Reading]] = {
    CLASSES: _classes,
    BINARY: _binary,
    ORDINAL: _ordinal,
    SCORES: _scores,
    SEVERAL: _several,
}
