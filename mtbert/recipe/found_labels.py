"""Put the labels that are found in the data into a recipe that does not list them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..data.found_labels import find_labels
from ..data.labels import reader_class
from ..errors import Problem
from .fields import Report
from .parts import TaskRecipe


def with_labels(tasks: Mapping[str, TaskRecipe], data_dir: str | None, report: Report) -> dict[str, TaskRecipe]:
    """The tasks of a recipe, with labels from their data where none are listed and the problem type finds them."""
    complete = dict(tasks)
    for name, task in tasks.items():
        lacks = task.labels is None and reader_class(str(task.problem_type)).finds_labels
        if not lacks or report.broken(("tasks", name)) or task.data.problems():
            continue
        try:
            complete[name] = replace(task, labels=find_labels(name, str(task.problem_type), task.data, data_dir))
        except (OSError, ValueError) as error:
            for line in str(error).splitlines():
                report.add(Problem(("tasks", name, "labels"), f"are not listed, and can not be found: {line}"))
    return complete
