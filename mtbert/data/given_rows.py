"""Prepare the data sets that a caller passes to the trainer: check and encode texts, check tokenised rows.

A tokenised data set has `input_ids` and may have `attention_mask`, by which its padding is removed, and
`token_type_ids`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..errors import InputError
from ..modeling.problem_types import IGNORED
from ..modeling.task_spec import TaskSpec
from ..modeling.tokenization import LENGTHS, has_token_types, length_limit
from .collation import TEACHER
from .label_reading import LabelReader
from .labels import (
    CHECKING_VERSION,
    NO_LABEL,
    SHOWN,
    judged,
    label_feature,
    marked_labels,
    read_decided,
    reader_of,
    wrong_rows,
)
from .spec import DataSpec
from .splits import check_kind, check_rows
from .tokenize import GROUP, KEPT, encode_dataset

BATCH = 10_000
LISTS = ("input_ids", "attention_mask", "token_type_ids")
REFUSED = ("inputs_embeds", "position_ids")  # with them the encoder would compute other outputs


def prepare(
    task: TaskSpec,
    split: str,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase | None,
    encoder: PreTrainedConfig,
    where: str,
) -> tuple[Dataset, list[str]]:
    """Check a task's data set and encode it, unless it is encoded already.

    Args:
        split: `train`, `eval` or `test`.
        dataset: columns `text` (and `text_pair`), or `input_ids`; the labels are in `label` or `labels`. For training
            there may be a column `group` (see `GroupWeights`).
        tokenizer: the encoder's tokenizer; None if all data sets are tokenised already.
        where: the data set's name in error messages.

    Returns:
        The encoded split, as `encode_dataset` returns it, and sentences about rows left out and texts cut.

    Raises:
        TypeError: `dataset` is no `datasets.Dataset`.
        ValueError: rows are wrong (see `check_rows` and `check_tokenised`).
    """
    check_kind(dataset, where)
    dataset = _with_one_label_column(dataset, where)
    if "input_ids" in dataset.column_names:
        return check_tokenised(task, split, dataset, tokenizer, encoder, where), []
    if tokenizer is None:
        raise InputError("processing_class is missing; give the tokenizer that goes with the encoder")
    columns = ("text", "text_pair")[: task.texts]
    checked, report = check_rows(task, split, dataset, DataSpec(text=columns), where)
    if split == "train" and GROUP in dataset.column_names:
        groups = dataset.with_format(None)[GROUP][:]
        checked = checked.add_column(GROUP, [groups[row - 1] for row in checked["row"]])
    encoded, cut = encode_dataset(task, checked, tokenizer, encoder, split)
    lines = report.lines() if report.left_out else []
    line = cut.line()
    return encoded, lines if line is None else [*lines, line]


def _with_one_label_column(dataset: Dataset, where: str) -> Dataset:
    """Rename the column `labels`, as transformers calls it, to `label`; InputError if both exist and differ."""
    if "labels" not in dataset.column_names:
        return dataset
    if "label" not in dataset.column_names:
        return dataset.rename_column("labels", "label")
    plain = dataset.with_format(None)
    for row, (one, other) in enumerate(zip(plain["label"], plain["labels"], strict=True), 1):
        if one != other and not (one != one and other != other):
            raise InputError(
                f"{where}: the columns 'label' and 'labels' differ (row {row:,}: {one!r} and {other!r}); remove one"
            )
    return dataset.remove_columns("labels")


def check_tokenised(
    task: TaskSpec,
    split: str,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase | None,
    encoder: PreTrainedConfig,
    where: str,
) -> Dataset:
    """Check a data set of token ids and remove its padding.

    Padding is the tokens whose `attention_mask` is 0, at the left or the right of an input. A row of a task with
    several encoder inputs holds them concatenated; the columns `LENGTHS` hold the lengths of all but the last. Each of
    several inputs may be padded at its right only.

    Returns:
        `input_ids`, `token_type_ids` and `LENGTHS` without padding, `label` in the form of `check_rows`, and `row`,
        `id`, `group` and `teacher` unchanged. All rows are kept, those without a label (null or -100) too.

    Raises:
        ValueError: lists all problems: inputs that are empty, too long, padded without a mask or have gaps in their
            mask, ids that are not in the encoder's vocabulary, invalid labels, columns of a wrong type.
    """
    columns, plain = dataset.column_names, dataset.with_format(None)
    lengths = LENGTHS[: task.num_sequences - 1]
    problems = [f"column {name!r} is not used by this model; remove it" for name in REFUSED if name in columns]
    problems += filter(None, [_type_problem(name, plain.features[name]) for name in LISTS if name in columns])
    unit_column = task.kind.units.column
    if unit_column and unit_column not in columns:
        problems.append(
            f"no column {unit_column!r}, which says where the words are among the tokens; give texts, or lists of words"
        )
    if missing := [name for name in lengths if name not in columns]:
        problems.append(
            f"no column {missing[0]!r}; a row of this task holds {task.num_sequences} inputs one after the other, and "
            f"{', '.join(lengths)} count the tokens of all but the last; or give texts"
        )
    has_types = "token_type_ids" in columns
    if task.texts == 2 and not task.siamese and task.token_types and has_token_types(encoder) and not has_types:
        problems.append(
            "no column 'token_type_ids', by which the encoder tells the two texts apart; add it "
            "(return_token_type_ids=True)"
        )
    if split == "train" and "label" not in columns:
        problems.append(f"no column 'label' or 'labels'; the columns are {columns}")
    if problems:
        raise InputError("\n".join(f"{where}: {problem}" for problem in problems))
    if not len(dataset):
        return dataset
    # rows that mtbert has written itself need fewer checks
    ours = marked_labels(dataset) is not None and plain.features.get("label") == label_feature(task.kind.name)
    if unit_column and ("attention_mask" in columns or ("label" in columns and not ours)):
        raise InputError(
            f"{where}: rows with {unit_column!r} must be as mtbert encoded them; give texts, or lists of words"
        )
    checks = _InputChecks(task, split, tokenizer, encoder, ours)
    for start, table in enumerate(plain.with_format("arrow").iter(BATCH)):
        checks.add(table, start * BATCH)
    problems = checks.problems(where)
    if problems:
        raise InputError("\n".join(problems))
    named = (*KEPT, TEACHER, "input_ids", *LENGTHS, *([unit_column] if unit_column else []))
    kept = [name for name in named if name in columns]
    kept += ["token_type_ids"] if has_types and has_token_types(encoder) else []
    plain = plain.select_columns([*kept, *(["attention_mask"] if "attention_mask" in columns else [])])
    reader = None
    if "label" in columns:
        reader = reader_of(task, plain, "label", False, where)
        reader = replace(reader, unknown=(*reader.unknown, IGNORED))
    if not checks.padded and _plain_lists(plain) and (reader is None or ours or _are_ids(plain, task, reader)):
        return dataset.select_columns(kept)
    return _without_padding(task, split, plain, reader, kept, where)


class _InputChecks:
    """Collects the problems of a data set's inputs, batch by batch, without a Python loop over rows."""

    def __init__(self, task: TaskSpec, split: str, tokenizer: Any, encoder: PreTrainedConfig, ours: bool):
        self.task, self.vocabulary = task, encoder.vocab_size
        limits: Any = tokenizer or SimpleNamespace(model_max_length=10**9)
        self.limit = length_limit(task, limits, encoder)
        self.types = encoder.type_vocab_size if has_token_types(encoder) else 1
        self.pad, self.special = None, np.zeros(0, dtype=np.int64)
        if tokenizer is not None:
            words = {tokenizer.unk_token_id, tokenizer.mask_token_id}  # they stand for words of a text
            self.special = np.array(sorted(set(tokenizer.all_special_ids) - words), dtype=np.int64)
        pad = getattr(encoder, "pad_token_id", None) if tokenizer is None else tokenizer.pad_token_id
        ends = [getattr(tokenizer or encoder, f"{name}_token_id", None) for name in ("bos", "eos", "cls", "sep")]
        if not ours and pad not in ends:
            self.pad = pad
        self.texts_needed = split != "test" and not ours
        self.padded = False
        self.rows: dict[tuple[str, str], list[int]] = {}

    def add(self, table: pa.Table, before: int) -> None:
        """Check a batch; `before` is the number of rows in earlier batches."""
        ids, sizes = _flat(table["input_ids"])

        def note(column: str, rule: str, wrong: np.ndarray) -> None:
            """Record the rows that break a rule; `wrong` is a mask of shape `(rows,)` or `(rows, inputs)`."""
            if wrong.any():
                rows = wrong.any(axis=1) if wrong.ndim == 2 else wrong
                self.rows.setdefault((column, rule), []).extend((np.flatnonzero(rows) + before + 1).tolist())

        def rows_of(tokens: np.ndarray) -> np.ndarray:
            """Return the mask `(rows,)` of the rows with at least one marked token."""
            if not tokens.any():
                return np.zeros(len(sizes), dtype=bool)
            return np.bincount(np.repeat(np.arange(len(sizes)), sizes)[tokens], minlength=len(sizes)) > 0

        mask = np.ones(len(ids), dtype=bool)
        for name, highest in (("attention_mask", 1), ("token_type_ids", self.types - 1)):
            if name not in table.column_names:
                continue
            values, lengths = _flat(table[name])
            if not np.array_equal(lengths, sizes):
                note(name, "it must have one number for each of input_ids", lengths != sizes)
                return
            wrong = mask & ~((values == np.floor(values)) & (values >= 0) & (values <= highest))  # nan is wrong, too
            note(name, f"it must hold whole numbers from 0 to {highest}", rows_of(wrong))
            mask = values == 1 if name == "attention_mask" else mask
        inputs = self._inputs(table, sizes)
        if (inputs < 0).any():
            note(LENGTHS[0], "these lengths do not fit the number of input_ids", inputs < 0)
            return
        ends = np.cumsum(inputs.ravel())
        starts = ends - inputs.ravel()

        def count(tokens: np.ndarray) -> np.ndarray:
            """Return the number of marked tokens of each input, shape `(rows, inputs)`."""
            total = np.concatenate([[0], np.cumsum(tokens)])
            return (total[ends] - total[starts]).reshape(inputs.shape)

        opens, closes = np.zeros((2, len(ids)), dtype=bool)
        opens[starts[ends > starts]] = closes[ends[ends > starts] - 1] = True
        attended = inputs
        if not mask.all():
            self.padded, attended = True, count(mask)
            if inputs.shape[1] > 1:
                left = count(opens & ~mask) * attended > 0
                note("attention_mask", "an input of several must be padded at its right; take its padding out", left)
            opens = mask & (opens | ~np.concatenate([[False], mask[:-1]]))
            closes = mask & (closes | ~np.concatenate([mask[1:], [False]]))
            rule = "padding must stand at one side of an input, or both, not within it"
            note("attention_mask", rule, count(opens) > 1)
        note("input_ids", "inputs must not be empty", attended == 0)
        rule = f"inputs must have at most {self.limit:,} tokens; cut them (truncation=True, max_length={self.limit})"
        note("input_ids", rule, attended > self.limit)
        wrong = mask & ~((ids >= 0) & (ids < self.vocabulary))
        note("input_ids", f"ids must be from 0 to {self.vocabulary - 1:,}, as the encoder has them", rows_of(wrong))
        if self.pad is not None:
            rule = f"an input begins or ends with padding (id {self.pad}) that attention_mask does not hide; keep that "
            rule += "column of the tokenizer's, or do not pad"
            note("input_ids", rule, rows_of((opens | closes) & (ids == self.pad)))
        if self.texts_needed and len(self.special):
            empty = (count(mask & ~np.isin(ids, self.special)) == 0) & (attended > 0)
            note("input_ids", "an input has special tokens only; remove the row", empty)

    def _inputs(self, table: pa.Table, sizes: np.ndarray) -> np.ndarray:
        """Return the number of tokens of each encoder input, with padding, shape `(rows, inputs)`."""
        cut = [table[name].to_numpy() for name in LENGTHS[: self.task.num_sequences - 1]]
        return np.stack([*cut, sizes - sum(cut)], axis=1).astype(np.int64)

    def problems(self, where: str) -> list[str]:
        """Return one sentence for each column and rule that rows break."""
        sentences = []
        for (column, rule), rows in self.rows.items():
            shown = ", ".join(f"{row:,}" for row in rows[:SHOWN])
            more = f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
            count = f"{len(rows):,} row{'s' if len(rows) > 1 else ''}"
            sentences.append(f"{where}: column {column!r} is wrong in {count} (row {shown}{more}): {rule}")
        return sentences


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the concatenated values of a column of lists and the length of each list.

    A null instead of a list counts as an empty list; a null within a list becomes nan.
    """
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    values = pc.list_flatten(array)
    if pa.types.is_boolean(values.type):
        values = pc.cast(values, pa.int8())
    lengths = pc.fill_null(pc.list_value_length(array), 0)
    return values.to_numpy(zero_copy_only=False), lengths.to_numpy(zero_copy_only=False).astype(np.int64)


def _type_problem(name: str, feature: Any) -> str | None:
    kind = Features({name: feature}).arrow_schema.field(name).type
    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    value = kind.value_type if nested else None
    numeric = value is not None and (pa.types.is_integer(value) or pa.types.is_boolean(value))
    if name != "input_ids":
        numeric = numeric or (value is not None and pa.types.is_floating(value))
    if numeric and not (name == "input_ids" and pa.types.is_boolean(value)):
        return None
    return f"column {name!r} holds {feature}, but must hold one flat list of whole numbers a row"


def _plain_lists(dataset: Dataset) -> bool:
    """Return whether all token columns are plain lists of variable length, so that batches can be built from them."""
    lists = (dataset.features[name] for name in dataset.column_names if name in LISTS)
    return all(isinstance(feature, List) and feature.length in (None, -1) for feature in lists)


def _are_ids(dataset: Dataset, task: TaskSpec, reader: LabelReader) -> bool:
    """Return whether every label already is a class id in the checked form, so that the column need not change."""
    if dataset.features["label"] != Value("int64") or label_feature(task.kind.name) != Value("int64"):
        return False
    distinct = {
        value
        for table in dataset.select_columns("label").with_format("arrow").iter(BATCH)
        for value in pc.unique(table["label"]).to_pylist()
    }
    distinct.discard(IGNORED)
    return len(distinct) > 0 and all(list(reader.readings(value).values()) == [value] for value in distinct)


def _without_padding(
    task: TaskSpec, split: str, dataset: Dataset, reader: LabelReader | None, kept: Sequence[str], where: str
) -> Dataset:
    features = {name: dataset.features[name] for name in kept}
    kinds = {"input_ids": List(Value("int32")), "token_type_ids": List(Value("int8"))}
    kinds["label"] = label_feature(task.kind.name)
    features = {name: kinds.get(name, feature) for name, feature in features.items()} | {"_status": Value("uint32")}

    def read(reader: LabelReader | None) -> tuple[Dataset, np.ndarray]:
        checked = dataset.map(
            _strip_batch,
            batched=True,
            fn_kwargs={"reader": reader, "lengths": LENGTHS[: task.num_sequences - 1], "version": CHECKING_VERSION},
            remove_columns=dataset.column_names,
            features=Features(features),
            desc=f"Checking {task.name} {split}",
        )
        return checked, checked.data.column("_status").to_numpy()

    checked, status, reader = read_decided(read, reader)
    problems = wrong_rows(dataset, (), "label", reader, status, where)
    if problems:
        raise InputError("\n".join(problems))
    checked = checked.remove_columns("_status")
    if reader is not None and (status & NO_LABEL).all():
        if split != "test":
            raise InputError(f"{where}: no row has a label; check column 'label'")
        checked = checked.remove_columns("label")
    return checked


def _strip_batch(
    batch: dict[str, list[Any]], reader: LabelReader | None, lengths: tuple[str, ...], version: int
) -> dict[str, list[Any]]:
    """Remove the padding of a batch and convert its labels; `_status` holds the problem bits of each row's label."""
    rows = len(batch["input_ids"])
    out = {name: values for name, values in batch.items() if name != "attention_mask"}
    masks = batch.get("attention_mask")
    if masks is not None:
        for name in ("input_ids", "token_type_ids"):
            if name in out:
                out[name] = [list(compress(ids, mask)) for ids, mask in zip(out[name], masks, strict=True)]
        starts = [0] * rows
        for name in lengths:
            ends = [start + length for start, length in zip(starts, batch[name], strict=True)]
            out[name] = [int(sum(mask[a:b])) for mask, a, b in zip(masks, starts, ends, strict=True)]
            starts = ends
    out["_status"] = [0] * rows
    if reader is not None:
        out["label"], out["_status"] = map(list, zip(*(judged(reader, value) for value in batch["label"]), strict=True))
    return out
