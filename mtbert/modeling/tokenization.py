"""Encode texts to token ids as a task's spec asks: one text, a pair as one input, as two inputs, or as three."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from .encoder_support import first_position
from .errors import InputError
from .task_spec import TaskSpec

# Part of the name of cached encodings. Raise it by 1 when the same rows get other token ids, types or lengths than
# before, so that older encodings are not used; tests/unit/data/test_versions.py fails until you do.
ENCODING_VERSION = 1
LENGTHS = ("first_length", "second_length")  # columns with the lengths of a row's inputs except the last one


def has_token_types(encoder: PreTrainedConfig) -> bool:
    """Whether an encoder has token types for the first and the second text."""
    return getattr(encoder, "type_vocab_size", 0) > 1


def length_limit(task: TaskSpec, tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedConfig) -> int:
    """Longest input in tokens: the task's `max_length`, or the limit of encoder and tokenizer.

    Raises:
        ValueError: if `max_length` is more than the encoder's number of positions.
    """
    positions = getattr(encoder, "max_position_embeddings", None) or tokenizer.model_max_length
    positions -= first_position(encoder)  # earlier rows of the position table belong to no token
    if task.max_length is None:
        return min(positions, tokenizer.model_max_length)
    if task.max_length > positions:
        raise InputError(
            f"task {task.name!r}: max_length is {task.max_length}, but the encoder has positions for {positions} tokens"
            "; give that or less"
        )
    return task.max_length


def separator_ids(task: TaskSpec, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """Token ids of the task's own separator, or None if it uses the tokenizer's.

    Raises:
        ValueError: if a token is not in the tokenizer's vocabulary.
    """
    if task.separator is None:
        return None
    vocabulary = tokenizer.get_vocab()
    if unknown := [token for token in task.separator if token not in vocabulary]:
        raise InputError(
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
        texts: first (or only) texts, one for each row.
        pairs: second texts, for a task with two texts.

    Returns:
        Columns with one entry for each row: `input_ids`, in which several inputs of a row (first text, second text,
        both in one) follow each other; the first columns of `LENGTHS`, with the lengths of these inputs;
        `token_type_ids`, if the task's pairs use them; `truncated`, the number of tokens cut off; and the column of the
        task's `units`, if they are parts of rows.
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} is a slow tokenizer; give one with a fast version (tokenizer.json)"
        )
    limit = length_limit(task, tokenizer, encoder)
    if (pairs is None) != (task.texts == 1):
        raise InputError(f"task {task.name!r} takes {task.texts} text(s) a row, got {1 if pairs is None else 2}")
    parts, units = [], task.kind.units
    plain = [units.plain(text) for text in texts] if units.column else texts
    if task.apart and pairs is not None:
        parts = [_encode(tokenizer, side, None, limit, name=task.name) for side in (texts, pairs)]
    if not task.siamese:
        own = separator_ids(task, tokenizer)
        parts.append(_encode(tokenizer, plain, pairs, limit, own, task.name, offsets=units.column is not None))
    joined = {key: zip(*(part[key] for part in parts), strict=True) for key in parts[0]}
    columns = {key: [sum(values, start=type(values[0])()) for values in rows] for key, rows in joined.items()}
    if task.texts == 1 or task.siamese or not task.token_types or not has_token_types(encoder):
        del columns["token_type_ids"]
    lengths = {name: [len(ids) for ids in part["input_ids"]] for name, part in zip(LENGTHS, parts[:-1], strict=False)}
    located = units.locate(texts, columns.pop("offsets"), columns["truncated"]) if units.column else {}
    return columns | lengths | located


def encoding_rules(task: TaskSpec, tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedConfig) -> dict[str, Any]:
    """What `encode_texts` does for a task, as JSON-ready values for programs without transformers.

    Returns:
        `inputs`: the inputs of a row, in order, of `first`, `second` (one text alone) and `pair` (both in one input);
        `single` and `pair`: numbers of special tokens before, between and after the texts of such an input (None: there
        is no such input); `separator`: token ids between the texts in place of the tokenizer's, or None; `token_types`:
        whether the second text has token type 1; `max_length` in tokens; `cut_left`: whether the beginning of a long
        text is cut off, not its end; `words`: true if the first token of each word is needed, else absent.

    Raises:
        ValueError: as `encode_texts` does.
    """
    encode_texts(task, tokenizer, encoder, ["a"], ["a"] if task.texts == 2 else None)  # raises what it would raise
    inputs = ["first", "second"] if task.apart else []
    if not task.siamese:
        inputs.append("first" if task.texts == 1 else "pair")
    return {
        "inputs": inputs,
        "single": list(_template(tokenizer, False)) if "first" in inputs else None,
        "pair": list(_template(tokenizer, True)) if "pair" in inputs else None,
        "separator": separator_ids(task, tokenizer),
        "token_types": "pair" in inputs and task.token_types and has_token_types(encoder),
        "max_length": length_limit(task, tokenizer, encoder),
        "cut_left": tokenizer.truncation_side == "left",
        **({"words": True} if task.kind.units.column else {}),
    }


def plain_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The `tokenizers.Tokenizer` that `encode_texts` encodes with, which neither truncates nor pads."""
    return _private(tokenizer)


def _encode(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    limit: int,
    separator: list[int] | None = None,
    name: str = "",
    offsets: bool = False,
) -> dict[str, list[Any]]:
    """Columns `input_ids`, `token_type_ids` and `truncated` of texts, or of pairs in one input each.

    Args:
        offsets: whether to return also `offsets` of the tokens of texts, (0, 0) for special tokens.
    """
    if not len(texts):  # tokenizers fail on an empty list
        return {"input_ids": [], "token_type_ids": [], "truncated": []} | ({"offsets": []} if offsets else {})
    before, between, after = _template(tokenizer, pairs is not None)
    special = before + (between if separator is None else len(separator)) + after
    if limit < special:
        raise InputError(f"task {name!r}: max_length is {limit}, but an input has {special} special tokens alone")
    left = tokenizer.truncation_side == "left"
    ids, types, truncated, places = [], [], [], []
    rows = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
    for encoding in _private(tokenizer).encode_batch(rows):
        row, parts = encoding.ids, encoding.sequence_ids
        counts = parts.count(0), parts.count(1)
        kept = longest_first(*counts, limit - special)
        end = before + counts[0]
        start = end + between
        first = _cut(row[before:end], kept[0], left)
        second = _cut(row[start : start + counts[1]], kept[1], left)
        middle = row[end:start] if separator is None else separator
        last = row[start + counts[1] :]
        ids.append(row[:before] + first + middle + second + last)
        types.append([0] * (before + kept[0] + len(middle)) + [int(pairs is not None)] * (kept[1] + len(last)))
        truncated.append(sum(counts) - sum(kept))
        if offsets:
            of_text = _cut(encoding.offsets[before:end], kept[0], left)
            places.append([(0, 0)] * before + of_text + [(0, 0)] * (len(ids[-1]) - before - len(of_text)))
    columns = {"input_ids": ids, "token_type_ids": types, "truncated": truncated}
    return columns | ({"offsets": places} if offsets else {})


def longest_first(first: int, second: int, limit: int) -> tuple[int, int]:
    """Number of tokens of two texts to keep; as in tokenizers' `longest_first`, the longer text is cut first.

    Args:
        first, second: number of tokens of each text, without special tokens.
        limit: largest number of tokens of both together.
    """
    shorter = min(first, second, limit // 2)
    longer = min(max(first, second), limit - shorter)
    return (longer, shorter) if first > second else (shorter, longer)


def _cut(tokens: list[Any], count: int, left: bool) -> list[Any]:
    return tokens[len(tokens) - count :] if left else tokens[:count]


def _private(tokenizer: PreTrainedTokenizerBase) -> Any:
    """A `tokenizers.Tokenizer` with the same model and vocabulary, without truncation and padding.

    Every call of a transformers tokenizer sets truncation and padding of its shared backend. A private backend neither
    changes the settings of other threads nor is changed by them.
    """
    shared = tokenizer.backend_tokenizer
    private = type(shared)(shared.model)
    private.normalizer, private.pre_tokenizer = shared.normalizer, shared.pre_tokenizer
    private.post_processor = shared.post_processor
    added = shared.get_added_tokens_decoder()
    private.add_tokens([added[number] for number in sorted(added)])
    if private.get_added_tokens_decoder() != added:  # ids with gaps, which `add_tokens` cannot reproduce
        private = copy.deepcopy(shared)
        private.no_truncation()
        private.no_padding()
    private.encode_special_tokens = tokenizer.split_special_tokens
    return private


def _template(tokenizer: PreTrainedTokenizerBase, pair: bool) -> tuple[int, int, int]:
    """Number of special tokens before the first text, between the two texts, and after the last one.

    Raises:
        ValueError: if the tokenizer makes no token of any text.
    """
    backend = _private(tokenizer)
    for text in _words(tokenizer):
        parts = backend.encode(text, text if pair else None).sequence_ids
        if 0 in parts:
            break
    else:
        raise InputError("the tokenizer makes no token of any word in its vocabulary; give the encoder's own")
    first = parts.index(0)
    if not pair:
        return first, 0, len(parts) - first - parts.count(0)
    between = parts.index(1) - first - parts.count(0)
    return first, between, parts.count(None) - first - between


def _words(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Texts to try; the vocabulary, whose copy takes long, comes last and only if it is asked for."""
    yield "a 1 ."
    yield from tokenizer.all_special_tokens
    yield from tokenizer.get_vocab()


def half_character(text: str) -> int | None:
    """Index of a lone surrogate in a text, which cannot be encoded; None if there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def shown(value: Any) -> str:
    """A value as shown in error messages, at most 80 characters."""
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
