"""Texts → token ids, as a task's spec says: one text, a pair as one input, a pair as two, or as all three of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from .configuration_mtbert import TaskSpec
from .encoders import first_position

LENGTHS = ("first_length", "second_length")  # columns: how long a row's inputs are, but for the last one


def has_token_types(encoder: PreTrainedConfig) -> bool:
    """Whether an encoder tells first and second text apart by token types."""
    return getattr(encoder, "type_vocab_size", 0) > 1


def length_limit(task: TaskSpec, tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedConfig) -> int:
    """The longest input in tokens: the task's `max_length`, or what encoder and tokenizer allow.

    Raises:
        ValueError: if the task asks for more than the encoder has positions for.
    """
    positions = getattr(encoder, "max_position_embeddings", None) or tokenizer.model_max_length
    positions -= first_position(encoder)  # the table's rows before it stand for no token
    if task.max_length is None:
        return min(positions, tokenizer.model_max_length)
    if task.max_length > positions:
        raise ValueError(
            f"task {task.name!r}: max_length is {task.max_length}, but the encoder has positions for {positions} tokens"
            "; give that or less"
        )
    return task.max_length


def separator_ids(task: TaskSpec, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """Token ids of the task's own separator; None: the tokenizer's.

    Raises:
        ValueError: if a token is not in the tokenizer's vocabulary.
    """
    if task.separator is None:
        return None
    vocabulary = tokenizer.get_vocab()
    if unknown := [token for token in task.separator if token not in vocabulary]:
        raise ValueError(
            f"task {task.name!r}: separator has tokens {unknown} that the tokenizer does not know; name tokens of its "
            "vocabulary, or drop the key"
        )
    return [vocabulary[token] for token in task.separator]


def encode_texts(
    task: TaskSpec,
    tokenizer: PreTrainedTokenizerBase,
    encoder: PreTrainedConfig,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
) -> dict[str, list[Any]]:
    """Encode rows of a task.

    Args:
        texts: first (or only) texts, one a row.
        pairs: second texts of a task with two.

    Returns:
        Columns, one entry a row: `input_ids`; `token_type_ids`, if the task's pairs use them; the first ones of
        `LENGTHS`, for a row's several inputs (first text, second text, both in one) follow each other in `input_ids`;
        `truncated`, the number of tokens cut off.
    """
    limit = length_limit(task, tokenizer, encoder)
    if (pairs is None) != (task.texts == 1):
        raise ValueError(f"task {task.name!r} takes {task.texts} text(s) a row, got {1 if pairs is None else 2}")
    parts = []
    if task.apart:
        parts = [_encode(tokenizer, side, None, limit, name=task.name) for side in (texts, pairs)]
    if not task.siamese:
        parts.append(_encode(tokenizer, texts, pairs, limit, separator_ids(task, tokenizer), task.name))
    joined = {key: zip(*(part[key] for part in parts), strict=True) for key in parts[0]}
    columns = {key: [sum(values, start=type(values[0])()) for values in rows] for key, rows in joined.items()}
    if task.texts == 1 or task.siamese or not task.token_types or not has_token_types(encoder):
        del columns["token_type_ids"]
    lengths = {name: [len(ids) for ids in part["input_ids"]] for name, part in zip(LENGTHS, parts[:-1], strict=False)}
    return columns | lengths


def _encode(tokenizer, texts, pairs, limit, separator=None, name="") -> dict[str, list[Any]]:
    """`input_ids`, `token_type_ids` and `truncated` of texts or of pairs in one input."""
    if not len(texts):  # tokenizers fail on an empty list
        return {"input_ids": [], "token_type_ids": [], "truncated": []}
    second = None if pairs is None else list(pairs)
    before, between, after = _template(tokenizer, pairs is not None)
    extra = 0 if separator is None else len(separator) - between
    special = before + between + after + extra
    if limit < special:
        raise ValueError(f"task {name!r}: max_length is {limit}, but an input has {special} special tokens alone")
    encodings = tokenizer(list(texts), second, truncation=False, verbose=False).encodings
    lengths = [len(encoding.ids) + extra for encoding in encodings]
    if too_long := [row for row, length in enumerate(lengths) if length > limit]:
        cut = tokenizer(
            [texts[row] for row in too_long],
            None if second is None else [second[row] for row in too_long],
            truncation="longest_first",
            max_length=limit - extra,
        ).encodings
        for row, encoding in zip(too_long, cut, strict=True):
            encodings[row] = encoding
    ids, types = [], []
    for encoding in encodings:
        row_ids, parts = encoding.ids, encoding.sequence_ids
        row_types = [0] * len(row_ids)
        if second is not None:
            start = before + parts.count(0)
            stop = start + between
            middle = row_ids[start:stop] if separator is None else separator
            row_types = [0] * (start + len(middle)) + [1] * (len(parts) - stop)
            row_ids = row_ids[:start] + middle + row_ids[stop:]
        ids.append(row_ids)
        types.append(row_types)
    truncated = [length - len(row) for length, row in zip(lengths, ids, strict=True)]
    return {"input_ids": ids, "token_type_ids": types, "truncated": truncated}


def _template(tokenizer, pair: bool) -> tuple[int, int, int]:
    """How many special tokens a tokenizer puts before the first text, between the two, and behind the last.

    Raises:
        ValueError: if it makes no token of any text.
    """
    for text in chain(("a 1 .",), tokenizer.all_special_tokens, tokenizer.get_vocab()):
        parts = tokenizer(text, text if pair else None, truncation=False).encodings[0].sequence_ids
        if 0 in parts:
            break
    else:
        raise ValueError("the tokenizer makes no token of any word in its vocabulary; give the encoder's own")
    first = parts.index(0)
    if not pair:
        return first, 0, len(parts) - first - parts.count(0)
    between = parts.index(1) - first - parts.count(0)
    return first, between, parts.count(None) - first - between


Row = tuple[str, str | None]


def as_row(value: str | Mapping[str, str] | Sequence[str]) -> Row:
    """A text, a pair of texts, or a mapping with `text` (and `text_pair`) → (text, second text or None).

    Raises:
        ValueError: for anything else.
    """
    if isinstance(value, str):
        row = value, None
    elif isinstance(value, Mapping):
        row = value.get("text"), value.get("text_pair")
    else:
        row = tuple(value) if isinstance(value, (tuple, list)) and len(value) == 2 else (None, None)
    if not isinstance(row[0], str) or not (row[1] is None or isinstance(row[1], str)):
        raise ValueError(
            f"{shown(value)} is no row; give a text, a pair (text, text) or {{'text': ..., 'text_pair': ...}}"
        )
    for text in row:
        if text is not None and (place := half_character(text)) is not None:
            raise ValueError(
                f"{shown(value)}: character {place:,} is half of a surrogate pair; decode the text as UTF-8"
            )
    return row


def half_character(text: str) -> int | None:
    """Where a text has a lone surrogate, which no encoding knows and no tokenizer takes; None if nowhere."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def shown(value: Any) -> str:
    """A value as a message has it."""
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def as_rows(values: str | Mapping[str, str] | Iterable) -> list[Row]:
    """One row or several, as `as_row` reads them. A tuple is one pair; lists and other iterables hold rows."""
    if isinstance(values, (str, Mapping, tuple)):
        return [as_row(values)]
    if not isinstance(values, Iterable) or isinstance(values, (bytes, bytearray)):
        raise ValueError(f"{shown(values)} holds no rows; give a text, a pair (text, text), or a list of such rows")
    found = []
    for number, value in enumerate(values):
        try:
            found.append(as_row(value))
        except ValueError as error:
            raise ValueError(f"row {number}: {error}") from error
    return found
