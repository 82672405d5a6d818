"""Sources of a recipe: data that several tasks read, each with a label column of its own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..data.pools import TASK, Sources
from ..data.spec import LABEL_KEYS, OF_TASKS, DataSpec
from ..errors import Problem
from .fields import Report, read_fields, shown, some


def read_sources(values: Any, report: Report) -> dict[str, DataSpec]:
    """Read the section `sources`: name → where its texts are; `null` drops a source of the base."""
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        report.add(Problem(("sources",), f"is {shown(values)}, but must map names to the keys of data"), bad=True)
        return {}
    sources = {}
    for name, keys in values.items():
        path = ("sources", name)
        if keys is None:
            continue
        if isinstance(keys, dict):
            for key in (key for key in OF_TASKS if key in keys):
                remedy = "each of its tasks names its own: tasks.NAME.data." + key
                report.add(Problem((*path, key), f"is {shown(keys[key])}, but a source has none; {remedy}"), bad=True)
            keys = {key: value for key, value in keys.items() if key not in OF_TASKS}
        sources[name] = DataSpec(**read_fields(DataSpec, keys, path, report))
    return sources


def with_source(name: str, task: Any, sources: Mapping[str, DataSpec], report: Report) -> Any:
    """A task's tree with the keys of the source that its data names; the task itself if it names none."""
    data = task.get("data") if isinstance(task, dict) else None
    source = data.get("source") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(source, str):
        return task
    path = ("tasks", name, "data")
    if source not in sources:
        near = difflib.get_close_matches(source, list(sources), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        has = f"the recipe's sources are: {some(list(sources))}"
        if report.broken(("sources",)):  # which is told already
            report.bad.add((*path, "source"))
        else:
            report.add(Problem((*path, "source"), f"is {shown(source)}, but {hint}{has}"), bad=True)
        return task
    known = [entry.name for entry in fields(DataSpec)]
    for key in (key for key in data if key not in OF_TASKS and key in known):
        remedy = f"write it in sources.{source}.{key}, or give the task data without source"
        message = f"is {shown(data[key], key)}, but the task reads the texts of source {source!r}; {remedy}"
        report.add(Problem((*path, key), message), bad=True)
    of_source = {key: value for key, value in vars(sources[source]).items() if key not in OF_TASKS}
    return {**task, "data": {**of_source, **{key: value for key, value in data.items() if key not in of_source}}}


def without_sources(tree: dict[str, Any]) -> dict[str, Any]:
    """A recipe's tree in which each task that names a source has its own keys of data only."""
    sources = {
        name: {key: value for key, value in source.items() if key not in OF_TASKS}
        for name, source in tree["sources"].items()
    }
    tasks = {}
    for name, task in tree["tasks"].items():
        data = task["data"]
        if data["source"] is not None:
            data = {key: data[key] for key in OF_TASKS}
        tasks[name] = {**task, "data": data}
    return {**tree, "sources": sources, "tasks": tasks}


def drawn_sources(tasks: Mapping[str, Any], draw: str) -> Sources:
    """The sources whose tasks are drawn together: source → its tasks, of sources with two or more.

    Args:
        tasks: name → TaskRecipe.
        draw: `schedule.draw`.
    """
    sources: dict[str, list[str]] = {}
    for name, task in tasks.items():
        if task.data.source is not None and draw != TASK:
            sources.setdefault(task.data.source, []).append(name)
    return {source: tuple(names) for source, names in sources.items() if len(names) > 1}


def check_sources(sources: Mapping[str, DataSpec], tasks: Mapping[str, Any], report: Report) -> None:
    """Note everything that is wrong with sources whose values have the right types."""
    for name, source in sources.items():
        path = ("sources", name)
        if name in tasks:
            report.add(Problem(path, "is the name of a task, too; rename one of them"))
        if not report.broken(path):
            report.add_all(problem.under(*path) for problem in source.problems() if problem.path[0] not in LABEL_KEYS)
