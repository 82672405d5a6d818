"""Labels and texts of a split are checked row by row: what is read, left out, reported and refused."""

import math
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from mtbert.data.spec import DataSpec
from mtbert.data.splits import check_rows, load_column, load_task
from mtbert.modeling.heads import labelled
from mtbert.modeling.task_spec import TaskSpec

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
        (TOPICS, ["art, war", "law", "art, law", "2"], [[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]]),
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
    rows = Dataset.from_dict({"sentence": ["a"], "labels": ["bad"], "parts": [[1]]})
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
