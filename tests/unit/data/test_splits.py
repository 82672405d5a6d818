"""Files of every kind, written here, come out as rows that can be trained on, or as errors that say what to do."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from mtbert.data.splits import DataSpec, check_rows, load_column, load_task
from mtbert.modeling.configuration_mtbert import TaskSpec
from mtbert.modeling.heads import labelled

COURSE = Path(__file__).parents[3].parent / "shared/data/cs224n"
SST = TaskSpec("sst", labels=5)
MOOD = TaskSpec("mood", labels=("bad", "good"))
STS = TaskSpec("sts", range=(0, 5))
PAIR = TaskSpec("pair", "binary_classification", labels=("no", "yes"), texts=2)
TOPICS = TaskSpec("topics", "multi_label_classification", labels=("art", "law", "war"))


def write(folder: Path, text: str, name: str = "train.csv") -> DataSpec:
    (folder / name).write_text(text, encoding="utf-8")
    return DataSpec(train=name)


def check(task: TaskSpec, labels: list, split: str = "train", **spec):
    rows = labels if isinstance(labels, Dataset) else Dataset.from_dict({"text": ["a"] * len(labels), "label": labels})
    return check_rows(task, split, rows, DataSpec(**spec), "memory")


def labels_of(task: TaskSpec, labels: list, split: str = "train", **spec) -> list:
    return check(task, labels, split, **spec)[0]["label"][:]


# The specification


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
        ({"dev": "dev"}, "dev is 'dev', whose suffix"),
    ],
)
def test_spec_contradictions(values, problem):
    (found,) = DataSpec(**{"train": "a.csv"} | values).problems("data")
    assert found.startswith("data: ") and problem in found


def test_spec_names_all_problems_at_once():
    spec = DataSpec(subset="x", format="xls")
    assert len(spec.problems("data")) == 3
    with pytest.raises(ValueError, match=r"(?s)task 'sst': data: train is missing.*subset.*format"):
        load_task(SST, spec)


@pytest.mark.parametrize("values", [{}, {"hub": "glue", "subset": "sst2", "revision": "main", "train": "train[:9]"}])
def test_spec_without_problems(values):
    assert DataSpec(**{"train": "a.jsonl", "dev": "b.CSV"} | values).problems("data") == []


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
    found = DataSpec(train="a.csv", symmetric=True).problems("data")
    assert found == ["data: symmetric is true, but is for pairs; text names 1 column"]


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


# Labels


@pytest.mark.parametrize(
    ("task", "values", "expected"),
    [
        (MOOD, ["bad", " good ", "1", "0.0"], [0, 1, 1, 0]),
        (MOOD, [0, 1, 1], [0, 1, 1]),
        (MOOD, [0.0, 1.0], [0, 1]),
        (MOOD, [False, True], [0, 1]),
        (SST, ["4", "3.0", " 2"], [4, 3, 2]),
        (SST, [4.0, 3.0], [4, 3]),
        (TaskSpec("t", labels=("-1", "0", "1")), [-1, 0, 1], [0, 1, 2]),
        (TaskSpec("t", labels=("1", "2", "3")), ["1", "3.0"], [0, 2]),
        (TaskSpec("t", labels=("1", "many")), [1, 1], [0, 0]),
        (TaskSpec("t", labels=("0.5", "1.5")), [1.5, 0.5], [1, 0]),
        (TaskSpec("t", labels=("False", "True")), [True, False], [1, 0]),
        (STS, ["0", "5.0", "2.25"], [0.0, 5.0, 2.25]),
        (STS, [0, 5], [0.0, 5.0]),
        (TaskSpec("t", "regression"), [-1e6, 1.0], [-1e6, 1.0]),
        (TOPICS, ["art|war", "law", "art, law", "2"], [[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]]),
        (TOPICS, [["art"], [], ["war", "law"]], [[1, 0, 0], [0, 0, 0], [0, 1, 1]]),
        (TOPICS, [[0, 2], [1]], [[1, 0, 1], [0, 1, 0]]),
    ],
)
def test_labels_read(task, values, expected):
    checked, report = check(task, values)
    assert checked["label"][:] == expected
    kind = {"regression": Value("float32"), "multi_label_classification": List(Value("float32"))}
    assert checked.features["label"] == kind.get(task.problem_type, Value("int64"))
    assert report.left_out == {}


def test_a_label_may_hold_a_separator():
    task = TaskSpec("t", "multi_label_classification", labels=("arts, crafts", "law"))
    assert labels_of(task, ["arts, crafts", "arts, crafts|law"]) == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("task", "bad", "accepted"),
    [
        (MOOD, "great", r"one of: bad, good \(or their ids, 0 to 1\)"),
        (MOOD, "2", "one of: bad, good"),
        (MOOD, "-1", "one of: bad, good"),
        (MOOD, "0.5", "one of: bad, good"),
        (SST, "5", "one of: 0, 1, 2, 3, 4$"),
        (SST, "4.5", "one of: 0, 1"),
        (SST, "nan", "one of: 0, 1"),
        (TaskSpec("t", labels=("1", "2")), "0", "one of: 1, 2$"),
        (STS, "high", "a finite number from 0 to 5"),
        (STS, "5.1", "a finite number from 0 to 5"),
        (STS, "nan", "a finite number"),
        (STS, "2_5", "a finite number"),
        (TaskSpec("t", "regression"), "inf", "a finite number$"),
        (TaskSpec("t", "regression"), "1e39", "a finite number$"),
        (
            TOPICS,
            "art|sport",
            "a list of different names, or names separated by '|', ';' or ',', out of: art".replace("|", r"\|"),
        ),
        (TOPICS, "art,art", "a list of different names"),
    ],
)
def test_labels_refused(task, bad, accepted):
    good = {"mood": "bad", "sst": "1", "t": "1", "sts": "1", "topics": "art"}[task.name]
    match = f"(?s)task '{task.name}', train split, memory: column 'label' is wrong in 1 row: row 2: .*{accepted}"
    with pytest.raises(ValueError, match=match) as error:
        check(task, [good, bad])
    assert repr(bad) in str(error.value)


def test_bad_labels_are_counted_and_the_first_shown():
    with pytest.raises(
        ValueError, match=r"wrong in 1,200 rows: row 2: 7; row 3: 7; row 4: 7; row 5: 7; row 6: 7 and 1,195"
    ):
        check(SST, [1] + [7] * 1200)


def test_infinite_score_is_no_missing_score():
    assert labels_of(STS, [1.0, math.nan]) == [1.0]
    with pytest.raises(ValueError, match="row 2: inf"):
        check(STS, [1.0, math.inf])


def class_labels(values: list, names: list[str]) -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"text": ["a"] * len(values), "label": values}, features=features)


def test_class_label_names_and_ids():
    assert labels_of(MOOD, class_labels([0, 1], ["good", "bad"])) == [1, 0]
    assert labels_of(MOOD, class_labels([0, 1], ["0", "1"])) == [0, 1]
    assert labels_of(TaskSpec("t", labels=2), class_labels([0, 1], ["neg", "pos"])) == [0, 1]
    assert labels_of(TaskSpec("t", labels=3), class_labels([0, 2], ["1", "2", "3"])) == [0, 2]
    assert labels_of(TaskSpec("t", labels=("3", "2", "1")), class_labels([0, 2], ["1", "2", "3"])) == [2, 0]
    with pytest.raises(
        ValueError, match=r"row 1: 0 \('pos'\).*its own names: pos, neg; list these as the task's labels"
    ):
        check(MOOD, class_labels([0, 1], ["pos", "neg"]))
    with pytest.raises(ValueError, match=r"row 1: 2 \('okay'\); labels must be one of: bad, good"):
        check(MOOD, class_labels([2], ["bad", "good", "okay"]))


def test_list_of_class_labels():
    features = Features({"text": Value("string"), "label": List(ClassLabel(names=["war", "art", "law"]))})
    rows = Dataset.from_dict({"text": ["a"], "label": [[0, 1]]}, features=features)
    assert labels_of(TOPICS, rows) == [[1, 0, 1]]


@pytest.mark.parametrize("split", ["train", "dev"])
def test_missing_labels_are_left_out(split):
    checked, report = check(MOOD, ["bad", "", None, " ", "good"], split)
    assert checked.to_list() == [{"text": "a", "label": 0, "row": 1}, {"text": "a", "label": 1, "row": 5}]
    assert (report.read, report.kept, report.left_out) == (5, 2, {"no label": (2, 3, 4)})
    assert report.lines() == [f"mood {split}: 5 rows read from memory, 2 kept; 3 left out: no label (rows 2, 3, 4)"]


def test_minus_one_is_a_missing_label_of_hubs_and_test_splits():
    assert labels_of(MOOD, class_labels([-1, 1], ["bad", "good"])) == [1]
    assert labels_of(MOOD, [-1, 1], hub="snli") == [1]
    assert labels_of(MOOD, [-1, 1], split="test") == [-100, 1]
    assert "label" not in check(STS, [-1.0, -1.0], split="test")[0].column_names
    assert labels_of(TaskSpec("t", labels=("-1", "1")), [-1, 1], split="test") == [0, 1]
    assert labels_of(TaskSpec("t", "regression"), [-1.0], split="test") == [-1.0]
    with pytest.raises(ValueError, match="row 1: -1"):
        check(MOOD, [-1, 1])


def test_labels_of_a_test_split():
    assert check(MOOD, ["", None], "test")[0].to_list() == [{"text": "a", "row": 1}, {"text": "a", "row": 2}]
    checked, report = check(MOOD, ["", "bad"], "test")
    assert [row["label"] for row in checked.to_list()] == [-100, 0] and report.left_out == {}
    without = Dataset.from_dict({"text": ["a", " "]})
    assert [row["text"] for row in check(MOOD, without, "test")[0].to_list()] == ["a", ""]
    some = Dataset.from_dict({"text": ["a", ""], "label": [None, "bad"]})
    checked, report = check(MOOD, some, "test")
    assert [row["label"] for row in checked.to_list()] == [-100, 0] and report.kept == 2
    with pytest.raises(ValueError, match="no column 'label' for label"):
        check(MOOD, without, "dev")


# Texts


def test_texts_and_reports_of_a_pair():
    rows = Dataset.from_dict(
        {
            "a": [" one\n", "", None, "four", "five", " ", "seven"],
            "b": [1.5, 2.0, 3.0, None, 5.0, None, math.nan],
            "label": ["yes", "no", "yes", "no", "", "", "yes"],
            "key": [10, 11, 12, 13, 14, 15, 16],
        }
    )
    checked, report = check_rows(PAIR, "train", rows.with_format("numpy"), DataSpec(text=("a", "b"), id="key"), "here")
    assert checked.to_list() == [{"text": "one", "text_pair": "1.5", "label": 1, "row": 1, "id": "10"}]
    assert report.left_out == {"no label": (5, 6), "empty text in a": (2, 3), "empty text in b": (4, 7)}
    (line,) = report.lines()
    assert line.startswith("pair train: 7 rows read from here, 1 kept; 2 left out: no label (rows 5, 6); 2 left")
    assert report.read == report.kept + sum(map(len, report.left_out.values()))


def test_texts_that_stand_in_two_splits_are_told(tmp_path):
    write(tmp_path, "text,label\none,bad\ntwo,good\nthree,bad\n")
    write(tmp_path, "text,label\nnew,bad\n,bad\n two ,bad\nThree,good\none,\n", "dev.csv")
    write(tmp_path, "text\nnew\nthree\nthree\n", "test.csv")
    spec = DataSpec(train="train.csv", dev="dev.csv", test="test.csv")
    train, dev, test = load_task(MOOD, spec, tmp_path).reports
    assert (train.shared, dev.shared) == ({}, {"train": (3,)})
    assert test.shared == {"train": (2, 3), "dev": (1,)}
    assert len(train.lines()) == 1 and len(test.lines()) == 3
    assert dev.lines()[1] == (
        "warning: mood dev: 1 of 3 rows have the text of a row of train (row 3); "
        "their scores say little about new texts; remove them from one of the two"
    )


def test_pairs_that_stand_in_two_splits(tmp_path):
    write(tmp_path, "a,b,label\none,two,yes\nthree,four,no\n")
    write(tmp_path, "a,b,label\ntwo,one,yes\nthree,four,no\none,four,no\n", "dev.csv")
    spec = DataSpec(("a", "b"), train="train.csv", dev="dev.csv")
    assert load_task(PAIR, spec, tmp_path).reports[1].shared == {"train": (2,)}
    assert load_task(PAIR, replace(spec, symmetric=True), tmp_path).reports[1].shared == {"train": (1, 2)}


def test_texts_without_labels_are_trained_on_too(tmp_path):
    write(tmp_path, "text,label,n\none,bad,a\n,good,b\ntwo,good,c\n")
    write(tmp_path, "text,label\nthree,no label of the task\n,\n four ,good\n", "more.csv")
    write(tmp_path, "text,label\nnew,bad\nfour,good\n", "dev.csv")
    spec = DataSpec(train="train.csv", dev="dev.csv", unlabelled="more.csv", id="n")
    with pytest.raises(ValueError, match="dev split.*no column 'n' for id"):
        load_task(MOOD, spec, tmp_path)
    loaded = load_task(MOOD, replace(spec, id=None), tmp_path)
    assert sorted(loaded.splits) == ["dev", "train"]
    assert loaded.splits["train"].to_list() == [
        {"text": "one", "label": 0, "row": 1},
        {"text": "two", "label": 1, "row": 3},
        {"text": "three", "label": -100, "row": 4},
        {"text": "four", "label": -100, "row": 6},
    ]
    assert loaded.reports[2].lines() == [
        "mood unlabelled: 3 rows read from more.csv, 2 kept; 1 left out: empty text in text (row 2)"
    ]
    assert loaded.reports[1].shared == {"unlabelled": (2,)}
    named = load_task(MOOD, replace(spec, dev=None), tmp_path).splits["train"]
    assert named["id"][:] == ["a", "c", "", ""] and named.features["label"] == loaded.splits["train"].features["label"]


@pytest.mark.parametrize("task", [STS, TOPICS, PAIR], ids=lambda task: task.name)
def test_a_missing_label_is_that_of_its_kind(task, tmp_path):
    labels = {"sts": "4.5", "topics": "art", "pair": "yes"}[task.name]
    write(tmp_path, f"a,b,label\none,two,{labels}\n")
    write(tmp_path, "a,b\nthree,four\n", "more.csv")
    task, text = replace(task, texts=2), ("a", "b")
    rows = load_task(task, DataSpec(text, train="train.csv", unlabelled="more.csv", symmetric=True), tmp_path).splits
    labels = torch.as_tensor(rows["train"]["label"][:])
    assert labelled(task, labels).tolist() == [True, False, True, False]
    assert rows["train"]["text"][:] == ["one", "three", "two", "four"]


def test_report_shows_five_rows():
    _, report = check(MOOD, ["bad"] + [None] * 1207)
    assert report.lines() == [
        "mood train: 1,208 rows read from memory, 1 kept; 1,207 left out: no label (rows 2, 3, 4, 5, 6 and 1,202 more)"
    ]
    assert check(MOOD, ["bad", None])[1].lines()[0].endswith("1 left out: no label (row 2)")


def test_output_columns_do_not_depend_on_names():
    rows = Dataset.from_dict({"label": ["x"], "text": ["bad"], "row": [5], "_status": [1], "id": ["k"]})
    checked, _ = check_rows(MOOD, "train", rows, DataSpec(text="label", label="text", id="row"), "memory")
    assert checked.to_list() == [{"text": "x", "label": 0, "row": 1, "id": "5"}]


def test_nul_characters_are_refused():
    rows = Dataset.from_dict({"text": ["a", "b\0c"], "label": ["bad", "great"]})
    with pytest.raises(
        ValueError, match=r"(?s)'label' is wrong in 1 row.*'text' is wrong in 1 row: row 2: 'b\\x00c'; NUL"
    ):
        check(MOOD, rows)


def test_missing_columns_and_wrong_types():
    rows = Dataset.from_dict({"sentence": ["a"], "labels": ["bad"], "parts": [["a"]]})
    with pytest.raises(ValueError, match=r"no column 'sentense' for text; .*\['sentence', .*mean 'sentence'\?"):
        check(MOOD, rows, text="sentense")
    with pytest.raises(ValueError, match=r"no column 'label' for label; .*did you mean 'labels'\?"):
        check(MOOD, rows, text="sentence")
    with pytest.raises(ValueError, match="no column 'zzz' for id"):
        check(MOOD, rows, text="sentence", label="labels", id="zzz")
    with pytest.raises(ValueError, match="column 'parts' for text holds List"):
        check(MOOD, rows, text="parts", label="labels")


def test_rows_of_another_number_of_texts():
    with pytest.raises(ValueError, match=r"task 'pair': texts is 2, but data.text names 1: \['text'\]; give as many"):
        check(PAIR, ["yes"])


def test_no_usable_row():
    rows = Dataset.from_dict({"text": ["a", ""], "label": [None, "bad"]})
    with pytest.raises(ValueError, match=r"no usable row in 2 \(1 no label, 1 empty text in text\)"):
        check(MOOD, rows)
    with pytest.raises(ValueError, match="no usable row, since it has none at all"):
        check(MOOD, rows.select([]))


def test_streams_are_refused():
    rows = Dataset.from_dict({"text": ["a"], "label": ["bad"]})
    with pytest.raises(TypeError, match="streamed dataset is refused, since the plan needs the size of each task"):
        check_rows(MOOD, "train", rows.to_iterable_dataset(), DataSpec(), "memory")
    with pytest.raises(TypeError, match="expected a datasets.Dataset, but got a DatasetDict"):
        check_rows(MOOD, "train", DatasetDict(train=rows), DataSpec(), "memory")


def test_checked_rows_are_cached(tmp_path):
    spec = write(tmp_path, "text,label\na,bad\n,bad\n")
    first, second = (load_task(MOOD, spec, tmp_path).splits["train"] for _ in range(2))
    assert first._fingerprint == second._fingerprint and first.cache_files == second.cache_files
    other = load_task(TaskSpec("mood", labels=("good", "bad")), spec, tmp_path).splits["train"]
    assert (first[0]["label"], other[0]["label"]) == (0, 1)


# The course's files

SIZES = {
    "ids-sst": (TaskSpec("sst", labels=5), ("sentence",), "sentiment", (8544, 1101, 2210)),
    "ids-cfimdb": (TaskSpec("cfimdb", "binary_classification", 2), ("sentence",), "sentiment", (1707, 245, 488)),
    "sts": (TaskSpec("sts", range=(0, 5), texts=2), ("sentence1", "sentence2"), "similarity", (6040, 863, 1725)),
    "quora": (PAIR, ("sentence1", "sentence2"), "is_duplicate", (14214, 2016)),
}


@pytest.mark.skipif(not COURSE.is_dir(), reason="the course's files (../shared/data/cs224n) are not here")
@pytest.mark.parametrize("prefix", SIZES)
def test_course_files(prefix):
    task, text, label, sizes = SIZES[prefix]
    names = [f"{prefix}-{end}.csv" for end in ("train", "dev", "test-student")][: len(sizes)]
    spec = DataSpec(text, label, *names, format="cs224n", id="id")
    loaded = load_task(task, spec, COURSE)
    assert tuple(report.read for report in loaded.reports) == sizes
    expected = {"no label": (1785, 10001)} if prefix == "quora" else {}
    assert [report.left_out for report in loaded.reports] == [expected] + [{}] * (len(sizes) - 1)
    assert "label" in loaded.splits["dev"].column_names
    for split, name in zip(loaded.splits.values(), names):
        read = course_rows(COURSE / name)
        keys = ["text", "text_pair"][: len(text)]
        for row, got in zip((read[number - 1] for number in split["row"]), split):
            assert got["id"] == row["id"] and [got[key] for key in keys] == [row[column].strip() for column in text]
            if "label" in got:
                assert got["label"] == pytest.approx(float(row[label]))


def course_rows(path: Path) -> list[dict[str, str]]:
    """The file as the course's own code reads it."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.skipif(not COURSE.is_dir(), reason="the course's files (../shared/data/cs224n) are not here")
def test_course_reports():
    task, text, label, _ = SIZES["quora"]
    (report,) = load_task(task, DataSpec(text, label, "quora-train.csv", format="cs224n"), COURSE).reports
    assert report.lines() == [
        "pair train: 14,214 rows read from quora-train.csv, 14,212 kept; 2 left out: no label (rows 1,785, 10,001)"
    ]


def test_a_further_column_is_read_by_row_number(tmp_path):
    task, data = TaskSpec("stars", labels=2), DataSpec(train="a.csv", dev="b.csv")
    (tmp_path / "a.csv").write_text("text,label\nx,0\n")
    (tmp_path / "b.csv").write_text("text,label,sex\nx,0,f\ny,,m\nz,1,\n")
    values = load_column(task, data, "dev", "sex", tmp_path)
    assert values == {1: "f", 2: "m", 3: ""}
    kept = load_task(task, data, tmp_path).splits["dev"]["row"][:]
    assert [values[row] for row in kept] == ["f", ""]
    with pytest.raises(ValueError, match=r"'stars', dev split, .*no column 'sexx'; .*did you mean 'sex'\?"):
        load_column(task, data, "dev", "sexx", tmp_path)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_text_that_is_no_utf8_names_its_row(kind, tmp_path):
    """Arrow itself reads such texts."""
    path = tmp_path / f"train.{kind}"
    if kind == "jsonl":
        path.write_bytes(b'{"text": "fine", "label": 0}\n{"text": "b\xffd", "label": 1}\n')
    else:
        texts = pa.array([b"fine", b"b\xffd"], pa.binary()).cast(pa.string(), safe=False)
        pq.write_table(pa.table({"text": texts, "label": [0, 1]}), path)
    with pytest.raises(ValueError, match=r"task 'mood'.*(row|line) 2 is no UTF-8"):
        load_task(TaskSpec("mood", labels=2), DataSpec("text", train=path.name), tmp_path)
