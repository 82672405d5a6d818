"""Text columns → token ids, once, cached by the fingerprint of data, task and tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, Sequence, Value
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..modeling import tokenization
from ..modeling.configuration_mtbert import TaskSpec

KEPT = ("label", "row", "id")
READ = ("name", "texts", "pair", "separator", "token_types", "max_length")  # all that encoding reads of a task


@dataclass(frozen=True)
class EncodingReport:
    """What was cut: `rows` of a split's `total` inputs lost `tokens` tokens in all."""

    task: str
    split: str
    total: int
    rows: int
    tokens: int

    def line(self) -> str | None:
        """A sentence for the log; None if nothing was cut."""
        if not self.rows:
            return None
        where = f"{self.task} {self.split}"
        return f"{where}: {self.rows:,} of {self.total:,} inputs were cut, by {self.tokens:,} tokens in all"


def _encode_batch(
    batch: dict[str, list[Any]], task: dict, tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedConfig, version: int
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
        The split with `input_ids`, `token_type_ids` or columns of `LENGTHS` where the task needs them, and
        `label`, `row` and `id` as they were; and what was cut.
    """
    kept = {name: feature for name, feature in dataset.features.items() if name in KEPT}
    columns = {"input_ids": Sequence(Value("int32")), "truncated": Value("int32")}
    read = {key: value for key, value in task.to_dict().items() if key in READ}  # so that other fields leave the cache
    # datasets names what it caches by the function's name and these arguments; the version stands for the code
    arguments = {"task": read, "tokenizer": tokenizer, "encoder": encoder, "version": tokenization.ENCODING_VERSION}
    probe = _encode_batch({key: values[:0] for key, values in dataset[:1].items()}, **arguments)
    if "token_type_ids" in probe:
        columns["token_type_ids"] = Sequence(Value("int8"))
    columns |= {name: Value("int32") for name in tokenization.LENGTHS if name in probe}
    features = Features({**kept, **columns})
    if not len(dataset):  # map adds no columns to no rows
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
    cut = encoded.data.column("truncated")  # counted by Arrow, where the rows lie: no start-up that grows with them
    rows, tokens = pc.sum(pc.greater(cut, 0)).as_py(), pc.sum(cut).as_py()
    report = EncodingReport(task.name, split, len(encoded), rows, tokens)
    return encoded.remove_columns("truncated"), report


def encode_splits(
    task: TaskSpec, splits: DatasetDict, tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedConfig
) -> tuple[DatasetDict, tuple[EncodingReport, ...]]:
    """`encode_dataset` for each split of a task."""
    found = {name: encode_dataset(task, split, tokenizer, encoder, name) for name, split in splits.items()}
    return DatasetDict({name: split for name, (split, _) in found.items()}), tuple(r for _, r in found.values())
