"""Find the rows of a split that the recipe of a run names (`mtbert predict --split test`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.spec import DataSpec
from ..data.splits import files_of_split, load_task, read_split
from ..data.streaming import RowSource, TableSource
from ..errors import InputError
from ..modeling.task_spec import TaskSpec
from ..recipe import Recipe, load_recipe
from ..recipe.preflight import load_rows
from .prediction_plan import PredictionPlan
from .saved_recipe import SavedData


def plan_split(
    tasks: Sequence[TaskSpec],
    saved: SavedData,
    split: str,
    id: str | None,
    every_task: bool,
    size: int,
    keep: bool,
    data_dir: str | Path | None = None,
) -> PredictionPlan:
    """Plan the prediction of all rows of a split, labelled or not.

    Args:
        tasks: the tasks to predict; their splits must be the same rows.
        id: column of the ids; None: the recipe's; an empty text: rows have numbers.
        every_task: whether all tasks of the checkpoint were asked for; those without such a split are then left out.
        data_dir: folder of the files; None: the recipe's.

    Raises:
        InputError: a task that was asked for has no such split, or the tasks' rows are not the same.
        ReadError, FileNotFoundError, OSError: the rows can not be read.
    """
    data_dir = saved.data_dir if data_dir is None else data_dir
    lacking = [task.name for task in tasks if task.name not in saved.data or not _has(saved.data[task.name], split)]
    chosen = [task for task in tasks if task.name not in lacking]
    if not chosen or (lacking and not every_task):
        what = f"the recipe {saved.path} names no {split} split of task {lacking[0]!r}"
        key = saved.data[lacking[0]].key(lacking[0]) if lacking[0] in saved.data else f"tasks.{lacking[0]}.data"
        raise InputError(f"{what}; give a file in place of --split, or name it there: {key}.{split}")
    recipe = None
    if any(saved.data[task.name].source and _is_cut(saved.data[task.name], split) for task in chosen):
        recipe = load_recipe(saved.path, [] if data_dir is None else [f"--data_dir={data_dir}"])
    drawn = recipe.drawn_sources if recipe else {}
    source_of = {name: source for source, names in drawn.items() for name in names}
    groups: dict[Any, list[TaskSpec]] = {}
    for task in chosen:
        groups.setdefault(_rows_of(saved.data[task.name], split, source_of.get(task.name)), []).append(task)
    if len(groups) > 1:
        ways = "; or ".join(f"--tasks {','.join(task.name for task in group)}" for group in groups.values())
        raise InputError(f"the {split} splits of the tasks are different rows; choose tasks of the same: {ways}")
    columns = {task.name: tuple(saved.data[task.name].text) for task in chosen}
    texts = tuple(dict.fromkeys(column for task_columns in columns.values() for column in task_columns))
    data = saved.data[chosen[0].name]
    id = data.id if id is None else id or None
    notes = [f"left out, since they have no {split} split: {', '.join(lacking)}"] if lacking else []
    if data.hub or _is_cut(data, split):
        source: Any = _table(chosen[0], data, split, data_dir, recipe)
        source = replace(source, text=texts, id=id, size=size, keep=keep)
    else:
        files = tuple(map(str, files_of_split(data, split, data_dir, f"task {chosen[0].name!r}: data")))
        source = RowSource(files, texts, id, data.format, size, data.separator, data.quoting, keep)
    return PredictionPlan(source, columns, notes)


def _has(data: DataSpec, split: str) -> bool:
    return bool(data.source_of(split))


def _is_cut(data: DataSpec, split: str) -> bool:
    cuts = {"dev": data.is_share("dev") or data.folds is not None, "test": data.is_share("test")}
    return cuts[split] if split in cuts else any(cuts.values())


def _rows_of(data: DataSpec, split: str, source: str | None) -> Any:
    """What two tasks have in common whose splits are the same rows; a source that is drawn is cut for all its tasks."""
    same = (data.names_of(split), data.hub, data.subset, data.revision, data.format, data.separator, data.quoting)
    drawn = (
        source or data.label,
        data.text,
        data.sample,
        data.sample_seed,
        data.dev_share,
        data.folds,
        data.fold,
        tuple(data.cuts.items()),
    )
    return same, data.id, drawn if _is_cut(data, split) else None


def _table(
    task: TaskSpec, data: DataSpec, split: str, data_dir: str | Path | None, recipe: Recipe | None
) -> TableSource:
    read = read_split(f"task {task.name!r}: data", data, split, data_dir)
    numbers = list(range(1, len(read.rows) + 1))
    if _is_cut(data, split):
        if recipe:
            loaded = load_rows(recipe, [task], masked=True)[task.name]
        else:
            loaded = load_task(task, replace(data, symmetric=False, unlabelled=None), data_dir)
        numbers = loaded.splits[split].with_format(None)["row"][:]
    rows = read.rows.with_format(None).select([number - 1 for number in numbers])
    return TableSource(rows, numbers, read.parts.shown)
