"""What a column of a table holds, by its name and some of its cells. Pure functions, which read no file."""

from __future__ import annotations

import datetime
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ...data.label_cells import number_of, parsed
from ...data.label_forms import is_empty

TEXT_NAMES = (
    *("text", "sentence", "body", "message", "content", "utterance", "comment", "review", "question", "query", "tweet"),
    *("post", "document", "article", "description", "abstract", "title", "headline", "subject", "premise", "claim"),
)
ID_NAME = re.compile(r"(?:.*[\W_])?(?:id|ids|uid|guid|uuid|key|index|idx|nr|no|number|row)|ticket|id[\W_].*", re.I)
# columns of a data set that are seldom labels
OTHER_NAME = re.compile(
    r"(?:.*[\W_])?(?:year|month|day|hour|dates?|times?|timestamp|created|updated|authors?|users?|username|url|link|file|"
    r"filename|path|lang|language|country|city|likes|views|retweets|lat|lon|latitude|longitude|length|count|version|"
    r"fold|num[\W_].*)(?:[\W_].*)?",
    re.I,
)
PAIRS = (
    *(("premise", "hypothesis"), ("question", "answer"), ("question", "context"), ("question", "sentence")),
    *(
        ("query", "passage"),
        ("query", "document"),
        ("text", "text_pair"),
        ("anchor", "positive"),
        ("claim", "evidence"),
    ),
    *(("context", "response"), ("source", "target"), ("sentence", "paraphrase"), ("original", "paraphrase")),
)
SIDES = (("1", "2"), ("0", "1"), ("a", "b"), ("first", "second"), ("one", "two"), ("left", "right"), ("x", "y"))
DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?:[T ]\d{1,2}:\d{2}\S*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}(?:,? \d{1,2}:\d{2}.*)?|"
    r"\d{1,2}:\d{2}(?::\d{2})?"
)
WORDS_OF_PROSE = 2.5  # mean number of words of a text, at least
LONG = 60  # mean characters of a text that has few words, such as one in Chinese


def as_parts(cell: Any) -> list[Any] | None:
    """The items of a list, or of a text that spells one; None for any other cell."""
    if isinstance(cell, str) and cell.strip()[:1] in ("[", "(", "{"):
        cell = parsed(cell.strip())
    return list(cell) if isinstance(cell, list | tuple | set | frozenset) else None


def as_object(cell: Any) -> Mapping[Any, Any] | None:
    """A mapping, or that which a text spells; None for any other cell."""
    if isinstance(cell, str) and cell.strip()[:1] == "{":
        cell = parsed(cell.strip())
    return cell if isinstance(cell, Mapping) else None


@dataclass(frozen=True)
class Column:
    """A column, and cells of it from all parts of the table.

    Attributes:
        name: its name.
        cells: the cells, unchanged.
        names: the names that its whole numbers stand for, as a ClassLabel of `datasets` has them; None: none.
    """

    name: str
    cells: tuple[Any, ...] = field(repr=False)
    names: tuple[str, ...] | None = None

    @cached_property
    def filled(self) -> tuple[Any, ...]:
        """The cells that are not empty."""
        return tuple(cell for cell in self.cells if not is_empty(cell))

    @cached_property
    def counts(self) -> Counter[str]:
        """Each different cell, as text, with the number of its rows."""
        return Counter(str(cell).strip() for cell in self.filled)

    @property
    def variety(self) -> float:
        """Number of different cells for each filled one, in (0, 1]; 0 for an empty column."""
        return len(self.counts) / len(self.filled) if self.filled else 0.0

    @cached_property
    def mean_words(self) -> float:
        """Mean number of words of a filled cell."""
        return sum(len(str(cell).split()) for cell in self.filled) / max(1, len(self.filled))

    @cached_property
    def mean_characters(self) -> float:
        """Mean number of characters of a filled cell."""
        return sum(len(str(cell)) for cell in self.filled) / max(1, len(self.filled))

    @cached_property
    def holds(self) -> str:
        """The kind of its cells: nothing, objects, lists, dates, numbers, prose, codes (no cell twice) or names."""
        if not self.filled:
            return "nothing"
        if self.names is not None:
            return "names"
        if any(as_object(cell) is not None for cell in self.filled):
            return "objects"
        if sum(as_parts(cell) is not None for cell in self.filled) >= 0.9 * len(self.filled):
            return "lists"
        if all(isinstance(cell, datetime.date | datetime.time | datetime.timedelta) for cell in self.filled):
            return "dates"
        texts = list(self.counts)
        if all(DATE.fullmatch(text) for text in texts):
            return "dates"
        if not any(isinstance(cell, bool) for cell in self.filled) and all(map(is_number, texts)):
            return "numbers"
        if self.variety >= 0.2 and (self.mean_words >= WORDS_OF_PROSE or self.mean_characters >= LONG):
            return "codes" if self.mean_words < 1.05 and all(text.isascii() for text in texts) else "prose"
        if self.variety == 1 and len(texts) > 5 and not any(re.search(r"\s", text) for text in texts):
            return "codes"
        return "names"

    @property
    def identifies(self) -> bool:
        """Whether its name and cells are those of an id."""
        if self.holds not in ("codes", "numbers", "names") or self.variety < 1 or self.names is not None:
            return False
        return ID_NAME.fullmatch(self.name.strip()) is not None

    @property
    def counts_rows(self) -> bool:
        """Whether it is the number of each row, as some programs write it in a column without a name."""
        if self.holds != "numbers" or self.variety < 1:
            return False
        values = [number_of(text) or 0.0 for text in self.counts]
        if not all(value.is_integer() for value in values):
            return False
        nameless = not self.name.strip() or self.name.startswith("Unnamed: ")
        return nameless or (len(values) > 20 and values[-1] - values[0] == len(values) - 1 and values == sorted(values))


def is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    number = number_of(text)
    return number is not None and math.isfinite(number)


def could_be_cell(column: Column) -> bool:
    """Whether a column's name looks like one of its cells, as in a table without a line of names."""
    name = column.name.strip()
    if column.holds == "nothing":
        return name.startswith("Unnamed: ")
    if column.holds == "numbers":
        return is_number(name)
    if column.holds == "dates":
        return DATE.fullmatch(name) is not None
    if column.holds == "lists":
        return as_parts(name) is not None
    if column.holds == "prose":
        return len(name.split()) >= max(3, column.mean_words / 2)
    if column.holds == "codes":
        return any(map(str.isdigit, name)) and not ID_NAME.fullmatch(name)
    return column.counts[name] > 0


@dataclass(frozen=True)
class TextChoice:
    """The columns of the texts.

    Attributes:
        columns: one, or two for a pair.
        others: further columns that may be texts.
    """

    columns: tuple[str, ...]
    others: tuple[str, ...] = ()


def choose_text(columns: Sequence[Column]) -> TextChoice | None:
    """Choose the column of the texts, or the two of a pair; None if no column can be one."""
    prose = [column for column in columns if column.holds == "prose"]
    if not prose:
        prose = _short_texts(columns)
    names = [column.name for column in prose]
    if len(prose) > 1:
        pair = _named_pair(names)
        if pair is not None:
            return TextChoice(pair, tuple(name for name in names if name not in pair))
    if not prose:
        return None
    best = max(prose, key=_likeness)
    return TextChoice((best.name,), tuple(name for name in names if name != best.name))


def _short_texts(columns: Sequence[Column]) -> list[Column]:
    """The columns of words that may be short texts: those with a text's name, or else the one with most values."""
    words = [column for column in columns if column.holds in ("names", "codes") and not column.identifies]
    words = [column for column in words if column.names is None and re.search(r"[^\W\d_]", "".join(column.counts))]
    named = [column for column in words if _bare(column.name) in TEXT_NAMES]
    if named:
        return named
    varied = [column for column in words if column.variety > 0.5 and len(column.counts) > 2]
    return varied if len(varied) == 1 else sorted(varied, key=_likeness)[-1:]


def _likeness(column: Column) -> tuple[bool, float, float]:
    """A key by which the likeliest column of texts is the largest."""
    name = _bare(column.name)
    named = any(word in TEXT_NAMES[:11] for word in (name, *re.split(r"[\W_]+", name)))
    return named, min(column.mean_words, 40), column.variety


def _bare(name: str) -> str:
    return name.strip().lower()


def _named_pair(names: Sequence[str]) -> tuple[str, str] | None:
    """The two columns whose names say that they are a pair."""
    by_name = {_bare(name): name for name in names}
    for first, second in PAIRS:
        if first in by_name and second in by_name:
            return by_name[first], by_name[second]
    for name in by_name:
        for one, two in SIDES:
            for pattern in (rf"(.*[\W_])?{one}([\W_].*)?", rf"(.*[^\W\d_]){one}()"):
                match = re.fullmatch(pattern, name)
                if match is None:
                    continue
                other = name[: match.end(1) if match[1] else 0] + two + (match[2] or "")
                if other in by_name and other != name:
                    return by_name[name], by_name[other]
    return None
