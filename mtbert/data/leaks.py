"""Find train rows that give away a dev or test row of any task: the same text or pair, or a phrase of it.

Tasks that share sources leak: a phrase of a film review in one task is cut from a dev sentence of another. Texts are
compared as sequences of words, without case and punctuation. Time and memory are linear in the number of words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict

from ..errors import InputError
from .loaded_task import LoadedTask
from .split_report import Leak as Leak

SHORTEST = 3  # words of a phrase
HELD_OUT = ("dev", "test")
COLUMNS = ("text", "text_pair")
BASE = np.uint64(0x9E3779B97F4A7C15)  # of the polynomial hashes modulo 2^64; odd, so that it has an inverse
_WORDS = re.compile(r"\w+")


@dataclass(frozen=True)
class WordTexts:
    """Texts as hashes of their words, one after another.

    Attributes:
        words: `(all words,)`, uint64.
        starts: `(texts + 1,)`, position of each text's first word.
    """

    words: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str]) -> WordTexts:
        """Split texts into words."""
        lists = [_WORDS.findall(text.casefold()) for text in texts]
        starts = np.cumsum([0, *map(len, lists)])
        words = np.array([word for words in lists for word in words], dtype=object)
        return cls(pd.util.hash_array(words) if len(words) else np.zeros(0, np.uint64), starts)

    @property
    def lengths(self) -> np.ndarray:
        """Number of words of each text, `(texts,)`."""
        return np.diff(self.starts)

    @cached_property
    def prefixes(self) -> np.ndarray:
        """`(all words + 1,)`: Σ_{j < i} word_j · BASE^j, from which the hash of every phrase follows."""
        return np.concatenate([np.zeros(1, np.uint64), np.cumsum(self.words * self.powers[:-1], dtype=np.uint64)])

    @cached_property
    def powers(self) -> np.ndarray:
        """`(all words + 1,)`: BASE^i."""
        return np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(len(self.words), BASE)]), dtype=np.uint64)

    @cached_property
    def inverses(self) -> np.ndarray:
        """`(all words + 1,)`: BASE^−i modulo 2^64."""
        inverse = np.uint64(pow(int(BASE), -1, 2**64))
        return np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(len(self.words), inverse)]), dtype=np.uint64)

    def phrase_hashes(self, starts: np.ndarray, lengths: np.ndarray | int) -> np.ndarray:
        """Hash of the phrase of `lengths` words from each of `starts`; equal phrases have equal hashes."""
        return (self.prefixes[starts + lengths] - self.prefixes[starts]) * self.inverses[starts]

    def hashes(self) -> np.ndarray:
        """Hash of each whole text, `(texts,)`."""
        return self.phrase_hashes(self.starts[:-1], self.lengths)


def containing(phrases: WordTexts, texts: WordTexts) -> tuple[np.ndarray, np.ndarray]:
    """Find the texts that contain phrases whole.

    Args:
        phrases: those of fewer than three words are in no text.
        texts: any texts.

    Returns:
        Indices of phrases and of texts that contain them, `(found,)` each; a pair may occur several times.
    """
    long = np.flatnonzero(phrases.lengths >= SHORTEST)
    openings = np.unique(phrases.phrase_hashes(phrases.starts[long], SHORTEST))
    by_length: dict[int, np.ndarray] = {}
    for length in np.unique(phrases.lengths[long]):
        by_length[int(length)] = long[phrases.lengths[long] == length]

    places = np.arange(max(0, len(texts.words) - SHORTEST + 1))
    owners = np.repeat(np.arange(len(texts.lengths)), texts.lengths)[: len(places)]
    left = texts.starts[owners + 1] - places  # words from a place to the end of its text
    opens = (left >= SHORTEST) & np.isin(texts.phrase_hashes(places, SHORTEST), openings)
    places, owners, left = places[opens], owners[opens], left[opens]

    pairs = []
    for length, candidates in by_length.items():
        fits = left >= length
        here, of_texts = places[fits], owners[fits]
        pairs.append(_equal(phrases.hashes()[candidates], texts.phrase_hashes(here, length), candidates, of_texts))
    if not pairs:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    first, second = zip(*pairs, strict=True)
    return np.concatenate(first), np.concatenate(second)


def _equal(
    hashes: np.ndarray, of_places: np.ndarray, phrases: np.ndarray, texts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a phrase and a text whose hashes are equal; each hash of a phrase occurs once."""
    order = np.argsort(hashes)
    at = np.searchsorted(hashes, of_places, sorter=order)
    at = order[np.minimum(at, len(order) - 1)]
    equal = hashes[at] == of_places
    return phrases[at[equal]], texts[equal]


class _Texts:
    """All different texts, with a number for each; texts of the same words have the same `words` number."""

    def __init__(self, splits: Iterable[Dataset]):
        columns = [rows.with_format(None)[name][:] for rows in splits for name in COLUMNS if name in rows.column_names]
        self.numbers = {text: i for i, text in enumerate(dict.fromkeys(text for column in columns for text in column))}
        in_words = WordTexts.of(self.numbers)
        hashes = in_words.hashes()
        wordless = in_words.lengths == 0
        hashes[wordless] = pd.util.hash_array(np.array(list(self.numbers), dtype=object)[wordless])
        _, first, self.words = np.unique(hashes, return_index=True, return_inverse=True)
        self.in_words, self.first = in_words, first

    def rows(self, split: Dataset) -> np.ndarray:
        """The numbers of each row's texts, `(rows, 1 or 2)`."""
        columns = [split.with_format(None)[name][:] for name in COLUMNS if name in split.column_names]
        numbers = [[self.numbers[text] for text in column] for column in columns]
        return np.array(numbers, dtype=np.int64).reshape(len(columns), -1).T

    def select(self, words: np.ndarray) -> WordTexts:
        """The texts of the given `words` numbers."""
        starts, lengths = self.in_words.starts[self.first[words]], self.in_words.lengths[self.first[words]]
        ends = np.cumsum([0, *lengths])
        places = np.arange(ends[-1]) - np.repeat(ends[:-1], lengths) + np.repeat(starts, lengths)
        return WordTexts(self.in_words.words[places], ends)

    def related(self, train: np.ndarray, held_out: np.ndarray) -> pd.DataFrame:
        """Pairs of `words` numbers, `train` and `held`, of which one text is the other's, or a phrase of it."""
        train, held_out = np.unique(train), np.unique(held_out)
        inside, around = containing(self.select(train), self.select(held_out))
        within, outer = containing(self.select(held_out), self.select(train))
        same = np.intersect1d(train, held_out)
        return pd.DataFrame(
            {
                "train": np.concatenate([train[inside], train[outer], same]),
                "held": np.concatenate([held_out[around], held_out[within], same]),
            }
        ).drop_duplicates()


def find_leaks(tasks: Mapping[str, Mapping[str, Dataset]]) -> list[Leak]:
    """Find the train rows that give away held-out rows.

    The same is a text of a task with single texts, or a pair in either order. Of two pairs, both texts must be the
    other's or phrases; between a single text and a pair, one text of the pair is enough.

    Args:
        tasks: task name → `train`, `dev` and `test` → checked rows: `text`, for pairs `text_pair`, and `row`.

    Returns:
        A Leak for each train split and held-out split with such rows.
    """
    trains = {name: splits["train"] for name, splits in tasks.items() if "train" in splits}
    groups = [(name, split) for name, splits in tasks.items() for split in HELD_OUT if split in splits]
    texts = _Texts([*trains.values(), *(tasks[name][split] for name, split in groups)])
    train_rows = {name: texts.rows(rows) for name, rows in trains.items()}
    held_rows = {group: texts.rows(tasks[group[0]][group[1]]) for group in groups}
    if not train_rows or not held_rows:
        return []
    words = [texts.words[np.concatenate([rows.ravel() for rows in each.values()])] for each in (train_rows, held_rows)]
    related = texts.related(*words)
    leaks = []
    for name, rows in train_rows.items():
        numbers = np.asarray(trains[name].with_format(None)["row"][:])
        for (other, split), held in held_rows.items():
            same = _same(rows, held)
            near = _near(texts.words[rows], texts.words[held], related) & ~same
            if same.any() or near.any():
                found = (tuple(np.unique(numbers[which]).tolist()) for which in (same, near))
                leaks.append(Leak(name, other, split, *found))
    return leaks


def _same(rows: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Whether each train row's text, or pair in either order, is a held-out row's, `(rows,)`."""
    if rows.shape[1] != held.shape[1]:
        return np.zeros(len(rows), dtype=bool)
    keys = [np.sort(each, axis=1) @ np.array([2**31, 1][-each.shape[1] :]) for each in (rows, held)]
    return np.isin(*keys)


def _near(rows: np.ndarray, held: np.ndarray, related: pd.DataFrame) -> np.ndarray:
    """Whether each train row has a text, of pairs both, that is related to a held-out row's, `(rows,)`.

    Args:
        rows, held: `words` numbers of each row's texts.
        related: see `_Texts.related`.
    """
    related = related[related["held"].isin(held.ravel()) & related["train"].isin(rows.ravel())]
    if rows.shape[1] == 1 or held.shape[1] == 1:
        return np.asarray(np.isin(rows, related["train"]).any(axis=1))
    sides = pd.DataFrame({"held": held.T.ravel(), "row": np.tile(np.arange(len(held)), 2)})
    sides["side"] = np.repeat([0, 1], len(held))
    near = []
    for column in (0, 1):
        of_train = pd.DataFrame({"train": rows[:, column], "number": np.arange(len(rows))})
        near.append(of_train.merge(related, on="train").merge(sides, on="held")[["number", "row", "side"]])
    near[1]["side"] = 1 - near[1]["side"]
    both = near[0].merge(near[1], on=["number", "row", "side"])
    return np.isin(np.arange(len(rows)), both["number"])


def with_leaks(tasks: Mapping[str, LoadedTask], drop: bool) -> dict[str, LoadedTask]:
    """Put the leaks between all tasks into the reports of their train splits.

    Args:
        tasks: task name → its splits.
        drop: whether these train rows are dropped.

    Raises:
        InputError: a task would have no train rows.
    """
    by_task: dict[str, list[Leak]] = {}
    for leak in find_leaks({name: loaded.splits for name, loaded in tasks.items()}):
        by_task.setdefault(leak.task, []).append(leak)
    changed = dict(tasks)
    for name, leaks in by_task.items():
        splits, left = tasks[name].splits, None
        if drop:
            numbers = np.unique(np.concatenate([leak.rows for leak in leaks]))
            kept = np.flatnonzero(~np.isin(np.asarray(splits["train"].with_format(None)["row"][:]), numbers))
            left = len(kept)
            if not left:
                raise InputError(f"task {name!r}: leaks: drop leaves no train row; each stands in a held-out split")
            splits = DatasetDict({**splits, "train": splits["train"].select(kept)})
        reports = [
            replace(report, leaks=tuple(leaks), without_leaks=left) if report.split == "train" else report
            for report in tasks[name].reports
        ]
        changed[name] = replace(tasks[name], splits=splits, reports=tuple(reports))
    return changed
