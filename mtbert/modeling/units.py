"""The units that a task labels: its rows. A subclass of `Units` labels parts of a row, such as its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Offsets = Sequence[tuple[int, int]]


class Units:
    """Rows: each has one label and one line of logits.

    Attributes:
        dims: number of dimensions of the units of several rows: 1, `(rows,)`; of parts of rows 2, `(rows, most parts)`.
        column: column of encoded rows that says where the units of a row are: the index of each unit's token, negative
            if it has none; None: a row is one unit.
        reads_tokens: whether the head reads the state of every token in place of a pooled output, so that in a batch
            each token has a line of logits.
    """

    dims = 1
    column: str | None = None
    reads_tokens = False

    def plain(self, text: str) -> str:
        """The text that the tokenizer reads."""
        return text

    def shape(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Shape of the units of these texts: the logits' without the last dimension."""
        return (len(texts),)

    def locate(self, texts: Sequence[str], offsets: Sequence[Offsets], truncated: Sequence[int]) -> dict[str, Any]:
        """More columns of encoded rows.

        Args:
            texts: the text of each row.
            offsets: for each row, the first and the last character but one of each token in its `plain` text; (0, 0)
                for special tokens.
            truncated: number of tokens that were cut off each row.
        """
        return {}

    def note(self, firsts: Any) -> str | None:
        """A sentence on the units without a token, or None if there are none.

        Args:
            firsts: the column `column` of encoded rows, a `pyarrow.ChunkedArray` of lists.
        """
        return None


ROWS = Units()
