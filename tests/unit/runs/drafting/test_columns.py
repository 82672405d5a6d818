"""What a column holds, which columns are texts, and which kind of task labels make."""

import datetime

import pytest
import yaml

from mtbert.recipe.yaml_layers import parse_yaml
from mtbert.runs.drafting.columns import Column, choose_text
from mtbert.runs.drafting.files import find_tables, split_of
from mtbert.runs.drafting.groups import group_name, mark_columns
from mtbert.runs.drafting.readings import LabelCells, read_labels
from mtbert.runs.drafting.writing import epochs
from mtbert.runs.drafting.yaml_lines import entry, flow, scalar

TEXTS = [f"a text of some words number {i}" for i in range(20)]


@pytest.mark.parametrize(
    ("cells", "holds"),
    [
        (["", None, " ", float("nan")], "nothing"),
        (TEXTS, "prose"),
        (
            [
                "今日はとても天気がいいので散歩に行きましょうと彼は言ったが、私は家で本を読みたいと思っていたので断った。それから彼は一人で出かけた。"
            ],
            "prose",
        ),
        (["good", "bad"] * 5, "names"),
        (["1", "2.5", "-3e2"], "numbers"),
        ([True, False], "names"),
        (["2024-01-31", "2024-02-01"], "dates"),
        (["31.1.2024", "1/2/24"], "dates"),
        ([datetime.datetime(2024, 1, 1)], "dates"),
        ([f"a{i:04x}" for i in range(20)], "codes"),
        (["https://example.org/some/very/long/path/of/a/page/on/the/web/" + str(i) for i in range(9)], "codes"),
        ([["a"], []], "lists"),
        (["['a', 'b']", "[]"], "lists"),
        ([{"a": 1}], "objects"),
    ],
)
def test_what_a_column_holds(cells, holds):
    assert Column("x", tuple(cells)).holds == holds


@pytest.mark.parametrize(
    ("columns", "chosen", "others"),
    [
        ({"sentence": TEXTS, "label": ["a", "b"] * 10}, ("sentence",), ()),
        ({"sentence_A": TEXTS, "sentence_B": TEXTS}, ("sentence_A", "sentence_B"), ()),
        ({"hypothesis": TEXTS, "premise": TEXTS}, ("premise", "hypothesis"), ()),
        ({"q1": TEXTS, "q2": TEXTS, "note": TEXTS}, ("q1", "q2"), ("note",)),
        ({"first text": TEXTS, "second text": TEXTS}, ("first text", "second text"), ()),
        ({"subject": TEXTS, "body": [f"{text} and more words" for text in TEXTS]}, ("body",), ("subject",)),
        ({"label": ["a", "b"] * 10, "query": [f"word{i}" for i in range(20)]}, ("query",), ()),
        ({"label": ["a", "b"] * 10, "thing": [f"word {i}" for i in range(20)]}, ("thing",), ()),
    ],
)
def test_the_text_is_found(columns, chosen, others):
    choice = choose_text([Column(name, tuple(cells)) for name, cells in columns.items()])
    assert (choice.columns, choice.others) == (chosen, others)


def test_labels_alone_are_no_text():
    assert choose_text([Column("label", ("a", "b") * 10), Column("n", tuple(range(20)))]) is None


@pytest.mark.parametrize(
    ("name", "cells", "identifies", "counts_rows"),
    [
        ("id", range(10), True, False),
        ("ticket_id", [f"T-{i}" for i in range(10)], True, False),
        ("ticket", [f"T-{i}" for i in range(10)], True, False),
        ("Unnamed: 0", ["7", "3", "9"], False, True),
        ("n", range(30), False, True),
        ("id", [1, 1, 2], False, False),
        ("label", [0, 1, 2], False, False),
        ("valid", ["x", "y", "z"], False, False),
    ],
)
def test_ids_and_row_numbers(name, cells, identifies, counts_rows):
    column = Column(name, tuple(cells))
    assert (column.identifies, column.counts_rows) == (identifies, counts_rows)


def label_cells(cells, name="label", **more):
    counts: dict = {}
    for cell in cells:
        counts[repr(cell)] = (cell, counts.get(repr(cell), (cell, 0))[1] + 1)
    return LabelCells(name, tuple(counts.values()), **more)


BINARY = "binary_classification"
SEVERAL = "multi_label_classification"


@pytest.mark.parametrize(
    ("cells", "kind", "settings"),
    [
        (["b", "a", "c"], "classification", {"labels": ["a", "b", "c"]}),
        (["P10", "P2", "P1"], "classification", {"labels": ["P1", "P2", "P10"]}),
        (["yes", "no"], "binary", {"problem_type": BINARY, "labels": ["no", "yes"]}),
        (["right", "not_right"], "binary", {"problem_type": BINARY, "labels": ["not_right", "right"]}),
        (["positive", "negative"], "binary", {"problem_type": BINARY, "labels": ["negative", "positive"]}),
        (["acceptable", "unacceptable"], "binary", {"problem_type": BINARY, "labels": ["unacceptable", "acceptable"]}),
        ([True, False], "binary", {"problem_type": BINARY, "labels": ["False", "True"]}),
        (["1.0", "0.0", "1"], "binary", {"problem_type": BINARY, "labels": ["0", "1"]}),
        ([-1, 1], "binary", {"problem_type": BINARY, "labels": ["-1", "1"]}),
        (["3", "1", "2", "5", "4"], "ordinal", {"ordinal": True, "labels": ["1", "2", "3", "4", "5"]}),
        ([1.0, 3.0, 5.0], "ordinal", {"ordinal": True, "labels": ["1", "3", "5"]}),
        ([-2, 0, 2], "ordinal", {"ordinal": True, "labels": ["-2", "0", "2"]}),
        ([0.5, 4.75], "regression", {"range": [0, 5]}),
        (["1", "2.5", "5"], "regression", {"range": [1, 5]}),
        ([*range(0, 101, 5)] * 2, "regression", {"range": [0, 100]}),
        (["a;b", "b", "a"], "multi_label", {"problem_type": SEVERAL, "labels": ["a", "b"]}),
        (["a|b", "b", "a"], "multi_label", {"problem_type": SEVERAL, "labels": ["a", "b"]}),
        (["a|b", "[]", "a", "[]"], "multi_label", {"problem_type": SEVERAL, "labels": ["a", "b"]}),
        (["['a', 'b']", "['b']", "[]"], "multi_label", {"problem_type": SEVERAL, "labels": ["a", "b"]}),
        ([["a", "b"], ["b"], []], "multi_label", {"problem_type": SEVERAL, "labels": ["a", "b"]}),
        ([[0, 1, 0], [1, 1, 0]], "multi_label", {"problem_type": SEVERAL, "labels": ["0", "1", "2"]}),
        ([{"a": 1, "b": 0}, {"a": 0, "b": 0}], "multi_label", {"problem_type": SEVERAL, "labels": ["a", "b"]}),
        ([["a"], ["b"], ["c"]], "classification", {"labels": ["a", "b", "c"]}),
        ([f"v{i % 400}" for i in range(2000)], "classification", {"labels": [f"v{i}" for i in range(400)]}),
        (["York, NY", "Bath, NY", "Rome, GA"], "classification", {"labels": ["Bath, NY", "Rome, GA", "York, NY"]}),
        (["no", "on", "null", "1e3", "a: b"], "classification", {"labels": ["1e3", "a: b", "no", "null", "on"]}),
    ],
)
def test_kind_of_task(cells, kind, settings):
    reading = read_labels(label_cells(cells))
    assert (reading.kind, dict(reading.settings), reading.doubt) == (kind, settings, None)


@pytest.mark.parametrize(
    ("cells", "doubt"),
    [
        ([], "it is empty"),
        (["a"] * 5, "it holds 'a' in 5 rows"),
        ([3] * 5, "it holds 3 in every row"),
        (["3,5", "4,0", "1,5", "1,0"], "decimal comma, such as '3,5'; write a point"),
        (["$3.50", "$ 12", "€1,000.5"], "numbers with a unit, such as '$3.50'; write the numbers alone"),
        (["10%", "2.5 %", "0%"], "numbers with a unit, such as '10%'"),
        ([f"v{i}" for i in range(500)], "500 values in 500 rows, too many for labels"),
        ([*map(str, range(300)), "n/a"], "it holds numbers, but for 'n/a'; empty these cells"),
        ([1e300, 2, 3], "too large for scores"),
        ([[0.5, 0.25], [0.1]], "hold no labels, but '[0.5, 0.25]'"),
        ([["a", "a"], ["b"]], "a label twice"),
        ([["a"], ["b"], {"a": 1}], "several forms"),
    ],
)
def test_no_labels(cells, doubt):
    reading = read_labels(label_cells(cells))
    assert reading.kind == "" and doubt in reading.doubt


@pytest.mark.parametrize(
    ("name", "cells", "doubt"),
    [
        ("year", [1999, 2005, 2020], "seldom that of a label"),
        ("created_at", ["a", "b"], "seldom that of a label"),
        ("number", range(1000, 1100), "a number of its own"),
        ("x", [f"v{i % 60}" for i in range(100)], "60 values in 100 rows are many"),
    ],
)
def test_doubtful_labels(name, cells, doubt):
    reading = read_labels(label_cells(cells, name))
    assert reading.kind and doubt in reading.doubt


def test_remarks_and_other_readings():
    remarks = read_labels(label_cells(["Yes", "yes", "no"])).remarks
    assert "differ in capitals only: 'Yes', 'yes'" in remarks[0] and "fewer than 5 rows" in remarks[1]
    assert "'n/a' (1 rows) is taken for a label" in read_labels(label_cells(["1", "2", "3", "n/a"])).remarks[0]
    others = [settings for _, settings in read_labels(label_cells([1, 2, 3])).instead]
    assert others == [{"labels": ["1", "2", "3"]}, {"range": [1, 3]}]
    assert read_labels(label_cells([0, 1, 2], "topic")).kind == "classification"
    ((_, order),) = read_labels(label_cells(["high", "low", "medium"])).instead
    assert order == {"ordinal": True, "labels": ["low", "medium", "high"]}


def test_a_chosen_kind():
    assert read_labels(label_cells([1, 2, 3]), "regression").settings == {"range": [1, 3]}
    assert read_labels(label_cells([1, 2, 3]), "classification").settings == {"labels": ["1", "2", "3"]}
    assert read_labels(label_cells(["high", "low", "medium"]), "ordinal").labels == ("low", "medium", "high")
    assert "needs numbers, but it holds 'a'" in read_labels(label_cells(["a", "b"]), "regression").doubt


def test_names_of_a_class_label_column():
    reading = read_labels(label_cells([0, 1, 1], names=("neg", "pos")))
    assert (reading.kind, reading.labels, dict(reading.rows)) == ("binary", ("neg", "pos"), {"neg": 1, "pos": 2})


def test_columns_of_marks():
    columns = [Column(name, (0, 1, None)) for name in ("is_a", "is_b", "is_c")]
    assert mark_columns([*columns, Column("x", ("yes", "no"))]) == ("is_a", "is_b", "is_c")
    assert mark_columns(columns[:2]) == ()
    assert (group_name(["is_a", "is_b"]), group_name(["topic_a", "topic_b"])) == ("labels", "topic")


ODD = [
    *("no", "yes", "on", "off", "null", "~", "", "true", "None", "1", "1e3", "1_000", "0x1f", "12:30", ".inf", "+1"),
    *(
        "a: b",
        "a #b",
        "#a",
        " a",
        "a ",
        "- a",
        "-",
        "[a]",
        "{a",
        "a]b",
        "a,b",
        "'",
        '"',
        "\\",
        "a\tb",
        "a\nb",
        "\u202ea",
    ),
    *("größe", "😀", "\x07", "\x85", "2020-01-01", "=", "<<", "%a", "@a", "`a", "!x", "&x", "*x", "?", "|", ">", "10%"),
    *("a/b", "y", "N", "\ufeffx", "label: [", "é" * 30, "x" * 300),
]


@pytest.mark.parametrize("text", ODD)
def test_yaml_is_read_back(text):
    for line in (f"k: {scalar(text)}", f"{{k: {scalar(text)}}}"):
        assert yaml.safe_load(line) == {"k": text}
        assert parse_yaml(line, "x")[0] == {"k": text}
    for line in (f"{scalar(text)}: 1", f"[{scalar(text)}, b]"):
        assert yaml.safe_load(line) in ({text: 1}, [text, "b"])
    assert parse_yaml(f"[{scalar(text)}, b]", "x")[0] == [text, "b"]


def test_long_values_go_over_several_lines():
    labels = [f"label number {i}" for i in range(400)]
    lines = entry("labels", labels)
    assert max(map(len, lines)) <= 110 and len(lines) > 20
    assert yaml.safe_load("\n".join(lines)) == {"labels": labels}
    mapping = {"text": "x" * 60, "label": "y" * 60}
    assert yaml.safe_load("\n".join(entry("data", mapping))) == {"data": mapping}
    assert flow({"a": [1, True, "no"]}) == '{a: [1, true, "no"]}'


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cola-train", ("train", "cola", "")),
        ("x_dev", ("dev", "x", "")),
        ("valid", ("dev", "", "")),
        ("ids-sst-test-student", ("test", "ids-sst", "student")),
        ("train-00000-of-00002", ("train", "", "00000-of-00002")),
        ("Train", ("train", "", "")),
        ("validation.cola", ("dev", "", "cola")),
        ("contest", (None, "contest", "")),
        ("tickets", (None, "tickets", "")),
    ],
)
def test_split_of_a_name(name, expected):
    assert split_of(name) == expected


def test_files_are_grouped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("a-train.csv", "a_dev.csv.gz", "b.train.tsv", "b.val.tsv", "c.jsonl", "d/train/x.csv", "d/test/x.csv")
    names += ("f/train/y.csv", "f/dev/y.csv")
    for name in (*names, "d/dataset_info.json", "d/.hidden.csv", "e/c.jsonl", "s/train-0.csv", "s/train-1.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    tables = find_tables(
        ["a-train.csv", "a_dev.csv.gz", "b.train.tsv", "b.val.tsv", "c.jsonl", "d", "e", "s", *names[-2:]]
    )
    found = {table.name: {split: [str(p) for p in paths] for split, paths in table.splits.items()} for table in tables}
    assert found == {
        "a": {"train": ["a-train.csv"], "dev": ["a_dev.csv.gz"]},
        "b": {"train": ["b.train.tsv"], "dev": ["b.val.tsv"]},
        f"{tmp_path.name}_c": {"train": ["c.jsonl"]},
        "x": {"train": ["d/train/x.csv"], "test": ["d/test/x.csv"]},
        "e_c": {"train": ["e/c.jsonl"]},
        "s": {"train": ["s/train-0.csv", "s/train-1.csv"]},
        "y": {"train": ["f/train/y.csv"], "dev": ["f/dev/y.csv"]},
    }
    (remark,) = tables[4].remarks
    assert remark == "two tables are called c; this one is e_c"


@pytest.mark.parametrize(
    ("rows", "expected"), [(0, 30), (1, 30), (240, 30), (400, 24), (1_000, 10), (3_200, 3), (10**6, 3)]
)
def test_few_rows_are_passed_over_more_often(rows, expected):
    assert epochs(rows) == expected
