"""The dev rows of a recipe's tasks, and the decisions of stored results on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.collation import label_array
from ..errors import InputError
from ..evaluation.metrics import IGNORE_INDEX, labelled_rows
from ..evaluation.row_differences import DevTask
from ..evaluation.span_metrics import EntityScores, counts_by_row
from ..evaluation.table_files import main_keys
from ..modeling.decoding import decisions
from ..modeling.task_spec import TaskSpec
from ..recipe import Recipe, load_rows
from .result_files import Result

Predictions = dict[int, dict[str, np.ndarray]]  # seed → task → predictions of labelled dev rows


@dataclass(frozen=True)
class DevRows:
    """The dev rows of a task.

    Attributes:
        task: its main metric and labels.
        labelled: positions of the rows with a label in the split.
        count: number of all rows of the split; of a source, of all its texts with a label of any task.
        known: of a multi-label task: which entries of its labelled rows are known, `(rows, labels)`; the others count
            as 0 on both sides, which F1 ignores.
        tags: of a task that labels words: the ids of the tags of its labelled rows, `(rows, most words)`.
    """

    task: DevTask
    labelled: np.ndarray
    count: int
    known: np.ndarray | None = None
    tags: np.ndarray | None = None


def check_metric_of_words(task: TaskSpec, metric: str | None) -> None:
    """Raise InputError if a task labels words, and its main metric does not follow from counts of each row.

    Args:
        metric: the main metric; None: the default, which does.
    """
    if task.kind.units.dims > 1 and metric not in (None, *EntityScores.names):
        names = ", ".join(EntityScores.names)
        raise InputError(
            f"task {task.name!r} is {task.kind.with_article} with the metric {metric!r}, which is not compared row by "
            f"row; use one of: {names}"
        )


def counted_words(task: TaskSpec, metric: str, tags: np.ndarray) -> np.ndarray:
    """Return the labels of words as they are compared row by row, `counts_by_row`.

    Args:
        tags: ids of tags, `(rows, most words)`.

    Raises:
        InputError: the metric does not follow from the counts.
    """
    check_metric_of_words(task, metric)
    return counts_by_row(tags, tags, task.classes)


def read_dev_rows(recipe: Recipe, scores: Mapping[str, float], dev: dict[str, DevRows]) -> None:
    """Read the dev rows of a recipe's tasks that are missing in `dev`, and add them there.

    Args:
        recipe: names the tasks and their data.
        scores: scores of a run of the recipe, whose names tell each task's main metric.
        dev: task → its dev rows.
    """
    specs = {name: task.spec(name) for name, task in recipe.tasks.items()}
    keys = main_keys(scores, list(specs))
    for name in recipe.tasks:
        if name in dev or name not in keys:
            continue
        split = load_rows(recipe, [specs[name]], masked=True)[name].splits["dev"]  # all rows: each has logits
        labels = label_array(split).astype(np.float64)
        labelled = np.flatnonzero(labelled_rows(specs[name], labels))
        metric, count = keys[name].removeprefix(f"eval_{name}_"), len(labels)
        known: np.ndarray | None = None
        labels = labels[labelled]
        if specs[name].kind.several:
            known = ~(np.isnan(labels) | (labels == IGNORE_INDEX))
            labels = np.where(known, labels, 0.0)
        tags: np.ndarray | None = None
        if specs[name].kind.units.dims > 1:
            tags = labels.astype(np.int64)
            labels = counted_words(specs[name], metric, tags)
        dev[name] = DevRows(DevTask(metric, labels), labelled, count, known, tags)


def decided(
    result: Result, specs: Mapping[str, TaskSpec], dev: Mapping[str, DevRows], place: str
) -> dict[str, np.ndarray]:
    """The decisions of a result on each task's labelled dev rows, as float64; of words their counts in each row.

    Args:
        specs: the tasks.
        dev: task → its dev rows.
        place: names the data, for the message.

    Raises:
        InputError: the result has other dev rows than the data.
    """
    answers = {}
    for name, logits in result.logits.items():
        count, labelled = dev[name].count, dev[name].labelled
        if len(logits) not in (count, len(labelled)):
            raise InputError(
                f"the result of {result.row} with seed {result.seed} has {len(logits):,} dev rows of {name}, but the "
                f"data in {place} has {count:,}; give the data that the runs had"
            )
        # a model of this task alone leaves out the texts of a source that have no label of it
        rows = logits if len(logits) == len(labelled) else logits[labelled]
        decided_rows = decisions(specs[name], rows.astype(np.float64))
        known, tags = dev[name].known, dev[name].tags
        if tags is not None:
            decided_rows = counts_by_row(decided_rows, tags, specs[name].classes)
        answers[name] = np.asarray(decided_rows, dtype=np.float64)
        if known is not None:
            answers[name] = np.where(known, answers[name], 0.0)
    return answers


def predictions_by_seed(
    results: Sequence[Result], specs: Mapping[str, TaskSpec], dev: Mapping[str, DevRows], place: str
) -> Predictions:
    """The decisions of several results, by seed; results of one seed answer different tasks."""
    by_seed: Predictions = {}
    for result in results:
        by_seed.setdefault(result.seed, {}).update(decided(result, specs, dev, place))
    return by_seed
