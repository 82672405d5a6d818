"""What the attention of a task's head reads: mean weights of kinds of tokens, and all weights of some rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import entr

from .distances import evenly
from .rows import TaskRows
from .token_weights import TokenWeights

EXAMPLES = 8


def attention_shares(rows: TaskRows, examples: int = EXAMPLES) -> dict[str, Any] | None:
    """Compute what a head's attention reads, on average and in some rows; None if it has none, or there are no rows.

    Returns:
        `rows`; the mean over rows of the weight on the `first` token (such as [CLS]), on `separators` (such as [SEP]),
        and on the `rest`; `uniform`, the same three if all tokens had equal weights; `entropy`, the mean of
        −Σ w ln w / ln(length), which is 1 for equal weights and 0 for a single token; and `examples`: evenly chosen
        rows with their `tokens` and `weights`, none if texts are hidden.
    """
    if rows.attention is None or not len(rows):
        return None
    read, uniform, entropies = [], [], []
    for ids, weights in zip(rows.attention.ids, rows.attention.weights, strict=True):
        parts = np.zeros((3, len(ids)))
        separates = np.isin(ids[1:], rows.attention.separators)
        parts[0, 0], parts[1, 1:], parts[2, 1:] = 1, separates, ~separates
        read.append(parts @ weights)
        uniform.append(parts.mean(axis=1))
        if len(ids) > 1:
            entropies.append(entr(weights).sum() / np.log(len(ids)))
    names = ("first", "separators", "rest")
    return {
        "rows": len(rows),
        **dict(zip(names, np.mean(read, axis=0).tolist(), strict=True)),
        "uniform": dict(zip(names, np.mean(uniform, axis=0).tolist(), strict=True)),
        "entropy": float(np.mean(entropies)) if entropies else float("nan"),
        "examples": _examples(rows, rows.attention, examples) if rows.show_texts else [],
    }


def _examples(rows: TaskRows, attention: TokenWeights, count: int) -> list[dict[str, Any]]:
    table = []
    for i in evenly(len(rows), count):
        tokens = attention.to_tokens(attention.ids[i].tolist())
        table.append(rows.example(i, tokens=tokens, weights=attention.weights[i].tolist()))
    return table
