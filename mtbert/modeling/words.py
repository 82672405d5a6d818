"""Texts that are given as lists of words, and the places of a text's words."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any


class Words(str):
    """A text that was given as a list of words: the words with one space between them.

    Attributes:
        words: the words, which may be empty or hold white space.
    """

    words: tuple[str, ...]

    def __new__(cls, words: Sequence[Any]) -> Words:
        """Make the text; a missing word (None) is empty."""
        as_texts = tuple("" if word is None else str(word) for word in words)
        text = super().__new__(cls, " ".join(as_texts))
        text.words = as_texts
        return text

    def __reduce__(self) -> tuple[type[Words], tuple[tuple[str, ...]]]:
        return type(self), (self.words,)

    def as_plain_text(self) -> str:
        """A plain string in which `find_words` finds the same words: the text itself, else a JSON list."""
        text = str.__str__(self)
        if self.words == tuple(text.split()) and given_words(text) is None:
            return "".join(text)
        return json.dumps(self.words, ensure_ascii=False)


def given_words(text: str) -> tuple[str, ...] | None:
    """The words that a text says itself, as a `Words` or a JSON list of strings; None for any other text."""
    return text.words if isinstance(text, Words) else _listed(text)


def find_words(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The words of a text.

    A `Words`, or a text that is a JSON list of strings, says them itself; the words of any other text stand between
    white space.

    Returns:
        The text in which they stand, and where each begins and ends in it, in characters.
    """
    words = given_words(text)
    if words is None:
        return text, [match.span() for match in re.finditer(r"\S+", text)]
    spans, start = [], 0
    for word in words:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), spans


def _listed(text: str) -> tuple[str, ...] | None:
    """The words of a JSON list of strings; None for any other text, and for an empty list."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not words or not all(isinstance(word, str) for word in words):
        return None
    return tuple(words)
