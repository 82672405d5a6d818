"""What users write for settings and data in Python, brought into the form that the trainer takes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar, get_type_hints

import numpy as np

from ..data.sampling import Schedule
from ..errors import InputError
from ..modeling.config_checks import type_problems
from ..modeling.configuration_mtbert import TaskSpec
from .arguments import TaskTraining
from .optimizers import OptimizerSettings

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class MultiTaskSettings:
    """How a run trains its tasks, apart from the methods it uses and from `MtBertTrainingArguments`.

    Attributes:
        schedule: which tasks' rows a step holds.
        tasks: by task name what differs from the defaults of `TaskTraining`.
        optimizer: learning rates by part, layer and task.
    """

    schedule: Schedule = field(default_factory=Schedule)
    tasks: Mapping[str, TaskTraining] = field(default_factory=dict)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)


def as_settings(kind: type[Settings], value: Any, argument: str) -> Settings | None:
    """Settings of a class: given as such, as a mapping of its fields, or as the text of its first field.

    `schedule="annealed"`, `schedule={"name": "annealed"}` and `schedule=Schedule("annealed")` mean the same.

    Raises:
        InputError: for a field that the class does not have, and for a value of another type.
    """
    if value is None or isinstance(value, kind):
        return value
    names = [each.name for each in fields(kind)]
    if isinstance(value, str) and get_type_hints(kind)[names[0]] is str:
        value = {names[0]: value}
    if not isinstance(value, Mapping):
        given = f"but is of the type {type(value).__name__}"
        raise InputError(f"{argument} must be a {kind.__name__} or a mapping of its fields, {given}")
    if unknown := [name for name in value if name not in names]:
        near = difflib.get_close_matches(str(unknown[0])[:100], names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"{argument} has unknown fields {unknown}; {hint}known ones: {', '.join(names)}")
    settings = kind(**value)
    if problems := type_problems(settings, f"{argument}."):
        raise InputError("\n".join(problems))
    return settings


def as_task_training(tasks: Sequence[TaskSpec], given: Any) -> dict[str, TaskTraining]:
    """Settings by task name; class weights as a list in the order of the task's labels.

    Args:
        given: task's name → `TaskTraining`, or a mapping of its fields. Class weights may be an array, or a mapping of
            labels to numbers.

    Raises:
        InputError: for another form, and for weights that do not name the task's labels.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"task_training must map names of tasks to TaskTraining, but is a {type(given).__name__}")
    labels = {task.name: task.labels or () for task in tasks}
    found = {}
    for name, value in given.items():
        where = f"task_training[{name!r}]"
        if isinstance(value, TaskTraining):
            weights = as_class_weights(value.class_weights, labels.get(name, ()), f"{where}.class_weights")
            value = replace(value, class_weights=weights)
        elif isinstance(value, Mapping) and "class_weights" in value:
            weights = as_class_weights(value["class_weights"], labels.get(name, ()), f"{where}.class_weights")
            value = {**value, "class_weights": weights}
        found[name] = as_settings(TaskTraining, value, where) or TaskTraining()
    return found


def as_class_weights(weights: Any, labels: Sequence[str], where: str) -> Any:
    """A number for each label, from a sequence, an array, a tensor or a mapping of labels; others as they are."""
    if isinstance(weights, Mapping):
        by_name = {str(name): weight for name, weight in weights.items()}
        if set(by_name) != set(labels):
            raise InputError(f"{where} is for {list(by_name)}, but must have a number for each of {list(labels)}")
        weights = [by_name[label] for label in labels]
    if weights is None or isinstance(weights, str | tuple):
        return weights
    try:
        numbers = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError):
        return weights  # which the settings' own checks refuse
    if numbers.ndim != 1:
        raise InputError(f"{where} has the shape {numbers.shape}, but must have a number for each label")
    return tuple(numbers.tolist())


def as_splits(tasks: Sequence[TaskSpec], data: Any, argument: str) -> Any:
    """Rows by task name; the rows alone will do where the model has one task.

    Raises:
        InputError: for rows without the name of their task.
    """
    if data is None or isinstance(data, Mapping):
        return data
    if len(tasks) == 1:
        return {tasks[0].name: data}
    names = ", ".join(repr(task.name) for task in tasks[:20]) + (", …" if len(tasks) > 20 else "")
    given = f"is a {type(data).__name__}, but must map names of tasks to their rows"
    raise InputError(f"{argument} {given}: {{name: rows, …}} with the names {names}")
