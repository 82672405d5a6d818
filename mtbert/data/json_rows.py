"""Read rows of json files: one object per line, or one array of objects. Strings and numbers are kept as written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import pyarrow as pa
from datasets import Features, Json, List, Value

from ..errors import ReadError
from ..modeling.limits import beyond, limit
from ..modeling.tokenization import half_character

REMEDY = "write one JSON object a line, or one array of objects"
INT64, EXACT_IN_FLOAT64 = 1 << 63, 1 << 53


class Decimal(float):
    """A float that keeps its text in the file, such as `1.50` or `2e3`, as `written`."""

    written: str

    def __new__(cls, written: str) -> Decimal:
        number = super().__new__(cls, written)
        number.written = written
        return number

    def __reduce__(self) -> tuple[type[Decimal], tuple[str]]:
        return type(self), (self.written,)


NAMES = {str: "string", Decimal: "float64", float: "float64"}
SCALARS = {"bool", "string", "float64", "int64", "wide", "huge"}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"an object names {', '.join(map(repr, repeated))} more than once")
    return row


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=Decimal)


def decoded_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """Yield the number (from 1) and the text of each line.

    Lines end with `\\n` or `\\r\\n`, or with `\\r` in a file without `\\n`.

    Raises:
        ReadError: a line is not UTF-8.
    """
    lines = iter(lines)
    first = next(lines, b"")
    if b"\r" in first and not first.endswith(b"\n"):
        *ended, last = first.split(b"\r")
        lines = iter([*ended, last] if last else ended)
    elif first:
        lines = chain([first], lines)
    for number, line in enumerate(lines, 1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ReadError(f"line {number:,} is no UTF-8 text; convert the file ({error.reason})") from error


@dataclass(frozen=True)
class JsonChunk:
    """Successive rows of a json file. `unit` is `line` or `row`; `numbers` holds the number of each row's unit."""

    unit: str
    numbers: Sequence[int]
    rows: list[dict[str, Any]]

    def place(self, i: int) -> str:
        """Return the position of the i-th row for error messages, such as `line 7`."""
        return f"{self.unit} {self.numbers[i]:,}"

    def __post_init__(self) -> None:
        for i, row in enumerate(self.rows):
            if not isinstance(row, dict):
                what = f"is {type(row).__name__}, but must be an object with the columns as its keys"
                raise ReadError(f"{self.place(i)} {what}")


def json_chunks(lines: Iterable[tuple[int, str]], size: int = 2000) -> Iterator[JsonChunk]:
    """Yield chunks of at most `size` rows from numbered lines. Blank lines are skipped; an array is read whole.

    Raises:
        ReadError: a line is no JSON object, or an object has a key twice.
    """
    lines = ((number, text) for number, text in lines if text.strip())
    first = next(lines, (1, ""))
    lines = chain([first] if first[1] else [], lines)
    if first[1].lstrip().startswith("["):
        try:
            rows = _decoded("\n".join(text for _, text in lines))
        except ValueError as error:
            raise ReadError(f"it is no JSON array: {error}; {REMEDY}") from error
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            yield JsonChunk("row", range(start + 1, start + 1 + len(chunk)), chunk)
        return
    while chunk := list(islice(lines, size)):
        numbers, texts = zip(*chunk, strict=True)
        try:
            rows = list(map(_decoded, texts))
        except ValueError:  # decode them one by one, to name the line
            rows = [_parsed(number, text) for number, text in chunk]
        yield JsonChunk("line", numbers, rows)


def _decoded(text: str) -> Any:
    """Decode a JSON text; ValueError if it is invalid or nested too deeply."""
    deepest = limit("depth")
    try:
        value = DECODER.decode(text)
    except RecursionError as error:
        raise ValueError(f"values lie more than {deepest} levels deep in each other") from error
    if text.count("[") + text.count("{") > deepest:
        level, depth = [value], 0
        while level := [item for item in level if isinstance(item, list | dict)]:
            depth += 1
            if problems := beyond("depth", depth, "values lie", " levels deep in each other"):
                raise ValueError(problems[0])
            level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return value


def _parsed(number: int, text: str) -> Any:
    try:
        return _decoded(text)
    except ValueError as error:
        raise ReadError(f"line {number:,} is no JSON: {error}; {REMEDY}") from error


def written(value: Any) -> Any:
    """Return a value of a text or id column as the file writes it; None for null and NaN; lists and objects as is."""
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return value.written
    if isinstance(value, float):  # NaN, Infinity
        return None if math.isnan(value) else str(value)
    return str(value) if isinstance(value, int) else value


class Kinds:
    """Collects the kinds of values in each column, to choose the columns' types."""

    def __init__(self) -> None:
        self.values: dict[str, set[str]] = {}
        self.elements: dict[str, set[str]] = {}

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add the kinds of values of more rows."""
        for name in dict.fromkeys(chain.from_iterable(rows)):
            values = [row.get(name) for row in rows]
            self.values[name] = self.values.get(name, set()) | _kinds(values)
            inner = chain.from_iterable(value for value in values if isinstance(value, list))
            self.elements[name] = self.elements.get(name, set()) | _kinds(list(inner))

    def features(self, texts: Sequence[str], words: Sequence[str] = ()) -> Features:
        """Return for each column a type that holds its values exactly: string for `texts`, `Json` for mixed kinds.

        Columns of `words` may also hold lists of strings alone.
        """
        types = {name: _feature(self.values[name], self.elements[name]) for name in self.values}
        lists = [name for name in words if types.get(name) == List(Value("string"))]
        as_text = {name: Value("string") for name in texts if name not in lists}
        return Features({name: as_text.get(name, kind) for name, kind in types.items()})


def _kinds(values: Sequence[Any]) -> set[str]:
    """Return the names of the values' types, without None's.

    Integers are `int64`, or `wide` if one of them is not exact in float64, or `huge` if one does not fit in int64.
    """
    kinds = {NAMES.get(kind, kind.__name__) for kind in set(map(type, values))} - {"NoneType"}
    if "int" in kinds:
        kinds.remove("int")
        largest = max(abs(value) for value in values if type(value) is int)
        if largest <= EXACT_IN_FLOAT64:
            kinds.add("int64")
        elif largest < INT64:
            kinds.add("wide")
        else:
            kinds.add("huge")
    return kinds


def _feature(kinds: set[str], elements: set[str]) -> Value | List | Json:
    if kinds == {"list"}:
        inner = _feature(elements, set())
        return Json() if isinstance(inner, Json) else List(inner)
    if not kinds:
        return Value("null")
    if "huge" in kinds and kinds <= SCALARS:
        return Value("string")
    if kinds <= {"int64", "wide"}:
        return Value("int64")
    if kinds <= {"int64", "float64"}:
        return Value("float64")
    return Value(*kinds) if len(kinds) == 1 and kinds <= SCALARS else Json()


def json_table(chunk: JsonChunk, features: Features, texts: Sequence[str]) -> pa.Table:
    """Convert a chunk to an Arrow table with the given features.

    Raises:
        ReadError: a text or id is a list or an object, or a string has half of a surrogate pair.
    """
    columns = {}
    for name, feature in features.items():
        values = [row.get(name) for row in chunk.rows]
        if feature == Value("string"):
            values = [written(value) for value in values]
        if name in texts:
            check_texts(name, values, chunk.place, words=isinstance(feature, List))
        try:
            if isinstance(feature, Json):
                values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
                columns[name] = pa.ExtensionArray.from_storage(feature.pa_type, pa.array(values, pa.string()))
            else:
                columns[name] = pa.array(values, features.arrow_schema.field(name).type)
        except UnicodeEncodeError as error:
            broken = next(i for i, value in enumerate(values) if half_character(_joined(value)) is not None)
            what = f"{chunk.place(broken)}: {name!r} has half of a surrogate pair"
            raise ReadError(f"{what}; write the text as UTF-8") from error
    return pa.table(columns)


def json_batches(
    chunks: Iterable[JsonChunk], columns: Sequence[str], every: bool = False
) -> Iterator[dict[str, list[Any]]]:
    """Yield the given columns of each chunk, with values as the file writes them.

    Args:
        columns: columns that each row must have.
        every: whether to yield all columns, with their values unchanged: those of the first chunk's rows.

    Raises:
        ReadError: a row lacks one of `columns`; with `every`, it has a column that no row of the first chunk has.
    """
    names: dict[str, None] = {}
    for chunk in chunks:
        if every:
            names = names or dict.fromkeys(chain.from_iterable(chunk.rows))
            for i, row in enumerate(chunk.rows):
                if not row.keys() <= names.keys():
                    new = next(name for name in row if name not in names)
                    what = f"has {new!r}, which the first rows lack, so that the output has no such column"
                    raise ReadError(f"{chunk.place(i)} {what}; write it in the first row, too")
        for i, row in enumerate(chunk.rows):
            for column in columns:
                if column not in row:
                    held = f"has no {column!r}; it has: {', '.join(row)[:500]}"
                    raise ReadError(f"{chunk.place(i)} {held}; write it there, or name another column")
        if every:
            yield {name: [row.get(name) for row in chunk.rows] for name in names}
        else:
            yield {column: [written(row[column]) for row in chunk.rows] for column in columns}


def _joined(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def check_texts(column: str, values: Sequence[Any], place: Callable[[int], str], words: bool = False) -> None:
    """Reject lists, objects and lone surrogates in a text or id column.

    Args:
        column: its name.
        values: its cells.
        place: index of a cell → its place, for messages.
        words: whether lists of strings are texts.

    Raises:
        ReadError: names the first such value's position.
    """
    for i, value in enumerate(values):
        if words and isinstance(value, list) and all(isinstance(word, str | None) for word in value):
            value = _joined(value)
        if not isinstance(value, str):
            if not isinstance(value, int | float | None):
                wanted = "text, or a list of words (in every row, as strings)" if words else "text"
                raise ReadError(f"{place(i)}: {column!r} is a {type(value).__name__}, but must be {wanted}")
        elif not value.isascii() and (at := half_character(value)) is not None:
            half = f"has half of a surrogate pair as character {at:,}; write the text as UTF-8"
            raise ReadError(f"{place(i)}: {column!r} {half}")
