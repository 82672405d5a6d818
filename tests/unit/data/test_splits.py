"""Files of every kind, written here, come out as splits, or as errors that say what to do."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from mtbert.data.permutation import draw
from mtbert.data.spec import DataSpec
from mtbert.data.splits import load_column, load_task
from mtbert.modeling.task_spec import TaskSpec

SST = TaskSpec("sst", labels=5)
MOOD = TaskSpec("mood", labels=("bad", "good"))
PAIR = TaskSpec("pair", "binary_classification", labels=("no", "yes"), texts=2)


def write(folder: Path, text: str, name: str = "train.csv") -> DataSpec:
    (folder / name).write_text(text, encoding="utf-8")
    return DataSpec(train=name)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"train": None}, "train is missing"),
        ({"text": ()}, "names 0 columns"),
        ({"text": ("a", "b", "c")}, "names 3 columns"),
        ({"text": ("a", "a")}, "column 'a' twice"),
        ({"text": "a", "label": "a"}, "label and text both name column 'a'"),
        ({"subset": "sst2"}, "subset is 'sst2', but is for hub datasets"),
        ({"revision": "main"}, "revision is 'main', but is for hub datasets"),
        ({"format": "xls"}, "format is 'xls', but must be one of: csv, tsv, json, parquet, cs224n"),
        ({"format": "csv", "hub": "glue"}, "format is 'csv', but is for files"),
        ({"train": "a.txt"}, "train is 'a.txt', whose suffix is none of .csv"),
        ({"dev": "dev.d"}, "dev is 'dev.d', whose suffix"),
    ],
)
def test_spec_contradictions(values, problem):
    (found,) = DataSpec(**{"train": "a.csv"} | values).problems()
    assert problem in str(found)


def test_spec_names_all_problems_at_once():
    spec = DataSpec(subset="x", format="xls")
    assert len(spec.problems()) == 3
    with pytest.raises(ValueError, match=r"(?s)task 'sst': data\.train is missing.*subset.*format"):
        load_task(SST, spec)


@pytest.mark.parametrize("values", [{}, {"hub": "glue", "subset": "sst2", "revision": "main", "train": "train[:9]"}])
def test_spec_without_problems(values):
    assert DataSpec(**{"train": "a.jsonl", "dev": "b.CSV"} | values).problems() == []


def test_text_columns_must_match_the_task(tmp_path):
    with pytest.raises(ValueError, match=r"texts is 2, but data.text names 1: \['text'\]; give as many"):
        load_task(PAIR, write(tmp_path, "text,label\na,yes\n"), tmp_path)


# Files


def test_every_format_gives_the_same_rows(tmp_path):
    rows = [{"id": "x1", "text": "NA", "label": "bad"}, {"id": "x2", "text": 'say "hi", null', "label": "good"}]
    (tmp_path / "a.csv").write_text('\ufeffid,text,label\nx1,NA,bad\n\nx2," say ""hi"", null ",good\n', "utf-8")
    (tmp_path / "a.tsv").write_text('id\ttext\tlabel\nx1\tNA\tbad\nx2\t"say ""hi"", null"\tgood\n')
    (tmp_path / "course.csv").write_text('\tid\ttext\tlabel\n7\tx1\tNA\tbad\n9\tx2\t"say ""hi"", null"\tgood\n')
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    expected = [
        {"text": "NA", "label": 0, "row": 1, "id": "x1"},
        {"text": 'say "hi", null', "label": 1, "row": 2, "id": "x2"},
    ]
    for name in ("a.csv", "a.tsv", "course.csv", "a.jsonl", "a.json", "a.parquet"):
        spec = DataSpec(train=name, id="id", format="cs224n" if name == "course.csv" else None)
        loaded = load_task(MOOD, spec, tmp_path)
        assert loaded.splits["train"].to_list() == expected, name
        assert loaded.splits["train"].column_names == ["text", "label", "row", "id"]
        assert loaded.splits["train"].cache_files, "the rows should be memory-mapped"
        assert loaded.reports[0].lines() == [f"mood train: 2 rows read from {name}, 2 kept"]


def test_splits_are_those_that_are_named(tmp_path):
    for split in ("train", "dev", "test"):
        write(tmp_path, f"text,label\n{split},bad\n", f"{split}.csv")
    loaded = load_task(MOOD, DataSpec(train="train.csv", test="test.csv"), tmp_path)
    assert isinstance(loaded.splits, DatasetDict) and list(loaded.splits) == ["train", "test"]
    assert [report.split for report in loaded.reports] == ["train", "test"]
    loaded = load_task(MOOD, DataSpec(train=str(tmp_path / "train.csv"), dev="dev.csv"), tmp_path)
    assert loaded.splits["dev"]["text"][:] == ["dev"]


def test_symmetric_pairs_are_trained_on_in_both_orders(tmp_path):
    write(tmp_path, "key,a,b,label\nx,one,two,yes\ny,three,,\nz,five,six,no\n")
    write(tmp_path, "key,a,b,label\nw,one,two,yes\n", "dev.csv")
    spec = DataSpec(("a", "b"), train="train.csv", dev="dev.csv", id="key", symmetric=True)
    splits = load_task(PAIR, spec, tmp_path).splits
    train = splits["train"]
    assert train["text"][:] == ["one", "five", "two", "six"] and train["text_pair"][:] == ["two", "six", "one", "five"]
    assert train["label"][:] == [1, 0, 1, 0] and train["id"][:] == ["x", "z", "x", "z"]
    assert len(splits["dev"]) == 1
    found = list(map(str, DataSpec(train="a.csv", symmetric=True).problems()))
    assert found == ["symmetric is true, but is for pairs; text names 1 column"]


def numbered_rows(folder, count: int = 40) -> DataSpec:
    """A file of `count` usable rows; rows 3, 6, 9, … have no label."""
    rows = [f"t{i},{'' if i % 3 == 0 else 'bad'}" for i in range(1, count * 3 // 2 + 1)]
    return write(folder, "text,label\n" + "\n".join(rows) + "\n")


def test_a_sample_is_drawn_once_from_the_usable_rows(tmp_path):
    spec = numbered_rows(tmp_path)
    everything = load_task(MOOD, spec, tmp_path).splits["train"]
    sampled = replace(spec, sample=10, dev="train.csv", unlabelled="train.csv")
    loaded = load_task(MOOD, sampled, tmp_path)
    train = loaded.splits["train"].to_list()
    drawn, unlabelled = train[:10], train[10:]
    assert [row["row"] for row in drawn] == sorted({row["row"] for row in drawn})
    assert all(row in everything.to_list() for row in drawn)
    assert [row["row"] for row in unlabelled] == list(range(61, 121)) and len(loaded.splits["dev"]) == 40
    assert loaded.reports[0].lines()[0].endswith("; 10 of 40 rows were drawn (sample_seed 0)")
    assert not any("drawn" in line for report in loaded.reports[1:] for line in report.lines())
    assert len(loaded.reports[1].shared["train"]) == 10
    assert load_task(MOOD, sampled, tmp_path).splits["train"].to_list() == train
    assert load_task(MOOD, replace(sampled, sample_seed=1), tmp_path).splits["train"].to_list() != train
    whole = load_task(MOOD, replace(spec, sample=40), tmp_path).splits["train"]
    assert whole.to_list() == everything.to_list()


@pytest.mark.parametrize("sample", [None, 20])
def test_a_share_of_the_training_rows_is_the_dev_split(tmp_path, sample):
    spec = replace(numbered_rows(tmp_path), sample=sample)
    usable = load_task(MOOD, spec, tmp_path).splits["train"].to_list()
    loaded = load_task(MOOD, replace(spec, dev_share=0.2, test="train.csv"), tmp_path)
    train, dev = (loaded.splits[split].to_list() for split in ("train", "dev"))
    assert len(dev) == len(usable) // 5 and sorted([*train, *dev], key=lambda row: row["row"]) == usable
    reports = {report.split: report.lines()[0] for report in loaded.reports}
    for split, rows in (("train", train), ("dev", dev)):
        assert reports[split].endswith(f"; {len(rows)} of these are the {split} split (dev_share, sample_seed 0)")
    other = load_task(MOOD, replace(spec, dev_share=0.2, sample_seed=1), tmp_path).splits["dev"].to_list()
    assert other != dev
    rows = load_column(MOOD, replace(spec, dev_share=0.2), "dev", "text", tmp_path)
    assert all(rows[row["row"]] == row["text"] for row in dev)


def test_every_row_is_drawn_equally_often():
    """The number of draws of a row is binomial: mean 1,000, standard deviation 27."""
    draws = np.stack([draw(10, 40, seed) for seed in range(4000)])
    assert (np.diff(draws) > 0).all() and draws.min() == 0 and draws.max() == 39
    assert np.abs(np.bincount(draws.flatten()) - 1000).max() < 5 * 27


def test_a_sample_comes_before_the_other_order_of_pairs(tmp_path):
    lines = [f"a{i},b{i},{'yes' if i % 2 else 'no'}" for i in range(6)]
    write(tmp_path, "a,b,label\n" + "\n".join(lines) + "\n")
    spec = DataSpec(("a", "b"), train="train.csv", symmetric=True, sample=2)
    train = load_task(PAIR, spec, tmp_path).splits["train"]
    assert train["row"][:2] == train["row"][2:] and train["text"][:2] == train["text_pair"][2:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample": 41}, r"data.sample is 41, but .*train.csv has only 40 usable rows; give at most as many, or null"),
        ({"sample": 0}, "data.sample is 0, but must be 1 or more"),
        ({"sample": 5, "sample_seed": -1}, "data.sample_seed is -1, but must be 0 or more"),
        ({"sample_seed": 7}, "data.sample_seed is 7, but neither sample nor dev_share is set; give one"),
        ({"dev_share": 1.0}, "data.dev_share is 1.0, but must be between 0 and 1"),
        ({"dev_share": 0.01}, r"data.dev_share is 0.01, which makes 0 dev rows of 40 usable rows of .*train.csv"),
        ({"dev_share": 0.2, "dev": "train.csv"}, "data.dev_share is 0.2, but dev is 'train.csv'; drop one of them"),
    ],
)
def test_samples_that_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_task(MOOD, replace(numbered_rows(tmp_path), **settings), tmp_path)


def test_a_changed_file_is_read_again(tmp_path):
    spec = write(tmp_path, "text,label\nold,bad\n")
    assert load_task(MOOD, spec, tmp_path).splits["train"]["text"][:] == ["old"]
    write(tmp_path, "text,label\nnewer,good\n")
    assert load_task(MOOD, spec, tmp_path).splits["train"].to_list() == [{"text": "newer", "label": 1, "row": 1}]


def test_a_file_name_is_no_pattern(tmp_path):
    spec = write(tmp_path, "text,label\na,bad\n", "train[1]*.csv")
    assert len(load_task(MOOD, spec, tmp_path).splits["train"]) == 1


def test_missing_file(tmp_path):
    write(tmp_path, "text,label\na,bad\n", "sst-train.csv")
    with pytest.raises(FileNotFoundError) as error:
        load_task(MOOD, DataSpec(train="sst-trian.csv"), tmp_path)
    for part in ("task 'mood': data.train", str(tmp_path / "sst-trian.csv"), "'sst-train.csv'", f"is {tmp_path})"):
        assert part in str(error.value)
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        load_task(MOOD, DataSpec(train="nowhere/a.csv"), tmp_path)
    (tmp_path / "folder.csv").mkdir()
    for name in ("a\0.csv", "a" * 5000 + ".csv"):
        with pytest.raises(FileNotFoundError, match="task 'mood': data.train: .*a.*csv: there is no such file"):
            load_task(MOOD, DataSpec(train=name), tmp_path)
    with pytest.raises(FileNotFoundError, match="it is a folder"):
        load_task(MOOD, DataSpec(train="folder.csv"), tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (
            "a.csv",
            "text,label\na,bad\nb,bad,7\n",
            r"row 2 \(line 3\) has 3 fields, but the header names 2; put",
        ),
        ("a.csv", "text,label\na,bad,7\nb,bad\n", r"row 1 \(line 2\) has 3 fields, but the header names 2"),
        ("a.csv", 'text,label\n"a,bad\nb,bad\n', r"row 1 \(line 2\), column 'text': a quote opens, but does not close"),
        ("a.csv", "text,label\n", "no row after the header"),
        ("a.csv", "text,label,text\na,bad,b\n", r"the header names \['text'\] more than once"),
        ("a.csv", "", "is empty"),
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", "\n\n", "can not be read as json: .+; write one"),
        (
            "a.jsonl",
            '{"text": "a", "label": "bad"}\n\n{"text": "b"\n',
            "can not be read as json: line 3 is no JSON: .*one JSON",
        ),
        ("a.json", '[{"text": "a"}', "is no JSON array: .*one JSON"),
        ("a.parquet", "text,label\na,bad\n", "can not be read as parquet"),
    ],
)
def test_broken_files(tmp_path, name, text, problem):
    with pytest.raises(ValueError, match=f"(?s)task 'mood': data.train: .*{name}.*{problem}"):
        load_task(MOOD, write(tmp_path, text, name), tmp_path)


def test_bytes_that_are_not_utf8(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\ncafé,bad\n".encode("latin-1"))
    with pytest.raises(ValueError, match="a.csv can not be read as csv: line 2 is no UTF-8 text; convert the file"):
        load_task(MOOD, DataSpec(train="a.csv"), tmp_path)


def test_short_rows_are_rows_without_their_last_fields(tmp_path):
    loaded = load_task(MOOD, write(tmp_path, "text,label\na,bad\nb\n"), tmp_path)
    assert loaded.reports[0].left_out == {"no label": (2,)}


def test_quote_that_swallows_lines(tmp_path):
    text = 'text\tlabel\n"open\tbad\nnext\tgood\nlast"\tgood\nb\tbad\n'
    with pytest.raises(ValueError, match=r"row 1 \(line 2\): a quote that may be text swallowed a tab"):
        load_task(MOOD, write(tmp_path, text, "a.tsv"), tmp_path)


def test_tabs_in_a_csv(tmp_path):
    with pytest.raises(ValueError, match="separated by tabs: use format: tsv, or cs224n"):
        load_task(MOOD, write(tmp_path, "text\tlabel\na\tbad\n"), tmp_path)


def test_strings_are_not_guessed_from_json(tmp_path):
    rows = [{"text": "007", "label": 1}, {"text": "null", "label": "good"}, {"text": "1e5", "label": None}]
    loaded = load_task(MOOD, write(tmp_path, "\n".join(map(json.dumps, rows)), "a.jsonl"), tmp_path)
    assert loaded.splits["train"].to_list() == [
        {"text": "007", "label": 1, "row": 1},
        {"text": "null", "label": 1, "row": 2},
    ]
    dates = [{"text": f"2020-01-0{day}", "label": 1} for day in (1, 2)]
    loaded = load_task(MOOD, write(tmp_path, "\n".join(map(json.dumps, dates)), "b.jsonl"), tmp_path)
    assert loaded.splits["train"]["text"][:] == ["2020-01-01", "2020-01-02"]


# The hub


def test_local_dataset_folder(tmp_path):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", "text,label\na,bad\nb,good\n", "train.csv")
    write(tmp_path / "data", "text,label\nc,bad\n", "test.csv")
    loaded = load_task(MOOD, DataSpec(hub=str(tmp_path / "data"), train="train", sample=1))
    assert len(loaded.splits["train"]) == 1
    loaded = load_task(MOOD, DataSpec(hub=str(tmp_path / "data"), train="train[:1]", dev="train[1:]", test="test"))
    assert {split: rows["text"][:] for split, rows in loaded.splits.items()} == {
        "train": ["a"],
        "dev": ["b"],
        "test": ["c"],
    }
    assert loaded.reports[1].lines() == [f"mood dev: 1 row read from {tmp_path}/data, split train[1:], 1 kept"]
    with pytest.raises(ValueError, match=r"data.dev: split 'validation' of dataset .*can not be loaded"):
        load_task(MOOD, DataSpec(hub=str(tmp_path / "data"), train="train", dev="validation"))


def test_hub_call_and_failure(monkeypatch):
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        if kwargs["split"] == "validation":
            raise ConnectionError("no route")
        return Dataset.from_dict({"text": ["a"], "label": [0]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    load_task(MOOD, DataSpec(hub="glue", subset="sst2", revision="v1", train="train"))
    assert calls == [(("glue", "sst2"), {"split": "train", "revision": "v1"})]
    match = r"(?s)task 'mood': data.dev: split 'validation' of dataset 'glue' .*no route.*network.*HF_HOME.*local files"
    with pytest.raises(OSError, match=match):
        load_task(MOOD, DataSpec(hub="glue", train="train", dev="validation"))
