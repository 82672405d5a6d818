"""Take rows out of the training rows: a random sample, a random dev split, or splits cut by hashes of texts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from datasets import Dataset

from ..errors import InputError
from ..modeling.task_spec import TaskSpec
from .cut_splits import cut_rows
from .permutation import draw
from .spec import DataSpec
from .split_report import SplitReport


def sample(rows: Dataset, report: SplitReport, count: int, seed: int, where: str) -> tuple[Dataset, SplitReport]:
    """Draw `count` rows without replacement; return them in their order, and a report that says so.

    Raises:
        ValueError: there are fewer rows.
    """
    if count > len(rows):
        raise InputError(
            f"{where} is {count:,}, but {report.source} has only {len(rows):,} usable rows; give at most as many, or "
            "null for all"
        )
    return rows.select(draw(count, len(rows), seed)), replace(report, drawn=(count, seed))


def split_off_dev(
    splits: dict[str, Dataset], reports: list[SplitReport], data: DataSpec, where: str
) -> tuple[dict[str, Dataset], list[SplitReport]]:
    """Move a random share of the training rows to a dev split, both in their order; the reports say so.

    Raises:
        ValueError: training or dev would have no row.
    """
    rows, report = splits["train"], reports[0]
    share: Any = data.dev_share  # a number
    count = round(share * len(rows))
    if not 0 < count < len(rows):
        raise InputError(
            f"{where} is {share}, which makes {count:,} dev rows of {len(rows):,} usable rows of {report.source}; "
            "training and dev need one row each"
        )
    dev = draw(count, len(rows), data.sample_seed)
    train = np.setdiff1d(np.arange(len(rows)), dev, assume_unique=True)
    parts = {"train": rows.select(train), "dev": rows.select(dev)}
    described = [replace(report, split=split, share=(len(part), data.sample_seed)) for split, part in parts.items()]
    return splits | parts, [*described, *reports[1:]]


def cut_off(
    task: TaskSpec, splits: dict[str, Dataset], reports: list[SplitReport], data: DataSpec
) -> tuple[dict[str, Dataset], list[SplitReport]]:
    """Cut dev and test from the training rows by the hashes of their texts; the reports say so.

    Raises:
        ValueError: a split would have no row.
    """
    rows, report = splits["train"], reports[0]
    parts, scarce = cut_rows(task, rows, data.cuts)
    for split, part in parts.items():
        if not len(part):
            share = getattr(data, split)
            raise InputError(
                f"task {task.name!r}: data.{split} is {share!r}, which makes no row of the {len(rows):,} usable rows "
                f"of {report.source}: each label has too few, or rows that share texts stay together; give a larger "
                "share, or a file"
            )
    left = np.setdiff1d(np.arange(len(rows)), np.concatenate(list(parts.values())), assume_unique=True)
    chosen = {"train": left, **parts}
    described = [
        replace(report, split=split, cut=(len(part), data.cuts), scarce=scarce if split == "train" else {})
        for split, part in chosen.items()
    ]
    return splits | {split: rows.select(part) for split, part in chosen.items()}, [*described, *reports[1:]]
