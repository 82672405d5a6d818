"""Convert raw rows to texts and labels (class ids, 0/1 vectors or scores), and report the rows that are wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import yaml
from datasets import ClassLabel, Dataset, List, Value

from ..errors import InputError
from ..modeling.problem_types import PROBLEM_TYPES
from ..modeling.task_spec import TaskSpec
from ..modeling.words import Words
from .label_cells import number_of
from .label_columns import read_cells, wrong_cells
from .label_forms import is_empty
from .label_reading import LIST, MAPPING, NONE, VECTOR, Label, LabelReader
from .tag_readers import READERS

# Problems of a row, one bit each; a problem of a text has one bit for each text of a pair.
NO_LABEL, BAD_LABEL, TWO_READINGS = 1, 2, 256
EMPTY, NUL = (4, 8), (16, 32)
# A row of a multi-label task whose only reading is a list of labels, or a 0/1 vector; it decides the ambiguous rows.
LISTS, VECTORS = 512, 1024
# How a row with several labels is written; a column must be written in one way.
WRITTEN = {"|": 64, ";": 128, ",": 2048, " ": 4096, "[": 8192, "{": 16384}
UNCLEAR = 32768  # an empty cell among columns of labels, whose meaning is not said
OTHER_NUMBER = 65536  # as many labels as the row has parts are needed
SHOWN = 5
NAMES = 20  # most names that an error message lists
MARK = "labels checked by mtbert: "

# Each function that checks rows in `Dataset.map` has this version as an argument, because `map` caches its result under
# the function's name and arguments. Raise it by 1 if the same rows now give other texts, labels or bits, so that rows
# checked by an earlier version are not reused; tests/unit/data/test_reading_versions.py fails until you do.
CHECKING_VERSION = 2


def reader_class(problem_type: str) -> type[LabelReader]:
    """Return the class that reads the label cells of tasks of a problem type."""
    return READERS.get(problem_type, LabelReader)


def label_feature(problem_type: str) -> Value | List:
    """Return the type of a checked label column: int64, float32, or a list of one of them."""
    kind = PROBLEM_TYPES[problem_type]
    return List(Value(kind.label_dtype)) if kind.lists_labels else Value(kind.label_dtype)


def judged(reader: LabelReader, value: Any) -> tuple[Label, int]:
    """Read a label cell; return the checked label, and the bits of its problem or of its only reading."""
    if reader.columns:
        return _judged_columns(reader, value)
    if reader.missing(value):
        if reader.empty == NONE and reader.several and is_empty(value):
            return [0.0] * len(reader.labels), 0
        return reader.blank, NO_LABEL
    readings = reader.readings(value)
    label = next(iter(readings.values()), None)
    if any(other != label for other in readings.values()):
        return reader.blank, TWO_READINGS
    if label is None:
        return reader.blank, BAD_LABEL
    if not isinstance(label, list):
        return label, 0
    written = 0
    if readings.keys() & {LIST, VECTOR, MAPPING} and (any(label) or VECTOR in readings):
        mark = reader.written_as(value)
        written = 0 if mark is None else WRITTEN.get(mark, WRITTEN["|"])  # a stated separator is the only one
    if list(readings) == [VECTOR]:
        return label, VECTORS | written
    if any(label) and not readings.keys() & {VECTOR, MAPPING}:
        return label, LISTS | written
    return label, written


def _judged_columns(reader: LabelReader, cells: Sequence[Any]) -> tuple[Label, int]:
    label, empty = read_cells(reader, cells)
    if label is None:
        return reader.blank, BAD_LABEL
    bits = UNCLEAR if empty and reader.empty is None else 0
    return label, bits | (NO_LABEL if empty == len(label) and reader.empty != NONE else 0)


def read_decided(
    read: Callable[[LabelReader | None], tuple[Dataset, np.ndarray]], reader: LabelReader | None
) -> tuple[Dataset, np.ndarray, LabelReader | None]:
    """Read a column; if it has rows with two readings and the other rows decide between these, read it once more.

    Args:
        read: reads the column with a reader; returns the rows and their bits.

    Returns:
        The rows, their bits, and the reader that was used.
    """
    rows, status = read(reader)
    lists, vectors = (status & LISTS).any(), (status & VECTORS).any()
    if reader and (status & TWO_READINGS).any() and lists != vectors:
        reader = replace(reader, form=LIST if lists else VECTOR)
        rows, status = read(reader)
    return rows, status, reader


def mark_labels(rows: Dataset, task: TaskSpec) -> None:
    """Store the classes of the label ids in the data set's info, so that a later reader can check them."""
    rows.info.description = MARK + json.dumps(task.labels)


def marked_labels(rows: Dataset) -> list[str] | None:
    """Return the classes of checked label ids (empty for scores), or None if the labels were not checked."""
    description = rows.info.description or ""
    if not description.startswith(MARK):
        return None
    return json.loads(description.removeprefix(MARK)) or []


def reader_of(
    task: TaskSpec,
    rows: Dataset,
    column: str,
    minus_one: bool,
    where: str,
    separator: str | None = None,
    empty: str | None = None,
) -> LabelReader:
    """Return a reader for the labels in a column; `check_rows` may have converted them already.

    Raises:
        ValueError: they were converted to ids of other classes.
    """
    checked = marked_labels(rows)
    if checked is None or rows.features[column] != label_feature(task.kind.name):
        return reader_class(task.kind.name).of(task, rows.features, column, minus_one, separator, empty)
    if checked != list(task.classes):
        raise InputError(
            f"{where}: column {column!r} holds ids of the classes {listed(checked)}, but the task's labels are "
            f"{listed(task.classes)}; load the data with this task"
        )
    return reader_class(task.kind.name).of_checked(task)


def clean_text(value: Any) -> str:
    """A text as training and prediction read it: without white space around it; a missing one is empty.

    A list of words is the text in which they stand with one space between them, a `Words`.
    """
    if isinstance(value, list):
        return Words(value)
    return "" if value is None or value != value else str(value).strip()


def text_problem(column: str, feature: Any) -> str | None:
    """Return why a column of this type can hold no texts; None if it can: strings, numbers, or lists of strings."""
    inner = feature.feature if isinstance(feature, List) else feature
    allowed = (
        ("str", "large_str") if isinstance(feature, List) else ("str", "large_str", "int", "uint", "float", "bool")
    )
    if isinstance(inner, Value) and inner.dtype.startswith(allowed):
        return None
    written = "write every text as a string, or as a list of words"
    return f"column {column!r} for text holds {feature}, not strings; {written}"


def check_batch(
    batch: dict[str, list[Any]],
    indices: list[int],
    text: tuple[str, ...],
    label: str | tuple[str, ...],
    id: str | None,
    reader: LabelReader | None,
    version: int,
    problem_type: str = "",
) -> dict[str, Any]:
    """Convert a batch to the output columns; `_status` holds the problem bits of each row.

    Args:
        problem_type: the task's, whose label form may store lists of words in its own way; empty: no task is known.
    """
    status = np.zeros(len(indices), dtype=np.uint32)
    out: dict[str, list[Any]] = {}
    for k, (column, key) in enumerate(zip(text, ("text", "text_pair"), strict=False)):
        out[key] = [clean_text(value) for value in batch[column]]
        for i, value in enumerate(out[key]):
            if not value.strip():
                status[i] |= EMPTY[k]
            elif "\0" in value:
                status[i] |= NUL[k]
    if reader is not None:
        out["label"] = []
        cells = batch[label] if isinstance(label, str) else zip(*(batch[name] for name in reader.columns), strict=True)
        for i, value in enumerate(cells):
            checked_label, bits = judged(reader, value)
            if not bits and text and not reader.fits(out["text"][i], checked_label):
                bits = OTHER_NUMBER
            status[i] |= bits
            out["label"].append(checked_label)
    if problem_type:
        out["text"] = list(map(reader_class(problem_type).as_stored, out["text"]))
    out["row"] = [i + 1 for i in indices]
    if id is not None:
        out["id"] = ["" if value is None else str(value) for value in batch[id]]
    return out | {"_status": status}


def wrong_rows(
    dataset: Dataset,
    text: tuple[str, ...],
    label: str,
    reader: LabelReader | None,
    status: np.ndarray,
    where: str,
    place: Callable[[int], str] = lambda row: f"row {row + 1:,}",
) -> list[str]:
    """Return one sentence for each column and rule that rows of a split break, with the first such rows.

    Args:
        place: number of a row from 0 → its name.
    """
    kinds, sentences = [], []
    if reader and reader.columns:
        bad, unclear = status & BAD_LABEL > 0, status & UNCLEAR > 0
        sentences = wrong_cells(dataset, reader, bad, unclear, place, where)
    elif reader:
        kinds.append((label, BAD_LABEL, f"labels must be {reader.accepted}{_advice(dataset, label, reader, status)}"))
        kinds.append((label, TWO_READINGS, _both_readings(dataset, label, reader, status)))
        if (status & LISTS).any() and (status & VECTORS).any():
            kinds.append((label, VECTORS, "these are 0/1 vectors, others lists of labels; write all in one form"))
        else:
            kinds += [(label, bits, rule) for bits, rule in _mixture(status, reader.separator)]
        kinds.append((label, OTHER_NUMBER, reader.fits_rule))
    for column, nul in zip(text, NUL, strict=False):
        kinds.append((column, nul, "NUL characters are refused; remove them"))
    for column, bit, rule in kinds:
        rows = np.flatnonzero(status & bit)
        if not len(rows):
            continue
        feature = dataset.features[column]
        shown = [_short(dataset[i][column], feature) for i in rows[:SHOWN].tolist()]
        if reader and bit in (OTHER_NUMBER, BAD_LABEL):
            shown = [_wrong_label(dataset[i], text, column, reader, bit, feature) for i in rows[:SHOWN].tolist()]
        values = [f"{place(i)}: {cell}" for i, cell in zip(rows[:SHOWN].tolist(), shown, strict=True)]
        more = f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
        count = f"{len(rows):,} row{'s' if len(rows) > 1 else ''}"
        sentences.append(f"{where}: column {column!r} is wrong in {count}: {'; '.join(values)}{more}; {rule}")
    return sentences


def _wrong_label(
    row: Mapping[str, Any], text: Sequence[str], label: str, reader: LabelReader, bit: int, feature: Any
) -> str:
    """Return what an error message shows of a row whose labels are invalid, or do not fit its text."""
    if bit == OTHER_NUMBER:
        return reader.counts(clean_text(row[text[0]]), row[label])
    return _short(reader.wrong_part(row[label]), feature)


def _mixture(status: np.ndarray, separator: str | None) -> list[tuple[int, str]]:
    """Return the bits of all ways but the most frequent in which rows are written, and the rule; empty for one way."""
    counts = {mark: int(np.count_nonzero(status & bit)) for mark, bit in WRITTEN.items()}
    used = sorted((mark for mark in counts if counts[mark]), key=lambda mark: -counts[mark])
    if len(used) < 2:
        return []
    names = {"[": "lists", "{": "mappings", " ": "separated by white space"}
    most, *others = (names.get(mark, f"separated by {separator or mark!r}") for mark in used)
    remedy = "write all in one form"
    if sum(mark not in names for mark in used) > 1:
        remedy += ", or name the separator: label_separator"
    rule = f"these are {' or '.join(others)}, {counts[used[0]]:,} other rows are {most}; {remedy}"
    return [(sum(WRITTEN[mark] for mark in used[1:]), rule)]


def _both_readings(dataset: Dataset, label: str, reader: LabelReader, status: np.ndarray) -> str:
    """Return the readings of the first ambiguous label, and unambiguous ways to write it."""
    rows = np.flatnonzero(status & TWO_READINGS)
    if not len(rows):
        return ""
    readings = reader.readings(dataset[int(rows[0])][label])
    meanings = " or ".join(f"{reader.shown(value)} ({how})" for how, value in readings.items())
    remedy = f"write names of labels ({listed(reader.labels)})"
    if reader.several:
        remedy += (
            ", a mapping of each name to 0 or 1, or vectors of true and false; a task whose column says 0 or 1 is a "
            "binary_classification with two labels"
        )
    return f"row {rows[0] + 1:,} may mean {meanings}; {remedy}"


def _advice(dataset: Dataset, label: str, reader: LabelReader, status: np.ndarray) -> str:
    """Suggest the `labels` of a classification if most labels of a regression task are no numbers."""
    rows = np.flatnonzero(status & BAD_LABEL)
    if not reader.kind.numeric or 2 * len(rows) <= np.count_nonzero(~(status & NO_LABEL > 0)):
        return ""
    if reader.stored is not None:
        names = list(reader.stored)
    else:
        values = dataset.select(rows)[label][:]
        several = any(isinstance(value, list) for value in values)
        parts = [part for value in values for part in (value if isinstance(value, list) else [value])]
        names = sorted({part.strip() for part in parts if isinstance(part, str) and number_of(part) is None})
        if several and names:
            return f"; or write problem_type: multi_label_classification and labels: {_as_yaml(names)}"
    return f"; if these are classes, write labels: {_as_yaml(names)}" if names else ""


def _as_yaml(names: list[str]) -> str:
    """Format at most `NAMES` names as a YAML list."""
    text = yaml.safe_dump(names[:NAMES], default_flow_style=True, allow_unicode=True, width=math.inf).strip()
    return text if len(names) <= NAMES else f"{text[:-1]}, …] ({len(names):,} names in all)"


def listed(columns: Sequence[str]) -> str:
    """Format names for an error message, cut to 500 characters."""
    text = str(list(columns))
    return text if len(text) <= 300 else f"{text[:300]}… ({len(columns):,} in all)"


def _short(value: Any, feature: Any) -> str:
    text = repr(value)
    if isinstance(feature, ClassLabel) and 0 <= value < feature.num_classes:
        text += f" ({feature.int2str(value)!r})"
    return text if len(text) <= 60 else text[:57] + "..."
