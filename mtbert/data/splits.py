"""Load the splits of a task from a hub, from files or from the course's files, and check every row."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, Value

from ..errors import FileError, InputError, refuse
from ..modeling.task_spec import TaskSpec
from .cache import load_hub
from .dataset_kind import check_kind as check_kind
from .delimited import separator_hint
from .duplicates import shared_rows
from .folds import hold_out
from .further_rows import in_both_orders as in_both_orders, with_unlabelled
from .held_out import cut_off, sample, split_off_dev
from .label_columns import columns_reader
from .label_forms import is_empty
from .label_reading import NONE, LabelReader
from .labels import (
    CHECKING_VERSION,
    EMPTY,
    NO_LABEL,
    UNCLEAR,
    check_batch,
    label_feature,
    listed,
    mark_labels,
    read_decided,
    reader_of,
    text_problem,
    wrong_rows,
)
from .loaded_task import LoadedTask as LoadedTask
from .row_files import Parts, files_of, read_files, refuse_overlap
from .spec import SPLITS, UNLABELLED, DataSpec
from .split_report import SplitReport


def load_task(
    task: TaskSpec,
    data: DataSpec,
    data_dir: str | Path | None = None,
    checked: Mapping[str, tuple[Dataset, SplitReport]] | None = None,
    cut: Mapping[str, np.ndarray] | None = None,
) -> LoadedTask:
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
        checked: split → its checked rows and their report; None: they are read (`checked_split`).
        cut: split → positions of its training rows, where it is cut from these (`dev: 10%`); None: by this task's
            labels alone.

    Returns:
        A LoadedTask; its splits have the columns that `check_rows` describes.

    Raises:
        FileNotFoundError: a file does not exist.
        OSError: a hub dataset can not be loaded.
        ValueError: `data` contradicts itself or `task`, a file can not be read, or rows are wrong (see `check_rows`).
    """
    where = f"task {task.name!r}"
    problems = [problem.under("data") for problem in data.problems()]
    refuse([*problems, *data.problems_with(task)], f"{where}: ")
    named = named_splits(data)
    scored = [split for split in named if split != UNLABELLED and not data.hub]
    files = {split: files_of_split(data, split, data_dir, f"{where}: data") for split in scored}
    refuse_overlap(files, {split: data.source_of(split) or () for split in scored}, where)
    splits, reports = {}, []
    for split in named:
        splits[split], report = checked[split] if checked else checked_split(task, data, split, data_dir)
        reports.append(report)
        if split == "train" and data.cuts:
            splits, reports = cut_off(task, splits, reports, data, cut)
        if split == "train" and data.sample is not None:
            splits[split], reports[0] = sample(
                splits[split], reports[0], data.sample, data.sample_seed, f"{where}: data.sample"
            )
    if data.dev_share is not None:
        splits, reports = split_off_dev(splits, reports, data, f"{where}: data.dev_share")
    if data.folds is not None:
        splits, reports = hold_out(splits, reports, data, f"{where}: data.folds")
    order = (*SPLITS, UNLABELLED)
    splits = {split: splits[split] for split in order if split in splits}
    shared = shared_rows(splits, unordered=data.symmetric)
    reports = [replace(report, shared=shared.get(report.split, {})) for report in reports]
    reports.sort(key=lambda report: order.index(report.split))
    unlabelled = splits.pop(UNLABELLED, None)
    if unlabelled:
        splits["train"] = with_unlabelled(task, splits["train"], unlabelled, reports[0].read)
    if data.symmetric:
        splits["train"] = in_both_orders(splits["train"])
    return LoadedTask(DatasetDict(splits), tuple(reports))


def checked_split(
    task: TaskSpec, data: DataSpec, split: str, data_dir: str | Path | None = None, shared: ReadSplit | None = None
) -> tuple[Dataset, SplitReport]:
    """Read a split that `data` names, and check its rows.

    Args:
        shared: the unchecked rows, which are those of several tasks: a row without a label is kept, with a missing one.
            None: they are read.
    """
    read = shared or read_split(f"task {task.name!r}: data", data, split, data_dir)
    source = read.parts.shown
    rows, report = check_rows(task, split, read.rows, data, source, read.parts, masks=shared is not None)
    shown = source if data.hub or len(read.parts.names) > 1 else data.names_of(split)[0]
    return rows, replace(report, source=shown, short=read.short, parts=read.parts)


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
    read = read_split(f"task {task.name!r}: data", data, split, data_dir)
    rows = read.rows
    if column not in rows.column_names:
        near = difflib.get_close_matches(column, rows.column_names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        where = f"task {task.name!r}, {split} split, {read.parts.shown}"
        raise InputError(f"{where}: no column {column!r}; the columns are {listed(rows.column_names)}{hint}")
    values = rows.with_format(None)[column][:]
    return {i: "" if value is None else str(value) for i, value in enumerate(values, start=1)}


@dataclass(frozen=True)
class ReadSplit:
    """Rows as they were read, unchecked; their files, and the numbers of those that lack their last fields."""

    rows: Dataset
    parts: Parts
    short: tuple[int, ...] = ()


def named_splits(data: DataSpec) -> list[str]:
    """The splits that are read from files or a hub, not cut from the training rows."""
    return [split for split in (*SPLITS, UNLABELLED) if getattr(data, split) and split not in data.cuts]


def read_split(owner: str, data: DataSpec, split: str, data_dir: str | Path | None) -> ReadSplit:
    """Read an unchecked split; a dev or test split that is cut from the training rows is read with all of these.

    Args:
        owner: where `data` stands in the recipe, with which messages begin, such as `task 'sst': data`.

    Raises:
        FileNotFoundError, OSError, ValueError: as `load_task` does.
    """
    where = f"{owner}.{split}"
    if data.hub:
        parts = [data.hub]
        parts += [f"{key} {getattr(data, key)}" for key in ("subset", "revision") if getattr(data, key)]
        name = data.names_of(split)[0]
        rows = _read_hub(data.hub, data, name, where)
        return ReadSplit(rows, Parts((f"{', '.join(parts)}, split {name}",), (len(rows),)))
    paths = files_of_split(data, split, data_dir, owner)
    return ReadSplit(*read_files(paths, data.file_form, data_dir, where))


def files_of_split(data: DataSpec, split: str, data_dir: str | Path | None, owner: str = "data") -> list[Path]:
    """Return the paths of a split's files; none if the data set is on a hub or has no such split.

    Raises:
        ValueError, FileNotFoundError: as `row_files.files_of` does.
    """
    return [] if data.hub else files_of(data.names_of(split), data_dir, f"{owner}.{split}")


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


def _unreadable(dataset: Dataset) -> int:
    """Return the number, from 1, of the first row with a text that is not UTF-8."""
    for row in range(len(dataset)):
        try:
            dataset[row]
        except UnicodeDecodeError:
            break
    return row + 1


def check_rows(
    task: TaskSpec,
    split: str,
    dataset: Dataset,
    data: DataSpec,
    source: str,
    parts: Parts | None = None,
    masks: bool = False,
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
        parts: the files of the rows, for errors that name the file of a row; None: one.
        masks: whether rows without a label are kept, with a missing one; the report names them.

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
    labelled = split != UNLABELLED and all(column in dataset.column_names for column in data.label_columns)
    if labelled and split == "test" and data.empty == NONE:  # labels that are kept secret are none
        labelled = not all(
            is_empty(cell) for column in data.label_columns for cell in dataset.with_format(None)[column]
        )
    label_columns = data.label_columns if labelled else ()
    columns = dict.fromkeys([*data.text, *label_columns, *([data.id] if data.id else [])])
    dataset = dataset.with_format(None).select_columns(list(columns))
    reader = None
    if labelled and isinstance(data.label, str):
        minus_one = split == "test" or data.hub is not None
        reader = reader_of(task, dataset, data.label, minus_one, where, data.label_separator, data.empty)
    elif labelled:
        reader = columns_reader(task, dataset, label_columns, data.empty, where)
    reader = reader.with_masks() if reader and masks else reader

    features = {"text": Value("string"), "text_pair": Value("string")}
    features = {key: features[key] for key in list(features)[: len(data.text)]}
    if labelled:
        features["label"] = label_feature(task.kind.name)
    features |= {"row": Value("int64")} | ({"id": Value("string")} if data.id else {}) | {"_status": Value("uint32")}
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
    if split == "test":  # a row whose cells are all empty is one to predict
        status = np.where(status & NO_LABEL, status & ~np.uint32(UNCLEAR), status)
    place = (parts or Parts((source,), (len(status),))).place
    problems = wrong_rows(dataset, tuple(data.text), str(data.label), reader, status, where, place)
    if problems:
        raise InputError("\n".join(problems))
    reasons = {f"empty text in {column}": status & bit > 0 for column, bit in zip(data.text, EMPTY, strict=False)}
    if labelled:
        no_label = status & NO_LABEL > 0
        if split == "test" and no_label.all():
            checked = checked.remove_columns("label")
        reasons = reasons if masks else {"no label": no_label, **reasons}
    if split == "test":
        reasons = {}
    left_out, kept = {}, np.ones(len(status), dtype=bool)
    for why, mask in reasons.items():
        rows = np.flatnonzero(mask & kept)
        if len(rows):
            left_out[why] = tuple((rows + 1).tolist())
            kept[rows] = False
    blank = tuple((np.flatnonzero(kept & no_label) + 1).tolist()) if masks and labelled and split != "test" else ()
    untagged = (blank or left_out.get("no label", ())) if task.kind.several and data.empty is None else ()
    count = int(kept.sum())
    report = SplitReport(task.name, split, source, len(status), count, left_out, untagged=untagged, blank=blank)
    if masks and blank and len(blank) == count:
        raise InputError(f"{where}: column {data.label!r} has no label in {count:,} usable rows; check it, or the file")
    if not report.kept:
        counts = ", ".join(f"{len(rows):,} {why}" for why, rows in left_out.items())
        raise InputError(f"{where}: no usable row in {report.read:,} ({counts}); check the columns and the file")
    checked = checked.remove_columns("_status")
    checked = checked if kept.all() else checked.select(np.flatnonzero(kept))
    if labelled:
        mark_labels(checked, task)
    return checked, report


def _check_dataset(task: TaskSpec, split: str, dataset: Any, data: DataSpec, where: str) -> None:
    check_kind(dataset, where)
    refuse(data.problems_with(task), f"task {task.name!r}: ")
    columns = dataset.column_names
    may_lack = split in ("test", UNLABELLED) and not any(column in columns for column in data.label_columns)
    labels = () if may_lack or split == UNLABELLED else data.label_columns
    needed = [*(("text", column) for column in data.text), *(("label", column) for column in labels)]
    needed += [("id", data.id)] if data.id else []
    for key, column in needed:
        if column not in columns:
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
