"""Columns of words, as lists, and of a tag for each word, which make token tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...data.label_forms import is_empty
from ...modeling.token_labels import tag_problems
from .columns import WORDS_OF_PROSE, Column, as_parts, is_number
from .readings import MOST_LABELS, TOKENS, Reading, no_task
from .tables import Table
from .wishes import Wishes

TAGS = "token_classification"
FEWEST_DIFFERENT = 0.05  # share of different words among all, in a column of words without tags


@dataclass(frozen=True)
class TaggedWords:
    """A column of words with the columns of their tags.

    Attributes:
        words: the column of words.
        readings: column of tags → how it is read.
    """

    words: str
    readings: Mapping[str, Reading] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """All its columns."""
        return (self.words, *self.readings)


def tagged_words(table: Table, wishes: Wishes) -> TaggedWords | None:
    """Read the words of a table and their tags; None if it has no words."""
    found = find_words(table.columns) if len(table.train) > 1 else None  # a single row of lists holds columns
    if found is None:
        return None
    words, columns = found
    rows, readings = table.train.with_format(None), {}
    for tags in columns:
        if wishes.text and wishes.text != (words,):
            readings[tags] = no_task(f"it has tags of {words!r}, but --text names other texts")
            continue
        if wishes.label and tags not in wishes.label:
            readings[tags] = no_task("--label names others")
            continue
        names = getattr(getattr(table.train.features[tags], "feature", None), "names", None)
        readings[tags] = read_tags(rows[words][:], rows[tags][:], names)
    return TaggedWords(words, readings)


def find_words(columns: Sequence[Column]) -> tuple[str, tuple[str, ...]] | None:
    """The column of words, and those of tags, with as many items in each row; None if there is none.

    Lists of words without tags count if they are as long as prose, and if words differ more than labels would.
    """
    lists = {column.name: [as_parts(cell) for cell in column.cells] for column in columns if column.holds == "lists"}
    texts = {name: parts for name, parts in lists.items() if _are_words(parts)}
    for words, in_words in texts.items():
        fitting = (tags for tags, in_tags in lists.items() if tags != words and _fit(in_words, in_tags))
        if tags := tuple(name for name in fitting if _variety(lists[name]) < min(0.5, _variety(in_words))):
            return words, tags
    words = max(texts, key=lambda name: sum(len(parts or ()) for parts in texts[name]), default=None)
    if words is None or _variety(texts[words]) < FEWEST_DIFFERENT:
        return None
    items = sum(len(parts or ()) for parts in texts[words])
    return (words, ()) if items >= WORDS_OF_PROSE * len(texts[words]) else None


def _are_words(lists: Sequence[list[Any] | None]) -> bool:
    """Whether the items are texts of mostly one word."""
    items = [item for parts in lists for item in parts or ()]
    return all(isinstance(item, str) for item in items) and sum(" " in item.strip() for item in items) < len(items) / 2


def _fit(words: Sequence[list[Any] | None], tags: Sequence[list[Any] | None]) -> bool:
    """Whether rows have as many tags as words, and some row has several."""
    pairs = [(len(one), len(other)) for one, other in zip(words, tags, strict=True) if one and other]
    return bool(pairs) and all(one == other for one, other in pairs) and max(pairs)[0] > 1


def _variety(lists: Sequence[list[Any] | None]) -> float:
    items = [str(item) for parts in lists for item in parts or ()]
    return len(set(items)) / max(1, len(items))


def read_tags(words: Sequence[Any], tags: Sequence[Any], names: Sequence[str] | None) -> Reading:
    """Read a column of tags as the labels of a token task.

    Args:
        words, tags: the lists of each row, `(rows,)` each.
        names: the names that the tags' numbers stand for; None: they stand for themselves.
    """
    rows: Counter[str] = Counter()
    for number, (of_words, of_tags) in enumerate(zip(words, tags, strict=True), 1):
        if is_empty(of_tags):
            continue
        inside, others = as_parts(of_tags), as_parts(of_words)
        if inside is None or others is None or len(inside) != len(others):
            counts = f"{len(others or ())} words, but {len(inside or ())} tags"
            return no_task(f"row {number:,} has {counts}; give each word one")
        rows.update(names[tag] if names is not None else str(tag) for tag in inside)
    labels = list(names) if names is not None else sorted(rows, key=lambda tag: (tag != "O", tag[2:], tag))
    if not 2 <= len(labels) <= MOST_LABELS:
        return no_task(f"it has {len(labels):,} different tags")
    if all(map(is_number, labels)):
        return no_task("its tags are numbers; write their names in their place, such as O, B-PER and I-PER")
    if problems := tag_problems(labels):
        return no_task(f"its tags {problems[0].message}")
    settings = {"problem_type": TAGS, "labels": labels}
    return Reading(TOKENS, settings, {label: rows[label] for label in labels})
