"""Tell in which form a column writes its labels: one a cell, several with a separator, lists, 0/1 vectors, mappings.

Nothing here knows a task's labels. `LabelReader` reads the cells once these are known.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .label_cells import parsed, plain

ONE, SEPARATED, LISTS, VECTORS, MAPPINGS = "one label", "separated", "lists", "vectors", "mappings"
SEPARATORS = ("|", ";", ",")  # in the order in which a cell is searched for them
TRUTH = {"0", "1", "true", "false", "yes", "no", "t", "f", "y", "n", "on", "off", "0.0", "1.0"}
_MARKS = re.compile(r"[01](?:\s*[\s,;|]\s*[01])+")


@dataclass(frozen=True)
class LabelForm:
    """The form of a label column.

    Attributes:
        form: `ONE` (a class or a score a cell), `SEPARATED` (`a|b`), `LISTS` (`["a", "b"]`, native or as text),
            `VECTORS` (`[0, 1, 0]` or `0 1 0`) or `MAPPINGS` (`{"a": 1, "b": 0}`).
        separator: the separator of `SEPARATED` cells, or of vectors without brackets (a space for white space).
        labels: the different labels as texts, the most frequent first; of vectors their places, counted from 0.
        filled: number of cells that are not empty.
        empty: positions of the empty cells, from 0. A cell `[]` is not empty: none of the labels is true.
        odd: positions of the cells that have another form. `[]` beside separated labels is none of them.
    """

    form: str
    separator: str | None
    labels: tuple[str, ...]
    filled: int
    empty: tuple[int, ...] = ()
    odd: tuple[int, ...] = ()

    @property
    def several(self) -> bool:
        """Whether the column is that of a multi-label task."""
        return self.form != ONE


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing: null, NaN, or text of white space."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def label_form(values: Iterable[Any]) -> LabelForm:
    """Find the form of a label column from its cells, as csv, json or parquet files hold them.

    A text is taken apart at `|`, `;` or `,` only if that gives no more different labels than there are different
    cells: `art|law`, `art` and `law` are two labels, but `arts, crafts` and `law, order` are one each.
    """
    cells = [plain(value) for value in values]
    empty = tuple(i for i, cell in enumerate(cells) if is_empty(cell))
    blank = set(empty)
    filled = {i: _opened(cell) for i, cell in enumerate(cells) if i not in blank}
    lists = {i: list(cell) for i, cell in filled.items() if isinstance(cell, list | frozenset)}
    mappings = {i: cell for i, cell in filled.items() if isinstance(cell, Mapping)}
    single = {i: cell for i, cell in filled.items() if i not in lists and i not in mappings}
    if mappings and len(mappings) >= max(len(lists), len(single)):
        names = Counter(str(name).strip() for cell in mappings.values() for name in cell)
        return LabelForm(MAPPINGS, None, _ranked(names), len(filled), empty, _others(filled, mappings))
    full = sum(map(bool, lists.values()))
    if lists and full >= _marked(single) and (full or not single):
        return _of_lists(lists, filled, empty)
    marks = {i: re.split(r"\s*[\s,;|]\s*", str(cell).strip()) for i, cell in single.items() if _is_marks(cell)}
    if marks and len(marks) == len(single) and len(set(map(len, marks.values()))) == 1:
        first = str(single[min(single)])
        separator = next((mark for mark in SEPARATORS if mark in first), " ")
        width = len(next(iter(marks.values())))
        return LabelForm(VECTORS, separator, tuple(map(str, range(width))), len(filled), empty, _others(filled, marks))
    return _of_texts(single, filled, empty)


def is_truth_column(values: Iterable[Any]) -> bool:
    """Whether all filled cells are 0 or 1, true or false, yes or no, and there is one: the column of a single label."""
    texts = {str(plain(value)).strip().lower() for value in values if not is_empty(plain(value))}
    return bool(texts) and texts <= TRUTH


def _of_lists(lists: Mapping[int, list[Any]], filled: Mapping[int, Any], empty: tuple[int, ...]) -> LabelForm:
    odd = _others(filled, lists)
    lengths = {len(cell) for cell in lists.values()}
    numbers = {part for cell in lists.values() for part in cell if not isinstance(part, list | Mapping | frozenset)}
    if len(lengths) == 1 and lengths != {0} and numbers <= {0, 1, "0", "1"}:
        places = tuple(map(str, range(lengths.pop())))
        return LabelForm(VECTORS, None, places, len(filled), empty, odd)
    names = Counter(str(part).strip() for cell in lists.values() for part in cell)
    return LabelForm(LISTS, None, _ranked(names), len(filled), empty, odd)


def _of_texts(single: Mapping[int, Any], filled: Mapping[int, Any], empty: tuple[int, ...]) -> LabelForm:
    texts = {i: str(cell).strip() for i, cell in single.items()}
    different = set(texts.values())
    odd = _others(filled, single)
    for mark in SEPARATORS:
        if not any(mark in text for text in different):
            continue
        split = {i: [part.strip() for part in text.split(mark)] for i, text in texts.items()}
        names = Counter(part for parts in split.values() for part in parts)
        repeated = any(len(set(parts)) < len(parts) for parts in split.values())
        if len(names) <= len(different) and not repeated and "" not in names:
            odd = tuple(i for i in odd if filled[i] not in ([], ()))  # `[]` has none of the labels in any form
            return LabelForm(SEPARATED, mark, _ranked(names), len(filled), empty, odd)
    return LabelForm(ONE, None, _ranked(Counter(texts.values())), len(filled), empty, odd)


def _opened(cell: Any) -> Any:
    """A cell, or the list or mapping that its text spells."""
    if isinstance(cell, str) and cell.strip()[:1] in ("[", "{", "("):
        inside = parsed(cell.strip())
        return inside if isinstance(inside, list | Mapping | frozenset) else cell
    return cell


def _is_marks(cell: Any) -> bool:
    return isinstance(cell, str) and _MARKS.fullmatch(cell.strip()) is not None


def _marked(single: Mapping[int, Any]) -> int:
    """Number of texts that hold a separator; a text without one is a label in any form."""
    return sum(any(mark in str(cell) for mark in SEPARATORS) for cell in single.values())


def _others(filled: Mapping[int, Any], of_form: Mapping[int, Any]) -> tuple[int, ...]:
    return tuple(sorted(filled.keys() - of_form.keys()))


def _ranked(counts: Counter[str]) -> tuple[str, ...]:
    return tuple(sorted(counts, key=lambda name: (-counts[name], name)))
