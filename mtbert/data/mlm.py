"""Masked-language modelling: which texts are read, and which of their tokens are to be told from the rest.

A mask is a pure function of (seed, epoch, row), so that a resumed run and one on several processes see the same ones.
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

KEPT, RANDOM = 0.1, 0.1  # of the chosen tokens; the others become the mask token
TRAIN, DEV = 0, 1  # part of what a seed means


def mask_tokens(
    tokens: np.ndarray, key: Sequence[int], probability: float, mask_id: int, vocabulary: int, special: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Choose tokens of one text and hide them (Devlin et al., 2019, section 3.1 and appendix A.1).

    Of the chosen ones 80 % become the mask token, 10 % a random token of the whole vocabulary, 10 % stay.

    Args:
        tokens: `(length,)` token ids.
        key: names the mask, such as (seed, epoch, row); the same key and length are the same mask.
        probability: of each token to be chosen.
        special: ids that are never chosen.

    Returns:
        The tokens that the model reads, and the labels, -100 where nothing was chosen; both `(length,)`.
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
    """The texts of all tasks, each text of a pair on its own, each distinct one once.

    A text that several rows or tasks share would otherwise be read as often as they do. Dev texts that are training
    texts too are left out, so that the dev loss is that of unseen ones.

    Attributes:
        train: texts of the training splits, in the order in which they first occur.
        dev: texts of the dev splits that no training split has.
        read: how many texts the splits hold, repeated ones counted: training, dev.
    """

    train: tuple[str, ...]
    dev: tuple[str, ...]
    read: tuple[int, int]

    @classmethod
    def of(cls, splits: Mapping[str, Mapping[str, Dataset]]) -> Texts:
        """The texts of checked splits by task: columns `text` and, for pairs, `text_pair`; `test` is not read."""
        found: dict[str, list[str]] = {"train": [], "dev": []}
        for task in splits.values():
            for name, texts in found.items():
                if name in task:
                    columns = [column for column in ("text", "text_pair") if column in task[name].column_names]
                    texts += [text for column in columns for text in task[name][column]]
        train = dict.fromkeys(found["train"])
        dev = [text for text in dict.fromkeys(found["dev"]) if text not in train]
        return cls(tuple(train), tuple(dev), (len(found["train"]), len(found["dev"])))

    def lines(self) -> list[str]:
        """Sentences for the log."""
        return [
            f"pre-training: {len(self.train):,} distinct texts of {self.read[0]:,} in the training splits",
            f"pre-training: {len(self.dev):,} distinct texts of {self.read[1]:,} in the dev splits, unseen in training",
        ]

    def digest(self) -> str:
        """A name for these training texts."""
        return hashlib.sha256("\0".join(self.train).encode()).hexdigest()


class EpochSteps(torch.utils.data.Sampler[tuple[int, Step]]):
    """The steps of another sampler, each with its epoch, which the masks depend on."""

    drop_last = False

    def __init__(self, steps: StepSampler | LengthSortedSteps):
        self.steps, self.batch_size = steps, steps.batch_size
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.steps)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, that the next iteration yields."""
        self.epoch = epoch
        if hasattr(self.steps, "set_epoch"):
            self.steps.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[int, Step]]:
        return ((self.epoch, step) for step in self.steps)


class MaskedTexts(torch.utils.data.Dataset):
    """Encoded texts behind one index: (epoch, Step) in, a padded batch with a mask for each of its texts out.

    A batch has `input_ids` and `attention_mask` `(rows, length)` and `labels` `(rows, length)`, -100 where there is
    nothing to predict.

    Args:
        texts: rows with `input_ids`.
        tokenizer: names the mask token, the special ones and the vocabulary.
        probability: of each token to be chosen.
        key: what names all masks besides epoch and row: the run's seed and the split.
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
