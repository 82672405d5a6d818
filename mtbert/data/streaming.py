"""Read rows to predict in chunks, from files or standard input; memory does not grow with the number of rows."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from datasets import Dataset

from ..errors import InputError, MissingFileError, ReadError, refuse
from .bounds import BoundedStream
from .compression import intact, open_file
from .delimited import separator_hint
from .json_rows import check_texts, decoded_lines, json_batches, json_chunks, written
from .labels import clean_text, listed
from .readers import FORMATS, SAVED, SEPARATOR_NAMES, SEPARATORS, SUFFIXES, RowFile, file_format, form_problems, lacks
from .row_files import files_of, is_saved, saved_rows

STDIN = "-"
KINDS = (*FORMATS, "text")
TEXT = ("text",)  # the columns of plain lines


class StandardInput:
    """The lines of standard input, the first of which can be looked at beforehand."""

    def __init__(self, stream: BinaryIO | None = None):
        self.lines = iter(BoundedStream(stream or sys.stdin.buffer, closes=False))
        self.seen: list[bytes] = []

    def columns(self, format: str | None) -> tuple[str, ...]:
        """Return the columns of the first row; none if there is no row, or if it can not be read."""
        while not (self.seen and self.seen[-1].strip()):
            line = next(self.lines, None)
            if line is None:
                break
            self.seen.append(line)
        first = self.seen[-1] if self.seen else b""
        if format == "text" or (format is None and not first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")):
            return TEXT
        try:
            chunk = next(json_chunks(decoded_lines(self.seen)), None)
        except ReadError:  # reading the rows reports it
            return ()
        return tuple(chunk.rows[0]) if chunk else ()

    def __iter__(self) -> Iterator[bytes]:
        return chain(self.seen, self.lines)


@dataclass(frozen=True)
class RowSource:
    """Location of the rows to predict, and the columns to read.

    Attributes:
        file: a file's path, a list of them, a pattern such as `new-*.csv`, a folder of `save_to_disk`, or `-` for
            standard input (json lines, or one text a line).
        text: the text columns; one, or the two of a pair, or all that several tasks read.
        id: a column that identifies a row; None: rows have numbers only.
        format: `csv`, `tsv`, `json` (lines, or one array, which is read whole), `parquet`, `cs224n` (the course's
            tab-separated .csv files), `saved` (a folder of `save_to_disk`) or `text` (one text a line, in the column
            `text`); None: by the file's suffix, on standard input by its first line.
        size: number of rows of a chunk.
        separator: the character between fields of a csv or tsv file (`tab` too); None: comma or tab.
        quoting: how quotes are written in a csv or tsv file, as in DataSpec.
        keep: whether chunks have all columns of the source as well.
        words: whether a text may be a list of words.
    """

    file: str | tuple[str, ...]
    text: tuple[str, ...] = TEXT
    id: str | None = None
    format: str | None = None
    size: int = 2048
    separator: str | None = None
    quoting: str | None = None
    keep: bool = False
    words: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "separator", SEPARATOR_NAMES.get(self.separator, self.separator))

    @property
    def wanted(self) -> tuple[str, ...]:
        """The columns of texts and of ids."""
        return tuple(dict.fromkeys([*self.text, *([self.id] if self.id else [])]))

    @property
    def shown(self) -> str:
        """The source's name in error messages."""
        return "standard input" if self.file == STDIN else str(self.files()[0])

    def files(self) -> list[Path]:
        """Return the files, in their order; none for standard input.

        Raises:
            FileNotFoundError: a file does not exist, or a pattern matches none.
        """
        if self.file == STDIN:
            return []
        files = files_of(self.file, None, "the rows to predict")
        for path in files:
            if not os.path.isfile(path) and not is_saved(path):
                what = "is a folder" if os.path.isdir(path) else "does not exist"
                raise MissingFileError(f"{path} {what}; give a file, or - for standard input")
        return files

    def kind(self, path: Path | None = None) -> str | None:
        """Return the format of a file (None: of the first); None on standard input if its first line decides.

        Raises:
            ValueError: the suffix is unknown, or standard input can not have the format.
        """
        if self.file == STDIN:
            if self.format not in (None, "json", "text"):
                raise InputError(f"standard input can be json or text, not {self.format}; give a file")
            kind = self.format
        else:
            path = path or self._first()
            kind = self.format or (SAVED if is_saved(path) else file_format(path))
            if kind is None:
                raise InputError(f"{path}: its suffix is none of {', '.join(SUFFIXES)}; give its format")
        refuse(form_problems(self.separator, self.quoting, [kind or "json or text"]), f"{path or self.shown}: ")
        return kind

    def _first(self) -> Path:
        names = (self.file,) if isinstance(self.file, str) else self.file
        path = Path(names[0])
        return path if path.suffix and not path.is_dir() else self.files()[0]

    def schema(self) -> pa.Schema | None:
        """Return the names and types of the columns of the first file; None on standard input.

        All columns of csv, tsv and json files are strings here, whatever a json file holds; a json file's columns are
        those of its first rows.

        Raises:
            ReadError, FileNotFoundError: as `chunks` does.
        """
        if self.file == STDIN:
            return None
        path = self.files()[0]
        kind = self.kind(path)
        try:
            if kind == SAVED:
                return saved_rows(path).features.arrow_schema.remove_metadata()
            if kind == "text":
                return pa.schema([("text", pa.string())])
            return RowFile(path, str(kind), self.separator, self.quoting).schema(self.size)
        except ReadError as error:
            raise ReadError(error.about(path)) from error

    def chunks(self, stream: Any = None) -> Iterator[dict[str, Any]]:
        """Yield chunks of at most `size` rows.

        They have `text` and `text_pair` (the first two of the text columns), `texts` (column → texts, of all of them),
        `row` (from 1), `id` (if named) and `kept` (column → values, with `keep`). Texts are read as for training: white
        space around them is removed, and null is an empty text.

        Args:
            stream: replaces the process's standard input: a stream of bytes, or an iterable of lines.

        Raises:
            FileNotFoundError: the file does not exist.
            ReadError: a row can not be read; a ValueError that names file, row and column.
        """
        read = 0
        if self.file == STDIN:
            kind = self.kind()
            for batch in self._reported("standard input", self._of_lines(stream or sys.stdin.buffer, kind)):
                yield self._checked(batch, kind, "standard input", 0, read)
                read += len(batch[self.text[0]])
            return
        names: list[str] | None = None
        for path in self.files():
            start, kind = read, self.kind(path)
            for batch in self._reported(path, self._of_file(path, str(kind))):
                names = names or list(batch)
                if self.keep and list(batch) != names and set(batch) != set(names):
                    odd = sorted(set(batch) ^ set(names))[0]
                    raise ReadError(f"{path}: column {odd!r} is not in all files; give files of the same columns")
                chunk = self._checked(batch, kind, str(path), start, read)
                yield chunk
                read += len(chunk["row"])

    def _reported(self, shown: object, batches: Iterator[dict[str, list[Any]]]) -> Iterator[dict[str, list[Any]]]:
        try:
            yield from batches
        except ReadError as error:
            raise ReadError(error.about(shown)) from error

    def _of_file(self, path: Path, kind: str) -> Iterator[dict[str, list[Any]]]:
        if kind == "text":
            with open_file(path) as file:
                yield from self._line_batches(intact(file), kind)
        elif kind == SAVED:
            rows = saved_rows(path)
            self._need(rows.column_names)
            yield from dataset_batches(rows, self.size, None if self.keep else self.wanted)
        else:
            source = RowFile(path, kind, self.separator, self.quoting)
            yield from source.batches(self.size, self.wanted, self._need, self.keep)

    def _of_lines(self, stream: Any, kind: str | None) -> Iterator[dict[str, list[Any]]]:
        lines = BoundedStream(stream, closes=False) if hasattr(stream, "readline") else stream
        yield from self._line_batches(lines, kind)

    def _line_batches(self, lines: Iterable[bytes], kind: str | None) -> Iterator[dict[str, list[Any]]]:
        numbered = decoded_lines(lines)
        first = next(numbered, None)
        if first is None:
            return
        rows = chain([first], numbered)
        if kind == "text" or (kind is None and not first[1].lstrip().startswith("{")):
            self._need(TEXT)
            while batch := list(islice(rows, self.size)):
                yield {"text": [text for _, text in batch]}
        else:
            yield from json_batches(json_chunks(rows, self.size), self.wanted, self.keep)

    def _need(self, names: Sequence[str]) -> None:
        for column in self.wanted:
            if column not in names:
                near = difflib.get_close_matches(column, names, 1)
                hint = f"did you mean {near[0]!r}? " if near else "name another, or choose tasks that do without. "
                if separator := separator_hint(names):
                    hint = f"{separator}. "
                raise ReadError(f"there is no column {column!r}; {hint}The columns are: {listed(names)}")

    def _checked(
        self, batch: dict[str, list[Any]], kind: str | None, shown: str, start: int, read: int
    ) -> dict[str, Any]:
        """Check a batch of raw values.

        Args:
            start: number of rows before this file, from which its rows are counted in messages.
            read: number of rows before this batch.
        """

        def place(i: int) -> str:
            return f"{shown}: row {read - start + i + 1:,}"

        of_json = kind in ("json", None)
        values = {name: list(map(written, batch[name])) if of_json else batch[name] for name in self.wanted}
        if kind in SEPARATORS:
            for column in self.wanted:
                if None in values[column]:
                    raise ReadError(f"{place(values[column].index(None))} {lacks(column)}")
        count = len(batch[self.text[0]])
        chunk = checked_texts(values, self.text, self.id, range(read + 1, read + 1 + count), place, self.words)
        return chunk | ({"kept": batch} if self.keep else {})


@dataclass(frozen=True)
class TableSource:
    """Rows of a data set to predict, such as those that were cut off as a dev split; used as a RowSource.

    Attributes:
        rows: all columns, unchecked.
        numbers: the number of each row.
        name: the source's name in error messages.
        text, id, size, keep, words: as in RowSource.
    """

    rows: Dataset
    numbers: Sequence[int]
    name: str
    text: tuple[str, ...] = TEXT
    id: str | None = None
    size: int = 2048
    keep: bool = False
    words: bool = False

    @property
    def shown(self) -> str:
        """The source's name in error messages."""
        return self.name

    def files(self) -> list[Path]:
        """The files that are read while predicting: none."""
        return []

    def schema(self) -> pa.Schema:
        """Return the names and types of the columns."""
        return self.rows.features.arrow_schema.remove_metadata()

    def chunks(self, stream: Any = None) -> Iterator[dict[str, Any]]:
        """Yield chunks as `RowSource.chunks` does."""
        wanted = tuple(dict.fromkeys([*self.text, *([self.id] if self.id else [])]))
        for column in wanted:
            if column not in self.rows.column_names:
                raise InputError(f"{self.name}: there is no column {column!r}; {listed(self.rows.column_names)}")
        read = 0
        for batch in dataset_batches(self.rows, self.size, None if self.keep else wanted):
            numbers = self.numbers[read : read + len(batch[wanted[0]])]
            place = partial(_numbered, self.name, numbers)
            values = {name: batch[name] for name in wanted}
            chunk = checked_texts(values, self.text, self.id, numbers, place, self.words)
            yield chunk | ({"kept": batch} if self.keep else {})
            read += len(numbers)


def _numbered(name: str, numbers: Sequence[int], i: int) -> str:
    return f"{name}: row {numbers[i]:,}"


def checked_texts(
    values: dict[str, list[Any]], text: Sequence[str], id: str | None, rows: Sequence[int], place: Any, words: bool
) -> dict[str, Any]:
    """Return the chunk of checked texts that `RowSource.chunks` describes.

    Args:
        values: column → values, of texts and ids.
        rows: the rows' numbers.
        place: position in the batch → name of the row.
        words: whether a text may be a list of words.

    Raises:
        ReadError: a text or an id is no text, or has a character that texts can not have.
    """
    texts = {}
    for column, cells in values.items():
        check_texts(column, cells, place, words=words and column != id)
    for column in text:
        texts[column] = [clean_text(value) for value in values[column]]
        for i, value in enumerate(texts[column]):
            if "\0" in value:
                raise ReadError(f"{place(i)}: {column!r} holds a NUL character; remove it")
    chunk: dict[str, Any] = dict(zip(("text", "text_pair"), texts.values(), strict=False))
    chunk |= {"texts": texts, "row": list(rows)}
    if id is not None:
        chunk["id"] = ["" if value is None else str(value) for value in values[id]]
    return chunk


def dataset_batches(rows: Dataset, size: int, columns: Sequence[str] | None) -> Iterator[dict[str, list[Any]]]:
    """Yield batches of a data set's rows, column → values; `columns` None: all."""
    chosen = rows.with_format("arrow") if columns is None else rows.select_columns(list(columns)).with_format("arrow")
    for table in chosen.iter(size):
        yield table.to_pydict()
