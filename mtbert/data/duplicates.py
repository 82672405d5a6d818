"""Find rows whose texts occur in two splits: a model has seen them in training, so their scores are too high."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from datasets import Dataset

BATCH = 20_000
BEFORE = {"dev": ("train", "unlabelled"), "test": ("train", "unlabelled", "dev")}


def shared_rows(splits: Mapping[str, Dataset], unordered: bool = False) -> dict[str, dict[str, tuple[int, ...]]]:
    """Find the rows of the dev and test splits that an earlier split contains as well.

    Texts are compared by 64-bit hashes; one batch of rows is in memory at a time.

    Args:
        splits: checked rows (`text`, for pairs `text_pair`, and `row`), by `train`, `unlabelled`, `dev` and `test`.
        unordered: whether a pair equals the pair with its texts exchanged.

    Returns:
        Split → earlier split → the numbers of the split's rows whose text, or pair, the earlier split contains.
    """
    if not any(name in splits for name in BEFORE):
        return {}
    hashes = {name: text_hashes(rows, unordered) for name, rows in splits.items()}
    shared: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, earlier_splits in BEFORE.items():
        for earlier in earlier_splits:
            if name not in splits or earlier not in splits:
                continue
            positions = np.flatnonzero(np.isin(hashes[name], hashes[earlier]))
            if len(positions):
                rows = np.asarray(splits[name].with_format(None)["row"][:])
                shared.setdefault(name, {})[earlier] = tuple(rows[positions].tolist())
    return shared


def text_hashes(rows: Dataset, unordered: bool = False) -> np.ndarray:
    """Return a 64-bit hash of the text, or pair, of each row: shape `(rows,)`, uint64.

    Args:
        rows: columns `text` and, for pairs, `text_pair`.
        unordered: whether a pair equals the pair with its texts exchanged.
    """
    columns = [column for column in ("text", "text_pair") if column in rows.column_names]
    parts = []
    for table in rows.select_columns(columns).with_format("arrow").iter(BATCH):
        hashes = [pd.util.hash_array(table.column(column).to_numpy(zero_copy_only=False)) for column in columns]
        if unordered and len(hashes) == 2:
            hashes = [np.minimum(*hashes), np.maximum(*hashes)]
        parts.append(hashes[0] if len(hashes) == 1 else pd.util.hash_array(hashes[0]) * np.uint64(31) + hashes[1])
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)
