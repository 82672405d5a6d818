"""Whatever form labels come in, each goes to its class by name or value, or is refused where it has two readings."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, LargeList, List, Value

from mtbert.data.spec import DataSpec
from mtbert.data.splits import check_rows, load_task
from mtbert.modeling.task_spec import TaskSpec

MULTI = "multi_label_classification"
TWO = TaskSpec("two", MULTI, labels=("art", "law"))
THREE = TaskSpec("three", MULTI, labels=("art", "law", "war"))
ONE = TaskSpec("one", MULTI, labels=("spam",))
DIGITS = TaskSpec("digits", MULTI, labels=2)
MOOD = TaskSpec("mood", labels=("bad", "good"))
HALVES = TaskSpec("halves", labels=("1.0", "1.5", "2.0"))
STARS = TaskSpec("stars", labels=("1", "2", "3"))
YES = TaskSpec("yes", "binary_classification", labels=("yes", "no"))
NO = TaskSpec("no", "binary_classification", labels=("no", "yes"))
TRUE = TaskSpec("true", labels=("true", "false"))
URGENCY = TaskSpec("urgency", ordinal=True, labels=("1", "2", "3", "4", "5"))
LEVELS = TaskSpec("levels", ordinal=True, labels=("low", "middle", "high"))
SCORE = TaskSpec("score", range=(0, 5))


def check(task, labels, feature=None, split="train", **spec):
    rows = Dataset.from_dict({"text": ["a"] * len(labels), "label": labels})
    if feature is not None:
        rows = Dataset.from_dict(rows.to_dict(), features=Features({"text": Value("string"), "label": feature}))
    return check_rows(task, split, rows, DataSpec(**spec), "memory")


def read(task, labels, feature=None, **kwargs):
    return check(task, labels, feature, **kwargs)[0]["label"][:]


@pytest.mark.parametrize(
    ("task", "cells", "expected"),
    [
        # by value, whatever the number is written like
        (HALVES, ["1", "2", "1.5", "2.0", " 1.50 ", "1e0"], [0, 2, 1, 2, 1, 0]),
        (HALVES, [1, 2], [0, 2]),
        (HALVES, [1.5, 2.0], [1, 2]),
        (TaskSpec("t", labels=("10", "9", "8")), ["8.0", "10"], [2, 0]),
        (TaskSpec("t", labels=("-1.5", "0", "+1")), [-1.5, 0.0, 1.0], [0, 1, 2]),
        (TaskSpec("t", labels=("01", "02")), [1, 2], [0, 1]),
        (TaskSpec("t", labels=("9007199254740993", "9007199254740992")), [9007199254740993], [0]),
        (TaskSpec("t", labels=("1", "1.0")), ["1.0", "1"], [1, 0]),
        (TaskSpec("t", labels=("nan", "eng")), ["nan", "eng", "0"], [0, 1, 0]),
        # labels with an order
        (URGENCY, [5, 1, 3], [4, 0, 2]),
        (URGENCY, [5.0, 1.0], [4, 0]),
        (URGENCY, ["4", " 2.0 "], [3, 1]),
        (LEVELS, ["high", "low", "middle"], [2, 0, 1]),
        (LEVELS, [2, 0, 1], [2, 0, 1]),
        # true and false go by what they mean
        (YES, [True, False], [0, 1]),
        (NO, [True, False], [1, 0]),
        (NO, [1, 0], [1, 0]),
        (TRUE, [True, False], [0, 1]),
        (TRUE, ["true", "false"], [0, 1]),
        (TaskSpec("t", labels=("True", "False")), [False, True], [1, 0]),
        (TaskSpec("t", labels=("1", "0")), [True, False], [0, 1]),
        # lists, vectors and mappings for one class
        (MOOD, [["good"], ["bad"]], [1, 0]),
        (MOOD, [[1], [0]], [1, 0]),
        (MOOD, [[0, 1], [1, 0]], [1, 0]),
        (MOOD, [[0.0, 1.0]], [1]),
        (MOOD, [{"good": 0, "bad": 1}, {"good": 1, "bad": 0}], [0, 1]),
        (MOOD, [np.array([1]), np.array([0])], [1, 0]),
        # several labels
        (TWO, [[0.0, 1.0], [1.0, 0.0]], [[0, 1], [1, 0]]),
        (TWO, [[False, True], [True, False]], [[0, 1], [1, 0]]),
        (TWO, [[0, 1], [1, 1]], [[0, 1], [1, 1]]),
        (TWO, [[0, 1], [0, 0], [1, 0]], [[0, 1], [0, 0], [1, 0]]),
        (TWO, [[0, 1], [1]], [[1, 1], [0, 1]]),
        (TWO, [["law"], ["law", "art"], []], [[0, 1], [1, 1], [0, 0]]),
        (TWO, [["0", "1"], ["1", "1"]], [[0, 1], [1, 1]]),
        (TWO, ["0,1", "0,0", "1,0"], [[0, 1], [0, 0], [1, 0]]),
        (TWO, ["[0, 1]", "[0, 0]", "[]"], [[0, 1], [0, 0], [0, 0]]),
        (TWO, ["['law']", '["art", "law"]', "{'art'}"], [[0, 1], [1, 1], [1, 0]]),
        (TWO, [{"law": 1, "art": 0}, {"law": 0, "art": 0}], [[0, 1], [0, 0]]),
        (TWO, [{"law": True, "art": False}], [[0, 1]]),
        (TWO, ["art;law", "law; art"], [[1, 1], [1, 1]]),
        (TWO, ['{"law": 1, "art": 0}'], [[0, 1]]),
        (TWO, [{"law", "art"}, {"law"}], [[1, 1], [0, 1]]),
        (THREE, [[0, 1, 0], [1, 1, 1]], [[0, 1, 0], [1, 1, 1]]),
        (THREE, [[2, 0], [1], [0, 1]], [[1, 0, 1], [0, 1, 0], [1, 1, 0]]),
        (THREE, np.array([[0, 1, 0], [0, 0, 1]], dtype=np.uint8), [[0, 1, 0], [0, 0, 1]]),
        (THREE, [("war", "art")], [[1, 0, 1]]),
        (THREE, ["2", "1", "0"], [[0, 0, 1], [0, 1, 0], [1, 0, 0]]),
        (ONE, [0, 1], [[0], [1]]),
        (ONE, [[0], [1]], [[0], [1]]),
        (ONE, [["spam"], []], [[1], [0]]),
        (ONE, ["spam", "[]"], [[1], [0]]),
        (ONE, [False, True], [[0], [1]]),
        (DIGITS, [["1"], ["0", "1"], []], [[0, 1], [1, 1], [0, 0]]),
        (DIGITS, [[1, 1], [0, 1]], [[1, 1], [0, 1]]),
        (TaskSpec("t", MULTI, labels=("1", "2")), [[1, 2], [2], [1, 0]], None),
        (SCORE, [[4.5], [0]], [4.5, 0]),
    ],
)
def test_labels_go_to_their_class(task, cells, expected):
    if expected is None:  # rows of two forms
        with pytest.raises(ValueError, match="others lists of labels; write all in one form"):
            read(task, cells)
    else:
        assert read(task, list(cells)) == expected


@pytest.mark.parametrize(
    ("task", "cells", "readings"),
    [
        (YES, [1, 0], r"'no' \(by id\) or 'yes' \(as true or false\); write names of labels"),
        (YES, ["0", "1"], r"'yes' \(by id\) or 'no' \(as true or false\)"),
        (TRUE, [0.0], r"'true' \(by id\) or 'false' \(as true or false\)"),
        (TaskSpec("t", labels=("1", "1.0", "2")), ["2", "01"], r"'1'.*'1.0'"),
        (TaskSpec("t", labels=("a", "a ")), ["a"], r"'a'.*'a '"),
        (TWO, [[0, 1], [1, 0]], r"'law' \(as a 0/1 vector\) or 'art', 'law' \(as a list of labels\).*true and false"),
        (TWO, [[0, 1]], "0/1 vector"),
        (TWO, [[0, 1], []], "0/1 vector"),
        (TWO, ["0,1", "1,0"], "0/1 vector"),
        (TWO, ["[1, 0]"], "0/1 vector"),
        (TWO, [0, 1, 1], r"'art' \(by id\) or nothing \(as true or false of a label .*binary_classification"),
        (TWO, ["1", "0"], "as true or false of a label"),
        (TWO, [1.0, 0.0], "as true or false of a label"),
        (THREE, [0, 1], "as true or false of a label"),
        (DIGITS, [0, 1], "as true or false of a label"),
        (DIGITS, [[0, 1], [1, 0]], "0/1 vector"),
        (ONE, [[0], [0]], "0/1 vector"),
        (ONE, ["0"], "0/1 vector"),
        (TaskSpec("t", MULTI, labels=("a", "b", "a,b")), ["a,b"], r"'a,b' \(by name\) or 'a', 'b' \(as a list"),
    ],
)
def test_two_readings_are_refused(task, cells, readings):
    with pytest.raises(ValueError, match=f"column 'label' is wrong in .*may mean .*{readings}"):
        read(task, cells)


@pytest.mark.parametrize(
    ("task", "cells"),
    [
        (HALVES, ["0"]),
        (HALVES, [3]),
        (STARS, [0, 1, 2]),
        (MOOD, [[1, 1]]),
        (MOOD, [[0, 0]]),
        (MOOD, [["bad", "good"]]),
        (MOOD, [[]]),
        (MOOD, [[0.3, 0.7]]),
        (MOOD, [{"good": 1, "bad": 1}]),
        (MOOD, [{"good": 1}]),
        (TaskSpec("t", labels=("a", "b", "c")), [True, False]),
        (TWO, [True, False]),
        (TWO, [[0.3, 0.7]]),
        (TWO, [[0, 1, 0]]),
        (TWO, [[[0, 1]]]),
        (TWO, [{"art": 1}]),
        (TWO, [{"art": 1, "sport": 0}]),
        (TWO, [{"art": 0.5, "law": 0}]),
        (TWO, ["[art, law]"]),
        (TWO, ["{}"]),
        (TWO, ["[" * 3000]),
        (THREE, [[0, 1]] + [[0, 1, 0]] + [[2]]),
        (SCORE, [[1.0, 2.0]]),
        (URGENCY, [0, 1]),
        (URGENCY, [6, 1]),
        (URGENCY, [2.5, 1]),
        (SCORE, [{"a": 1.0}]),
    ],
)
def test_what_is_no_label_is_refused(task, cells):
    with pytest.raises(ValueError, match="column 'label' is wrong in"):
        read(task, cells)


@pytest.mark.parametrize(
    ("task", "cells", "names", "expected"),
    [
        (MOOD, [0, 1, -1], ["good", "bad"], [1, 0]),
        (MOOD, [0], [" good", "bad "], [1]),
        (HALVES, [0, 1], ["2", "1"], [2, 0]),
        (STARS, [0, 1, 2], ["3", "2", "1"], [2, 1, 0]),
        (TaskSpec("t", labels=2), [0, 1], ["1", "0"], [1, 0]),
        (YES, [0, 1], ["no", "yes"], [1, 0]),
        (YES, [0, 1], ["yes", "no"], [0, 1]),
        (SCORE, [0, 1], ["1", "2.5"], [1.0, 2.5]),
        (MOOD, [0, 1], ["neg", "pos"], None),
        (STARS, [0, 1], ["one", "two"], None),
        (SCORE, [0, 1], ["low", "high"], None),
        (YES, [0, 1], ["0", "1"], None),
        (TWO, [[0, 1]], ["law", "war"], None),
        (TWO, [[0], [0, 1]], ["law", "art"], [[0, 1], [1, 1]]),
        (TWO, [[0, 1], [1, 0]], ["law", "art"], [[1, 1], [1, 1]]),
        (TWO, [0, 1], ["law", "art"], [[0, 1], [1, 0]]),
        (TWO, [[0, 1]], ["no", "yes"], None),
    ],
)
def test_class_labels_go_by_their_names(task, cells, names, expected):
    feature = ClassLabel(names=names)
    feature = List(feature) if isinstance(cells[0], list) else feature
    if expected is None:
        with pytest.raises(ValueError, match="column 'label' is wrong"):
            read(task, cells, feature)
    else:
        assert read(task, cells, feature) == expected


@pytest.mark.parametrize(
    ("task", "cells", "feature", "expected"),
    [
        (TaskSpec("t", labels=("0.1", "0.7")), [0.7, 0.1], Value("float32"), [1, 0]),
        (TaskSpec("t", labels=("0.1", "0.7")), [0.7, 0.1], Value("float64"), [1, 0]),
        (HALVES, ["1.5"], Value("large_string"), [1]),
        (MOOD, [1, 0], Value("uint8"), [1, 0]),
        (TWO, [[0, 1], [1, 1]], List(Value("int8"), length=2), [[0, 1], [1, 1]]),
        (TWO, [[0, 1], [1, 0]], LargeList(Value("float32")), [[0, 1], [1, 0]]),
        (TWO, [["law"], []], LargeList(Value("string")), [[0, 1], [0, 0]]),
    ],
)
def test_types_of_columns(task, cells, feature, expected):
    assert read(task, cells, feature) == expected


def test_checked_labels_are_ids_of_the_classes_that_they_were_checked_for():
    checked, _ = check(STARS, ["1", "3", "2"])
    again, _ = check_rows(STARS, "train", checked.select([1, 2]), DataSpec(), "memory")
    assert (checked["label"][:], again["label"][:]) == ([0, 2, 1], [2, 1])
    with pytest.raises(ValueError, match=r"ids of the classes \['1', '2', '3'\], but the task's labels are \['3', "):
        check_rows(TaskSpec("stars", labels=("3", "2", "1")), "train", checked, DataSpec(), "memory")
    several, _ = check(TWO, [["law"], ["art"]])
    assert check_rows(TWO, "train", several, DataSpec(), "memory")[0]["label"][:] == [[0, 1], [1, 0]]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_a_row_without_tags_is_told_and_an_empty_list_is_none_of_the_labels(tmp_path, name):
    cells = ["[]" if name[2:] in ("csv", "tsv") else [], None, "art" if name[2:] in ("csv", "tsv") else ["art"]]
    rows = Dataset.from_dict({"text": ["a", "b", "c"] * 4, "label": cells * 4})
    if name == "a.tsv":
        rows.to_csv(tmp_path / name, sep="\t")
    else:
        {"csv": rows.to_csv, "jsonl": rows.to_json, "parquet": rows.to_parquet}[name[2:]](tmp_path / name)
    loaded = load_task(TWO, DataSpec(train=name), tmp_path)
    assert loaded.splits["train"]["label"][:] == [[0, 0], [1, 0]] * 4
    assert loaded.reports[0].untagged == (2, 5, 8, 11)
    assert loaded.reports[0].lines()[1] == (
        "warning: two train: 4 of 12 rows have an empty label cell and were left out as not labelled (rows 2, 5, 8, 11)"
        "; if none of the labels is true of such a text, write empty: none under data, or [] there (in json, parquet "
        "and Python an empty list, in csv and tsv these two characters); empty: unlabelled leaves such rows out "
        "without this warning"
    )


def test_only_tasks_with_several_labels_warn_of_empty_cells():
    assert check(MOOD, ["bad", None])[1].untagged == () and check(TWO, [["art"]])[1].untagged == ()


@pytest.mark.parametrize(
    ("cells", "advice"),
    [
        (["good", "bad", None, "good"], r"write labels: \[bad, good\]$"),
        (["yes", "no", "1"], r"labels: \['no', 'yes'\]$"),
        ([f"c{i:02}" for i in range(30)], r"labels: \[c00, c01, .*c19, …\] \(30 names in all\)"),
        ([["law"], ["art", "law"]], r"problem_type: multi_label_classification and labels: \[art, law\]$"),
        (["1.5", "2", "N/A"], "a finite number$"),
    ],
)
def test_text_labels_of_a_regression_say_what_to_write(cells, advice):
    with pytest.raises(ValueError, match=f"labels must be a finite number.*{advice}" if "write" in advice else advice):
        read(TaskSpec("topic"), cells)
    assert read(TaskSpec("score"), ["1.5", "2"]) == [1.5, 2.0]


def test_class_labels_of_a_regression_say_what_to_write():
    with pytest.raises(ValueError, match=r"write labels: \[neg, pos\]"):
        read(TaskSpec("mood"), [0, 1], ClassLabel(names=["neg", "pos"]))


def test_labels_stay_checked_with_texts_without_labels_and_in_both_orders(tmp_path):
    (tmp_path / "a.csv").write_text("one,two,label\na,b,2\nc,d,1\n")
    (tmp_path / "b.csv").write_text("one,two\ne,f\n")
    task = TaskSpec("pair", labels=("1", "2"), texts=2)
    spec = DataSpec(("one", "two"), train="a.csv", unlabelled="b.csv", symmetric=True)
    train = load_task(task, spec, tmp_path).splits["train"]
    again, report = check_rows(task, "train", train, DataSpec(("text", "text_pair")), "memory")
    assert train["label"][:] == [1, 0, -100] * 2 and again["label"][:] == [1, 0] * 2
    assert report.left_out == {"no label": (3, 6)}
