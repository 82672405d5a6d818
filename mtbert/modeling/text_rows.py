"""Convert texts, pairs, mappings, lists and tables to rows (text, second text or None).

Tables and columns of pandas, polars, Arrow and datasets are recognised by their attributes; none of these is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

import numpy as np

from .errors import InputError
from .tokenization import half_character, shown
from .words import Words

Row = tuple[str, str | None]
KEYS = ("text", "text_pair")
WORDS = "words"  # key, or column, of rows that are lists of words
FORMS = "a text, a pair (text, text) or {'text': ..., 'text_pair': ...}"
_END = object()


def as_rows(values: Any) -> list[Row]:
    """The rows of `iterate_rows` as a list."""
    return list(iterate_rows(values))


def is_row(values: Any) -> bool:
    """Whether `values` is one row: a text, a tuple, or a mapping whose `text` or `words` is not a column."""
    if not isinstance(values, Mapping):
        return isinstance(values, (str, tuple))
    text = values.get("text")
    if "text" not in values and WORDS in values:
        return _is_list_of_words(values[WORDS]) or not isinstance(values[WORDS], Iterable)
    return isinstance(text, (str, bytes)) or not isinstance(text, Iterable)


def iterate_rows(values: Any) -> Iterator[Row]:
    """Yield the rows of any supported form.

    Args:
        values: one row, as `as_row` reads it (a tuple is one pair); a list, array, Series, generator or other iterable
            of rows; a table with columns `text` and `text_pair`, or with `words`, or with a single column; or a mapping
            of such columns.
            Other columns of a table or mapping are ignored.

    Raises:
        ValueError: for anything else, with the number of the row (from 0) if one row is wrong.
    """
    if is_row(values):
        yield as_row(values)
        return
    if isinstance(values, Mapping):
        keys = [key for key in KEYS if values.get(key) is not None]
        keys = [WORDS] if "text" not in values and WORDS in values else keys
        rows = _zipped([_cells(values[key], key) for key in keys], _keys(keys))
    elif (names := _column_names(values)) is not None:
        rows = _rows_of_table(values, _text_columns(names))
    else:
        rows = _cells(values)
    for number, row in enumerate(rows):
        try:
            yield as_row(row)
        except ValueError as error:
            raise InputError(f"row {number}: {error}") from error


def as_row(value: Any) -> Row:
    """Convert one row to (text, second text or None).

    Args:
        value: a text, a pair of texts, or a mapping or named tuple with `text` (and `text_pair`), or with `words`, a
            list of words, which becomes a `Words`. A missing second text (None, nan) becomes None.

    Raises:
        ValueError: for anything else.
    """
    first, second = value, None
    if isinstance(value, tuple) and hasattr(value, "_asdict"):  # a named tuple, such as a row of DataFrame.itertuples
        value = value._asdict()
    if isinstance(value, Mapping) and WORDS in value and "text" not in value:
        first = Words(_listed(value[WORDS])) if _is_list_of_words(value[WORDS]) else value[WORDS]
    elif isinstance(value, Mapping):
        if "text" not in value:
            keys = shown(list(value))
            raise InputError(f"{shown(value)} is no row; its keys are {keys}; give {FORMS}, or the value of one key")
        first, second = value["text"], value.get("text_pair")
    elif isinstance(value, (tuple, list)) and len(value) == 2:
        first, second = value
    if _is_missing(second):
        second = None
    for text in (first,) if second is None else (first, second):
        if not isinstance(text, str):
            raise InputError(f"{shown(value)} is no row; give {FORMS}{_remedy(text)}")
        if (place := half_character(text)) is not None:
            raise InputError(
                f"{shown(value)}: character {place:,} is half of a surrogate pair; decode the text as UTF-8"
            )
    return first, second


def _column_names(values: Any) -> list[Any] | None:
    """Names of a table's columns; None if `values` is no table."""
    structured = getattr(getattr(values, "dtype", None), "names", None)  # a NumPy array with named fields
    for names in (getattr(values, "column_names", None), getattr(values, "columns", None), structured):
        if names is not None and not callable(names):
            return list(names)
    return None


def _text_columns(names: list[Any]) -> list[Any]:
    """Names of the columns with the first texts and, if there are any, the second texts."""
    wanted = [key for key in KEYS if key in names]
    if len(names) == 1 and names != ["text_pair"]:
        wanted = names
    elif "text" not in names and WORDS in names:
        wanted = [WORDS]
    elif "text" not in names:
        raise InputError(
            f"no 'text' among the columns {shown(names)}; rename one to 'text' (and 'text_pair' for pairs)"
        )
    for name in wanted:
        if names.count(name) > 1:
            raise InputError(f"{names.count(name)} columns are called {name!r}; keep one")
    return wanted


def _rows_of_table(table: Any, names: list[Any]) -> Iterable[dict[str, Any]]:
    if not hasattr(table, "select_columns"):
        return _zipped([_cells(table[name], name) for name in names], _keys(names))
    rows = table.select_columns(names).with_format(None)  # a data set, whose rows may be formatted as tensors or frames
    return (dict(zip(_keys(names), (row[name] for name in names), strict=False)) for row in rows)


def _keys(names: list[Any]) -> tuple[str, ...]:
    """The keys of rows whose columns have these names."""
    return (WORDS,) if names == [WORDS] else KEYS


def _is_list_of_words(value: Any) -> bool:
    words = _listed(value)
    return isinstance(words, (list, tuple)) and len(words) > 0 and all(isinstance(word, str) for word in words)


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _zipped(columns: list[Iterable[Any]], keys: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for cells in zip_longest(*columns, fillvalue=_END):
        if any(cell is _END for cell in cells):
            raise InputError("'text' and 'text_pair' have different numbers of rows; give as many of each")
        yield dict(zip(keys, cells, strict=False))


def _cells(values: Any, column: str | None = None) -> Iterable[Any]:
    """The rows of an iterable, or the cells of a column, in order, as Python objects."""
    where = shown(values) if column is None else f"{column!r} is {shown(values)}, which"
    wanted = f"{FORMS}, or a list of such rows" if column is None else "a list of texts"
    if isinstance(values, (set, frozenset)):
        raise InputError(f"{where} has no order; give a list")
    if isinstance(values, (str, bytes, bytearray, Mapping)) or not isinstance(values, Iterable):
        raise InputError(f"{where} holds no rows; give {wanted}{_remedy(values)}")
    index = getattr(values, "index", None)
    if column is None and index is not None and not callable(index) and "text" in index:
        raise InputError("a Series with an entry 'text' may be one row or several; give dict(row), or list(texts)")
    for method in ("to_pylist", "tolist"):  # Arrow; NumPy and pandas
        if hasattr(values, method):
            values = getattr(values, method)()
            break
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):  # from an array without dimensions
        raise InputError(f"{where} holds no rows; give {wanted}")
    return values


def _is_missing(value: Any) -> bool:
    """Whether a cell is None, nan, or one of pandas' missing values."""
    if isinstance(value, (float, np.floating)):
        return bool(np.isnan(value))
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _remedy(value: Any) -> str:
    """The end of an error message: what to write in place of a value that is no text."""
    if _is_missing(value):
        return "; fill a missing text in, or leave its row out"
    if isinstance(value, (bytes, bytearray)):
        return "; decode bytes (value.decode())"
    if isinstance(value, tuple):
        return "; a tuple is one pair, and several rows go in a list"
    return "; read the file (path.read_text())" if hasattr(value, "__fspath__") else ""
