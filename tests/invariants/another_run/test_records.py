"""Checkpoints that state nothing or not all of their run, and the data's hash in what they state."""

from __future__ import annotations

import json

import datasets
import pytest
from changed_runs import told
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from mtbert.training.checkpoints.resume_record import FILE, data_record
from mtbert.training.checkpoints.sealing import CheckpointError, seal


def test_an_older_checkpoint_goes_on_with_one_warning(trained, copied, make_run, assert_same_weights, tmp_path):
    (message,) = told(make_run("again"), copied(FILE))
    unchecked = "tasks.*.weight, tasks.*.batch_size", "schedule", "smart", "training", "data", "parameters", "peft"
    assert all(name in message.partition("run: ")[2] for name in unchecked) and "encoder" not in message
    assert_same_weights(trained() / "checkpoint-4", tmp_path / "again" / "checkpoint-4")
    assert (tmp_path / "again" / "checkpoint-4" / FILE).is_file()


def test_a_key_that_is_not_stated_is_named(copied, make_run):
    checkpoint = copied()
    record = json.loads((checkpoint / FILE).read_text())
    del record["training.seed"], record["tasks.stars.balanced"], record["tasks.same.balanced"]
    (checkpoint / FILE).write_text(json.dumps(record))
    seal(checkpoint)
    (message,) = told(make_run("again"), checkpoint)
    assert message.endswith("those of the interrupted run: tasks.*.balanced, training.seed")


@pytest.mark.parametrize(
    ("text", "told"),
    [("[1]", "holds a list, but must hold an object"), ("", "can not be read as JSON: "), ("{", "can not be read as ")],
)
def test_a_record_that_cannot_be_read_is_refused(text, told, copied, make_run):
    checkpoint = copied()
    (checkpoint / FILE).write_text(text)
    seal(checkpoint)
    with pytest.raises(CheckpointError, match=f"{FILE} {told}"):
        make_run().train(resume_from_checkpoint=str(checkpoint))


# ---- the data's hash ----


def test_another_tokenizer_is_another_run(trained, make_run, splits, tokenizer):
    """Two words that exchange their ids; the texts are encoded by the trainer itself."""
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    words = tree["model"]["vocab"]
    words["cat"], words["dog"] = words["dog"], words["cat"]
    backend = Tokenizer.from_str(json.dumps(tree))
    other = PreTrainedTokenizerFast(tokenizer_object=backend, **tokenizer.special_tokens_map)
    texts = {"train": lambda data: splits((20, 12, 17, 9))}
    checkpoint = str(trained() / "checkpoint-2")
    with pytest.raises(CheckpointError, match=r"one:\ndata.train.stars.content_hash was .*\ndata.train.same.content"):
        make_run(**texts, processing_class=other).train(resume_from_checkpoint=checkpoint)
    make_run(**texts, processing_class=tokenizer).train(resume_from_checkpoint=checkpoint)


def test_the_hash_is_of_the_rows_as_they_are_read():
    def record(ids, **columns):
        return data_record({"a": datasets.Dataset.from_dict({"input_ids": ids, **columns})}, None)["data.train"]["a"]

    one = record([[1, 2], [3]], label=[0, 1])
    assert one == record([[1, 2], [3]], label=[0, 1], id=["x", "y"], row=[7, 9])
    others = [
        record([[1], [2, 3]], label=[0, 1]),
        record([[3], [1, 2]], label=[1, 0]),
        record([[1, 2], [3]], label=[0.0, 1.0]),
        record([[1, 2], [3]], label=[0, None]),
        record([[1, 2], [3]]),
        record([[1, 2], [3]], label=[0, 1], token_type_ids=[[0, 0], [0]]),
    ]
    assert len({each["content_hash"] for each in (one, *others)}) == 7
    rows = datasets.Dataset.from_dict({"input_ids": [[number] for number in range(50_000)]})
    small = rows.cast_column("input_ids", datasets.List(datasets.Value("int32")))
    parts = datasets.concatenate_datasets([rows.select(range(3)), rows.select(range(3, 50_000))])
    picked = rows.select([1, *range(50_000)]).select(range(1, 50_001))
    hashes = [data_record({"a": each}, None)["data.train"] for each in (rows, small, parts, picked)]
    assert all(each == hashes[0] for each in hashes)
    assert data_record({"a": rows.select(range(49_999, -1, -1))}, None)["data.train"] != hashes[0]
