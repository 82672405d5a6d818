"""The files of a split: a file, a list of files, a pattern such as `train-*.csv`, or folders of `save_to_disk`."""

from __future__ import annotations

import difflib
import glob
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset, Features, Json, Value

from ..errors import InputError, MissingFileError, ReadError
from .readers import FORMATS, SAVED, SEPARATORS, SUFFIXES, RowFile, file_format, lacks

Names = str | tuple[str, ...]
NO_ROW = "no row after the header"
NEAR = 3  # near names that an error lists


@dataclass(frozen=True)
class Parts:
    """The files that rows were read from, one after the other.

    Attributes:
        names: the files, as messages name them.
        rows: number of rows of each.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]

    def place(self, row: int) -> str:
        """Return the name of a row, counted from 0 over all files: `row 5`, or `row 2 of b.csv` of several files."""
        if len(self.names) == 1:
            return f"row {row + 1:,}"
        ends = list(accumulate(self.rows))
        part = bisect_right(ends, row)
        before = ends[part - 1] if part else 0
        return f"row {row - before + 1:,} of {self.names[part]}"

    @property
    def shown(self) -> str:
        """The file, or the number of files with the first and the last."""
        if len(self.names) == 1:
            return self.names[0]
        return f"{len(self.names):,} files, {self.names[0]} to {self.names[-1]}"


def as_names(names: Names | None) -> tuple[str, ...]:
    """Return one name or several as a tuple."""
    if names is None:
        return ()
    return (names,) if isinstance(names, str) else tuple(names)


def place_of(name: str, data_dir: str | Path | None) -> Path:
    """Return the path of a name that begins at `data_dir`."""
    return Path(data_dir or ".").expanduser() / Path(name).expanduser()


def is_saved(path: str | Path) -> bool:
    """Whether a path is a folder that `save_to_disk` of a data set, or of a dict of them, has written."""
    return os.path.isfile(os.path.join(path, "state.json")) or os.path.isfile(os.path.join(path, "dataset_dict.json"))


def files_of(names: Names | None, data_dir: str | Path | None, where: str = "") -> list[Path]:
    """Return the paths that names and patterns stand for, those of a pattern sorted.

    A name of an existing file is no pattern. A name of no file and without `*`, `?` and `[` is returned as it is.

    Raises:
        MissingFileError: a pattern matches no file.
        InputError: a file is named twice.
    """
    paths: list[Path] = []
    for name in as_names(names):
        path = place_of(name, data_dir)
        found = [path]
        if glob.has_magic(name) and not os.path.lexists(path):
            found = _matching(name, data_dir, where)
        for one in found:
            if any(_same(one, other) for other in paths):
                raise InputError(f"{where}: {list(as_names(names))} names {one} twice; name each file once")
            paths.append(one)
    return paths


def _matching(pattern: str, data_dir: str | Path | None, where: str) -> list[Path]:
    root = Path(data_dir or ".").expanduser()
    expanded = os.path.expanduser(pattern)
    matches = sorted(glob.glob(expanded, root_dir=root, recursive=True))
    paths = [root / match for match in matches]
    paths = [path for path in paths if path.is_file() or is_saved(path)]
    if paths:
        return paths
    folder = root / expanded
    while glob.has_magic(str(folder.relative_to(root) if folder.is_relative_to(root) else folder)):
        folder = folder.parent
    if not folder.is_dir():
        raise MissingFileError(f"{where}: {pattern!r} matches no file: there is no folder {folder}")
    inside = sorted(path.name for path in folder.iterdir())
    near = difflib.get_close_matches(os.path.basename(pattern), inside, NEAR, cutoff=0.3)
    hint = f"; the nearest names there are {', '.join(map(repr, near))}" if near else "; it has no file of a like name"
    raise MissingFileError(f"{where}: {pattern!r} matches no file in {folder}{hint}")


def _same(one: Path, other: Path) -> bool:
    return one == other or (os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other))


def refuse_overlap(files: dict[str, list[Path]], names: dict[str, Names], where: str) -> None:
    """Raise InputError if a split's pattern or list has a file of another split.

    Two splits may name the same single file, as a first try on few rows does.

    Args:
        files: split → its files.
        names: split → what the recipe says.
        where: the task, for messages.
    """
    splits = list(files)
    for i, split in enumerate(splits):
        for earlier in splits[:i]:
            single = all(len(files[each]) == 1 and place_is_literal(names[each]) for each in (split, earlier))
            shared = [path for path in files[split] if any(_same(path, other) for other in files[earlier])]
            if shared and not single:
                raise InputError(
                    f"{where}: data.{split}: {shared[0]} is also a file of data.{earlier}, which is "
                    f"{_shown(names[earlier])}; name other files, so that no row is in both"
                )


def place_is_literal(names: Names) -> bool:
    """Whether names are those of files, without patterns."""
    return not any(map(glob.has_magic, as_names(names)))


def _shown(names: Names) -> str:
    return repr(names if isinstance(names, str) else list(names))


@dataclass(frozen=True)
class FileForm:
    """How the files of a task or source are read.

    Attributes:
        texts: columns of texts and ids, whose values become strings.
        words: those of `texts` that may hold lists of strings instead.
        format, separator, quoting: as in `DataSpec`.
    """

    texts: tuple[str, ...]
    words: tuple[str, ...] = ()
    format: str | None = None
    separator: str | None = None
    quoting: str | None = None


def read_files(
    paths: Sequence[Path], form: FileForm, data_dir: str | Path | None, where: str
) -> tuple[Dataset, Parts, tuple[int, ...]]:
    """Read the rows of files, one file after the other.

    Args:
        paths: the files, or folders of `save_to_disk`.
        form: how they are read.
        data_dir: the folder where relative names begin, for messages.
        where: the place in the recipe, with which messages begin.

    Returns:
        The rows, their files, and the numbers (from 1, over all files) of the rows that lack their last fields.

    Raises:
        MissingFileError: a file does not exist.
        InputError: a file can not be read, or has other columns than the first.
    """
    parts: list[Dataset] = []
    kinds: list[str] = []
    short: list[int] = []
    before = 0
    for path in paths:
        rows, kind = read_file(path, form, data_dir, where)
        if kinds and kind != kinds[0]:
            raise InputError(f"{where}: {paths[0]} is {kinds[0]}, but {path} is {kind}; give files of one format")
        if kind in SEPARATORS:
            short += [before + row for row in _short_rows(rows, form.texts, f"{where}: {path}")]
        parts.append(rows)
        kinds.append(kind)
        before += len(rows)
    names = [str(path) for path in paths]
    if not before:
        raise InputError(f"{where}: {Parts(tuple(names), ()).shown} can not be read as {kinds[0]}: {NO_ROW}")
    if len(parts) == 1:
        return parts[0], Parts(tuple(names), (before,)), tuple(short)

    def read_as(number: int, features: Features) -> Dataset:
        source = RowFile(paths[number], kinds[number], form.separator, form.quoting)
        return source.dataset(form.texts, features) if kinds[number] == "json" else parts[number].cast(features)

    features = _common_features(parts, paths, kinds[0], form.texts, where)
    for number, rows in enumerate(parts):
        if rows.features != features:
            try:
                parts[number] = read_as(number, features)
            except Exception as error:  # Arrow has many
                what = f"{paths[number]} has other types of columns than {paths[0]}: {error}"
                raise InputError(f"{where}: {what}; write all files alike") from error
    bare = [path.name for path in paths]
    shown = bare if len(set(bare)) == len(bare) else names
    return datasets.concatenate_datasets(parts), Parts(tuple(shown), tuple(map(len, parts))), tuple(short)


def _common_features(
    parts: Sequence[Dataset], paths: Sequence[Path], kind: str, texts: Sequence[str], where: str
) -> Features:
    """Return types of columns that hold the values of all files: those of the first that has values."""
    columns = list(parts[0].features)
    for rows, path in zip(parts[1:], paths[1:], strict=True):
        missing = [name for name in parts[0].features if name not in rows.features]
        added = [name for name in rows.features if name not in columns]
        if kind == "json":  # objects may lack a key
            columns += added
            missing, added = [name for name in missing if name in texts], []
        if missing or added:
            what = f"lacks the column {missing[0]!r}" if missing else f"has the column {added[0]!r}, which"
            has = f"of {paths[0]}" if missing else f"{paths[0]} lacks"
            raise InputError(f"{where}: {path} {what} {has}; give files of the same columns")
    features = {}
    for name in columns:
        types = [rows.features[name] for rows in parts if name in rows.features]
        known = [feature for feature in types if feature != Value("null")]
        features[name] = known[0] if known else Value("null")
        if kind == "json" and any(feature != features[name] for feature in known):
            features[name] = Json()
        for feature, path in zip(types, paths, strict=False) if kind != "json" else ():
            if feature != Value("null") and _scale(feature) != _scale(features[name]):
                what = f"column {name!r} holds {feature}, but that of {paths[0]} {features[name]}; write them alike"
                raise InputError(f"{where}: {path}: {what}")
    return Features(features)


def _scale(feature: Any) -> Any:
    """What of a type must be the same in all files: not the number of bits."""
    dtype = feature.dtype if type(feature) is Value else None
    return dtype.removeprefix("large_").removeprefix("u").rstrip("0123456789") if dtype else feature


def read_file(path: Path, form: FileForm, data_dir: str | Path | None, where: str) -> tuple[Dataset, str]:
    """Read the rows of one file, or of a folder of `save_to_disk`, as `read_files` does; return them and the format.

    Raises:
        MissingFileError: there is no such file.
        InputError: it can not be read.
    """
    if is_saved(path) and form.format in (None, SAVED):
        try:
            return saved_rows(path), SAVED
        except ReadError as error:
            raise InputError(f"{where}: {error.about(path)}") from error
    if not os.path.isfile(path):
        at = "there is no such file"
        if os.path.isdir(path):
            at = "it is a folder, and none that save_to_disk of datasets has written"
        elif not os.path.isdir(path.parent):
            at = f"there is no folder {path.parent}"
        elif near := difflib.get_close_matches(path.name, sorted(p.name for p in path.parent.iterdir()), 1):
            at += f"; the nearest name in that folder is {near[0]!r}"
        raise MissingFileError(f"{where}: {path}: {at} (relative names begin at data_dir, which is {data_dir})")
    if not path.stat().st_size:
        raise InputError(f"{where}: {path} is empty")
    kind = form.format or file_format(path)
    if kind not in FORMATS or kind == SAVED:
        known = ", ".join(SUFFIXES)
        raise InputError(f"{where}: {path}: its suffix is none of {known}; give format, or a folder of save_to_disk")
    try:
        return RowFile(path, kind, form.separator, form.quoting).dataset(form.texts, words=form.words), kind
    except ReadError as error:
        about = error.about(path) if str(error).startswith("it ") else f"{path} can not be read as {kind}: {error}"
        raise InputError(f"{where}: {about}") from error


def saved_rows(path: Path) -> Dataset:
    """Load a folder of `save_to_disk`; its cache key is its content, as `datasets` has stored it.

    Raises:
        ReadError: it can not be loaded, or holds several splits.
    """
    try:
        rows = datasets.load_from_disk(str(path))
    except Exception as error:  # datasets, Arrow and JSON share no base class
        raise ReadError(f"it can not be loaded from the disk: {error}; save it again") from error
    if not isinstance(rows, Dataset):
        splits = ", ".join(rows)
        first = path / next(iter(rows), "train")
        raise ReadError(f"it holds the splits {splits}; name the folder of one, such as {first}")
    return rows.with_format(None)


def _short_rows(rows: Dataset, texts: Sequence[str], where: str) -> list[int]:
    """Return the numbers of the rows of a csv or tsv file that lack their last fields.

    Raises:
        InputError: a text or an id is among these fields.
    """
    for column in texts:
        short = _without(rows, column) if column in rows.column_names else []
        if short:
            raise InputError(f"{where}: row {short[0]:,} {lacks(column)}")
    return _without(rows, rows.column_names[-1])


def _without(rows: Dataset, column: str) -> list[int]:
    numbers: list[int] = (np.flatnonzero(rows.data.column(column).is_null()) + 1).tolist()
    return numbers
