"""Folds of training rows by the hash of their texts, so that no text of a held-out row is trained on.

Rows are joined if they share a text, and so on from row to row: a connected group is in one fold. Texts are compared as
sequences of words, without case and punctuation.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from ..errors import InputError
from .loaded_task import LoadedTask
from .permutation import mix
from .spec import CUT, DataSpec
from .split_report import SplitReport
from .text_groups import joined

COLUMNS = ("text", "text_pair")
_WORDS = re.compile(r"\w+")


def text_key(text: str) -> int:
    """Return a 64-bit hash of a text's words, or of the text itself if it has none; the same on every machine."""
    words = _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())
    content = " ".join(words) or " ".join(text.split())
    return int.from_bytes(blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def row_keys(rows: Dataset) -> np.ndarray:
    """Return the hashes of each row's texts, `(rows, 1 or 2)`, uint64."""
    columns = [rows.with_format(None)[name][:] for name in COLUMNS if name in rows.column_names]
    keys: dict[str, int] = {}
    hashes = [[keys.get(text) or keys.setdefault(text, text_key(text)) for text in column] for column in columns]
    return np.array(hashes, dtype=np.uint64).reshape(len(columns), -1).T


def text_groups(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join rows that share a text.

    Args:
        keys: hashes of each row's texts, `(rows, texts)`.

    Returns:
        The group of each row, `(rows,)`, numbered from 0; and the smallest hash of each group, `(groups,)`, uint64.
    """
    texts, index = np.unique(keys, return_inverse=True)
    index = index.reshape(keys.shape)
    group_of_text = joined(index, len(texts))
    _, first = np.unique(group_of_text, return_index=True)  # the hashes are sorted
    return group_of_text[index[:, 0]], texts[first]


def fold_of_rows(keys: np.ndarray, folds: int) -> np.ndarray:
    """Return the fold of each row, `(rows,)`, from 0: its group's smallest hash decides, whatever the rows' order."""
    groups, smallest = text_groups(keys)
    with np.errstate(over="ignore"):
        return (mix(smallest, 0) % np.uint64(folds)).astype(np.int64)[groups]


def hold_out(
    splits: dict[str, Dataset], reports: list[SplitReport], data: DataSpec, where: str
) -> tuple[dict[str, Dataset], list[SplitReport]]:
    """Make the fold `data.fold` of the training rows the dev split, and drop unlabelled rows that have a text of it.

    A dev split that was cut from the training rows is no part of any fold, and is dropped.

    Args:
        splits: `train` and others; `dev` among them has been cut off.
        reports: their reports, that of `train` first.
        data: names the fold.
        where: the key, for errors.

    Raises:
        InputError: training or the held-out fold would have no row.
    """
    number: Any = data.folds  # checked before
    fold: Any = data.fold
    aside = {split: len(splits[split]) for split in CUT if split in splits and data.is_share(split)}
    rows, report = splits["train"], replace(reports[0], cut=None, share=None, aside=aside)
    held = fold_of_rows(row_keys(rows), number) == fold
    count = int(held.sum())
    if not 0 < count < len(rows):
        raise InputError(
            f"{where} is {number}, but of the {len(rows):,} usable rows of {report.source} fold {fold} has {count:,}; "
            "training and the held-out fold need one row each: give fewer folds or more rows (rows that share a text, "
            "directly or through others, are in one fold)"
        )
    parts = {"train": rows.select(np.flatnonzero(~held)), "dev": rows.select(np.flatnonzero(held))}
    described = [replace(report, split=split, fold=(len(part), fold, number)) for split, part in parts.items()]
    others = {name: part for name, part in splits.items() if name not in parts}
    reports = [each for each in reports[1:] if each.split not in parts]
    if "unlabelled" in others:
        kept = without_texts(others["unlabelled"], row_keys(parts["dev"]))
        dropped = len(others["unlabelled"]) - len(kept)
        others["unlabelled"] = kept
        reports = [replace(each, of_held_out=dropped) if each.split == "unlabelled" else each for each in reports]
    return parts | others, [*described, *reports]


def without_texts(rows: Dataset, keys: np.ndarray) -> Dataset:
    """Return the rows that have none of the texts with these hashes."""
    seen = np.isin(row_keys(rows), keys).any(axis=1)
    return rows.select(np.flatnonzero(~seen)) if seen.any() else rows


def without_held_out(tasks: Mapping[str, LoadedTask], folded: Iterable[str]) -> dict[str, LoadedTask]:
    """Drop the training rows of all tasks that have a text of a held-out fold of any task.

    Args:
        tasks: task name → its splits.
        folded: the tasks whose dev split is a fold of their training rows.

    Raises:
        InputError: a task would have no training row.
    """
    held = [row_keys(tasks[name].splits["dev"]).ravel() for name in folded]
    if not held:
        return dict(tasks)
    keys, changed = np.unique(np.concatenate(held)), {}
    for name, loaded in tasks.items():
        train = loaded.splits["train"]
        kept = without_texts(train, keys)
        if not len(kept):
            raise InputError(
                f"task {name!r}: each training row has a text of a held-out row of some task; give more folds, or "
                "leave the task out"
            )
        dropped = len(train) - len(kept)
        reports = [
            replace(report, of_held_out=dropped) if report.split == "train" else report for report in loaded.reports
        ]
        splits = DatasetDict({**loaded.splits, "train": kept})
        changed[name] = replace(loaded, splits=splits, reports=tuple(reports)) if dropped else loaded
    return changed
