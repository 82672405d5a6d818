"""Random predictions of every kind of task, as `TaskRows`."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from mtbert.evaluation.report import TaskRows
from mtbert.modeling.task_spec import TaskSpec

SPECS = {
    "stars": TaskSpec("stars", labels=["bad", "fair", "good"]),
    "same": TaskSpec("same", "binary_classification", labels=["no", "yes"], texts=2),
    "close": TaskSpec("close", range=(0, 5), texts=2),
    "topics": TaskSpec("topics", "multi_label_classification", labels=["cat", "dog", "bird"]),
}
WORDS = "a cat and the dog sat on one old mat".split()  # noqa: SIM905


def random_labels(task: TaskSpec, rows: int, random: np.random.Generator) -> np.ndarray:
    if task.problem_type == "regression":
        return np.round(random.uniform(0, 5, rows), 1)
    if task.problem_type == "multi_label_classification":
        return random.integers(0, 2, (rows, task.num_labels)).astype(float)
    return random.integers(0, len(task.labels), rows).astype(float)


def random_logits(task: TaskSpec, labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Better than chance."""
    logits = random.normal(0, 1, (len(labels), task.num_labels))
    if task.problem_type == "regression":
        return labels[:, None] + logits
    if task.num_labels == 1:
        return logits + (labels[:, None] - 0.5) * 2
    return logits + (2 * labels - 1 if labels.ndim == 2 else np.eye(task.num_labels)[labels.astype(int)])


@pytest.fixture
def make_rows():
    """A function: task (or name), number of rows, seed → random TaskRows; labels and logits may be given."""

    def make(task="stars", count=60, seed=0, labels=None, logits=None, groups=None) -> TaskRows:
        task, random = SPECS.get(task, task), np.random.default_rng(seed)
        texts = [" ".join(random.choice(WORDS, random.integers(1, 20))) for _ in range(2 * count)]
        columns = {"text": texts[:count], "text_pair": texts[count:], "row": [i + 1 for i in range(count)]}
        if task.texts == 1:
            del columns["text_pair"]
        labels = random_labels(task, count, random) if labels is None else np.asarray(labels, dtype=float)
        logits = random_logits(task, labels, random) if logits is None else np.asarray(logits, dtype=float)
        return TaskRows.of(task, Dataset.from_dict(columns), logits, labels, groups)

    return make
