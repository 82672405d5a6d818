"""Sources that a caller passes to the trainer: one `datasets.Dataset` with the labels of several tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..errors import InputError
from ..modeling.task_spec import TaskSpec
from ..modeling.tokenization import LENGTHS
from .dataset_kind import check_kind
from .given_rows import LISTS, check_tokenised
from .labels import listed
from .pools import Sources, encoding_key, sources_of
from .sources import Checked, encode_pool, labelled_mask, leave_out_blank
from .spec import DataSpec
from .splits import check_rows
from .tokenize import GROUP, encode_dataset


@dataclass(frozen=True)
class Source:
    """Texts with the labels of several tasks, for the data sets of `MtBertTrainer`: `{"tickets": Source(rows, …)}`.

    Each text is encoded once for all tasks that read it alike. A missing label (None, an empty text, nan or -100) adds
    nothing to its task; train and eval rows without a label of any task are left out.

    Attributes:
        rows: the texts, or `input_ids` as `MtBertTrainer` takes them, and the labels; a column `group` as well.
        labels: task name → the column with its labels; or names of tasks, whose columns have their names.
        text: the column of the text, or the two columns of a pair; None: `text`, and `text_pair` of pairs.
        id: a column that identifies a row; None: there is none.
    """

    rows: Dataset
    labels: Mapping[str, str] | Sequence[str]
    text: str | tuple[str, ...] | None = None
    id: str | None = None

    @property
    def columns(self) -> dict[str, str]:
        """Task name → the column with its labels."""
        if isinstance(self.labels, Mapping):
            return dict(self.labels)
        if isinstance(self.labels, str) or len(set(self.labels)) < len(self.labels):
            raise InputError(
                f"Source: labels is {self.labels!r}, but must map tasks to columns, or list tasks once each"
            )
        return {name: name for name in self.labels}


def named_sources(tasks: Sequence[TaskSpec], data: Any, argument: str) -> dict[str, tuple[str, ...]]:
    """The sources that a caller's data sets name: source → its tasks, in the model's order.

    Args:
        data: name → rows or a Source; rows alone and None name no source.
        argument: the data sets' name in error messages.

    Raises:
        InputError: a source has the name of a task, has none or unknown tasks, or a task has rows twice.
    """
    if not isinstance(data, Mapping):
        return {}
    names = [task.name for task in tasks]
    sources = {name: tuple(of_task) for name, of_task in sources_of(data).items()}
    owners = {name: name for name in data if not isinstance(data[name], Source)}
    for name, source in data.items():
        if not isinstance(source, Source):
            continue
        if name in names:
            raise InputError(f"{argument}[{name!r}] is a Source, but {name!r} is the name of a task; rename the source")
        unknown = [task for task in source.columns if task not in names]
        if unknown or not source.columns:
            has = f"the model's tasks are: {', '.join(names)}"
            raise InputError(f"{argument}[{name!r}]: labels names {unknown or 'no task'}, but {has}")
        for task in source.columns:
            if task in owners:
                raise InputError(
                    f"{argument}: task {task!r} has rows twice, in {owners[task]!r} and in {name!r}; drop one of them"
                )
            owners[task] = name
        sources[name] = tuple(task for task in names if task in source.columns)
    return sources


def prepare_source(
    name: str,
    source: Source,
    tasks: Sequence[TaskSpec],
    split: str,
    tokenizer: PreTrainedTokenizerBase | None,
    encoder: PreTrainedConfig,
    where: str,
) -> tuple[dict[str, Dataset], list[str]]:
    """Check the rows of a source for each of its tasks and encode them, unless they are encoded already.

    Args:
        tasks: the source's tasks.
        split: `train`, `eval` or `test`.
        where: the data set's name in error messages.

    Returns:
        Task name → encoded rows, the same texts for all tasks; and sentences for the log.

    Raises:
        TypeError: the rows are no `datasets.Dataset`.
        ValueError: rows are wrong (see `check_rows` and `check_tokenised`), or the tasks can not share them.
    """
    check_kind(source.rows, where)
    if len({task.texts for task in tasks}) > 1:
        of = ", ".join(f"{task.name}: {task.texts}" for task in tasks)
        raise InputError(f"{where}: its tasks take different numbers of texts ({of}); give them sources apart")
    for task, column in source.columns.items():
        if column not in source.rows.column_names and split != "test":
            has = listed(source.rows.column_names)
            raise InputError(f"{where}: no column {column!r} for the labels of {task!r}; the columns are {has}")
    if "input_ids" in source.rows.column_names:
        return _tokenised(source, tasks, split, tokenizer, encoder, where), []
    if tokenizer is None:
        raise InputError("processing_class is missing; give the tokenizer that goes with the encoder")
    text = ("text", "text_pair")[: tasks[0].texts] if source.text is None else source.text
    checked: dict[str, dict[str, Checked]] = {}
    for spec in tasks:
        data = DataSpec(text=text, label=source.columns[spec.name], id=source.id)
        checked[spec.name] = {split: check_rows(spec, split, source.rows, data, where, masks=True)}
    if split != "test":
        leave_out_blank(split, checked)
    rows = {task: of_task[split][0] for task, of_task in checked.items()}
    if split == "train" and GROUP in source.rows.column_names:
        groups = source.rows.with_format(None)[GROUP][:]
        own = [groups[row - 1] for row in rows[tasks[0].name].with_format(None)["row"][:]]
        rows = {task: of_task.add_column(GROUP, own) for task, of_task in rows.items()}
    fixed: Any = tokenizer
    encoded, cuts = encode_pool(tasks, rows, lambda spec, texts: encode_dataset(spec, texts, fixed, encoder, split))
    reports = [of_task[split][1] for of_task in checked.values()]
    lines = [line for report in reports if report.left_out or report.blank for line in report.lines()]
    return encoded, [*lines, *filter(None, (cut.line() for cut in cuts))]


def _tokenised(
    source: Source,
    tasks: Sequence[TaskSpec],
    split: str,
    tokenizer: PreTrainedTokenizerBase | None,
    encoder: PreTrainedConfig,
    where: str,
) -> dict[str, Dataset]:
    """The token ids of a source with the labels of each task, checked and without padding."""
    if len({encoding_key(task)[2:] for task in tasks}) > 1:
        raise InputError(
            f"{where}: holds input_ids, but its tasks ({', '.join(task.name for task in tasks)}) read a pair in "
            "different ways (pair, separator or token_types); give texts, or each of them rows of its own"
        )
    names = (*LISTS, *LENGTHS, "row", "id", GROUP, *(task.kind.units.column for task in tasks))
    kept = [name for name in names if name in source.rows.column_names]
    encoded = {}
    for spec in tasks:
        column = source.columns[spec.name]
        has_labels = column in source.rows.column_names
        rows = source.rows.select_columns([*kept, *([column] if has_labels else [])])
        if has_labels and column != "label":
            rows = rows.rename_column(column, "label")
        encoded[spec.name] = check_tokenised(spec, split, rows, tokenizer, encoder, where)
    if split == "test":
        return encoded
    masks = {task: labelled_mask(rows) for task, rows in encoded.items()}
    if empty := [task for task, mask in masks.items() if not mask.any()]:
        raise InputError(f"{where}: no row has a label of {empty[0]!r}; check column {source.columns[empty[0]]!r}")
    labelled = np.logical_or.reduce(list(masks.values()))
    if labelled.all():
        return encoded
    return {task: rows.select(np.flatnonzero(labelled)) for task, rows in encoded.items()}


def check_aligned(splits: Mapping[str, Dataset], sources: Sources, argument: str) -> None:
    """Raise InputError if the tasks of a source have different numbers of rows."""
    for source, names in sources.items():
        counts = {name: len(splits[name]) for name in names}
        if len(set(counts.values())) > 1:
            raise InputError(f"{argument}: the tasks of source {source!r} have different numbers of rows: {counts}")
