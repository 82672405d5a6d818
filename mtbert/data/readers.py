"""Read files of rows (csv, tsv, json and parquet, compressed or not), the same way for training and prediction."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Value
from datasets.builder import Key
from datasets.exceptions import DatasetGenerationError

from ..errors import Problem, ReadError
from . import json_rows
from .bounds import BoundedStream
from .cache import content_key
from .compression import COMPRESSED, intact, open_file
from .delimited import QUOTING, DelimitedRows, Dialect

SAVED = "saved"  # a folder of `save_to_disk`
FORMATS = ("csv", "tsv", "json", "parquet", "cs224n", SAVED)
SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
SEPARATORS = {"csv": ",", "tsv": "\t", "cs224n": "\t"}
SEPARATOR_NAMES: dict[str | None, str | None] = {"tab": "\t", "\\t": "\t"}
BLOCK = 1 << 20  # bytes
ROWS = 2000  # rows of a table; more make Python's garbage collector slow
SHORT = "so that their last are empty; if a text of theirs is cut at a line break, put it in quotes"
BROKEN_PARQUET = (OSError, ValueError, KeyError, NotImplementedError)
# Part of the cache key of a file's rows. Raise it by 1 if the same file now gives other rows, columns or types, or is
# rejected, so that rows read by an earlier version are not reused; tests/unit/data/test_reading_versions.py fails until
# you do.
READING_VERSION = 1


def file_format(name: str | Path) -> str | None:
    """Return the format that a file's suffix names, or None; a compression suffix is removed first."""
    path = Path(name)
    if path.suffix.lower() in COMPRESSED:
        path = path.with_suffix("")
    return SUFFIXES.get(path.suffix.lower())


def form_problems(separator: str | None, quoting: str | None, formats: Iterable[str]) -> list[Problem]:
    """Return a `Problem` for each invalid value of `separator` and `quoting`, given the files' formats."""
    problems, formats = [], sorted(set(formats))
    for key, value in (("separator", separator), ("quoting", quoting)):
        if value is not None and formats and not {"csv", "tsv"} & set(formats):
            problems.append(
                Problem((key,), f"is {value!r}, but is for csv and tsv files, not for {', '.join(formats)}")
            )
    if separator is not None and (len(separator) != 1 or separator in '"\\\r\n\0' or separator.isalnum()):
        problems.append(
            Problem(("separator",), f"is {separator!r}, but must be one character such as ';' or '|', or tab")
        )
    if quoting is not None and quoting not in QUOTING:
        problems.append(Problem(("quoting",), f"is {quoting!r}, but must be one of: {', '.join(QUOTING)}"))
    return problems


def lacks(column: str) -> str:
    """Return the error message for a row of a csv or tsv file that is too short to have the given column."""
    return (
        f"has fewer fields than the header, so that it lacks {column!r}; give it as many, and put a field that holds a "
        "line break in quotes"
    )


@dataclass(frozen=True)
class RowFile:
    """A file of rows.

    Attributes:
        path: the file's path.
        format: one of `FORMATS`.
        separator: the character between fields of a csv or tsv file; None: comma or tab.
        quoting: how quotes are written in a csv or tsv file, as in `Dialect`.
    """

    path: str | Path
    format: str
    separator: str | None = None
    quoting: str | None = None

    def schema(self, size: int = ROWS) -> pa.Schema:
        """Return the names and types of the columns: strings, but in parquet; those of json's first `size` rows.

        Raises:
            ReadError: the file's beginning can not be read.
        """
        if self.format == "parquet":
            with _parquet(self.path) as file:
                return file.schema_arrow.remove_metadata()
        with self._open() as file:
            if self.format == "json":
                first = next(_json_chunks(file, size), None)
                names = list(dict.fromkeys(chain.from_iterable(first.rows))) if first else []
            else:
                names = self._delimited(file, 1).names
        return pa.schema([(name, pa.string()) for name in names])

    def batches(
        self, size: int, columns: Sequence[str], check: Callable[[Sequence[str]], None], every: bool = False
    ) -> Iterator[dict[str, list[Any]]]:
        """Yield batches of at most `size` rows, as column name → values.

        Args:
            size: number of rows of a batch.
            columns: names of the columns to read. A field that a row of a csv or tsv file lacks is None.
            check: called with the names of all columns of a csv, tsv or parquet file before the first row is read.
            every: whether to read all columns, those of json with their values unchanged.

        Raises:
            ReadError: the file can not be read exactly.
        """
        if self.format == "parquet":
            with _parquet(self.path) as file:
                check(file.schema_arrow.names)
                for batch in _parquet_batches(file, size, None if every else columns):
                    yield batch.to_pydict()
        elif self.format == "json":
            with self._open() as file:
                yield from json_rows.json_batches(_json_chunks(file, size), columns, every)
        else:
            with self._open() as file:
                rows = self._delimited(file, size)
                check(rows.names)
                places = {column: rows.names.index(column) for column in (rows.names if every else columns)}
                for chunk in rows:
                    yield {column: chunk[place] for column, place in places.items()}
            if rows.short:
                short = f"{len(rows.short):,} of its rows have fewer fields than the header"
                warnings.warn(f"{self.path}: {short} (first: row {rows.short[0]:,}), {SHORT}", stacklevel=2)

    def dataset(self, texts: Sequence[str], features: Features | None = None, words: Sequence[str] = ()) -> Dataset:
        """Return all rows and columns, memory-mapped from a cache whose key is the file's content.

        Args:
            texts: text and id columns of a json file, whose values become strings as written in the file. All columns
                of a csv or tsv file are strings.
            features: types of the columns of a json file, which other files have, too; None: those of its values.
            words: those of `texts` that may hold lists of strings instead.

        Raises:
            ReadError: the file can not be read exactly.
        """
        texts, words = (sorted(texts), sorted(words)) if self.format == "json" else ([], [])
        parts = (READING_VERSION, content_key([self.path]), self.format, self.separator, self.quoting, texts)
        parts += (("words", *words),) if words else ()
        if features is not None:
            return _cached(_Builder(self.tables(texts, words, False, features), _key(*parts, features.to_dict())))
        try:
            return _cached(_Builder(self.tables(texts, words, False), _key(*parts)))
        except _Unfit:
            return _cached(_Builder(self.tables(texts, words, True), _key(*parts)))

    def _open(self) -> BoundedStream:
        suffix = "csv" if self.format == "cs224n" else self.format
        return open_file(self.path, lambda name: file_format(name) == suffix)

    def _delimited(self, file: BoundedStream, size: int = ROWS) -> DelimitedRows:
        separator = self.separator or SEPARATORS[self.format]
        # In many tab-separated files quotes are text. The program that wrote the course's files quotes fields.
        doubtful = separator == "\t" and self.format != "cs224n"
        dialect = Dialect(separator, self.quoting, doubtful)
        return DelimitedRows(intact(iter(lambda: file.read(BLOCK), b"")), dialect, size)

    def tables(
        self, texts: Sequence[str], words: Sequence[str], whole: bool, given: Features | None = None
    ) -> Iterator[Features | pa.Table]:
        """Yield the columns' types, then tables of rows.

        Args:
            texts, words: see `dataset`.
            whole: whether to derive the types of a json file from all its rows instead of its first ones.
            given: the types of a json file, if they are known.

        Raises:
            _Unfit: later rows of a json file need other types.
        """
        if self.format == "parquet":
            with _parquet(self.path) as file:
                try:
                    features = Features.from_arrow_schema(file.schema_arrow)
                except BROKEN_PARQUET as error:
                    raise ReadError(f"it can not be read as parquet: {error}; write other types of columns") from error
                yield features
                for batch in _parquet_batches(file, ROWS, None):
                    yield pa.Table.from_batches([batch]).cast(features.arrow_schema)
        elif self.format == "json":
            yield from self._json_tables(texts, words, whole, given)
        else:
            with self._open() as file:
                rows = self._delimited(file)
                features = Features({name: Value("string") for name in rows.names})
                yield features
                for chunk in rows:
                    yield pa.table([pa.array(column, pa.string()) for column in chunk], features.arrow_schema)

    def _json_tables(
        self, texts: Sequence[str], words: Sequence[str], whole: bool, given: Features | None
    ) -> Iterator[Features | pa.Table]:
        kinds = json_rows.Kinds()
        with self._open() as file:
            for chunk in islice(_json_chunks(file), None if whole else 1):
                kinds.add(chunk.rows)
        if not kinds.values:
            raise ReadError(f"it can not be read as json: there is no row; {json_rows.REMEDY}")
        features = given or kinds.features(texts, words)
        yield features
        with self._open() as file:
            for chunk in _json_chunks(file):
                kinds.add(chunk.rows)
                if given is None and kinds.features(texts, words) != features:
                    raise _Unfit
                yield json_rows.json_table(chunk, features, texts)


def _key(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class _Unfit(Exception):
    """The types derived from the first rows of a json file do not fit later rows."""


class _Builder(datasets.ArrowBasedBuilder):  # type: ignore[misc]  # datasets has no types
    """Writes the rows of a file to the cache of `datasets`, once for each key."""

    def __init__(self, parts: Iterator[Features | pa.Table], key: str):
        self.parts: Any = parts
        super().__init__(dataset_name="rows", hash=key)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo()

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        self.info.features = next(self.parts)
        return [datasets.SplitGenerator(name="train")]

    def _generate_tables(self) -> Iterator[tuple[Key, pa.Table]]:
        for number, table in enumerate(self.parts):
            yield Key(0, number), table


def _cached(builder: _Builder) -> Dataset:
    try:
        builder.download_and_prepare(verification_mode="no_checks")
    except DatasetGenerationError as error:
        cause = error.__cause__ or error
        if isinstance(cause, ReadError | _Unfit | OSError):
            raise cause from error
        raise ReadError(f"it can not be read: {type(cause).__name__}: {cause}; write the file again") from error
    if not builder.info.splits["train"].num_examples:  # datasets does not read files without rows
        return Dataset.from_dict({name: [] for name in builder.info.features}, features=builder.info.features)
    return builder.as_dataset(split="train")


def _json_chunks(file: Iterable[bytes], size: int = ROWS) -> Iterator[json_rows.JsonChunk]:
    return json_rows.json_chunks(json_rows.decoded_lines(intact(file)), size)


def _parquet(path: str | Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except BROKEN_PARQUET as error:
        raise ReadError(f"it can not be read as parquet: {error}; write the file again") from error


def _parquet_batches(file: pq.ParquetFile, size: int, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    batches, count = file.iter_batches(size, columns=columns), 0
    while True:
        try:
            batch = next(batches, None)
        except BROKEN_PARQUET as error:
            reason = " ".join(str(error).split())
            raise ReadError(
                f"it can not be read as parquet after row {count:,}: {reason}; write the file again"
            ) from error
        if batch is None:
            return
        yield batch
        count += len(batch)
