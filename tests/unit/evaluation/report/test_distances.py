"""Signed errors by length, and shares near the label, against loops over rows."""

import warnings

import numpy as np
import pytest

from mtbert.evaluation.metrics import default_metrics
from mtbert.evaluation.report.analysis import analyse_task
from mtbert.evaluation.report.distances import MOST_POINTS, are_ordered, evenly, signed_errors, within_one
from mtbert.modeling.task_spec import TaskSpec


@pytest.mark.parametrize(
    ("classes", "ordered"),
    [
        (["0", "1", "2"], True),
        (["1", "2", "3", "4", "5"], True),
        (["-1", "0", "+1"], True),
        (["1", "5", "10"], True),
        (["0", "1"], False),
        (["2", "1", "0"], False),
        (["1", "1", "2"], False),
        (["1", "10", "2"], False),
        (["1", "2", "3 stars"], False),
        (["bad", "fair", "good"], False),
        (["1.0", "2.0", "3.0"], False),
        ((), False),
    ],
)
def test_classes_are_ordered_if_their_names_are_ascending_whole_numbers(classes, ordered):
    assert are_ordered(classes) is ordered


def test_shares_of_ordered_classes(make_rows):
    task = TaskSpec("stars", labels=5)
    rows = make_rows(task, 8, labels=[0, 0, 1, 2, 3, 4, 4, 2], logits=np.eye(5)[[0, 1, 3, 2, 2, 0, 4, 2]])
    away = [abs(a - b) for a, b in zip([0, 0, 1, 2, 3, 4, 4, 2], [0, 1, 3, 2, 2, 0, 4, 2], strict=True)]
    assert within_one(rows) == {
        "exactly_right": away.count(0) / 8,
        "one_class_away": away.count(1) / 8,
        "further_away": 2 / 8,
        "within_one_class": 6 / 8,
    }
    assert within_one(rows)["exactly_right"] == analyse_task(rows, "accuracy")["scores"]["accuracy"]


def test_share_of_scores_within_one_point(make_rows):
    rows = make_rows("close", 5, labels=[0, 1, 2, 3, 4], logits=[[1], [2.5], [1.25], [3], [-4]])
    assert within_one(rows) == {"within_one_point": 3 / 5}  # the first is exactly one point away


@pytest.mark.parametrize(
    "task",
    [
        "stars",  # its classes have no numbers
        "same",
        "topics",
        TaskSpec("two", labels=2),
        TaskSpec("many", "multi_label_classification", labels=3),
        TaskSpec("free", "regression"),
        TaskSpec("narrow", range=(-1, 1)),
    ],
    ids=lambda task: getattr(task, "name", task),
)
def test_tasks_without_a_step_of_one_have_no_such_share(task, make_rows):
    rows = make_rows(task)
    assert within_one(rows) is None
    assert "within_one" not in analyse_task(rows, default_metrics(rows.task)[0])


def test_no_rows_have_no_share(make_rows):
    assert within_one(make_rows("close", 0)) is within_one(make_rows(TaskSpec("stars", labels=5), 0)) is None


def test_signed_errors_by_length_and_difference(make_rows):
    rows = make_rows("close", 200)
    found = signed_errors(rows)
    words = [[len(text.split()) for text in row] for row in rows.texts]
    expected = {"length": [a + b for a, b in words], "length_difference": [abs(a - b) for a, b in words]}
    errors = [float(a) - float(b) for a, b in zip(rows.predicted, rows.labels, strict=True)]
    assert list(found) == list(expected)
    for key, lengths in expected.items():
        assert found[key]["points"] == {"length": lengths, "error": pytest.approx(errors)}
        assert found[key]["points_left_out"] == 0
        assert sum(interval["rows"] for interval in found[key]["bins"]) == 200
        for interval in found[key]["bins"]:
            own = [e for n, e in zip(lengths, errors, strict=True) if interval["low"] <= n <= interval["high"]]
            assert (interval["rows"], interval["error"]) == (len(own), pytest.approx(sum(own) / len(own)))
        mean = sum(interval["rows"] * interval["error"] for interval in found[key]["bins"]) / 200
        assert mean == pytest.approx(np.mean(errors))


def test_points_are_capped_and_means_are_of_all_rows(make_rows):
    rows = make_rows("close", MOST_POINTS + 500)
    found = signed_errors(rows)["length"]
    assert len(found["points"]["length"]) == len(found["points"]["error"]) == MOST_POINTS
    assert found["points_left_out"] == 500
    assert sum(interval["rows"] for interval in found["bins"]) == MOST_POINTS + 500
    chosen = evenly(MOST_POINTS + 500, MOST_POINTS)
    assert chosen[0] == 0 and chosen[-1] == MOST_POINTS + 499 and set(np.diff(chosen)) == {1, 2}
    assert found["points"]["error"] == (rows.predicted - rows.labels)[chosen].tolist()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_rows_and_one_length(count, make_rows):
    task = TaskSpec("close", range=(0, 5))
    rows = make_rows(task, count, labels=[2] * count, logits=np.full((count, 1), 3))
    object.__setattr__(rows, "texts", (("two words",),) * count)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = signed_errors(rows)
    assert list(found) == ["length"]  # there are no pairs
    assert [(each["rows"], each["error"]) for each in found["length"]["bins"]] == [(count, 1)] * (count > 0)
    assert found["length"]["spearman_undefined"] == 1
    assert found["length"]["points"] == {"length": [2] * count, "error": [1] * count}
