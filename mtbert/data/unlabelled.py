"""Make unlabelled texts from existing ones, for a teacher to label (`data.unlabelled`)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors

Pair = tuple[str, str]


def sentences(texts: Iterable[str], shortest: int = 4, longest: int = 40) -> list[str]:
    """Return the distinct sentences of texts, sorted; a sentence ends at `.`, `!` or `?` before white space.

    Args:
        texts: the texts.
        shortest, longest: smallest and largest number of words (separated by white space) of a sentence.
    """
    parts = (part.strip() for text in texts for part in re.split(r"(?<=[.!?])\s+", text))
    return sorted({part for part in parts if shortest <= len(part.split()) <= longest})


def near_pairs(
    pairs: Sequence[Pair], number: int, nearest: int = 12, seed: int = 0, without: Collection[Pair] = ()
) -> list[Pair]:
    """Sample new pairs of similar texts, as Thakur et al. (2021, Augmented SBERT, section 3.1) do with BM25.

    Each text, in random order, is paired with one of its nearest neighbours, by the cosine of tf-idf vectors of words
    and word pairs. Two random texts would hardly ever be similar.

    Args:
        pairs: the pairs whose texts are combined anew.
        number: largest number of new pairs.
        nearest: number of nearest neighbours to choose from.
        seed: seed of the random choices.
        without: further pairs to avoid. Neither these nor `pairs` are returned, in either order of their texts.

    Returns:
        Distinct pairs of different texts, at most `number`.
    """
    texts = sorted({text for pair in pairs for text in pair})
    if len(texts) < 3:
        return []
    seen = {frozenset(pair) for pair in (*pairs, *without)}
    weigh = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, tokenizer=str.split, token_pattern=None)
    words = weigh.fit_transform(texts)
    near = NearestNeighbors(n_neighbors=min(nearest + 1, len(texts)), metric="cosine").fit(words)
    generator = np.random.default_rng(seed)
    new_pairs: list[tuple[str, str]] = []
    order = generator.permutation(len(texts))
    for start in range(0, len(order), 1000):
        if len(new_pairs) >= number:
            break
        chunk = order[start : start + 1000]
        for text_index, neighbours in zip(chunk, near.kneighbors(words[chunk], return_distance=False), strict=True):
            other = generator.choice(neighbours[neighbours != text_index][:nearest])
            pair = (texts[text_index], texts[other])
            if frozenset(pair) not in seen:
                seen.add(frozenset(pair))
                new_pairs.append(pair)
    return new_pairs[:number]
