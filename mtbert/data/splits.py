"""Load the splits of a task from a hub, from files or from the course's files, and check every row."""

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
from ..modeling.task_spec import TaskSpec
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
    reader_class,
    reader_of,
    text_problem,
    wrong_rows,
)
from .permutation import draw
from .readers import SEPARATORS, RowFile, lacks
from .spec import SPLITS, UNLABELLED, DataSpec
from .split_report import SplitReport


@dataclass(frozen=True)
class LoadedTask:
    """A task's checked splits, by `train`, `dev` and `test`, and a report on each file.

    The rows of `unlabelled` follow the rows of `train`, with missing labels (-100 or nan); their numbers in `row`
    continue those of the train file.
    """

    splits: DatasetDict
    reports: tuple[SplitReport, ...]


def load_task(task: TaskSpec, data: DataSpec, data_dir: str | Path | None = None) -> LoadedTask:
    """Load and check the splits that `data` names.

    Files are UTF-8 (a byte order mark is skipped). All fields of csv, tsv and course files are strings, so that texts
    such as `NA` are kept as written; so are the texts and ids of json files. Tokens are not changed: PTB escapes such
    as `-LRB-` stay. Lines end with a line feed, or a carriage return and a line feed. Any other carriage return is a
    character of its field, unless the header ends with one, as in files of old Macs.
    `format: cs224n` reads the course's files as the course's code does: tab-separated, whatever the suffix; further
    columns are allowed.

    Args:
        task: the task.
        data: the location of its rows.
        data_dir: the folder that file names are relative to; None: the current one.

    Returns:
        A LoadedTask; its splits have the columns that `check_rows` describes.

    Raises:
        FileNotFoundError: a file does not exist.
        OSError: a hub dataset can not be loaded.
        ValueError: `data` contradicts itself or `task`, a file can not be read, or rows are wrong (see `check_rows`).
    """
    problems = [problem.under("data") for problem in data.problems()]
    refuse([*problems, *_mismatch(task, data)], f"task {task.name!r}: ")
    splits, reports = {}, []
    for split in (*SPLITS, UNLABELLED):
        name = getattr(data, split)
        if not name:
            continue
        rows, source = read_split(task.name, data, split, data_dir)
        shown = source if data.hub else name
        short: tuple[int, ...] = ()
        if not data.hub and data.format_of(name) in SEPARATORS:
            short = _short_rows(rows, data, f"task {task.name!r}: data.{split}: {source}")
        splits[split], report = check_rows(task, split, rows, data, source)
        if split == "train" and data.sample is not None:
            where = f"task {task.name!r}: data.sample"
            splits[split], report = _sample(splits[split], report, data.sample, data.sample_seed, where)
        reports.append(replace(report, source=str(shown), short=short))
    if data.dev_share is not None:
        splits, reports = _split_off_dev(splits, reports, data, f"task {task.name!r}: data.dev_share")
    shared = shared_rows(splits, unordered=data.symmetric)
    reports = [replace(report, shared=shared.get(report.split, {})) for report in reports]
    unlabelled = splits.pop(UNLABELLED, None)
    if unlabelled:
        splits["train"] = _with_unlabelled(task, splits["train"], unlabelled, reports[0].read)
    if data.symmetric:
        splits["train"] = in_both_orders(splits["train"])
    return LoadedTask(DatasetDict(splits), tuple(reports))


def _sample(rows: Dataset, report: SplitReport, count: int, seed: int, where: str) -> tuple[Dataset, SplitReport]:
    """Draw `count` rows without replacement; return them in their order, and a report that says so.

    Raises:
        ValueError: there are fewer rows.
    """
    if count > len(rows):
        raise InputError(
            f"{where} is {count:,}, but {report.source} has only {len(rows):,} usable rows; give at most as many, or "
            "null for all"
        )
    return rows.select(draw(count, len(rows), seed)), replace(report, drawn=(count, seed))


def _split_off_dev(
    splits: dict[str, Dataset], reports: list[SplitReport], data: DataSpec, where: str
) -> tuple[dict[str, Dataset], list[SplitReport]]:
    """Move a random share of the training rows to a dev split, both in their order; the reports say so.

    Raises:
        ValueError: training or dev would have no row.
    """
    rows, report = splits["train"], reports[0]
    share: Any = data.dev_share  # a number
    count = round(share * len(rows))
    if not 0 < count < len(rows):
        raise InputError(
            f"{where} is {share}, which makes {count:,} dev rows of {len(rows):,} usable rows of {report.source}; "
            "training and dev need one row each"
        )
    dev = draw(count, len(rows), data.sample_seed)
    train = np.setdiff1d(np.arange(len(rows)), dev, assume_unique=True)
    parts = {"train": rows.select(train), "dev": rows.select(dev)}
    described = [replace(report, split=split, share=(len(part), data.sample_seed)) for split, part in parts.items()]
    return splits | parts, [*described, *reports[1:]]


def in_both_orders(pairs: Dataset) -> Dataset:
    """Return checked rows of pairs, followed by the same rows with their texts exchanged."""
    exchanged = pairs.rename_columns({"text": "text_pair", "text_pair": "text"})
    return datasets.concatenate_datasets([pairs, exchanged.select_columns(pairs.column_names)])


def _with_unlabelled(task: TaskSpec, train: Dataset, more: Dataset, numbered: int) -> Dataset:
    """Append the rows of `more` to `train`, with missing labels and row numbers that start after `numbered`."""
    blank = reader_class(task.kind.name)(task.kind.name, task.classes).blank
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
    """Read one more column of a split that `data` names, such as the group of each row.

    Returns:
        Row number, as in the `row` column of the checked split → value as text; a missing value is an empty string.

    Raises:
        ValueError: the split has no such column.
        FileNotFoundError, OSError: as `load_task` does.
    """
    rows, source = read_split(task.name, data, split, data_dir)
    if column not in rows.column_names:
        near = difflib.get_close_matches(column, rows.column_names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        where = f"task {task.name!r}, {split} split, {source}"
        raise InputError(f"{where}: no column {column!r}; the columns are {listed(rows.column_names)}{hint}")
    values = rows.with_format(None)[column][:]
    return {i: "" if value is None else str(value) for i, value in enumerate(values, start=1)}


def read_split(task: str, data: DataSpec, split: str, data_dir: str | Path | None) -> tuple[Dataset, str]:
    """Read an unchecked split of the task of this name; return it and its source for messages."""
    name: Any = data.source_of(split)
    where = f"task {task!r}: data.{split}"
    if data.hub:
        parts = [data.hub]
        parts += [f"{key} {getattr(data, key)}" for key in ("subset", "revision") if getattr(data, key)]
        return _read_hub(data.hub, data, name, where), f"{', '.join(parts)}, split {name}"
    path = _place(name, data_dir)
    return _read_file(path, data, data_dir, where), str(path)


def file_of(data: DataSpec, split: str, data_dir: str | Path | None) -> Path | None:
    """Return the path of a split's file; None if the data set is on a hub or has no such split."""
    name = data.source_of(split)
    return None if data.hub or not name else _place(name, data_dir)


def _place(name: str, data_dir: str | Path | None) -> Path:
    return Path(data_dir or ".").expanduser() / Path(name).expanduser()


def _read_hub(hub: str, data: DataSpec, split: str, where: str) -> Dataset:
    try:
        return load_hub(hub, data.subset, split, data.revision)
    except Exception as error:  # datasets, huggingface_hub and httpx share no base class
        kind = InputError if isinstance(error, ValueError) else FileError
        raise kind(
            f"{where}: split {split!r} of dataset {hub!r} (subset {data.subset!r}, revision {data.revision!r}) "
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
    kind = str(data.format_of(path))
    try:
        file = RowFile(path, kind, data.separator, data.quoting)
        rows = file.dataset([*data.text, *([data.id] if data.id else [])], words=data.text)
    except ReadError as error:
        about = error.about(path) if str(error).startswith("it ") else f"{path} can not be read as {kind}: {error}"
        raise InputError(f"{where}: {about}") from error
    if not len(rows):
        raise InputError(f"{where}: {path} can not be read as {kind}: no row after the header")
    return rows


def _short_rows(rows: Dataset, data: DataSpec, where: str) -> tuple[int, ...]:
    """Return the numbers of the rows of a csv or tsv file that lack their last fields.

    Raises:
        ValueError: a text or an id is among these fields.
    """
    for column in [*data.text, *([data.id] if data.id else [])]:
        short = _without(rows, column) if column in rows.column_names else ()
        if short:
            raise InputError(f"{where}: row {short[0]:,} {lacks(column)}")
    return _without(rows, rows.column_names[-1])


def _without(rows: Dataset, column: str) -> tuple[int, ...]:
    return tuple((np.flatnonzero(rows.data.column(column).is_null()) + 1).tolist())


def _unreadable(dataset: Dataset) -> int:
    """Return the number, from 1, of the first row with a text that is not UTF-8."""
    for row in range(len(dataset)):
        try:
            dataset[row]
        except UnicodeDecodeError:
            break
    return row + 1


def check_rows(
    task: TaskSpec, split: str, dataset: Dataset, data: DataSpec, source: str
) -> tuple[Dataset, SplitReport]:
    """Check every row of a split and convert its columns.

    White space around texts is removed. Rows without a label or with an empty text are left out and reported. A `test`
    split keeps all rows, since every row is predicted; some or all of its labels may be missing. The labels of an
    `unlabelled` split are not read, and its ids may be missing.

    In a multi-label task an empty list, or the text `[]`, means that no label is true; an empty string means that the
    row was not labelled. A cell with two readings, such as `[0, 1]` for two labels, is read in the form of the split's
    unambiguous rows; it is an error if there are none.

    Args:
        task: the task.
        split: `train`, `dev`, `test` or `unlabelled`.
        dataset: rows with the columns that `data` names; its format and further columns are ignored.
        data: names the columns.
        source: the data set's name in errors and in the report.

    Returns:
        The usable rows in their order, and a report. Columns: `text` (string); `text_pair` (string) for pairs;
        `label` (int64, float32 for a regression, `len(task.labels)` float32 0/1 for multi-label tasks; absent from a
        test split without labels and from an unlabelled one); `row` (int64, the row's number in the source, as in
        SplitReport); `id` (string) if `data.id` is given.

    Raises:
        TypeError: `dataset` is streamed, or no `datasets.Dataset`.
        ValueError: a column is missing, a label is invalid, a text holds a NUL character, or no row is usable.
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
        features["label"] = label_feature(task.kind.name)
    features |= {"row": Value("int64")} | ({"id": Value("string")} if data.id else {}) | {"_status": Value("uint16")}
    kwargs = {"text": data.text, "label": data.label, "id": data.id, "version": CHECKING_VERSION}
    kwargs |= {"problem_type": task.kind.name} if task.kind.units.column else {}  # else as in the cache

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
    except UnicodeDecodeError as error:  # Arrow reads texts of JSON and parquet without decoding them
        raise InputError(f"{where}: row {_unreadable(dataset):,} is no UTF-8 ({error.reason}); write it so") from error
    problems = wrong_rows(dataset, tuple(data.text), data.label, reader, status, where)
    if problems:
        raise InputError("\n".join(problems))
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
        rows = np.flatnonzero(mask & kept)
        if len(rows):
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
    """Raise TypeError if `dataset` is not a `datasets.Dataset`."""
    if isinstance(dataset, datasets.IterableDataset):
        raise InputTypeError(
            f"{where}: a streamed dataset is refused, since the plan needs the size of each task and the sampler "
            "random access to rows; load it without streaming"
        )
    if not isinstance(dataset, Dataset):
        kind = type(dataset).__name__
        ways = {"list": "from_list(rows)", "dict": "from_dict(columns)", "DataFrame": "from_pandas(frame)"}
        remedy = f"; write datasets.Dataset.{ways[kind]}" if kind in ways else ""
        raise InputTypeError(f"{where}: expected a datasets.Dataset, but got a {kind}{remedy}")


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
        if problem := text_problem(column, dataset.features[column]):
            raise InputError(f"{where}: {problem}")
    if not len(dataset):
        raise InputError(f"{where}: no usable row, since it has none at all")


def _mismatch(task: TaskSpec, data: DataSpec) -> list[Problem]:
    if len(data.text) == task.texts:
        return []
    columns = f"data.text names {len(data.text)}: {list(data.text)}; give as many columns as texts"
    return [Problem(("texts",), f"is {task.texts}, but {columns}")]
