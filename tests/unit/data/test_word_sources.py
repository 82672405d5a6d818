"""Tags of words and labels of whole texts in one source: what a batch holds, splits that are cut, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from tagged import SLOTS, TAGS

from mtbert.data.collation import MultiTaskDataset
from mtbert.data.cut_splits import cut_rows
from mtbert.data.given_sources import Source
from mtbert.data.given_splits import prepare_splits
from mtbert.data.sampling import Step
from mtbert.data.sources import load_source
from mtbert.data.spec import DataSpec
from mtbert.errors import InputError
from mtbert.modeling.task_spec import TaskSpec

QUEUE = TaskSpec("queue", labels=["billing", "bug"])
TASKS = (QUEUE, SLOTS)
WORDS = [["the", "old", "cat"], ["a", "house"], ["new york", "dog"]]
LABELS = {
    "queue": ["bug", None, "billing"],
    "slots": [["O", "B-ANIMAL", "I-ANIMAL"], ["O", "B-PLACE"], None],
}


def prepared(table, tokenizer, make_model, split="train"):
    encoder = make_model(TASKS).config.encoder
    return prepare_splits(TASKS, split, {"tickets": Source(table, ["queue", "slots"])}, tokenizer, encoder)[0]


def test_a_batch_has_the_labels_of_both_kinds(tokenizer, make_model):
    splits = prepared(Dataset.from_dict({"text": WORDS, **LABELS}), tokenizer, make_model)
    data = MultiTaskDataset(TASKS, splits, True, training=True)
    batch = data.__getitems__(Step(((0, np.array([2, 0, 1])),)))
    lengths = list(batch["layout"].lengths)
    assert lengths == [len(splits["queue"][row]["input_ids"]) for row in (2, 0, 1)]  # each text once
    assert batch["labelled"].tolist() == [2, 2] and batch["units"].tolist() == [2, 5]
    assert batch["labels"]["queue"].tolist() == [0, 1, -100]
    tags = batch["labels"]["slots"]
    assert len(tags) == sum(lengths) and tags[tags != -100].tolist() == [0, 1, 2, 0, 3]
    assert (tags[: lengths[0]] == -100).all()  # the text without tags
    places = batch["places"]["slots"]
    assert places.rows.tolist() == [0, 0, 1, 1, 1, 2, 2] and places.parts.tolist() == [0, 1, 0, 1, 2, 0, 1]
    filler = data.__getitems__(Step(((0, np.array([0])),), filler=True))
    assert filler["labelled"].sum() == filler["units"].sum() == 0
    assert (filler["labels"]["slots"] == -100).all()


def test_only_the_tasks_with_labels_are_in_a_batch_for_training(tokenizer, make_model):
    splits = prepared(Dataset.from_dict({"text": WORDS, **LABELS}), tokenizer, make_model)
    batch = MultiTaskDataset(TASKS, splits, True, training=True).__getitems__(Step(((0, np.array([1])),)))
    assert list(batch["rows"]) == ["slots"] and batch["units"].tolist() == [0, 2]
    batch = MultiTaskDataset(TASKS, splits, True).__getitems__(Step(((0, np.array([1])),)))
    assert list(batch["rows"]) == ["queue", "slots"] and batch["labelled"].tolist() == [0, 1]


def test_it_is_that_of_the_task_alone(tokenizer, make_model):
    table = Dataset.from_dict({"text": WORDS, **LABELS})
    splits = prepared(table, tokenizer, make_model)
    rows = np.array([1, 0])
    shared = MultiTaskDataset(TASKS, splits, True).__getitems__(Step(((0, rows),)))
    alone = MultiTaskDataset(TASKS, {"slots": splits["slots"]}, True)
    own = alone.__getitems__(Step(((1, rows),)))
    assert torch.equal(shared["labels"]["slots"], own["labels"]["slots"])
    assert torch.equal(shared["input_ids"], own["input_ids"])
    for name in ("tokens", "rows", "parts"):
        np.testing.assert_array_equal(
            getattr(shared["places"]["slots"], name), getattr(own["places"]["slots"], name), err_msg=name
        )


def test_a_json_list_that_one_task_reads_as_words_is_refused(tokenizer, make_model):
    texts = ["the old cat", '["a", "house"]', "a dog"]
    tags = [["O", "B-ANIMAL", "I-ANIMAL"], ["O", "B-PLACE"], ["O", "O"]]
    table = Dataset.from_dict({"text": texts, "queue": ["bug", "bug", "billing"], "slots": tags})
    with pytest.raises(InputError, match=r"row 2: tasks 'queue' and 'slots' share a source.*schedule.draw: task"):
        prepared(table, tokenizer, make_model)
    apart = [replace(QUEUE, max_length=8), SLOTS]  # reads the texts otherwise, and encodes them by itself
    encoder = make_model(apart).config.encoder
    prepare_splits(apart, "train", {"tickets": Source(table, ["queue", "slots"])}, tokenizer, encoder)


def test_a_dev_split_is_cut_for_both(tmp_path):
    random = np.random.default_rng(0)
    lines = []
    for number in range(40):
        words = [f"w{number}", *random.choice(["a", "b"], size=3).tolist()]
        tags = [TAGS[3 if number % 8 == 0 else 0], "O", "O", "O"]
        lines.append({"words": words, "queue": QUEUE.labels[number % 2] if number % 5 else None, "slots": tags})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    specs = {}
    for task in TASKS:
        specs[task.name] = task, DataSpec(text="words", label=task.name, train="rows.jsonl", dev="20%")
    loaded = load_source("tickets", specs, tmp_path)
    dev = {name: each.splits["dev"].with_format(None) for name, each in loaded.items()}
    assert dev["queue"]["row"][:] == dev["slots"]["row"][:]
    assert len(dev["slots"]) == 7  # 1 of 5, 2 of 12, 3 of 16, 1 of 7
    assert sum(3 in tags for tags in dev["slots"]["label"][:]) == 1  # of the five with the rarest label
    assert dev["slots"]["text"][:] == [" ".join(lines[row - 1]["words"]) for row in dev["slots"]["row"][:]]


def test_rows_of_a_rare_tag_are_cut_in_their_share():
    tags = [[0, 3] if row < 10 else [0, 0] for row in range(100)]
    rows = Dataset.from_dict({"text": [f"a {row}" for row in range(100)], "label": tags})
    parts = cut_rows([SLOTS], [rows], {"dev": 0.2})
    assert len(parts["dev"]) == 20 and (parts["dev"] < 10).sum() == 2
