"""The data sets that the trainer is given, of all tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..errors import InputError
from ..modeling.task_spec import TaskSpec
from .given_rows import prepare


def as_splits(tasks: Sequence[TaskSpec], data: Any, argument: str) -> Any:
    """Return the rows by task name. A model with one task also accepts the rows without the task's name.

    Raises:
        InputError: the model has several tasks and `data` is no mapping.
    """
    if data is None or isinstance(data, Mapping):
        return data
    if len(tasks) == 1:
        return {tasks[0].name: data}
    names = ", ".join(repr(task.name) for task in tasks[:20]) + (", …" if len(tasks) > 20 else "")
    problem = f"is a {type(data).__name__}, but must map names of tasks to their rows"
    raise InputError(f"{argument} {problem}: {{name: rows, …}} with the names {names}")


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
) -> tuple[dict[str, Dataset] | None, list[str]]:
    """Check and encode the data sets of all tasks (`prepare`).

    Args:
        split: `train`, for which every task needs rows, `eval` or `test`.
        datasets: task name → rows, or the rows alone if there is one task; None: no rows.

    Returns:
        Task name → encoded rows (None without rows), and sentences for the log.

    Raises:
        InputError: a name is not the name of a task, or a task lacks rows for training; or as `prepare` does.
    """
    argument = f"{split}_dataset"
    datasets = as_splits(tasks, datasets, argument)
    if datasets is None:
        return None, []
    refuse_unknown(tasks, datasets, argument)
    missing = [task.name for task in tasks if task.name not in datasets]
    if split == "train" and missing:
        raise InputError(f"train_dataset lacks the tasks {missing}; give rows for each, or drop the task")
    encoded, lines = {}, []
    for task in tasks:
        if task.name in datasets:
            where = f"{argument}[{task.name!r}]"
            encoded[task.name], task_lines = prepare(task, split, datasets[task.name], tokenizer, encoder, where)
            lines += task_lines
    return encoded, lines
