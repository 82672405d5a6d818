"""What is loaded of a task: its checked splits and a report on each."""

from __future__ import annotations

from dataclasses import dataclass

from datasets import DatasetDict

from .split_report import SplitReport


@dataclass(frozen=True)
class LoadedTask:
    """A task's checked splits, by `train`, `dev` and `test`, and a report on each file.

    The rows of `unlabelled` follow the rows of `train`, with missing labels (-100 or nan); their numbers in `row`
    continue those of the train file.
    """

    splits: DatasetDict
    reports: tuple[SplitReport, ...]
