"""Write rows in chunks as csv, tsv, jsonl or parquet."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..data.compression import COMPRESSED
from ..data.json_rows import Decimal
from ..errors import InputError

SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".parquet": "parquet"}
SEPARATORS = {"csv": ",", "tsv": "\t"}
# How a cell begins that a spreadsheet would run (OWASP, "CSV injection"), also in full width.
FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def output_format(path: str) -> str | None:
    """Return the format that a file's suffix names, before that of a compression; None for another suffix."""
    name = Path(path)
    if name.suffix.lower() in COMPRESSED:
        name = name.with_suffix("")
    return SUFFIXES.get(name.suffix.lower())


def defused(text: str) -> str:
    """Return a text with an apostrophe in front if a spreadsheet would run it as a formula; a number is no formula."""
    if FORMULA.match(text) and not NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def cell_text(value: Any) -> Any:
    """Return a value as a cell of a csv file: texts and numbers unchanged, nothing as an empty text, lists as JSON."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, Decimal):
        return value.written
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return value


def json_value(value: Any) -> Any:
    """Return a value for a JSON file, which has no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


@contextmanager
def text_into(file: IO[bytes]) -> Iterator[IO[str]]:
    """Yield a stream of UTF-8 text into `file`, which stays open; line ends are not converted."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    try:
        yield text
        text.flush()
    finally:
        text.detach()


class TableWriter:
    """Writes csv or tsv: a header, and rows that are quoted where they must be.

    Args:
        file: a stream of text.
        names: the columns.
        separator: one character.
        defuse: whether texts that a spreadsheet would run get an apostrophe (see `defused`).
    """

    def __init__(self, file: IO[str], names: Sequence[str], separator: str, defuse: bool):
        self.defuse = defuse
        self.writer = csv.writer(file, lineterminator="\n", delimiter=separator)
        # csv does not quote a carriage return by itself
        self.quoting = csv.writer(file, lineterminator="\n", delimiter=separator, quoting=csv.QUOTE_ALL)
        self._write(list(names))

    def write(self, columns: Mapping[str, list[Any]]) -> None:
        """Append rows, given as columns."""
        for row in zip(*columns.values(), strict=True):
            self._write(list(row))

    def _write(self, cells: list[Any]) -> None:
        if self.defuse:
            cells = [defused(cell) if isinstance(cell, str) else cell for cell in cells]
        has_return = any(isinstance(cell, str) and "\r" in cell for cell in cells)
        (self.quoting if has_return else self.writer).writerow(cells)


class LinesWriter:
    """Writes one JSON object a line into a stream of text."""

    def __init__(self, file: IO[str]):
        self.file = file

    def write(self, columns: Mapping[str, list[Any]]) -> None:
        """Append rows, given as columns."""
        for row in zip(*columns.values(), strict=True):
            self.file.write(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False, default=str) + "\n")


def _text_or_null(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else str(cell_text(value))


class ParquetRows:
    """Writes parquet into a stream of bytes.

    Args:
        schema: names and types of the columns; values of a column of strings become texts.
    """

    def __init__(self, file: IO[bytes], schema: pa.Schema):
        self.schema, self.writer = schema, pq.ParquetWriter(file, schema)

    def write(self, columns: Mapping[str, list[Any]]) -> None:
        """Append rows, given as columns.

        Raises:
            InputError: a column has values of another type than in its first file.
        """
        arrays = []
        for name, values in columns.items():
            kind = self.schema.field(name).type
            if pa.types.is_string(kind):
                values = [_text_or_null(value) for value in values]
            try:
                arrays.append(pa.array(values, kind))
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                why = f"column {name!r} can not be written as {kind}: {error}; write csv or jsonl"
                raise InputError(why) from error
        self.writer.write_table(pa.table(arrays, schema=self.schema))

    def close(self) -> None:
        """Write the end of the file."""
        self.writer.close()
