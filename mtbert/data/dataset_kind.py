"""Refuse rows that are no `datasets.Dataset`."""

from __future__ import annotations

from typing import Any

import datasets
from datasets import Dataset

from ..errors import InputTypeError


def check_kind(dataset: Any, where: str) -> None:
    """Raise TypeError if `dataset` is not a `datasets.Dataset`."""
    if isinstance(dataset, datasets.IterableDataset):
        raise InputTypeError(
            f"{where}: a streamed dataset is refused, since the plan needs the size of each task and the sampler "
            "random access to rows; load it without streaming"
        )
    if not isinstance(dataset, Dataset):
        kind = type(dataset).__name__
        ways = {"list": "from_list(rows)", "dict": "from_dict(columns)", "DataFrame": "from_pandas(frame)"}
        remedy = f"; write datasets.Dataset.{ways[kind]}" if kind in ways else ""
        raise InputTypeError(f"{where}: expected a datasets.Dataset, but got a {kind}{remedy}")
