"""Texts without labels, made of texts that are there, for a teacher to speak about (`data.unlabelled`)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors

Pair = tuple[str, str]


def sentences(texts: Iterable[str], shortest: int = 4, longest: int = 40) -> list[str]:
    """The different sentences of texts, sorted; a sentence ends at `.`, `!` or `?` before white space.

    Args:
        shortest, longest: how many words (between white space) a sentence has.
    """
    parts = (part.strip() for text in texts for part in re.split(r"(?<=[.!?])\s+", text))
    return sorted({part for part in parts if shortest <= len(part.split()) <= longest})


def near_pairs(
    pairs: Sequence[Pair], number: int, nearest: int = 12, seed: int = 0, without: Collection[Pair] = ()
) -> list[Pair]:
    """New pairs of similar texts, as Thakur et al. (2021, Augmented SBERT, section 3.1) sample pairs with BM25.

    A text taken at random is put beside one of those nearest to it, by the cosine of their words and pairs of words
    weighted by tf-idf. Two texts taken at random would hardly ever be alike.

    Args:
        pairs: whose texts are put together anew.
        number: of new pairs, at most.
        nearest: among how many texts the other one is chosen.
        without: pairs that are not to be made; those of `pairs` are not either, nor any with its texts exchanged.

    Returns:
        Different pairs of different texts, `number` or as many as there are.
    """
    texts = sorted({text for pair in pairs for text in pair})
    if len(texts) < 3:
        return []
    known = {frozenset(pair) for pair in (*pairs, *without)}
    weigh = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, tokenizer=str.split, token_pattern=None)
    words = weigh.fit_transform(texts)
    near = NearestNeighbors(n_neighbors=min(nearest + 1, len(texts)), metric="cosine").fit(words)
    generator, found = np.random.default_rng(seed), []
    order = generator.permutation(len(texts))
    for start in range(0, len(order), 1000):
        if len(found) >= number:
            break
        some = order[start : start + 1000]
        for one, others in zip(some, near.kneighbors(words[some], return_distance=False), strict=True):
            other = generator.choice(others[others != one][:nearest])
            pair = (texts[one], texts[other])
            if frozenset(pair) not in known:
                known.add(frozenset(pair))
                found.append(pair)
    return found[:number]
