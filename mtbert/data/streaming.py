"""Rows to predict, read a chunk at a time from files or standard input: memory does not grow with their number."""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow.parquet as pq

from ..modeling.inputs import half_character
from .labels import CODE, NUL, SWALLOWED, check_batch, listed
from .loading import FORMATS, SEPARATORS, SUFFIXES

STDIN = "-"
KINDS = (*FORMATS, "text")


@dataclass(frozen=True)
class RowSource:
    """Where rows to predict are, and which of their columns matter.

    Attributes:
        file: a file's path, or `-` for standard input (json lines, or one text a line).
        text: the text column, or the two columns of a pair.
        id: a column that identifies a row; None: rows are counted only.
        format: `csv`, `tsv`, `json` (lines, or one array, which is read whole), `parquet`, `cs224n` (the course's
            tab-separated .csv files) or `text` (one text a line, in the column `text`); None: by the file's suffix, on
            standard input by its first line.
        size: rows of a chunk.
    """

    file: str
    text: tuple[str, ...] = ("text",)
    id: str | None = None
    format: str | None = None
    size: int = 2048

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(dict.fromkeys([*self.text, *([self.id] if self.id else [])]))

    @property
    def shown(self) -> str:
        """What errors call it."""
        return "standard input" if self.file == STDIN else self.file

    def kind(self) -> str | None:
        """The format; None on standard input, whose first line decides.

        Raises:
            ValueError: for a suffix that says nothing, or a format that standard input can not have.
        """
        if self.file == STDIN:
            if self.format not in (None, "json", "text"):
                raise ValueError(f"standard input can be json or text, not {self.format}; give a file")
            return self.format
        kind = self.format or SUFFIXES.get(Path(self.file).suffix.lower())
        if kind is None:
            raise ValueError(f"{self.file}: its suffix is none of {', '.join(SUFFIXES)}; give its format")
        return kind

    def chunks(self, stream: BinaryIO | None = None) -> Iterator[dict[str, list]]:
        """Chunks of at most `size` rows: `text`, `text_pair` (of pairs), `row` (counted from 1) and `id` (if named).

        Texts are read as for training: white space around them is dropped, and null is an empty text.

        Args:
            stream: instead of the process's standard input.

        Raises:
            FileNotFoundError: the file is not there.
            ValueError: with file, row and column, where something can not be read.
        """
        read = 0
        for batch in self._batches(self.kind(), stream or sys.stdin.buffer):
            count = len(batch[self.text[0]])
            yield self._checked(batch, range(read, read + count))
            read += count

    def _batches(self, kind: str | None, stream: BinaryIO) -> Iterator[dict[str, list]]:
        if self.file != STDIN and not os.path.isfile(self.file):
            what = "is a folder" if os.path.isdir(self.file) else "does not exist"
            raise FileNotFoundError(f"{self.file} {what}; give a file, or - for standard input")
        if kind in SEPARATORS:
            yield from self._csv_batches(SEPARATORS[kind])
        elif kind == "parquet":
            yield from self._parquet_batches()
        elif self.file == STDIN:
            yield from self._line_batches(stream, kind)
        else:
            with open(self.file, "rb") as file:
                yield from self._line_batches(file, kind)

    def _csv_batches(self, separator: str) -> Iterator[dict[str, list]]:
        options: dict[str, Any] = {"sep": separator, "dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
        try:
            # With a header that is shorter than the first row, pandas would take the first column for an index.
            head = pd.read_csv(self.file, header=None, nrows=2, **options)
            names = [name or f"Unnamed: {i}" for i, name in enumerate(head.iloc[0])]
            self._need(names)
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(
                    f"{self.shown}: the header names {listed(repeated)} more than once; give each column its name"
                )
            with pd.read_csv(self.file, header=0, names=names, chunksize=self.size, **options) as reader:
                for frame in reader:
                    yield {column: frame[column].tolist() for column in self.columns}
        except UnicodeError as error:
            raise ValueError(f"{self.file}: line {self._broken_line():,} is no UTF-8 text; convert the file") from error
        except pd.errors.EmptyDataError as error:
            raise ValueError(f"{self.file} is empty; even without rows it needs a header") from error
        except pd.errors.ParserError as error:
            message = str(error).strip().removeprefix("Error tokenizing data. C error: ")
            raise ValueError(f"{self.file}: {message}; give every row as many fields as the header") from error

    def _broken_line(self) -> int:
        """The first line that is no UTF-8: pandas says where in its buffer only."""
        with open(self.file, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode()
                except UnicodeDecodeError:
                    return number
        raise AssertionError(f"{self.file} is UTF-8")

    def _parquet_batches(self) -> Iterator[dict[str, list]]:
        try:
            file = pq.ParquetFile(self.file)
            names = file.schema_arrow.names
        except (OSError, ValueError, KeyError, NotImplementedError) as error:
            raise ValueError(f"{self.file} can not be read as parquet: {error}; write the file again") from error
        with file:
            self._need(names)
            batches = file.iter_batches(self.size, columns=list(self.columns))
            read = 0
            while True:
                try:
                    batch = next(batches, None)
                    if batch is None:
                        return
                    values = batch.to_pydict()
                except (OSError, ValueError, KeyError, NotImplementedError) as error:
                    where = f"{self.file} can not be read as parquet after row {read:,}"
                    said = " ".join(str(error).split())
                    raise ValueError(f"{where}: {said}; write the file again") from error
                yield values
                read += len(batch)

    def _line_batches(self, file: Iterable[bytes], kind: str | None) -> Iterator[dict[str, list]]:
        lines = self._decoded(file)
        first = next(lines, None)
        if first is None:
            return
        if kind is None:
            kind = "json" if first[1].lstrip().startswith("{") else "text"
        lines = chain([first], lines)
        if kind == "text":
            self._need(("text",))
            rows: Iterator[tuple[int, Any]] = ((number, {"text": text}) for number, text in lines)
        elif first[1].lstrip().startswith("["):
            rows = enumerate(self._array(lines), 1)
        else:
            rows = ((number, self._parsed(number, text)) for number, text in lines if text.strip())
        unit = "row" if first[1].lstrip().startswith("[") else "line"
        while batch := list(islice(rows, self.size)):
            yield {
                column: [self._value(row, column, f"{unit} {number:,}") for number, row in batch]
                for column in self.columns
            }

    def _decoded(self, file: Iterable[bytes]) -> Iterator[tuple[int, str]]:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{self.shown}: line {number:,} is no UTF-8 text; convert it") from error

    def _parsed(self, number: int, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.shown}: line {number:,} is no JSON: {error}") from error

    def _array(self, lines: Iterator[tuple[int, str]]) -> list[Any]:
        try:
            return json.loads("\n".join(text for _, text in lines))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.shown} is no JSON array: {error}") from error

    def _value(self, row: Any, column: str, where: str) -> Any:
        if not isinstance(row, dict):
            raise ValueError(f"{self.shown}: {where} is {type(row).__name__}, but must be an object with {column!r}")
        if column not in row:
            raise ValueError(f"{self.shown}: {where} has no {column!r}; it has: {', '.join(row)[:500]}")
        return row[column]

    def _need(self, names: Sequence[str]) -> None:
        for column in self.columns:
            if column not in names:
                near = difflib.get_close_matches(column, names, 1)
                hint = f"did you mean {near[0]!r}? " if near else "name another, or choose tasks that do without. "
                if len(names) == 1 and "\t" in names[0]:
                    hint = "the columns are separated by tabs: give the format tsv or cs224n. "
                raise ValueError(f"{self.shown}: there is no column {column!r}; {hint}The columns are: {listed(names)}")

    def _checked(self, batch: dict[str, list], rows: range) -> dict[str, list]:
        for column in self.columns:
            for row, value in zip(rows, batch[column], strict=True):
                if not isinstance(value, str | int | float | None):
                    kind = type(value).__name__
                    raise ValueError(f"{self.shown}: row {row + 1:,}: {column!r} is a {kind}, but must be text")
                if isinstance(value, str) and (place := half_character(value)) is not None:
                    half = f"has half of a surrogate pair as character {place:,}; write the text as UTF-8"
                    raise ValueError(f"{self.shown}: row {row + 1:,}: {column!r} {half}")
        tabs = self.kind() == "tsv"
        out = check_batch(batch, list(rows), self.text, "", self.id, None, tabs, CODE)
        for row, status in zip(rows, out.pop("_status").tolist(), strict=True):
            for column, nul, swallowed in zip(self.text, NUL, SWALLOWED, strict=False):
                where = f"{self.shown}: row {row + 1:,}: {column!r}"
                if status & nul:
                    raise ValueError(f"{where} holds a NUL character; remove it")
                if status & swallowed:
                    raise ValueError(f"{where}: a quote swallowed a tab and a line break; close it, or write it twice")
        return out
