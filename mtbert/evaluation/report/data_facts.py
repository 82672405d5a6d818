"""What a report says of a run's data: sizes, labels of the training rows, leaks, repeated texts and cut texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from ...data.collation import known_labels, label_array
from ...data.duplicates import text_hashes
from ...data.loaded_task import LoadedTask
from ...data.tokenize import EncodingReport
from ...modeling.task_spec import TaskSpec
from ..metrics import IGNORE_INDEX


def data_facts(
    tasks: Sequence[TaskSpec],
    data: Mapping[str, LoadedTask],
    split: str,
    encoded: Sequence[EncodingReport] = (),
) -> dict[str, dict[str, Any]]:
    """Collect facts about the data of a run.

    Args:
        tasks: the tasks of the report.
        data: task name → its splits and their reports, with leaks if these were searched.
        split: the split that is evaluated.
        encoded: reports on the encoding of this split.

    Returns:
        Task name → `rows` (split → number of labelled rows); `labels` of the training rows (see `label_facts`);
        `shared`, the number of evaluated rows whose text is in the training rows; `leaks`, the number of training rows
        that have a text of an evaluated row of any task (`same`), and of those that share a phrase with one
        (`phrases`); `repeated` (see `repeated_texts`); and `cut`, `rows` of `total` evaluated inputs that were cut.
    """
    facts: dict[str, dict[str, Any]] = {}
    cuts = {report.task: {"rows": report.rows, "total": report.total, "tokens": report.tokens} for report in encoded}
    for task in tasks:
        loaded = data[task.name]
        train = loaded.splits.get("train")
        of_task: dict[str, Any] = {"rows": {name: _labelled(rows) for name, rows in loaded.splits.items()}}
        if train is not None and "label" in train.column_names:
            of_task["labels"] = label_facts(task, label_array(train))
            of_task["repeated"] = repeated_texts(train)
        for report in loaded.reports:
            if report.split == split and "train" in report.shared and split != "train":
                of_task["shared"] = len(report.shared["train"])
            leaks = [leak for leak in report.leaks if leak.split == split]
            if report.split == "train" and leaks and report.without_leaks is None:
                same, phrases = (np.unique([row for leak in leaks for row in rows(leak)]).size for rows in _LEAKED)
                of_task["leaks"] = {"same": same, "phrases": phrases}
        if task.name in cuts:
            of_task["cut"] = cuts[task.name]
        facts[task.name] = of_task
    return facts


_LEAKED = (lambda leak: leak.same, lambda leak: leak.phrases)


def _labelled(rows: Dataset) -> int:
    return int(known_labels(label_array(rows)).sum()) if "label" in rows.column_names and len(rows) else 0


def label_facts(task: TaskSpec, labels: np.ndarray) -> dict[str, Any]:
    """Count labels, and find the best answer that is the same for all rows.

    Args:
        task: the task.
        labels: class ids or scores, (rows,); 0, 1 or NaN, (rows, num_labels); or class ids, (rows, most parts).

    Returns:
        For a regression `mean`; else `counts`, label → number of rows (of parts, if these are labelled), and `total`,
        of which they are counted; for multi-label tasks also `known`, label → number of rows where it is known.
    """
    labels = np.asarray(labels, dtype=np.float64)
    if task.kind.numeric:
        known = labels[~np.isnan(labels)]
        return {"mean": float(known.mean()) if len(known) else float("nan"), "total": len(known)}
    missing = np.isnan(labels) | (labels == IGNORE_INDEX)
    if task.kind.several:
        counts, known = ((labels == 1) & ~missing).sum(axis=0), (~missing).sum(axis=0)
        return {
            "counts": dict(zip(task.classes, counts.tolist(), strict=True)),
            "known": dict(zip(task.classes, known.tolist(), strict=True)),
            "total": int((~missing).any(axis=1).sum()),
        }
    ids = labels[~missing].astype(np.int64)
    counts = np.bincount(ids, minlength=len(task.classes))
    return {"counts": dict(zip(task.classes, counts.tolist(), strict=True)), "total": len(ids)}


def repeated_texts(rows: Dataset) -> dict[str, int]:
    """Count the rows of a checked split whose text, or pair, occurs in another row of it.

    Returns:
        `rows`, their number; and `contradictory`, the number of those whose text has two different labels or more.
    """
    if not len(rows):
        return {"rows": 0, "contradictory": 0}
    labels = label_array(rows)
    kept = np.flatnonzero(known_labels(labels))
    columns = {
        "text": text_hashes(rows)[kept],
        "label": [label.tobytes() for label in np.ascontiguousarray(labels[kept])],
    }
    table = pd.DataFrame(columns)
    of_text = table.groupby("text")["label"]
    return {
        "rows": int((of_text.transform("size") > 1).sum()),
        "contradictory": int((of_text.transform("nunique") > 1).sum()),
    }
