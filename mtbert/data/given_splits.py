"""The data sets that the trainer is given, of all tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..errors import InputError
from ..modeling.task_spec import TaskSpec
from .given_rows import prepare
from .given_sources import Source, check_aligned, named_sources, prepare_source
from .pools import SOURCE, TASK, TaskSplits
from .sources import labelled_mask


def as_splits(tasks: Sequence[TaskSpec], data: Any, argument: str) -> Any:
    """Return the rows by name of task or source. One task, or one source, is also accepted without its name.

    Raises:
        InputError: the model has several tasks and `data` is no mapping.
    """
    if data is None or isinstance(data, Mapping):
        return data
    if isinstance(data, Source):
        return {SOURCE: data}
    if len(tasks) == 1:
        return {tasks[0].name: data}
    names = ", ".join(repr(task.name) for task in tasks[:20]) + (", …" if len(tasks) > 20 else "")
    problem = f"is a {type(data).__name__}, but must map names of tasks to their rows"
    raise InputError(f"{argument} {problem}: {{name: rows, …}} with the names {names}")


def training_sources(tasks: Sequence[TaskSpec], train_dataset: Any) -> Mapping[str, Sequence[str]]:
    """The sources that training rows name: source → its tasks (`named_sources`)."""
    return named_sources(tasks, as_splits(tasks, train_dataset, "train_dataset"), "train_dataset")


def refuse_unknown(tasks: Sequence[TaskSpec], given: Iterable[str], argument: str) -> None:
    """Raise InputError if a name is not the name of a task."""
    names = [task.name for task in tasks]
    unknown = [name for name in given if name not in names]
    if unknown:
        raise InputError(f"{argument} has {unknown}, but the model's tasks are: {', '.join(names)}")


def prepare_splits(
    tasks: Sequence[TaskSpec],
    split: str,
    datasets: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    encoder: PreTrainedConfig,
    draw: str = SOURCE,
) -> tuple[TaskSplits | None, list[str]]:
    """Check and encode the data sets of all tasks (`prepare`).

    Args:
        split: `train`, for which every task needs rows, `eval` or `test`.
        datasets: task name → rows, or the rows alone if there is one task; None: no rows. A Source, under a name of
            its own, gives the rows of several tasks; it may be given alone.
        draw: `task`: each task of a source has its labelled rows by itself.

    Returns:
        Task name → encoded rows with their sources (None without rows), and sentences for the log.

    Raises:
        InputError: a name is not the name of a task, or a task lacks rows for training; or as `prepare` does.
    """
    argument = f"{split}_dataset"
    datasets = as_splits(tasks, datasets, argument)
    if datasets is None:
        return None, []
    sources = named_sources(tasks, datasets, argument)
    given = {name: rows for name, rows in datasets.items() if isinstance(rows, Source)}
    alone = {name: rows for name, rows in datasets.items() if name not in given}
    refuse_unknown(tasks, alone, argument)
    with_rows = {*alone, *(task for name in given for task in sources[name])}
    missing = [task.name for task in tasks if task.name not in with_rows]
    if split == "train" and missing:
        raise InputError(f"train_dataset lacks the tasks {missing}; give rows for each, or drop the task")
    encoded: dict[str, datasets.Dataset] = {}
    lines: list[str] = []
    for name, source in given.items():
        members = [task for task in tasks if task.name in sources[name]]
        where = f"{argument}[{name!r}]"
        of_source, source_lines = prepare_source(name, source, members, split, tokenizer, encoder, where)
        encoded |= of_source
        lines += source_lines
    for task in tasks:
        if task.name in alone:
            where = f"{argument}[{task.name!r}]"
            encoded[task.name], task_lines = prepare(task, split, alone[task.name], tokenizer, encoder, where)
            lines += task_lines
    sources = {name: names for name, names in sources.items() if len(names) > 1}
    if draw == TASK:
        for name in (name for names in sources.values() for name in names):
            if split != "test":
                encoded[name] = encoded[name].select(np.flatnonzero(labelled_mask(encoded[name])))
        sources = {}
    check_aligned(encoded, sources, argument)
    return TaskSplits({task.name: encoded[task.name] for task in tasks if task.name in encoded}, sources), lines
