"""Texts of the tiny tokenizer's words with tags that follow from the words."""

from __future__ import annotations

import numpy as np
from datasets import Dataset
from tiny import WORDS

from mtbert.modeling.task_spec import TaskSpec

TAGS = ("O", "B-ANIMAL", "I-ANIMAL", "B-PLACE")
SLOTS = TaskSpec("slots", "token_classification", labels=TAGS)
_KINDS = {"cat": "ANIMAL", "dog": "ANIMAL", "bird": "ANIMAL", "fish": "ANIMAL", "house": "PLACE", "tree": "PLACE"}


def tags_of(words: list[str]) -> list[str]:
    """`old` and `new` before an animal begin it."""
    tags = []
    for word, after in zip(words, [*words[1:], ""], strict=True):
        begun = bool(tags) and tags[-1] == "B-ANIMAL" and words[len(tags) - 1] in ("old", "new")
        if word in ("old", "new") and _KINDS.get(after) == "ANIMAL":
            tags.append("B-ANIMAL")
        elif word in _KINDS:
            tags.append("I-ANIMAL" if begun else f"B-{_KINDS[word]}")
        else:
            tags.append("O")
    return tags


def tagged_split(rows: int, seed: int = 0, longest: int = 12) -> Dataset:
    """Random rows: lists of words as `text`, tags as `label`."""
    random = np.random.default_rng([seed, 77])
    texts = [random.choice(WORDS, size=random.integers(2, longest + 1)).tolist() for _ in range(rows)]
    return Dataset.from_dict({"text": texts, "label": [tags_of(words) for words in texts]})
