"""A file is read again when its bytes change, whatever its time says, and only then, wherever it stands."""

import gzip
import os
from dataclasses import replace

import datasets
import pytest
from datasets import Dataset

from mtbert.data.cache import content_key
from mtbert.data.readers import RowFile
from mtbert.data.spec import DataSpec
from mtbert.data.splits import load_task
from mtbert.modeling.task_spec import TaskSpec

MOOD = TaskSpec("mood", labels=("bad", "good"))
TIME = 1_600_000_000


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def put(path, text: str, time: int = TIME):
    """Write rows of one text each with that modification time, as `rsync -a` and `cp -p` keep it."""
    path.parent.mkdir(exist_ok=True)
    kind = path.name.partition(".")[2]
    if kind == "parquet":
        Dataset.from_dict({"text": [text], "label": ["bad"]}).to_parquet(path)
    else:
        row = f'{{"text": "{text}", "label": "bad"}}\n'
        if kind[:3] in ("csv", "tsv"):
            row = f"text,label\n{text},bad\n".replace(",", "\t" if kind == "tsv" else ",")
        path.write_bytes(gzip.compress(row.encode(), mtime=0) if kind.endswith("gz") else row.encode())
    os.utime(path, (time, time))
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"])
def test_a_file_that_changed_and_kept_its_time_is_read_again(tmp_path, name):
    for text in ("old", "new"):
        put(tmp_path / name, text)
        assert load_task(MOOD, DataSpec(train=name), tmp_path).splits["train"]["text"][:] == [text]


def test_every_split_and_the_texts_without_labels_go_by_content(tmp_path):
    spec = DataSpec(train="train.csv", dev="dev.csv", test="test.csv", unlabelled="more.csv")
    names = ("train", "dev", "test", "more")
    for text in ("old", "new"):
        for name in names:
            put(tmp_path / f"{name}.csv", f"{name} {text}")
        splits = load_task(MOOD, spec, tmp_path).splits
        assert splits["train"]["text"][:] == [f"train {text}", f"more {text}"]
        assert [splits[name]["text"][:] for name in ("dev", "test")] == [[f"dev {text}"], [f"test {text}"]]


def test_a_folder_given_as_hub_goes_by_content(tmp_path):
    for text in ("old", "new"):
        put(tmp_path / "folder/train.csv", text)
        put(tmp_path / "folder/test.csv", f"test {text}")
        spec = DataSpec(hub=str(tmp_path / "folder"), train="train", test="test[:1]")
        splits = load_task(MOOD, spec).splits
        assert (splits["train"]["text"][:], splits["test"]["text"][:]) == ([text], [f"test {text}"])


def test_a_compressed_file_goes_by_content(tmp_path):
    for text in ("old", "new"):
        put(tmp_path / "a.jsonl.gz", text)
        assert load_task(MOOD, DataSpec(train="a.jsonl.gz"), tmp_path).splits["train"]["text"][:] == [text]


def test_the_same_bytes_are_read_once_wherever_and_whenever(tmp_path):
    first = load_task(MOOD, DataSpec(train=str(put(tmp_path / "a.csv", "old")))).splits["train"]
    moved = put(tmp_path / "there/b.csv", "old", TIME + 5)
    second = load_task(MOOD, DataSpec(train=str(moved))).splits["train"]
    assert first.cache_files == second.cache_files and first._fingerprint == second._fingerprint


def test_what_a_file_is_read_with_belongs_to_the_key(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text|label\none|two\n")
    by_comma, by_bar = (RowFile(path, "csv", separator).dataset(["text"]).column_names for separator in (None, "|"))
    assert (by_comma, by_bar) == (["text|label"], ["text", "label"])
    put(path, "old")
    assert load_task(replace(MOOD, name="other"), DataSpec(train="a.csv"), tmp_path).splits["train"]["label"][:] == [0]


def test_the_key_tells_files_apart(tmp_path):
    one, other = put(tmp_path / "a.csv", "one"), put(tmp_path / "b.csv", "other")
    keys = {content_key(files) for files in ([one], [other], [one, other], [other, one], [])}
    assert len(keys) == 5 and content_key([one]) == content_key([one])
