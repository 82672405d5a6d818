"""Labels of words: read a row's tags, and check that there is one for each word.

A cell of tags is a list, or a text: a list in JSON (or Python) syntax, or tags with white space between them. Words are
a list of strings, a text that is such a list in JSON, or a text whose words stand between white space.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from datasets import ClassLabel

from ..errors import InputError
from ..modeling.problem_types import IGNORED
from ..modeling.token_labels import OUTSIDE, tag_problems
from ..modeling.words import Words, find_words, given_words
from .label_cells import parsed, plain
from .label_reading import Label, LabelReader

MOST_LABELS = 1000  # more different tags are no tags


class TagReader(LabelReader):
    """Reads the tags of a row's words; a tag is one of the task's labels, or its id. A tag that is null is missing."""

    finds_labels: ClassVar[bool] = True
    fits_rule: ClassVar[str] = "give as many labels as words"

    @property
    def accepted(self) -> str:
        """Description of the valid labels for error messages."""
        return f"a list with one label for each word, {super().accepted}"

    @property
    def blank(self) -> Label:
        """The value of the label column in rows without usable labels: no label."""
        return []

    def missing(self, value: Any) -> bool:
        """Return whether a row has no labels: an empty cell, or a list of missing ones."""
        tags = _tags(value)
        return tags is not None and all(map(_is_missing, tags))

    def readings(self, value: Any) -> Mapping[str, Label | None]:
        """Return the ids of a row's tags, -100 for a missing one; nothing if one of them is no label."""
        tags = _tags(value)
        ids: list[Any] = [] if tags is None else [self._id(tag) for tag in tags]
        return {} if tags is None or None in ids else {"as tags": ids}

    def _id(self, tag: Any) -> int | None:
        if _is_missing(tag):
            return IGNORED
        ids = set(self._class(tag).values())
        return ids.pop() if len(ids) == 1 else None

    def wrong_part(self, value: Any) -> Any:
        """Return the first tag that is no label, or the cell if it holds no tags."""
        return next((tag for tag in _tags(value) or () if self._id(tag) is None), value)

    @staticmethod
    def as_stored(text: str) -> str:
        """A text from which `find_words` finds the same words."""
        words = given_words(text)
        return text if words is None else Words(words).as_plain_text()

    def fits(self, text: str, label: Label) -> bool:
        """Return whether there are as many labels as words."""
        return isinstance(label, list) and len(label) == len(find_words(text)[1])

    def counts(self, text: str, value: Any) -> str:
        """Return the numbers of words and labels."""
        return f"{len(find_words(text)[1]):,} words, {len(_tags(value) or ()):,} labels"

    @staticmethod
    def labels_in(cells: Iterable[Any], feature: Any) -> tuple[str, ...]:
        """Return the tags of a column: O, then those of each type, B, I, E and S.

        Raises:
            InputError: these are no tags.
        """
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, ClassLabel):
            found = set(inner.names)
        else:
            found = {str(tag).strip() for cell in cells for tag in _tags(cell) or () if not _is_missing(tag)}
        labels = (OUTSIDE, *sorted(found - {OUTSIDE}, key=lambda tag: (tag[2:], "BIES".find(tag[:1]))))
        if len(labels) > MOST_LABELS:
            raise InputError(f"there are {len(labels):,} different labels, more than {MOST_LABELS:,}; list them")
        if problems := tag_problems(labels):
            raise InputError(f"they {problems[0].message}")
        if len(labels) < 2:
            raise InputError(f"no word has another label than {OUTSIDE!r}; list the labels")
        return labels


def _tags(value: Any) -> list[Any] | None:
    """The tags of a cell; None for a value that holds none. An empty cell has an empty list."""
    value = plain(value)
    if isinstance(value, str):
        text = value.strip()
        value = parsed(text) if text.startswith("[") else text.split()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return []
    return value if isinstance(value, list) else None


def _is_missing(tag: Any) -> bool:
    return tag is None or tag != tag or tag == IGNORED or (isinstance(tag, str) and not tag.strip())
