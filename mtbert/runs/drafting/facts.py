"""Count what a person should know of a table before training: repeated texts, leaks and lengths."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ...data.labels import clean_text
from .tables import SAMPLE

TOKENS_A_WORD = 1.3
SPECIAL = 2  # tokens around a text, and one more after a pair's second
CUT = 0.01  # share of the texts that a suggested length may cut
STEP = 8  # lengths are multiples of it
LONGEST = 100_000  # characters of a text whose tokens are counted; those of the rest are reckoned
USUAL_LIMIT = 512  # tokens of an encoder that is not at hand
# a character of Chinese, Japanese or Korean, a word, or a mark
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+|[^\w\s]")


def as_text(value: Any) -> str:
    """A text without white space around it, or words joined to one."""
    return " ".join(map(str, value)) if isinstance(value, list) else clean_text(value)


def text_keys(rows: Dataset, columns: Sequence[str]) -> np.ndarray:
    """A 64-bit hash of each row's text, or of its pair in either order, `(rows,)`; 0 where a text is empty."""
    keys = [np.concatenate([_hashes(part) for part in _parts(rows, column)] or [_hashes([])]) for column in columns]
    if len(keys) == 1:
        return keys[0]
    pairs = np.minimum(*keys) * np.uint64(31) + np.maximum(*keys)
    return np.where((keys[0] == 0) | (keys[1] == 0), np.uint64(0), pairs)


def _parts(rows: Dataset, column: str) -> Iterator[list[Any]]:
    """The cells of a column, of so many rows at a time that a large table does not fill the memory."""
    cells = rows.with_format(None)[column]
    for start in range(0, len(rows), SAMPLE):
        yield cells[start : start + SAMPLE]


def _hashes(cells: list[Any]) -> np.ndarray:
    """A 64-bit hash of each text, 0 for an empty one."""
    texts = np.array([as_text(value) for value in cells], dtype=object)
    return np.where(texts == "", np.uint64(0), pd.util.hash_array(texts))


def repeated(keys: np.ndarray) -> int:
    """Number of rows whose text an earlier row has; rows without a text do not count."""
    keys = keys[keys != 0]
    return len(keys) - len(np.unique(keys))


def contradicted(keys: np.ndarray, cells: Sequence[Any]) -> int:
    """Number of texts that occur with different labels.

    Args:
        keys: hashes of the texts, `(rows,)`.
        cells: the label of each row.
    """
    labels = np.array([clean_text(cell) for cell in cells], dtype=object)
    frame = pd.DataFrame({"text": keys, "label": labels})
    pairs = frame[(keys != 0) & (labels != "")].drop_duplicates()
    return int((pairs["text"].value_counts() > 1).sum())


def shared(keys: np.ndarray, others: np.ndarray) -> int:
    """Number of rows whose text is also one of `others`."""
    return int(np.isin(keys[keys != 0], others).sum())


@dataclass(frozen=True)
class Length:
    """A length of inputs in tokens.

    Attributes:
        tokens: the longest input; longer ones are cut.
        cut: share of the inputs that are cut.
        longest: tokens of the longest one.
        measured: whether a tokenizer counted the tokens; else they follow from words.
        exact: whether all tokens were counted; else those of very long texts follow from their first characters.
    """

    tokens: int
    cut: float
    longest: int
    measured: bool
    exact: bool = True


def suggest_length(
    rows: Dataset, columns: Sequence[str], tokenizer: PreTrainedTokenizerBase | None, limit: int | None
) -> Length:
    """Suggest a length that cuts at most one in a hundred inputs, or the encoder's limit if that is less.

    Args:
        rows: the rows, of which at most `SAMPLE` are measured.
        columns: one column of texts, or the two of pairs.
        tokenizer: the encoder's; None: it is not at hand, and a word counts as 1.3 tokens.
        limit: most tokens that the encoder takes; None: not known.
    """
    picked = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(int))
    part = rows.with_format(None).select(picked)
    texts = [[as_text(value) for value in part[column][:]] for column in columns]
    shares = np.array([[min(1.0, LONGEST / max(1, len(text))) for text in column] for column in texts]).min(axis=0)
    texts = [[text[:LONGEST] for text in column] for column in texts]
    counts = _measured(texts, tokenizer) if tokenizer is not None else _estimated(texts)
    counts = np.ceil(counts / shares).astype(int)
    most = limit or USUAL_LIMIT
    enough = int(np.sort(counts)[-1 - int(CUT * len(counts))])
    tokens = min(most, max(2 * STEP, -(-enough // STEP) * STEP))
    return Length(
        tokens, float((counts > tokens).mean()), int(counts.max()), tokenizer is not None, bool(shares.min() == 1)
    )


def _measured(texts: list[list[str]], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    encoded = tokenizer(*texts, truncation=False, verbose=False, return_attention_mask=False)
    return np.array([len(ids) for ids in encoded["input_ids"]])


def _estimated(texts: list[list[str]]) -> np.ndarray:
    words = [np.array([len(_WORD.findall(text)) for text in column]) for column in texts]
    return np.ceil(TOKENS_A_WORD * sum(words)).astype(int) + SPECIAL + len(texts) - 1
