"""Draw training rows at random: a sample to train on, or a share that becomes the dev split."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from datasets import Dataset

from ..errors import InputError
from .permutation import draw
from .spec import DataSpec
from .split_report import SplitReport


def draw_sample(rows: Dataset, report: SplitReport, count: int, seed: int, where: str) -> tuple[Dataset, SplitReport]:
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
