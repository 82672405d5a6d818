"""Analysis of regressions: rows with an outlying residual, whose labels may be wrong."""

from __future__ import annotations

import numpy as np

FAR = 3.0  # robust standard deviations; Leys et al., 2013, section 4, "very conservative"
NORMAL = 1.4826  # 1 / Φ⁻¹(3/4): makes the median absolute deviation the standard deviation of a normal variable


def outliers(labels: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find rows with an outlying residual (Leys, Ley, Klein, Bernard and Licata, 2013).

    z = (r − median r) / (1.4826 · median |r − median r|), r = predicted − label. A large |z| may be the label's error
    or the model's.

    Args:
        labels, predicted: scores, shape (rows,).

    Returns:
        Rows with |z| > 3 in descending order of |z|, and their z; shape (outliers,) both. There are no outliers if at
        least half of the residuals are equal.
    """
    residuals = predicted - labels
    if not len(residuals):
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    centred = residuals - np.median(residuals)
    scale = NORMAL * np.median(np.abs(centred))
    z = centred / scale if scale > 0 else np.zeros(len(residuals))
    far_rows = np.flatnonzero(np.abs(z) > FAR)
    far_rows = far_rows[np.argsort(-np.abs(z[far_rows]), kind="stable")]
    return far_rows, z[far_rows]
