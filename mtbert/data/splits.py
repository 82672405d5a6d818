"""Raw splits of a task, from a hub, from files or from the course's own files, checked row by row."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset, DatasetDict, Features, Value

from ..errors import FileError, InputError, InputTypeError, MissingFileError, Problem, ReadError, refuse
from ..modeling.configuration_mtbert import TaskSpec
from .cache import load_hub
from .delimited import separator_hint
from .duplicates import shared_rows
from .label_reading import LabelReader
from .labels import (
    CHECKING_VERSION,
    EMPTY,
    NO_LABEL,
    check_batch,
    label_feature,
    listed,
    mark_labels,
    read_decided,
    reader_of,
    wrong_rows,
)
from .readers import FORMATS, SEPARATOR_NAMES, SEPARATORS, SUFFIXES, RowFile, file_format, form_problems, lacks
from .split_report import SplitReport

SPLITS = ("train", "dev", "test")
UNLABELLED = "unlabelled"
TEXT_DTYPES = ("str", "large_str", "int", "uint", "float", "bool")


@dataclass(frozen=True)
class DataSpec:
    """Where a task's rows are, and which columns matter.

    Attributes:
        text: the text column, or the two columns of a pair.
        label: the label column; `LabelReader.of` says what its cells may hold.
        train: the training split: a file (relative to the recipe's `data_dir`) or, with `hub`, a split's name.
        dev: the split that evaluations, early stopping and the best checkpoint use.
        test: a split to predict; its label column may be absent.
        unlabelled: further texts for training, on which a teacher's predictions alone are learned (see
            `distillation`); its columns are those of `text`, labels in it are not read.
        hub: name of a dataset of the hub (or a local dataset folder), as `datasets.load_dataset` takes it.
        subset: the hub dataset's configuration, such as `sst2` of `glue`.
        revision: the hub dataset's revision.
        format: `csv`, `tsv`, `json` (lines), `parquet` or `cs224n` (the course's tab-separated .csv files); None: by
            the file's suffix. A file that is compressed (.gz, .bz2, .xz, .zip) is read as what it holds.
        id: a column that identifies a row in reports and prediction files.
        symmetric: whether the order of a pair's texts says nothing, so that training has every pair in both orders:
            twice as many rows, for the schedule too unless the task's `examples_per_epoch` says otherwise.
        separator: the character between the fields of csv and tsv files, such as `;`, `|` or `tab`; None: a comma in
            csv, a tab in tsv.
        quoting: how quotes are written in csv and tsv files: `double` (a quote within quotes is written twice),
            `backslash` (it is written `\\"`, and a backslash `\\\\`) or `none` (quotes are text, as in the files of
            GLUE and SNLI); None: `double`, but a tab-separated file whose quotes may be text is refused.
    """

    text: tuple[str, ...] | str = "text"
    label: str = "label"
    train: str | None = None
    dev: str | None = None
    test: str | None = None
    unlabelled: str | None = None
    hub: str | None = None
    subset: str | None = None
    revision: str | None = None
    format: str | None = None
    id: str | None = None
    symmetric: bool = False
    separator: str | None = None
    quoting: str | None = None

    def __post_init__(self):
        columns = (self.text,) if isinstance(self.text, str) else tuple(self.text)
        object.__setattr__(self, "text", columns)
        object.__setattr__(self, "separator", SEPARATOR_NAMES.get(self.separator, self.separator))

    def problems(self) -> list[Problem]:
        """One problem for each value that is wrong."""
        found: list[Problem] = []
        if len(self.text) not in (1, 2):
            found.append(Problem(("text",), f"names {len(self.text)} columns, but must name 1, or 2 for pairs"))
        if len(set(self.text)) != len(self.text):
            found.append(Problem(("text",), f"names column {self.text[0]!r} twice; a pair has two columns"))
        if self.symmetric and len(self.text) != 2:
            found.append(Problem(("symmetric",), f"is true, but is for pairs; text names {len(self.text)} column"))
        if self.label in self.text:
            found.append(Problem(("label",), f"and text both name column {self.label!r}"))
        if not self.train:
            found.append(Problem(("train",), "is missing; name a file or, with hub, a split"))
        if not self.hub:
            for key in ("subset", "revision"):
                if getattr(self, key) is not None:
                    found.append(Problem((key,), f"is {getattr(self, key)!r}, but is for hub datasets; give hub too"))
        if self.format is not None and self.format not in FORMATS:
            found.append(Problem(("format",), f"is {self.format!r}, but must be one of: {', '.join(FORMATS)}"))
        elif self.format is not None and self.hub:
            found.append(Problem(("format",), f"is {self.format!r}, but is for files; hub {self.hub!r} has its own"))
        elif not self.hub:
            for split in (*SPLITS, UNLABELLED):
                if (name := getattr(self, split)) and self.format_of(name) is None:
                    known = ", ".join(SUFFIXES)
                    found.append(Problem((split,), f"is {name!r}, whose suffix is none of {known}; give format"))
        names = [] if self.hub else [name for split in (*SPLITS, UNLABELLED) if (name := getattr(self, split))]
        kinds = ["hub"] if self.hub else [kind for name in names if (kind := self.format_of(name))]
        return found + form_problems(self.separator, self.quoting, kinds)

    def format_of(self, name: str) -> str | None:
        """The format of the file `name`: `format` or what its suffix says; None if neither does."""
        return self.format or file_format(name)


@dataclass(frozen=True)
class LoadedTask:
    """A task's checked splits, by `train`, `dev` and `test`, and the report of each file.

    The rows of `unlabelled` stand in `train`, behind its own, with labels that say so (-100, or nan); their numbers in
    `row` go on from those of the train file.
    """

    splits: DatasetDict
    reports: tuple[SplitReport, ...]


def load_task(task: TaskSpec, data: DataSpec, data_dir: str | Path | None = None) -> LoadedTask:
    """Load and check the splits that `data` names.

    Files are UTF-8 (a byte order mark is skipped). All fields of csv, tsv and course files are strings, so that texts
    such as `NA` stay what they are; so do the texts and ids of json files. Tokens are not touched: PTB escapes such as
    `-LRB-` stay. Lines end at a line feed, with a carriage return before it or not; a carriage return elsewhere is a
    character of its field, unless the header ends with one, as in files of old Macs.
    `format: cs224n` reads the course's files as its own code does: tab-separated, whatever the suffix and whatever
    further columns there are.

    Args:
        data_dir: the folder that relative file names begin at; None: the current one.

    Returns:
        A LoadedTask; its splits have the columns that `check_rows` describes.

    Raises:
        FileNotFoundError: a file is not there.
        OSError: a hub dataset can not be reached.
        ValueError: `data` contradicts itself or `task`, a file can not be read, or rows are wrong (see `check_rows`).
    """
    refuse([*(each.under("data") for each in data.problems()), *_mismatch(task, data)], f"task {task.name!r}: ")
    splits, reports = {}, []
    for split in (*SPLITS, UNLABELLED):
        if not (name := getattr(data, split)):
            continue
        rows, source = _read_split(task, data, split, data_dir)
        shown = source if data.hub else name
        short = ()
        if not data.hub and data.format_of(name) in SEPARATORS:
            short = _short_rows(rows, data, f"task {task.name!r}: data.{split}: {source}")
        splits[split], report = check_rows(task, split, rows, data, source)
        reports.append(replace(report, source=str(shown), short=short))
    shared = shared_rows(splits, unordered=data.symmetric)
    reports = [replace(report, shared=shared.get(report.split, {})) for report in reports]
    if more := splits.pop(UNLABELLED, None):
        splits["train"] = _with_unlabelled(task, splits["train"], more, reports[0].read)
    if data.symmetric:
        splits["train"] = in_both_orders(splits["train"])
    return LoadedTask(DatasetDict(splits), tuple(reports))


def in_both_orders(pairs: Dataset) -> Dataset:
    """Checked rows of pairs, and behind them the same rows with their texts exchanged."""
    exchanged = pairs.rename_columns({"text": "text_pair", "text_pair": "text"})
    return datasets.concatenate_datasets([pairs, exchanged.select_columns(pairs.column_names)])


def _with_unlabelled(task: TaskSpec, train: Dataset, more: Dataset, numbered: int) -> Dataset:
    """The rows of `train`, and behind them those of `more` without a label, their numbers after `numbered`."""
    blank = LabelReader(task.problem_type, task.labels or ()).blank
    columns = {"label": [blank] * len(more), "row": [numbered + row for row in more["row"]]}
    if "id" not in more.column_names:
        columns["id"] = [""] * len(more)
    for name in [name for name in columns if name in train.column_names]:
        rest = more.remove_columns(name) if name in more.column_names else more
        more = rest.add_column(name, columns[name], feature=train.features[name])
    return datasets.concatenate_datasets([train, more.select_columns(train.column_names)])


def load_column(
    task: TaskSpec, data: DataSpec, split: str, column: str, data_dir: str | Path | None = None
) -> dict[int, str]:
    """One more column of a split that `data` names, such as the group that a row belongs to.

    Returns:
        Row number, as in the `row` column of the checked split → the value as text; a missing one is empty.

    Raises:
        ValueError: there is no such column.
        FileNotFoundError, OSError: as `load_task` does.
    """
    rows, source = _read_split(task, data, split, data_dir)
    if column not in rows.column_names:
        near = difflib.get_close_matches(column, rows.column_names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        where = f"task {task.name!r}, {split} split, {source}"
        raise InputError(f"{where}: no column {column!r}; the columns are {listed(rows.column_names)}{hint}")
    values = rows.with_format(None)[column][:]
    return {i: "" if value is None else str(value) for i, value in enumerate(values, start=1)}


def _read_split(task: TaskSpec, data: DataSpec, split: str, data_dir: str | Path | None) -> tuple[Dataset, str]:
    """A split as it is in its source, and that source."""
    name, where = getattr(data, split), f"task {task.name!r}: data.{split}"
    if data.hub:
        parts = [data.hub, *(f"{key} {value}" for key in ("subset", "revision") if (value := getattr(data, key)))]
        return _read_hub(data, name, where), f"{', '.join(parts)}, split {name}"
    path = file_of(data, split, data_dir)
    return _read_file(path, data, data_dir, where), str(path)


def file_of(data: DataSpec, split: str, data_dir: str | Path | None) -> Path | None:
    """The file of a split; None if it is of a hub, or there is none."""
    name = getattr(data, split)
    return None if data.hub or not name else Path(data_dir or ".").expanduser() / Path(name).expanduser()


def _read_hub(data: DataSpec, split: str, where: str) -> Dataset:
    try:
        return load_hub(data.hub, data.subset, split, data.revision)
    except Exception as error:  # datasets, huggingface_hub and httpx share no base class
        kind = InputError if isinstance(error, ValueError) else FileError
        raise kind(
            f"{where}: split {split!r} of dataset {data.hub!r} (subset {data.subset!r}, revision {data.revision!r}) "
            f"can not be loaded: {type(error).__name__}: {error}\nCheck these names and the network; without one, load "
            "it once where there is a network and bring the cache (HF_HOME) along, or give local files instead of hub"
        ) from error


def _read_file(path: Path, data: DataSpec, data_dir: str | Path | None, where: str) -> Dataset:
    if not os.path.isfile(path):
        at = "it is a folder" if os.path.isdir(path) else "there is no such file"
        if not os.path.isdir(path.parent):
            at = f"there is no folder {path.parent}"
        elif near := difflib.get_close_matches(path.name, sorted(p.name for p in path.parent.iterdir()), 1):
            at += f"; the nearest name in that folder is {near[0]!r}"
        raise MissingFileError(f"{where}: {path}: {at} (relative names begin at data_dir, which is {data_dir})")
    if not path.stat().st_size:
        raise InputError(f"{where}: {path} is empty")
    kind = data.format_of(path)
    try:
        rows = RowFile(path, kind, data.separator, data.quoting).dataset([*data.text, *([data.id] if data.id else [])])
    except ReadError as error:
        about = error.about(path) if str(error).startswith("it ") else f"{path} can not be read as {kind}: {error}"
        raise InputError(f"{where}: {about}") from error
    if not len(rows):
        raise InputError(f"{where}: {path} can not be read as {kind}: no row after the header")
    return rows


def _short_rows(rows: Dataset, data: DataSpec, where: str) -> tuple[int, ...]:
    """Numbers of the rows of a csv or tsv file that lack their last fields.

    Raises:
        ValueError: a text or an id is among these fields.
    """
    for column in [*data.text, *([data.id] if data.id else [])]:
        if column in rows.column_names and (short := _without(rows, column)):
            raise InputError(f"{where}: row {short[0]:,} {lacks(column)}")
    return _without(rows, rows.column_names[-1])


def _without(rows: Dataset, column: str) -> tuple[int, ...]:
    return tuple((np.flatnonzero(rows.data.column(column).is_null()) + 1).tolist())


def _unreadable(dataset: Dataset) -> int:
    """The number, from 1, of the first row with a text that is no UTF-8."""
    for row in range(len(dataset)):
        try:
            dataset[row]
        except UnicodeDecodeError:
            break
    return row + 1


def check_rows(
    task: TaskSpec, split: str, dataset: Dataset, data: DataSpec, source: str
) -> tuple[Dataset, SplitReport]:
    """Check every row of a split and bring its columns into one form.

    Texts lose the white space around them. Rows without a label or with an empty text are left out and reported, but
    for a `test` split, whose every row is to be predicted: it may lack some labels or all. Of an `unlabelled` one the
    labels are not read, and ids may be missing. An empty list, or the text `[]`, is a multi-label example with no label
    true, an empty string one that was not labelled. Cells with two readings, such as `[0, 1]` of two labels, are read
    in the form of the split's rows that have one reading, and refused where there are none.

    Args:
        split: `train`, `dev`, `test` or `unlabelled`.
        dataset: rows with the columns that `data` names; formats and further columns do not matter.
        source: what errors and the report call the dataset.

    Returns:
        The usable rows in their order, and a report. Columns: `text` (string); `text_pair` (string) for pairs;
        `label` (int64, float32 for a regression, `len(task.labels)` float32 0/1 for multi-label tasks; absent from a
        test split without labels and from an unlabelled one); `row` (int64, the row's number in the source, as in
        SplitReport); `id` (string) if `data.id` is given.

    Raises:
        TypeError: `dataset` is streamed, or no `datasets.Dataset`.
        ValueError: a column is missing, a label is none of the task's, a text holds a NUL character, or no row is
            usable.
    """
    where = f"task {task.name!r}, {split} split, {source}"
    if split == UNLABELLED and isinstance(dataset, Dataset) and data.id not in dataset.column_names:
        data = replace(data, id=None)
    _check_dataset(task, split, dataset, data, where)
    labelled = data.label in dataset.column_names and split != UNLABELLED
    columns = dict.fromkeys([*data.text, *([data.label] if labelled else []), *([data.id] if data.id else [])])
    dataset = dataset.with_format(None).select_columns(list(columns))
    minus_one = split == "test" or data.hub is not None
    reader = reader_of(task, dataset, data.label, minus_one, where) if labelled else None

    features = {"text": Value("string"), "text_pair": Value("string")}
    features = {key: features[key] for key in list(features)[: len(data.text)]}
    if labelled:
        features["label"] = label_feature(task.problem_type)
    features |= {"row": Value("int64")} | ({"id": Value("string")} if data.id else {}) | {"_status": Value("uint16")}
    kwargs = {"text": data.text, "label": data.label, "id": data.id, "version": CHECKING_VERSION}

    def read(reader: LabelReader | None) -> tuple[Dataset, np.ndarray]:
        checked = dataset.map(
            check_batch,
            batched=True,
            with_indices=True,
            fn_kwargs=kwargs | {"reader": reader},
            remove_columns=dataset.column_names,
            features=Features(features),
            desc=f"Checking {task.name} {split}",
        )
        return checked, checked.data.column("_status").to_numpy()

    try:
        checked, status, reader = read_decided(read, reader)
    except UnicodeDecodeError as error:  # Arrow reads texts of JSON and parquet without looking at them
        raise InputError(f"{where}: row {_unreadable(dataset):,} is no UTF-8 ({error.reason}); write it so") from error
    if found := wrong_rows(dataset, data.text, data.label, reader, status, where):
        raise InputError("\n".join(found))
    reasons = {f"empty text in {column}": status & bit > 0 for column, bit in zip(data.text, EMPTY, strict=False)}
    if labelled:
        no_label = status & NO_LABEL > 0
        if split == "test" and no_label.all():
            checked = checked.remove_columns("label")
        reasons = {"no label": no_label, **reasons}
    if split == "test":
        reasons = {}
    left_out, kept = {}, np.ones(len(status), dtype=bool)
    for why, mask in reasons.items():
        if len(rows := np.flatnonzero(mask & kept)):
            left_out[why] = tuple((rows + 1).tolist())
            kept[rows] = False
    untagged = left_out.get("no label", ()) if task.kind.several else ()
    report = SplitReport(task.name, split, source, len(status), int(kept.sum()), left_out, untagged=untagged)
    if not report.kept:
        counts = ", ".join(f"{len(rows):,} {why}" for why, rows in left_out.items())
        raise InputError(f"{where}: no usable row in {report.read:,} ({counts}); check the columns and the file")
    checked = checked.remove_columns("_status")
    checked = checked if kept.all() else checked.select(np.flatnonzero(kept))
    if labelled:
        mark_labels(checked, task)
    return checked, report


def check_kind(dataset: Any, where: str) -> None:
    """TypeError for anything but a `datasets.Dataset`."""
    if isinstance(dataset, datasets.IterableDataset):
        raise InputTypeError(
            f"{where}: a streamed dataset is refused, since the plan needs the size of each task and the sampler "
            "random access to rows; load it without streaming"
        )
    if not isinstance(dataset, Dataset):
        raise InputTypeError(f"{where}: expected a datasets.Dataset, but got a {type(dataset).__name__}")


def _check_dataset(task: TaskSpec, split: str, dataset: Any, data: DataSpec, where: str) -> None:
    check_kind(dataset, where)
    refuse(_mismatch(task, data), f"task {task.name!r}: ")
    columns = dataset.column_names
    needed = [*(("text", column) for column in data.text), ("label", data.label)]
    needed += [("id", data.id)] if data.id else []
    for key, column in needed:
        if column not in columns and not (key == "label" and split in ("test", UNLABELLED)):
            near = difflib.get_close_matches(column, columns, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            if separator := separator_hint(columns):
                hint = f"; {separator}"
            raise InputError(f"{where}: no column {column!r} for {key}; the columns are {listed(columns)}{hint}")
    for column in data.text:
        kind = dataset.features[column]
        if not isinstance(kind, Value) or not kind.dtype.startswith(TEXT_DTYPES):
            raise InputError(
                f"{where}: column {column!r} for text holds {kind}, not strings; write every text as a string"
            )
    if not len(dataset):
        raise InputError(f"{where}: no usable row, since it has none at all")


def _mismatch(task: TaskSpec, data: DataSpec) -> list[Problem]:
    if len(data.text) == task.texts:
        return []
    columns = f"data.text names {len(data.text)}: {list(data.text)}; give as many columns as texts"
    return [Problem(("texts",), f"is {task.texts}, but {columns}")]
