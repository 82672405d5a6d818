"""Submission files of the CS224N default project: the file of each task, and the values of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Features

from ..data.label_cells import number_of
from ..data.label_reading import LabelReader
from ..errors import InputError
from ..modeling.checkpoint_loading import read_json
from ..modeling.decoding import decisions
from ..modeling.task_spec import TaskSpec

SENTIMENT, PARAPHRASE, SIMILARITY = "Predicted_Sentiment", "Predicted_Is_Paraphrase", "Predicted_Similiary"
HEADINGS_BY_LABEL = {"sentiment": SENTIMENT, "is_duplicate": PARAPHRASE, "similarity": SIMILARITY}
HEADINGS_BY_NAME = {"sst": SENTIMENT, "cfimdb": SENTIMENT, "para": PARAPHRASE, "sts": SIMILARITY}
HEADINGS_BY_TYPE = {
    "single_label_classification": SENTIMENT,
    "binary_classification": PARAPHRASE,
    "regression": SIMILARITY,
    "ordinal_classification": SENTIMENT,
}


def saved_label_columns(checkpoint: str | Path) -> dict[str, str]:
    """Return task name → label column of its data, from the recipe.json of a run or of one of its checkpoints.

    It is in the folder or in its parent folder. The result is empty if neither has one, as for a hub name.

    Raises:
        InputError: the file can not be read.
    """
    folder = Path(checkpoint)
    for path in (folder / "recipe.json", folder.resolve().parent / "recipe.json"):
        if folder.is_dir() and path.is_file():
            return _label_columns(read_json(path, "repair or remove it", limited=False).get("tasks"))
    return {}


def _label_columns(tasks: Any) -> dict[str, str]:
    columns = {}
    for name, task in tasks.items() if isinstance(tasks, dict) else ():
        data = task.get("data") if isinstance(task, dict) else None
        if isinstance(data, dict) and isinstance(data.get("label"), str):
            columns[name] = data["label"]
    return columns


class CourseFile:
    """The course's file of one task.

    The course's code reads a file by its heading. The label column of the task's data chooses it (`sentiment`,
    `is_duplicate` or `similarity`, the course's own columns), else the task's name (`sst`, `cfimdb`, `para` or `sts`),
    else its problem type.

    Args:
        task: the task.
        label_column: the label column of its data; None: unknown.

    Attributes:
        heading: the heading of the predictions; the misspelling of `Predicted_Similiary` is the course's.

    Raises:
        InputError: the file can not hold the task's predictions.
    """

    def __init__(self, task: TaskSpec, label_column: str | None = None):
        self.task = task
        by_type = HEADINGS_BY_TYPE.get(task.kind.name)
        by_name = HEADINGS_BY_NAME.get(task.name.lower())
        self.heading = HEADINGS_BY_LABEL.get((label_column or "").lower()) or by_name or by_type
        problem = self._problem()
        if problem:
            raise InputError(f"task {task.name!r} {problem}")

    def _problem(self) -> str | None:
        task = self.task
        if task.kind.lists_labels or self.heading is None:
            return f"is {task.kind.with_article}, which the course has no file for"
        if self.heading == SIMILARITY and not task.kind.numeric and None in map(number_of, task.classes):
            return f"has the labels {', '.join(task.classes)}, but {SIMILARITY} takes scores; name each by its number"
        if self.heading != SIMILARITY and task.kind.numeric:
            return f"is a regression, but {self.heading} takes classes; write a csv file"
        if self.heading == PARAPHRASE and len(task.classes) != 2:
            return f"has {len(task.classes)} labels, but {PARAPHRASE} takes two; write a csv file"
        return None

    def values(self, logits: np.ndarray) -> list[str]:
        """Format predictions as the course's code does: a class id, `0.0` or `1.0`, or an fp32 score as a float.

        Args:
            logits: shape `(rows, num_labels)`.
        """
        chosen = decisions(self.task, logits)
        if self.task.kind.numeric:
            return list(map(str, chosen.astype(np.float32).tolist()))
        if self.heading == SIMILARITY:
            numbers = [str(float(name)) for name in self.task.classes]
        elif self.heading == PARAPHRASE:
            numbers = [str(float(number)) for number in course_ids(self.task)]
        else:
            numbers = list(map(str, course_ids(self.task)))
        return [numbers[i] for i in chosen.tolist()]


def course_files(tasks: Sequence[TaskSpec], label_columns: Mapping[str, str]) -> tuple[list[CourseFile], list[str]]:
    """Return the course's files of tasks, and a sentence for each task without one.

    Args:
        tasks: the tasks.
        label_columns: task name → label column of its data, where it is known.
    """
    files, problems = [], []
    for task in tasks:
        try:
            files.append(CourseFile(task, label_columns.get(task.name)))
        except InputError as error:
            problems.append(str(error))
    return files, problems


def course_ids(task: TaskSpec) -> list[int]:
    """Return the number of each class in the course's files, which number classes from 0.

    It is the number that is read as this class in training data: its name, if the classes are named by numbers; 0 for
    no and 1 for yes, in any order; else the place of the class among the labels.
    """
    reader = LabelReader.of(task, Features({}), "", minus_one=False)
    count = len(task.classes)
    ids = {}
    for number in range(count):
        readings = reader.readings(number)
        ids[readings.get("as true or false", next(iter(readings.values()), None))] = number
    if set(ids) != set(range(count)):
        return list(range(count))
    return [ids[i] for i in range(count)]
