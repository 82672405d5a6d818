"""Read the tables that a recipe is drafted for, as training reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Value

from ...data.cache import load_hub
from ...data.compression import open_file
from ...data.delimited import separator_hint
from ...data.label_forms import is_empty
from ...data.readers import SEPARATOR_NAMES, SEPARATORS, RowFile, file_format
from ...errors import FileError, InputError, ReadError
from .columns import Column, could_be_cell
from .files import WORDS, TableFiles, split_of
from .readings import LabelCells

SAMPLE = 10_000  # rows, at equal distances, by which columns are told apart and lengths are measured
HEAD = 5  # lines in which a separator is looked for
COURSE = "\tid\t"  # the beginning of the CS224N project's files
MARKS = (("\t", "tab"), (";", ";"), ("|", "|"), (",", ","))
HUB_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


@dataclass(frozen=True)
class Table:
    """A table of rows with its splits.

    Attributes:
        name: its name.
        splits: `train`, `dev` and `test` → rows, as far as there are.
        sources: split → files, folders or the names of a hub's splits.
        keys: further keys of a recipe's `data`: `hub`, `subset`, `format`, `separator`, `quoting`.
        remarks: sentences on how it is read.
    """

    name: str
    splits: dict[str, Dataset] = field(repr=False)
    sources: dict[str, tuple[Path | str, ...]]
    keys: dict[str, str]
    remarks: tuple[str, ...] = ()
    _last_cells: dict[str, dict[str, tuple[list[tuple[Any, int]], int]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def train(self) -> Dataset:
        """The rows of the train split."""
        return self.splits["train"]

    @property
    def on_hub(self) -> bool:
        """Whether it is a data set of a hub."""
        return "hub" in self.keys

    @cached_property
    def features(self) -> dict[str, Features]:
        """Split → its features. A Dataset copies those of all columns whenever it is asked for them."""
        return {split: rows.features for split, rows in self.splits.items()}

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns that all splits but `test` have, with cells of a sample of the train rows."""
        features = self.features["train"]
        names = [name for name in features if all(name in self.features[split] for split in self.labelled)]
        readable = [name for name in names if _is_readable(features[name])]
        try:
            cells = _spread(self.train).select_columns(readable).to_dict()
            return tuple(Column(name, tuple(cells.get(name, ({},))), _names(features[name])) for name in names)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self.shown('train')} holds text that is no UTF-8 ({error.reason}); write it so"
            ) from error

    @property
    def labelled(self) -> tuple[str, ...]:
        """The splits that need labels."""
        return tuple(split for split in ("train", "dev") if split in self.splits)

    def shown(self, split: str) -> str:
        """The files of a split for messages."""
        return ", ".join(map(str, self.sources[split]))

    def cells(self, name: str, split: str) -> tuple[list[tuple[Any, int]], int]:
        """Each different filled cell of a column in a split, with its rows; and the number of empty cells."""
        if name not in self._last_cells:
            self._last_cells.clear()  # the cells of all columns of a large table may not fit into memory
        splits = self._last_cells.setdefault(name, {})
        if split not in splits:
            splits[split] = self._count_cells(name, split)
        return splits[split]

    def _count_cells(self, name: str, split: str) -> tuple[list[tuple[Any, int]], int]:
        feature = self.features[split][name]
        minus_one = self.on_hub or split == "test" or isinstance(feature, ClassLabel)
        filled, empty = [], 0
        for cell, count in _counted(self.splits[split].data.column(name), feature):
            if is_empty(cell) or (minus_one and cell == -1):
                empty += count
            else:
                filled.append((cell, count))
        return filled, empty

    def label_cells(self, name: str) -> LabelCells:
        """The cells of a column in all splits; `empty` counts those of train."""
        together: dict[str, tuple[Any, int]] = {}
        for split in self.splits:
            if name in self.features[split]:
                for cell, count in self.cells(name, split)[0]:
                    key = f"{type(cell).__name__} {cell!r}"
                    together[key] = (cell, together.get(key, (cell, 0))[1] + count)
        names = _names(self.features["train"][name])
        return LabelCells(name, tuple(together.values()), self.cells(name, "train")[1], names)


def _spread(rows: Dataset) -> Dataset:
    """At most `SAMPLE` rows at equal distances."""
    if len(rows) <= SAMPLE:
        return rows.with_format(None)
    return rows.with_format(None).select(np.linspace(0, len(rows) - 1, SAMPLE).astype(int))


def _is_readable(feature: Any) -> bool:
    """Whether cells are texts, numbers, lists or objects; not pictures, sounds or bytes."""
    if isinstance(feature, datasets.Image | datasets.Audio | datasets.Video):
        return False
    return not (isinstance(feature, Value) and "binary" in feature.dtype)


def _names(feature: Any) -> tuple[str, ...] | None:
    return tuple(feature.names) if isinstance(feature, ClassLabel) else None


def _counted(column: pa.ChunkedArray, feature: Any) -> list[tuple[Any, int]]:
    """Each different cell of a column with the number of its rows."""
    if isinstance(feature, Value) and feature.dtype == "null":
        return []
    if isinstance(feature, Value | ClassLabel):
        counts = pc.value_counts(column)
        return list(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))
    cells: dict[str, tuple[Any, int]] = {}
    for chunk in column.chunks:
        for cell in chunk.to_pylist():
            key = repr(cell)
            cells[key] = (cell, cells.get(key, (cell, 0))[1] + 1)
    return list(cells.values())


# ---- files ----


def read_table(files: TableFiles) -> Table:
    """Read the splits of a table, all in the same way.

    Raises:
        InputError: a file can not be read exactly, or has no rows.
    """
    paths = [path for split in files.splits.values() for path in split]
    errors: list[ReadError] = []
    for keys, remark in _ways(paths[0]):
        try:
            splits = {split: _read_all(inside, keys) for split, inside in files.splits.items()}
        except ReadError as error:
            errors.append(error)
            continue
        remarks = (*files.remarks, *((remark,) if remark else ()))
        return Table(files.name, splits, dict(files.splits), keys, remarks)
    raise InputError(str(errors[0])) from errors[0]


def _read_all(paths: Sequence[Path], keys: dict[str, str]) -> Dataset:
    parts = [_read(path, keys) for path in paths]
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _read(path: Path, keys: dict[str, str]) -> Dataset:
    """Read a file, or a folder that `save_to_disk` wrote; a ReadError names it."""
    if path.is_dir():
        rows = datasets.load_from_disk(str(path))
    elif not path.stat().st_size:
        raise ReadError(f"{path} is empty; write a header and a row for each text")
    else:
        separator = keys.get("separator")
        kind = keys.get("format") or file_format(path) or ""
        try:
            rows = RowFile(path, kind, SEPARATOR_NAMES.get(separator, separator), keys.get("quoting")).dataset([])
        except ReadError as error:
            raise ReadError(error.about(path)) from error
    if not len(rows):
        raise ReadError(f"{path} has no row after the header")
    return rows


def _ways(path: Path) -> list[tuple[dict[str, str], str]]:
    """Ways to read a file, the likeliest first: keys of `data`, and a remark on them."""
    if path.is_dir() or file_format(path) not in SEPARATORS:
        return [({}, "")]
    head = _head(path)
    if head.startswith(COURSE) and file_format(path) == "csv":
        return [({"format": "cs224n"}, "the file is separated by tabs, as those of the CS224N project are")]
    mark, name = _separator(head, SEPARATORS[str(file_format(path))])
    keys = {} if mark == SEPARATORS[str(file_format(path))] else {"separator": name}
    ways = [(keys, ""), (keys | {"quoting": "backslash"}, "quotes within quotes are written with a backslash")]
    if mark == "\t":  # in files of other separators, a quote that does not close is a mistake
        text = "its quotes are read as text; if they enclose fields, write quoting: double, or backslash"
        ways.append((keys | {"quoting": "none"}, text))
    return ways


def _head(path: Path) -> str:
    """The first line of a file that is not blank."""
    try:
        with open_file(path) as file:
            for _ in range(HEAD):
                line = file.readline().decode("utf-8-sig", errors="replace").strip("\r\n")
                if line.strip():
                    return line
    except (OSError, EOFError):
        pass  # the reader says what is wrong
    return ""


def _separator(header: str, usual: str) -> tuple[str, str]:
    """The separator of a header and its name in a recipe: the most frequent mark outside quotes, or else the usual."""
    outside = re.sub(r'"[^"]*"', "", header)
    counts = {mark: outside.count(mark) for mark, _ in MARKS}
    best = max(counts, key=lambda mark: (counts[mark], mark == usual))
    best = best if counts[best] else usual
    return best, dict(MARKS)[best]


def check_header(table: Table, given: Sequence[str]) -> None:
    """Refuse a csv or tsv file whose first line is a row, not the names of columns.

    Args:
        table: the table.
        given: columns that a person has named; the header is right if it has one of them.

    Raises:
        InputError: the name of every column looks like one of its cells.
    """
    path = table.sources["train"][0]
    if table.on_hub or (isinstance(path, Path) and (path.is_dir() or file_format(path) not in SEPARATORS)):
        return
    if set(given) & set(table.train.column_names):
        return
    if table.columns and all(map(could_be_cell, table.columns)):
        shown = ", ".join(repr(column.name[:40]) for column in table.columns[:4])
        raise InputError(
            f"{path}: line 1 seems to be a row, not the names of the columns: {shown}; write their names into line 1, "
            "such as text,label (or name one with --text or --label if it is right)"
        )


def text_problem(table: Table) -> str:
    """The sentence that says why a table has no text, and what to do."""
    held = "; ".join(f"{column.name!r} holds {column.holds}" for column in table.columns[:12])
    held_by = {column.holds for column in table.columns}
    remedy = separator_hint(table.train.column_names) or "name the column with --text"
    if "objects" in held_by:
        remedy = "flatten the objects, one column a value"
    elif "lists" in held_by and len(table.train) == 1:
        remedy = "its only row holds all rows as lists; write one object a row"
    return f"{table.shown('train')}: no column seems to hold texts ({held}); {remedy}"


# ---- a hub ----


def read_hub(name: str, subset: str | None) -> Table:
    """Read a data set of a hub.

    Raises:
        InputError: it has several subsets and none is named, or no such one.
        FileError: it can not be loaded.
    """
    try:
        subsets = datasets.get_dataset_config_names(name)
    except Exception as error:  # datasets, huggingface_hub and httpx share no base class
        raise FileError(
            f"there is no file or folder {name!r}, and no data set of this name can be loaded from a hub: {error}"
        ) from error
    if subset is None and len(subsets) > 1 and "default" not in subsets:
        raise InputError(
            f"the data set {name} has several subsets; choose one with --subset: {', '.join(subsets[:30])}"
        )
    if subset is not None and subset not in subsets:
        raise InputError(f"the data set {name} has no subset {subset!r}; it has: {', '.join(subsets[:30])}")
    splits: dict[str, Dataset] = {}
    sources: dict[str, tuple[Path | str, ...]] = {}
    remarks = []
    for split_name in sorted(datasets.get_dataset_split_names(name, subset)):
        split = split_of(split_name)[0]
        if split is None or split in splits:
            remarks.append(f"the split {split_name!r} is not used")
            continue
        splits[split], sources[split] = load_hub(name, subset, split_name, None), (split_name,)
    if "train" not in splits:
        raise InputError(f"the data set {name} has no train split; its splits: {', '.join(sources) or 'none'}")
    ordered = {split: splits[split] for split in WORDS if split in splits}
    keys = {"hub": name} | ({} if subset is None else {"subset": subset})
    return Table(subset or name.rpartition("/")[2], ordered, sources, keys, tuple(remarks))
