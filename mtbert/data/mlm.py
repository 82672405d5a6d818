"""Data of masked-language modelling: the texts to train on, and the tokens that the model has to predict.

A mask is a pure function of (seed, epoch, row), so that a resumed run, or one on several processes, sees the same
masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..modeling.problem_types import IGNORED
from .collation import LengthSortedSteps
from .sampling import Step, StepSampler

KEPT, RANDOM = 0.1, 0.1  # shares of the chosen tokens that stay or become random; the others become the mask token
TRAIN, DEV = 0, 1  # part of a mask's key; changing them changes every run


def mask_tokens(
    tokens: np.ndarray, key: Sequence[int], probability: float, mask_id: int, vocabulary: int, special: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Choose tokens of one text for prediction and mask them (Devlin et al., 2019, section 3.1 and appendix A.1).

    Of the chosen tokens, 80 % become the mask token, 10 % a random token of the whole vocabulary, and 10 % stay.

    Args:
        tokens: token ids, shape `(length,)`.
        key: names the mask, such as (seed, epoch, row); the same key and length give the same mask.
        probability: probability that a token is chosen.
        mask_id: id of the mask token.
        vocabulary: size of the vocabulary.
        special: ids that are never chosen.

    Returns:
        The masked input ids, and the labels, which are -100 for tokens that were not chosen; shape `(length,)` both.
    """
    choice, kind, word = np.random.default_rng(key).random((3, len(tokens)))
    chosen = (choice < probability) & ~np.isin(tokens, special)
    inputs = tokens.copy()
    inputs[chosen & (kind >= KEPT + RANDOM)] = mask_id
    replaced = chosen & (kind < RANDOM)
    inputs[replaced] = (word[replaced] * vocabulary).astype(tokens.dtype)
    return inputs, np.where(chosen, tokens, IGNORED)


@dataclass(frozen=True)
class Texts:
    """The texts of all tasks; the two texts of a pair are separate.

    A text counts as often as it occurs, unless duplicates are removed. The second order of a pair that `data.symmetric`
    adds does not count. Dev texts that occur in training are left out in both cases, so that the dev loss measures
    unseen texts.

    Attributes:
        train: texts of the training splits, in order of (first) occurrence.
        dev: texts of the dev splits that no training split contains.
        read: total numbers of training and dev texts.
        distinct: whether duplicates were removed.
    """

    train: tuple[str, ...]
    dev: tuple[str, ...]
    read: tuple[int, int]
    distinct: bool = False

    @classmethod
    def of(cls, splits: Mapping[str, Mapping[str, Dataset]], remove_duplicates: bool = False) -> Texts:
        """Collect the texts of checked splits (columns `text` and, for pairs, `text_pair`); `test` is not read.

        Args:
            splits: task → split → rows.
            remove_duplicates: whether a text that several rows or tasks share counts once.
        """
        train = [text for task in splits.values() if "train" in task for text in _texts(task["train"])]
        dev = [text for task in splits.values() if "dev" in task for text in _texts(task["dev"])]
        read = len(train), len(dev)
        if remove_duplicates:
            train, dev = list(dict.fromkeys(train)), list(dict.fromkeys(dev))
        seen = set(train)
        return cls(tuple(train), tuple(text for text in dev if text not in seen), read, remove_duplicates)

    def lines(self) -> list[str]:
        """Return sentences for the log."""
        train = f"{len(self.train):,} distinct texts of {self.read[0]:,} in the training splits"
        if not self.distinct:
            distinct = len(set(self.train))
            train = f"{len(self.train):,} texts in the training splits, as often as they occur ({distinct:,} distinct)"
        kind = "distinct texts" if self.distinct else "texts"
        return [
            f"pre-training: {train}",
            f"pre-training: {len(self.dev):,} {kind} of {self.read[1]:,} in the dev splits, unseen in training",
        ]

    def digest(self) -> str:
        """Return a SHA-256 hash of the training texts."""
        return hashlib.sha256("\0".join(self.train).encode()).hexdigest()


def _texts(rows: Dataset) -> list[str]:
    """Return the texts of rows, a column at a time. Of rows with the same number, which differ in order, the first."""
    if "row" in rows.column_names:
        _, first = np.unique(rows.with_format("numpy")["row"][:], return_index=True)
        rows = rows if len(first) == len(rows) else rows.select(np.sort(first))
    columns = [column for column in ("text", "text_pair") if column in rows.column_names]
    return [text for column in columns for text in rows[column]]


class EpochSteps(torch.utils.data.Sampler[tuple[int, Step]]):
    """Yields the steps of another sampler as (epoch, step), because masks depend on the epoch."""

    drop_last = False

    def __init__(self, steps: StepSampler | LengthSortedSteps):
        self.steps, self.batch_size = steps, steps.batch_size
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.steps)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0, of the next iteration."""
        self.epoch = epoch
        if hasattr(self.steps, "set_epoch"):
            self.steps.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[int, Step]]:
        return ((self.epoch, step) for step in self.steps)


class MaskedTexts(torch.utils.data.Dataset[Any]):
    """Encoded texts whose index is (epoch, Step) and whose item is a padded batch of masked texts.

    A batch has `input_ids`, `attention_mask` and `labels`, each of shape `(rows, length)`; `labels` is -100 for tokens
    that are not predicted.

    Args:
        texts: rows with `input_ids`.
        tokenizer: gives the mask token, the special tokens and the size of the vocabulary.
        probability: probability that a token is chosen for prediction.
        key: the part of a mask's key before epoch and row: the run's seed and the split.
    """

    def __init__(self, texts: Dataset, tokenizer: PreTrainedTokenizerBase, probability: float, key: Sequence[int]):
        self.texts, self.key = texts.with_format("numpy"), tuple(key)
        self.pad_id = tokenizer.pad_token_id
        self.arguments = (probability, tokenizer.mask_token_id, len(tokenizer), tokenizer.all_special_ids)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitems__(self, index: tuple[int, Step]) -> dict[str, Any]:
        epoch, step = index
        rows = step.parts[0][1]
        tokens = [np.asarray(ids, dtype=np.int64) for ids in self.texts[rows]["input_ids"]]
        shape = len(rows), max(map(len, tokens))
        batch = {"input_ids": np.full(shape, self.pad_id), "labels": np.full(shape, IGNORED)}
        batch["attention_mask"] = np.zeros(shape, dtype=np.int64)
        for place, (row, ids) in enumerate(zip(rows.tolist(), tokens, strict=True)):
            inputs, labels = mask_tokens(ids, (*self.key, epoch, row), *self.arguments)
            batch["input_ids"][place, : len(ids)] = inputs
            batch["attention_mask"][place, : len(ids)] = 1
            if not step.filler:
                batch["labels"][place, : len(ids)] = labels
        return {name: torch.from_numpy(values) for name, values in batch.items()}
