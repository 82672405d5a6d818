"""Read rows to predict in chunks, from files or standard input; memory does not grow with the number of rows."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, BinaryIO

from ..errors import InputError, MissingFileError, ReadError, refuse
from .bounds import BoundedStream
from .delimited import separator_hint
from .json_rows import check_texts, decoded_lines, json_batches, json_chunks
from .labels import CHECKING_VERSION, NUL, check_batch, listed
from .readers import (
    FORMATS,
    SEPARATOR_NAMES,
    SEPARATORS,
    SUFFIXES,
    RowFile,
    file_format,
    form_problems,
    intact,
    lacks,
    open_file,
)

STDIN = "-"
KINDS = (*FORMATS, "text")


@dataclass(frozen=True)
class RowSource:
    """Location of the rows to predict, and the columns to read.

    Attributes:
        file: a file's path, or `-` for standard input (json lines, or one text a line).
        text: the text column, or the two columns of a pair.
        id: a column that identifies a row; None: rows have numbers only.
        format: `csv`, `tsv`, `json` (lines, or one array, which is read whole), `parquet`, `cs224n` (the course's
            tab-separated .csv files) or `text` (one text a line, in the column `text`); None: by the file's suffix, on
            standard input by its first line.
        size: number of rows of a chunk.
        separator: the character between fields of a csv or tsv file (`tab` too); None: comma or tab.
        quoting: how quotes are written in a csv or tsv file, as in DataSpec.
        words: whether a text may be a list of words.
    """

    file: str
    text: tuple[str, ...] = ("text",)
    id: str | None = None
    format: str | None = None
    size: int = 2048
    separator: str | None = None
    quoting: str | None = None
    words: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "separator", SEPARATOR_NAMES.get(self.separator, self.separator))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to read."""
        return tuple(dict.fromkeys([*self.text, *([self.id] if self.id else [])]))

    @property
    def shown(self) -> str:
        """The source's name in error messages."""
        return "standard input" if self.file == STDIN else self.file

    def kind(self) -> str | None:
        """Return the format; None on standard input if its first line decides.

        Raises:
            ValueError: the suffix is unknown, or standard input can not have the format.
        """
        if self.file == STDIN:
            if self.format not in (None, "json", "text"):
                raise InputError(f"standard input can be json or text, not {self.format}; give a file")
            kind = self.format
        else:
            kind = self.format or file_format(self.file)
            if kind is None:
                raise InputError(f"{self.file}: its suffix is none of {', '.join(SUFFIXES)}; give its format")
        refuse(form_problems(self.separator, self.quoting, [kind or "json or text"]), f"{self.shown}: ")
        return kind

    def chunks(self, stream: BinaryIO | None = None) -> Iterator[dict[str, list[Any]]]:
        """Yield chunks of at most `size` rows: `text`, `text_pair` (of pairs), `row` (from 1) and `id` (if named).

        Texts are read as for training: white space around them is removed, and null is an empty text.

        Args:
            stream: replaces the process's standard input.

        Raises:
            FileNotFoundError: the file does not exist.
            ReadError: a row can not be read; a ValueError that names file, row and column.
        """
        if self.file != STDIN and not os.path.isfile(self.file):
            what = "is a folder" if os.path.isdir(self.file) else "does not exist"
            raise MissingFileError(f"{self.file} {what}; give a file, or - for standard input")
        read = 0
        for batch in self._batches(self.kind(), stream or sys.stdin.buffer):
            count = len(batch[self.text[0]])
            yield self._checked(batch, range(read, read + count))
            read += count

    def _batches(self, kind: str | None, stream: BinaryIO) -> Iterator[dict[str, list[Any]]]:
        try:
            if self.file == STDIN:
                lines = BoundedStream(stream, closes=False) if hasattr(stream, "readline") else stream
                yield from self._line_batches(lines, kind)
            elif kind == "text":
                with open_file(self.file) as file:
                    yield from self._line_batches(intact(file), kind)
            else:
                source = RowFile(self.file, str(kind), self.separator, self.quoting)
                yield from source.batches(self.size, self.columns, self._need)
        except ReadError as error:
            raise ReadError(error.about(self.shown)) from error

    def _line_batches(self, lines: Iterable[bytes], kind: str | None) -> Iterator[dict[str, list[Any]]]:
        numbered = decoded_lines(lines)
        first = next(numbered, None)
        if first is None:
            return
        rows = chain([first], numbered)
        if kind == "text" or (kind is None and not first[1].lstrip().startswith("{")):
            self._need(("text",))
            while batch := list(islice(rows, self.size)):
                yield {"text": [text for _, text in batch]}
        else:
            yield from json_batches(json_chunks(rows, self.size), self.columns)

    def _need(self, names: Sequence[str]) -> None:
        for column in self.columns:
            if column not in names:
                near = difflib.get_close_matches(column, names, 1)
                hint = f"did you mean {near[0]!r}? " if near else "name another, or choose tasks that do without. "
                if separator := separator_hint(names):
                    hint = f"{separator}. "
                raise ReadError(f"there is no column {column!r}; {hint}The columns are: {listed(names)}")

    def _checked(self, batch: dict[str, list[Any]], rows: range) -> dict[str, list[Any]]:
        kind = self.kind()

        def place(i: int) -> str:
            return f"{self.shown}: row {rows[i] + 1:,}"

        for column in self.columns:
            check_texts(column, batch[column], place, words=self.words and column != self.id)
            if kind in SEPARATORS and None in batch[column]:
                raise ReadError(f"{place(batch[column].index(None))} {lacks(column)}")
        out = check_batch(batch, list(rows), self.text, "", self.id, None, CHECKING_VERSION)
        for i, status in enumerate(out.pop("_status").tolist()):
            for column, nul in zip(self.text, NUL, strict=False):
                if status & nul:
                    raise ReadError(f"{place(i)}: {column!r} holds a NUL character; remove it")
        return out
