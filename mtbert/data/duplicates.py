"""Rows of one split whose texts are those of a row of another: scores on them say less about new texts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from datasets import Dataset

BATCH = 20_000
BEFORE = {"dev": ("train", "unlabelled"), "test": ("train", "unlabelled", "dev")}


def shared_rows(splits: Mapping[str, Dataset], unordered: bool = False) -> dict[str, dict[str, tuple[int, ...]]]:
    """Which rows of the dev and test splits stand in a split before them, too.

    Texts are compared by 64-bit hashes, a batch of rows in memory at a time.

    Args:
        splits: checked rows (`text`, of pairs `text_pair`, and `row`), by `train`, `unlabelled`, `dev` and `test`.
        unordered: whether a pair is the same with its texts exchanged.

    Returns:
        Split → a split before it → the numbers of the rows of the former whose text, or pair, is in the latter.
    """
    if not any(name in splits for name in BEFORE):
        return {}
    hashes = {name: text_hashes(rows, unordered) for name, rows in splits.items()}
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, others in BEFORE.items():
        for other in others:
            if name in splits and other in splits and len(at := np.flatnonzero(np.isin(hashes[name], hashes[other]))):
                rows = np.asarray(splits[name].with_format(None)["row"][:])
                found.setdefault(name, {})[other] = tuple(rows[at].tolist())
    return found


def text_hashes(rows: Dataset, unordered: bool = False) -> np.ndarray:
    """A 64-bit number for each row, which is the same where the texts are: `(rows,)` uint64.

    Args:
        rows: columns `text` and, for pairs, `text_pair`.
        unordered: whether a pair is the same with its texts exchanged.
    """
    columns = [column for column in ("text", "text_pair") if column in rows.column_names]
    parts = []
    for table in rows.select_columns(columns).with_format("arrow").iter(BATCH):
        each = [pd.util.hash_array(table.column(column).to_numpy(zero_copy_only=False)) for column in columns]
        if unordered and len(each) == 2:
            each = [np.minimum(*each), np.maximum(*each)]
        parts.append(each[0] if len(each) == 1 else pd.util.hash_array(each[0]) * np.uint64(31) + each[1])
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)
