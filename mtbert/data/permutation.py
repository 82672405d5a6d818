"""Pseudo-random permutations that are computed position by position, in constant memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mix(values: np.ndarray, key: int) -> np.ndarray:
    """Return a 64-bit hash of each value (the finaliser of splitmix64; Steele, Lea and Flood, 2014)."""
    values = values + np.uint64(key)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def permute(positions: np.ndarray, size: int, key: Sequence[int]) -> np.ndarray:
    """Return the images of positions from 0…size − 1 in the pseudo-random permutation that `key` names.

    A Feistel network permutes the numbers of the smallest even bit width that holds `size`; it is applied until the
    result is below `size` (Black and Rogaway, 2002). Memory does not depend on `size`.
    """
    half = max(1, (int(size - 1).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    keys = np.random.SeedSequence([int(part) for part in key]).generate_state(6, np.uint64)

    def network(values: np.ndarray) -> np.ndarray:
        left, right = values >> np.uint64(half), values & low
        for round_key in keys:
            left, right = right, left ^ (mix(right, int(round_key)) & low)
        return (left << np.uint64(half)) | right

    with np.errstate(over="ignore"):
        values = network(np.asarray(positions, dtype=np.uint64))
        while (outside := values >= size).any():
            values[outside] = network(values[outside])
    return values.astype(np.int64)


def draw(count: int, size: int, seed: int) -> np.ndarray:
    """Return `count` different positions out of 0…size − 1, in increasing order. `seed` names the draw."""
    return np.sort(permute(np.arange(count), size, (seed,)))
