"""Groups of texts that rows join: the texts of a pair are in one group, and so on from row to row."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def joined(texts_of_rows: np.ndarray, count: int) -> np.ndarray:
    """Return the group of each text, `(count,)`, numbered from 0.

    Args:
        texts_of_rows: the number of each row's texts, `(rows, 1 or 2)`.
        count: number of texts.
    """
    first, last = texts_of_rows[:, 0], texts_of_rows[:, -1]
    links = coo_array((np.ones(len(first), dtype=np.int8), (first, last)), shape=(count, count))
    groups: np.ndarray = connected_components(links, directed=False)[1]
    return groups
