"""Sources: one set of texts with the labels of several tasks. They are read, checked and encoded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..errors import InputError
from ..modeling.task_spec import TaskSpec
from .collation import TEACHER, known_labels, label_array
from .cut_splits import cut_rows
from .leaks import with_leaks
from .pools import Pool, Sources, TaskSplits, copies_of, pools_of
from .spec import DataSpec
from .split_report import SplitReport
from .splits import LoadedTask, checked_split, load_task, named_splits, read_split
from .tokenize import EncodingReport, encode_dataset

NO_TASK = "no label of any task"  # why a row of a source is left out
Checked = tuple[Dataset, SplitReport]


def labelled_mask(split: Dataset) -> np.ndarray:
    """Which rows of a checked or encoded split have a label, `(rows,)`."""
    if "label" not in split.column_names:
        return np.zeros(len(split), dtype=bool)
    return known_labels(label_array(split))


def labelled_count(splits: Mapping[str, Dataset], sources: Sources) -> dict[str, int]:
    """Task → its number of rows; for a task of a source, of those with a label."""
    shared = {name for tasks in sources.values() for name in tasks}
    return {name: int(labelled_mask(rows).sum()) if name in shared else len(rows) for name, rows in splits.items()}


# ---- from files ----


def load_source(
    name: str, tasks: Mapping[str, tuple[TaskSpec, DataSpec]], data_dir: str | Path | None = None
) -> dict[str, LoadedTask]:
    """Load and check the splits of a source once, with the labels of each task.

    Row number i is the same text for all tasks; a label that a text lacks is missing. Train and dev rows without a
    label of any task are left out and reported.

    Args:
        name: the source's name.
        tasks: task name → the task and its data, which differ in the keys of labels only.

    Returns:
        Task name → LoadedTask.

    Raises:
        FileNotFoundError, OSError: as `load_task` does.
        ValueError: as `load_task` does; also if a task has no label at all.
    """
    if len({task.texts for task, _ in tasks.values()}) > 1:
        of = ", ".join(f"{task}: {spec.texts}" for task, (spec, _) in tasks.items())
        raise InputError(f"sources.{name}: its tasks take different numbers of texts ({of}); give them sources apart")
    data = next(iter(tasks.values()))[1]
    checked: dict[str, dict[str, Checked]] = {task: {} for task in tasks}
    for split in named_splits(data):
        raw, problems = read_split(f"sources.{name}", data, split, data_dir), []
        for task, (spec, of_task) in tasks.items():
            try:
                checked[task][split] = checked_split(spec, of_task, split, data_dir, raw)
            except ValueError as error:
                problems += str(error).splitlines()
        if problems:
            raise InputError("\n".join(problems))
        if split in ("train", "dev"):
            leave_out_blank(split, checked)
    specs = [spec for spec, _ in tasks.values()]
    cut = cut_rows(specs, [of_task["train"][0] for of_task in checked.values()], data.cuts) if data.cuts else None
    loaded = {}
    for task, (spec, of_task) in tasks.items():
        loaded[task] = load_task(spec, of_task, data_dir, checked[task], cut)
    _check_aligned(name, {task: each.splits for task, each in loaded.items()})
    _check_labelled(name, loaded)
    return loaded


def leave_out_blank(split: str, checked: Mapping[str, dict[str, Checked]]) -> None:
    """Leave out the rows of a split that have no label of any task; the reports of all tasks say so."""
    kept = np.logical_or.reduce([labelled_mask(of_task[split][0]) for of_task in checked.values()])
    if kept.all():
        return
    for of_task in checked.values():
        rows, report = of_task[split]
        numbers = np.asarray(rows.with_format(None)["row"][:])[~kept].tolist()
        blank = tuple(sorted(set(report.blank) - set(numbers)))
        left_out = {NO_TASK: tuple(numbers), **report.left_out}
        report = replace(report, kept=int(kept.sum()), left_out=left_out, blank=blank)
        of_task[split] = rows.select(np.flatnonzero(kept)), replace(report, untagged=blank if report.untagged else ())


def _check_aligned(name: str, splits: Mapping[str, Mapping[str, Dataset]]) -> None:
    """Raise InputError unless the splits of all tasks hold the same rows in the same order."""
    first, *others = splits.items()
    for split, rows in first[1].items():
        numbers = rows.with_format(None)["row"][:]
        for task, of_task in others:
            if split not in of_task or of_task[split].with_format(None)["row"][:] != numbers:
                raise InputError(
                    f"sources.{name}: the {split} rows of the tasks {first[0]!r} and {task!r} are not the same; give "
                    "each split a file, or set schedule.draw: task"
                )


def _check_labelled(name: str, loaded: Mapping[str, LoadedTask]) -> None:
    """Raise InputError if a task has no label in its train or dev rows, such as those of a small share."""
    for task, each in loaded.items():
        for split in ("train", "dev"):
            if split in each.splits and not labelled_mask(each.splits[split]).any():
                left = f"{len(each.splits[split]):,} {split} rows that are left"
                raise InputError(
                    f"sources.{name}: none of the {left} has a label of task {task!r}; give more rows (sample, "
                    "dev_share, leaks), or drop the task"
                )


def without_blanks(loaded: LoadedTask) -> LoadedTask:
    """A task of a source with its labelled train and dev rows only, as a task with data of its own has them."""
    splits = {
        name: rows.select(np.flatnonzero(labelled_mask(rows))) if name in ("train", "dev") else rows
        for name, rows in loaded.splits.items()
    }
    return LoadedTask(DatasetDict(splits), loaded.reports)


def with_leaks_of_pools(loaded: Mapping[str, LoadedTask], sources: Sources, drop: bool) -> dict[str, LoadedTask]:
    """Put the leaks between all pools into the reports of their train splits (`with_leaks`); a source counts once.

    Args:
        loaded: task name → its splits.
        sources: source → its tasks.
        drop: whether these train rows are dropped.

    Raises:
        InputError: a task would have no train rows.
    """
    pools = pools_of(loaded, sources)
    if len(pools) == 1 and not drop:
        return dict(loaded)
    found = with_leaks({pool.name: loaded[pool.tasks[0]] for pool in pools}, drop)
    changed = {}
    for pool in pools:
        first = found[pool.name]
        changed[pool.tasks[0]] = first
        for task in pool.tasks[1:]:
            splits, rows = loaded[task].splits, first.splits["train"].with_format(None)["row"][:]
            kept = np.flatnonzero(np.isin(splits["train"].with_format(None)["row"][:], rows))
            train = splits["train"] if len(kept) == len(splits["train"]) else splits["train"].select(kept)
            changed[task] = replace(loaded[task], splits=DatasetDict({**splits, "train": train}))
        if pool.is_shared:
            _check_labelled(pool.name, {task: changed[task] for task in pool.tasks})
    return {task: changed[task] for task in loaded}


# ---- encoding ----


def encode_pool(
    tasks: Sequence[TaskSpec],
    rows: Mapping[str, Dataset],
    encode: Callable[[TaskSpec, Dataset], tuple[Dataset, EncodingReport]],
) -> tuple[dict[str, Dataset], list[EncodingReport]]:
    """Encode the rows of a pool once for all tasks that read a text alike.

    Args:
        tasks: the tasks of the pool.
        rows: task name → checked rows; row number i is the same text for all tasks.
        encode: encodes the rows of one task.

    Returns:
        Task name → encoded rows, and a report on each encoding.

    Raises:
        InputError: a task that labels words reads other texts than the others: the words of a JSON list.
    """
    by_name = {task.name: task for task in tasks}
    encoded: dict[str, Dataset] = {}
    reports = []
    for names in copies_of(Pool("", tuple(by_name)), by_name):
        first = next((name for name in names if by_name[name].kind.units.column), names[0])  # which needs a column more
        _check_alike([by_name[name] for name in names], rows)
        encoded[first], report = encode(by_name[first], rows[first])
        reports.append(replace(report, task=", ".join(names)))
        for name in names:
            if name != first:
                encoded[name] = _with_labels_of(encoded[first], rows[name])
    return {name: encoded[name] for name in by_name}, reports


def _check_alike(tasks: Sequence[TaskSpec], rows: Mapping[str, Dataset]) -> None:
    """Raise InputError if tasks that label words and tasks that do not would give the tokenizer different texts."""
    by_column = {task.kind.units.column: task for task in tasks}
    if len(by_column) < 2:
        return
    texts = {
        task.name: [task.kind.units.plain(text) for text in rows[task.name].with_format(None)["text"][:]]
        for task in by_column.values()
    }
    (first, of_first), *others = texts.items()
    for name, of_other in others:
        pairs = enumerate(zip(of_first, of_other, strict=True))
        wrong = next((i for i, (one, other) in pairs if one != other), None)
        if wrong is not None:
            row = rows[first].with_format(None)["row"][wrong]
            raise InputError(
                f"row {row:,}: tasks {first!r} and {name!r} share a source, but read {of_first[wrong][:40]!r} and "
                f"{of_other[wrong][:40]!r}, because one reads JSON lists of words in texts; give lists of words in "
                "json or parquet, set schedule.draw: task, or give each task data of its own"
            )


def _with_labels_of(encoded: Dataset, rows: Dataset) -> Dataset:
    """Encoded rows with the labels of other checked rows of the same texts; tokens are not copied."""
    tokens = encoded.remove_columns([name for name in ("label", TEACHER) if name in encoded.column_names])
    if "label" not in rows.column_names:
        return tokens
    labels = rows.with_format(None)["label"][:]
    labelled: Dataset = tokens.add_column("label", labels, feature=rows.features["label"])
    labelled.info.description = rows.info.description  # the classes of the labels
    return labelled


def encode_tasks(
    tasks: Sequence[TaskSpec],
    raw: Mapping[str, Mapping[str, Dataset]],
    sources: Sources,
    tokenizer: PreTrainedTokenizerBase,
    encoder: PreTrainedConfig,
) -> tuple[dict[str, dict[str, Dataset]], list[EncodingReport]]:
    """Encode every split of every task, the texts of a source once for all tasks that read them alike.

    Args:
        raw: task name → split → checked rows.
        sources: source → its tasks.

    Returns:
        Task name → split → encoded rows, and reports on cut texts.
    """
    by_name, reports = {task.name: task for task in tasks if task.name in raw}, []
    encoded: dict[str, dict[str, Dataset]] = {name: {} for name in by_name}
    for pool in pools_of(by_name, sources):
        members = [by_name[name] for name in pool.tasks]
        for split in raw[pool.tasks[0]]:
            rows = {name: raw[name][split] for name in pool.tasks}
            encode = partial(_encode, tokenizer=tokenizer, encoder=encoder, split=split)
            of_split, split_reports = encode_pool(members, rows, encode)
            reports += split_reports
            for name, of_task in of_split.items():
                encoded[name][split] = of_task
    return encoded, reports


def _encode(
    task: TaskSpec, rows: Dataset, tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedConfig, split: str
) -> tuple[Dataset, EncodingReport]:
    return encode_dataset(task, rows, tokenizer, encoder, split)


def split_of(encoded: Mapping[str, Mapping[str, Dataset]], split: str, sources: Sources) -> TaskSplits:
    """The rows of one split of all tasks that have it."""
    rows = {name: splits[split] for name, splits in encoded.items() if split in splits}
    return TaskSplits(rows, {source: names for source, names in sources.items() if set(names) <= set(rows)})
