"""The twelve tasks of benchmarks/quality.py: files, rows as JSON lines for every contender, and scores."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from mtbert.data.leaks import find_leaks

CLASSES, SCORE, SEVERAL = "classes", "score", "several"


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: its name.
        files: its files, with `{}` for the split.
        text: the column of the text, or the two of pairs.
        label: the label column.
        kind: `classes`, `score` or `several` labels a row.
        metric: `accuracy`, `matthews`, `f1` of the second class, `f1_macro` over labels, or `pearson`.
        range: the lowest and the highest score.
    """

    name: str
    files: str
    text: tuple[str, ...]
    label: str
    kind: str = CLASSES
    metric: str = "accuracy"
    range: tuple[float, float] | None = None

    @property
    def separator(self) -> str:
        """The character between the fields of its files."""
        return "\t" if self.files.startswith("cs224n/") else ","


PAIR = ("sentence1", "sentence2")
SICK = ("sentence_A", "sentence_B")
TASKS = (
    Task("cola", "wide/cola-{}.csv", ("sentence",), "label", metric="matthews"),
    Task("sst2", "wide/sst2-{}.csv", ("sentence",), "label"),
    Task("mrpc", "wide/mrpc-{}.csv", PAIR, "label", metric="f1"),
    Task("rte", "wide/rte-{}.csv", PAIR, "label"),
    Task("trec_coarse", "wide/trec-{}.csv", ("question",), "coarse"),
    Task("trec_fine", "wide/trec-{}.csv", ("question",), "fine"),
    Task("sick_relatedness", "wide/sick-{}.csv", SICK, "relatedness", SCORE, "pearson", (1, 5)),
    Task("sick_entailment", "wide/sick-{}.csv", SICK, "entailment"),
    Task("emotions", "wide/emotions-{}.csv", ("text",), "emotions", SEVERAL, "f1_macro"),
    Task("sst", "cs224n/ids-sst-{}.csv", ("sentence",), "sentiment"),
    Task("para", "cs224n/quora-{}.csv", PAIR, "is_duplicate"),
    Task("sts", "cs224n/sts-{}.csv", PAIR, "similarity", SCORE, "pearson", (0, 5)),
)
SMALLEST = ("rte", "mrpc", "trec_coarse")  # of classes, for SetFit
SMOKE_ROWS = {"train": 64, "dev": 32}


def read_rows(task: Task, data: Path, split: str) -> list[dict[str, str]]:
    """Return the rows of a split that have a label."""
    with (data / task.files.format(split)).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=task.separator))
    return [row for row in rows if row[task.label].strip() and all(row[column].strip() for column in task.text)]


def labels_of(task: Task, rows: Sequence[dict[str, str]]) -> list[str]:
    """Return the names of the labels, in order; none for scores."""
    if task.kind == SCORE:
        return []
    return sorted({part for row in rows for part in _parts(task, row[task.label])})


def _parts(task: Task, cell: str) -> list[str]:
    return [part.strip() for part in cell.split(";")] if task.kind == SEVERAL else [cell.strip()]


def encoded(task: Task, cell: str, labels: Sequence[str]) -> Any:
    """Return the class id, the score or the 0/1 vector of a cell."""
    if task.kind == SCORE:
        return float(cell)
    if task.kind == CLASSES:
        return labels.index(cell.strip())
    return [float(label in _parts(task, cell)) for label in labels]


def prepare(data: Path, work: Path, smoke: bool) -> dict[str, list[Any]]:
    """Write `<task>-<split>.jsonl` and `tasks.json` for the contenders; return the dev labels by task.

    Train rows that give away a dev row of any task are left out. With `smoke` a few rows of each split are written.
    """
    work.mkdir(parents=True, exist_ok=True)
    read = {task.name: {split: read_rows(task, data, split) for split in ("train", "dev")} for task in TASKS}
    leaking = leaking_rows({task: read[task.name] for task in TASKS})
    gold, about = {}, []
    for task in TASKS:
        splits = read[task.name]
        labels = labels_of(task, splits["train"] + splits["dev"])
        splits["train"] = [row for number, row in enumerate(splits["train"]) if number not in leaking[task.name]]
        for split, rows in splits.items():
            kept = rows[: SMOKE_ROWS[split] if smoke else None]
            written = [{**texts_of(task, row), "label": encoded(task, row[task.label], labels)} for row in kept]
            lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in written)
            (work / f"{task.name}-{split}.jsonl").write_text(lines + "\n", encoding="utf-8")
            if split == "dev":
                gold[task.name] = [row["label"] for row in written]
        about.append({"name": task.name, "kind": task.kind, "labels": labels, "range": task.range})
        about[-1]["texts"] = len(task.text)
    (work / "tasks.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    return gold


def texts_of(task: Task, row: dict[str, str]) -> dict[str, str]:
    """Return the text of a row, or the two of a pair."""
    return dict(zip(("text", "text_pair"), (row[column].strip() for column in task.text)))


def leaking_rows(tasks: Mapping[Task, Mapping[str, list[dict[str, str]]]]) -> dict[str, set[int]]:
    """Return the numbers of the train rows that give away a dev row of any task, as `leaks: drop` finds them."""
    columns = {
        task.name: {
            split: Dataset.from_list([{**texts_of(task, row), "row": number} for number, row in enumerate(rows)])
            for split, rows in splits.items()
        }
        for task, splits in tasks.items()
    }
    found: dict[str, set[int]] = {name: set() for name in columns}
    for leak in find_leaks(columns):
        found[leak.task] |= set(leak.rows)
    return found


def score(task: Task, gold: Sequence[Any], predicted: Sequence[Any]) -> float:
    """Return the task's main metric of class ids, scores or 0/1 vectors; 0 where it is not defined."""
    if len(gold) != len(predicted):
        raise SystemExit(f"{task.name}: {len(predicted):,} predictions for {len(gold):,} dev rows")
    true, answers = np.asarray(gold), np.asarray(predicted)
    if task.metric == "pearson":
        return 0.0 if answers.std() == 0 or true.std() == 0 else float(pearsonr(true, answers)[0])
    if task.metric == "matthews":
        return float(matthews_corrcoef(true, answers))
    if task.metric == "f1":
        return float(f1_score(true, answers, zero_division=0))
    if task.metric == "f1_macro":
        return float(f1_score(true, answers, average="macro", zero_division=0))
    return float(accuracy_score(true, answers))
