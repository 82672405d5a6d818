"""Encode text columns to token ids once; the result is cached by the fingerprint of data, task and tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, Sequence, Value
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..modeling import tokenization
from ..modeling.task_spec import TaskSpec

GROUP = "group"  # the column with the name of a row's group, for weights by group
KEPT = ("label", "row", "id", GROUP)
READ = ("name", "texts", "pair", "separator", "token_types", "max_length")  # the fields of a task that encoding reads
OF_UNITS = ("problem_type", "labels")  # and those that it reads if the task labels parts of rows


@dataclass(frozen=True)
class EncodingReport:
    """Truncation of a split: `rows` of its `total` inputs lost `tokens` tokens in all.

    `note` is a sentence on the labelled parts of rows that have no token, if there are any.
    """

    task: str
    split: str
    total: int
    rows: int
    tokens: int
    note: str | None = None

    def line(self) -> str | None:
        """Return a sentence for the log, or None if no input was cut."""
        cut = (
            f"{self.rows:,} of {self.total:,} inputs were cut, by {self.tokens:,} tokens in all" if self.rows else None
        )
        said = "; ".join(filter(None, [cut, self.note]))
        return f"{self.task} {self.split}: {said}" if said else None


def _encode_batch(
    batch: dict[str, list[Any]],
    task: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    encoder: PreTrainedConfig,
    version: int,
) -> dict[str, list[Any]]:
    return tokenization.encode_texts(
        TaskSpec.from_dict(task), tokenizer, encoder, batch["text"], batch.get("text_pair")
    )


def encode_dataset(
    task: TaskSpec,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    encoder: PreTrainedConfig,
    split: str = "train",
) -> tuple[Dataset, EncodingReport]:
    """Encode a checked split (columns `text`, `text_pair`, `label`, …).

    Returns:
        The split with `input_ids`, with `token_type_ids`, the columns `LENGTHS` and that of the task's `units` if the
        task needs them, and with `label`, `row`, `id` and `group` unchanged; and a report on truncated inputs.
    """
    kept = {name: feature for name, feature in dataset.features.items() if name in KEPT}
    columns = {"input_ids": Sequence(Value("int32")), "truncated": Value("int32")}
    # `datasets` caches the result under the function's name and these arguments; the version stands for the code.
    # Fields that encoding does not read are left out, so that changing them does not invalidate the cache.
    units = task.kind.units
    read = (*READ, *OF_UNITS) if units.column else READ
    fields = {key: value for key, value in task.to_dict().items() if key in read}
    arguments: dict[str, Any] = {
        "task": fields,
        "tokenizer": tokenizer,
        "encoder": encoder,
        "version": tokenization.ENCODING_VERSION,
    }
    probe = _encode_batch({key: values[:0] for key, values in dataset[:1].items()}, **arguments)
    if "token_type_ids" in probe:
        columns["token_type_ids"] = Sequence(Value("int8"))
    columns |= {name: Value("int32") for name in tokenization.LENGTHS if name in probe}
    if units.column:
        columns[units.column] = Sequence(Value("int32"))
    features = Features({**kept, **columns})
    if not len(dataset):  # map adds no columns to an empty data set
        del features["truncated"]
        empty = Dataset.from_dict({name: [] for name in features}, features=features)
        return empty, EncodingReport(task.name, split, 0, 0, 0)
    encoded = dataset.map(
        _encode_batch,
        batched=True,
        fn_kwargs=arguments,
        remove_columns=[name for name in dataset.column_names if name not in KEPT],
        features=features,
        desc=f"Encoding {task.name} {split}",
    )
    cut = encoded.data.column("truncated")  # Arrow sums without loading the column into Python
    rows, tokens = pc.sum(pc.greater(cut, 0)).as_py(), pc.sum(cut).as_py()
    note = units.note(encoded.with_format("arrow")[:][units.column]) if units.column else None
    report = EncodingReport(task.name, split, len(encoded), rows, tokens, note)
    return encoded.remove_columns("truncated"), report


def encode_splits(
    task: TaskSpec, splits: DatasetDict, tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedConfig
) -> tuple[DatasetDict, tuple[EncodingReport, ...]]:
    """Encode each split of a task (`encode_dataset`)."""
    encoded, reports = DatasetDict(), []
    for name, split in splits.items():
        encoded[name], report = encode_dataset(task, split, tokenizer, encoder, name)
        reports.append(report)
    return encoded, tuple(reports)
