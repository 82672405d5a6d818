"""Regressions: predicted against true scores, and labels that are probably wrong."""

from __future__ import annotations

import numpy as np

FAR = 3.0  # robust standard deviations; Leys et al., 2013, section 4, "very conservative"
NORMAL = 1.4826  # 1 / Φ⁻¹(3/4): makes the median absolute deviation the standard deviation of a normal variable


def outliers(labels: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose residual is far from the others' (Leys, Ley, Klein, Bernard and Licata, 2013).

    z = (r − median r) / (1.4826 · median |r − median r|), r = predicted − label. The model is sure of nothing here, so
    these are rows to look at rather than suspected labels.

    Returns:
        Rows with |z| > 3, the farthest first, and their z; both (outliers,). None if half the residuals are equal.
    """
    residuals = predicted - labels
    if not len(residuals):
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    centred = residuals - np.median(residuals)
    scale = NORMAL * np.median(np.abs(centred))
    z = centred / scale if scale > 0 else np.zeros(len(residuals))
    found = np.flatnonzero(np.abs(z) > FAR)
    found = found[np.argsort(-np.abs(z[found]), kind="stable")]
    return found, z[found]
