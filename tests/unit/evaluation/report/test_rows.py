"""TaskRows: what a model says of labelled rows, against formulas in numpy."""

from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from mtbert.evaluation.metrics import IGNORE_INDEX
from mtbert.evaluation.report import TaskRows
from mtbert.modeling.task_spec import TaskSpec


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_rows_without_a_label_are_left_out_with_their_texts_and_groups():
    task = TaskSpec("stars", labels=2)
    split = Dataset.from_dict({"text": ["a", "b c", "d"], "row": [1, 2, 4], "id": ["x", "y", "z"]})
    groups = {"sex": ["f", "m", "f"]}
    rows = TaskRows.of(task, split, np.array([[1, 0], [np.nan, 0], [0, 1]]), np.array([0, -100, 1]), groups)
    assert len(rows) == 2
    assert rows.labels.tolist() == [0, 1]
    assert rows.texts == (("a",), ("d",))
    assert rows.names == ("x", "z")
    assert rows.groups == {"sex": ("f", "f")}
    assert TaskRows.of(task, split.remove_columns("id"), rows.logits[[0, 0, 0]], np.array([0, 0, 0])).names == (
        "1",
        "2",
        "4",
    )


@pytest.mark.parametrize("name", ["stars", "same", "close", "topics"])
def test_no_labels_give_no_rows(name, make_rows):
    rows = make_rows(name, 3)
    columns = {"text": ["a"] * 3, "text_pair": ["b"] * 3, "row": [1, 2, 3]}
    empty = TaskRows.of(rows.task, Dataset.from_dict(columns), rows.logits, None)
    assert len(empty) == len(empty.errors) == len(empty.losses) == len(empty.lengths) == 0


def test_logits_that_are_not_finite_are_refused(make_rows):
    with pytest.raises(ValueError, match="1 of 2 rows have logits that are not finite"):
        make_rows("close", 2, labels=[1, 2], logits=[[1], [np.inf]])


def test_probabilities_losses_and_errors_of_a_single_label(make_rows):
    rows = make_rows("stars")
    p = np.exp(rows.logits) / np.exp(rows.logits).sum(1, keepdims=True)
    assert rows.probabilities == pytest.approx(p)
    assert rows.losses == pytest.approx(-np.log(p[range(60), rows.labels]))
    assert rows.errors.tolist() == [float(a != b) for a, b in zip(p.argmax(1), rows.labels, strict=True)]
    assert rows.right.tolist() == [error == 0 for error in rows.errors]


def test_probabilities_losses_and_errors_of_a_binary_task(make_rows):
    rows = make_rows("same")
    p = sigmoid(rows.logits[:, 0])
    assert rows.probabilities == pytest.approx(np.stack([1 - p, p], 1))
    assert rows.losses == pytest.approx(-np.log(np.where(rows.labels == 1, p, 1 - p)))
    assert rows.errors.tolist() == [float((a > 0.5) != b) for a, b in zip(p, rows.labels, strict=True)]


def test_small_probabilities_are_not_lost(make_rows):
    rows = make_rows("same", 2, labels=[0, 1], logits=[[60], [-60]])
    assert rows.probabilities[0, 0] == pytest.approx(np.exp(-60))
    assert rows.losses == pytest.approx([60, 60])


def test_missing_entries_of_a_multi_label_row_count_for_nothing(make_rows):
    labels = [[1, 0, np.nan], [-100, 1, 1], [np.nan] * 3]
    rows = make_rows("topics", 3, labels=labels, logits=[[1, 1, 5], [7, -1, 1], [0, 0, 0]])
    p = sigmoid(rows.logits)
    assert len(rows) == 2
    assert rows.errors.tolist() == [0.5, 0.5]
    assert rows.right.tolist() == [False, False]
    expected = [-np.log([p[0, 0], 1 - p[0, 1]]).mean(), -np.log([p[1, 1], p[1, 2]]).mean()]
    assert rows.losses == pytest.approx(expected)
    assert make_rows("topics", 1, labels=[[1, np.nan, 0]], logits=[[1, 9, -1]]).right.tolist() == [True]


def test_a_regression_errs_by_its_distance(make_rows):
    rows = make_rows("close", 2, labels=[1, 4], logits=[[3], [3.5]])
    assert rows.errors.tolist() == [2, 0.5]
    assert rows.losses.tolist() == [4, 0.25]


def test_lengths_are_words_of_each_text(make_rows):
    task = TaskSpec("same", "binary_classification", labels=2, texts=2)
    split = Dataset.from_dict({"text": [" a  b\tc", "d"], "text_pair": ["e f", "g"], "row": [1, 2]})
    rows = TaskRows.of(task, split, np.zeros((2, 1)), np.array([0, 1]))
    assert rows.lengths.tolist() == [[3, 2], [1, 1]]


def test_an_example_shows_labels_by_name(make_rows):
    rows = make_rows("topics", 1, labels=[[1, 0, 1]], logits=[[-1, -1, -1]])
    example = rows.example(0, loss=2)
    assert example | {"text": ""} == {"row": "1", "text": "", "label": "cat, bird", "predicted": "none", "loss": 2}
    assert make_rows("stars", 1, labels=[2], logits=[[0, 1, 0]]).example(0)["predicted"] == "fair"
    assert list(make_rows("close", 1).example(0)) == ["row", "text", "text_pair", "label", "predicted"]


def test_an_example_can_leave_its_texts_out(make_rows):
    rows = replace(make_rows("close", 1), show_texts=False)
    assert list(rows.example(0)) == ["row", "label", "predicted"]


def test_a_text_that_identifies_its_row_is_hidden_with_the_texts():
    columns = {"text": ["a cat", "a dog"], "row": [3, 4], "id": ["a cat", "a dog"]}
    task, split = TaskSpec("stars", labels=2), Dataset.from_dict(columns)
    for shown, names in ((True, ("a cat", "a dog")), (False, ("3", "4"))):
        assert TaskRows.of(task, split, np.zeros((2, 2)), np.array([0, 1]), show_texts=shown).names == names


def test_tags_of_words_are_shown_as_the_entities_that_they_name():
    task = TaskSpec("names", "token_classification", labels=["O", "B-PER", "I-PER", "B-DAY"])
    texts = (("Ada King met us Monday",), ('["New York", "is", "far"]',), ("one two",))
    labels = np.full((3, 5), IGNORE_INDEX)
    labels[0], labels[1, :3], labels[2, :2] = [1, 2, 0, 0, 3], [1, IGNORE_INDEX, 2], [0, 0]
    logits = np.zeros((3, 5, 4))
    logits[0, [0, 1, 4], [1, 1, 0]] = logits[1, 0, 3] = 9.0
    rows = TaskRows(task, logits, labels, texts, ("r0", "r1", "r2"))
    first, second, third = (rows.example(row) for row in range(3))
    assert (first["label"], first["predicted"]) == ("PER Ada King; DAY Monday", "PER Ada; PER King")
    assert (second["label"], second["predicted"]) == ("PER New York; PER far", "DAY New York")
    assert (third["label"], third["predicted"]) == ("none", "none")
    hidden = replace(rows, show_texts=False).example(0)
    assert (hidden["label"], hidden["predicted"]) == ("B-PER I-PER O O B-DAY", "B-PER B-PER O O O")
    assert "Ada" not in str(hidden)
