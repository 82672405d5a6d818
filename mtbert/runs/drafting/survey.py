"""What is told of each drafted table: rows, repeated and contradicting texts, leaks, lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

from .facts import Length, contradicted, repeated, shared, suggest_length
from .tasks import TableDraft


@dataclass(frozen=True)
class Surveyed:
    """A drafted table with counts.

    Attributes:
        draft: the table.
        length: the suggested length of its inputs.
        without_text: split → number of rows whose text is empty.
        repeated: number of train rows whose text an earlier one has.
        contradicted: task → number of texts that occur with different labels.
    """

    draft: TableDraft
    length: Length
    without_text: dict[str, int] = field(default_factory=dict)
    repeated: int = 0
    contradicted: dict[str, int] = field(default_factory=dict)

    @property
    def dev_share(self) -> int:
        """The share of the rows in per cent that a dev split takes; 0: the table has a dev split."""
        if "dev" in self.draft.table.splits:
            return 0
        rows = len(self.draft.table.train)
        share = 10 if rows >= 50 else 20 if rows >= 15 else 50
        for task in self.draft.active:  # each label gives its share, so that one of a few rows gives none of a tenth
            share = max(share, -(-50 // max(1, task.commonest)))
        return min(50, share)


@dataclass(frozen=True)
class Leak:
    """Train rows of a table whose text is also in a held-out split: names of both, and the number of rows."""

    train: str
    held_out: str
    split: str
    rows: int


def survey(draft: TableDraft, tokenizer: PreTrainedTokenizerBase | None, limit: int | None) -> Surveyed:
    """Count what is told of a table.

    Args:
        draft: the table.
        tokenizer: the encoder's; None: lengths follow from words.
        limit: most tokens that the encoder takes; None: not known.
    """
    keys, rows = draft.keys["train"], draft.table.train
    against, again = {}, repeated(keys)
    if again:
        for task in draft.active:
            if isinstance(task.column, str):
                against[task.name] = contradicted(keys, rows.with_format(None)[task.column][:])
    return Surveyed(
        draft,
        suggest_length(rows, draft.text, tokenizer, limit),
        {split: int((hashes == 0).sum()) for split, hashes in draft.keys.items() if (hashes == 0).any()},
        again,
        {name: texts for name, texts in against.items() if texts},
    )


def find_leaks(drafts: Sequence[TableDraft]) -> list[Leak]:
    """Find the train rows of each table whose text, or pair, stands in a dev or test split of any table."""
    leaks = []
    for one in drafts:
        for other in drafts:
            if len(one.text) != len(other.text):
                continue
            for split in ("dev", "test"):
                held: np.ndarray | None = other.keys.get(split)
                rows = 0 if held is None else shared(one.keys["train"], held)
                if rows:
                    leaks.append(Leak(one.table.name, other.table.name, split, rows))
    return leaks
