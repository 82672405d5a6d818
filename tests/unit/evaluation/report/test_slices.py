"""Errors by length and by group, against loops over rows."""

import warnings
from math import sqrt

import numpy as np
import pytest
from scipy import stats

from mtbert.evaluation.report.slices import by_group, by_length


def test_bins_hold_every_row_once_and_never_part_a_length():
    random = np.random.default_rng(0)
    lengths, errors = random.geometric(0.1, 300), random.uniform(size=300)
    found = by_length(lengths, errors)
    assert 2 <= len(found["bins"]) <= 8
    assert sum(each["rows"] for each in found["bins"]) == 300
    for before, after in zip(found["bins"], found["bins"][1:], strict=False):
        assert before["high"] < after["low"]
    for each in found["bins"]:
        own = [e for length, e in zip(lengths, errors, strict=True) if each["low"] <= length <= each["high"]]
        assert each["rows"] == len(own)
        assert each["error"] == pytest.approx(sum(own) / len(own))
        mean = sum(own) / len(own)
        deviation = sqrt(sum((e - mean) ** 2 for e in own) / (len(own) - 1))
        assert each["standard_error"] == pytest.approx(deviation / sqrt(len(own)))
    ranks = [np.array([np.mean(np.flatnonzero(np.sort(x) == v)) for v in x]) for x in (lengths, errors)]
    assert found["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_many_different_lengths_make_bins_of_equal_size():
    bins = by_length(np.random.default_rng(0).permutation(80), np.zeros(80))["bins"]
    assert [each["rows"] for each in bins] == [10] * 8


@pytest.mark.parametrize(("lengths", "errors"), [([], []), ([3], [1.0]), ([3, 3, 3], [0, 1, 1]), ([1, 2], [0, 0])])
def test_little_data_give_no_warning(lengths, errors):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = by_length(np.array(lengths, dtype=int), np.array(errors, dtype=float))
    assert (found["spearman"], found["spearman_undefined"]) == (0, 1)
    assert sum(each["rows"] for each in found["bins"]) == len(lengths)


def test_groups_of_a_binary_task(make_rows):
    groups = ["x"] * 30 + ["y"] * 20 + ["z"] * 10
    rows = make_rows("same", groups={"sex": groups})
    found = by_group(rows, rows.groups["sex"], "accuracy")
    assert [each["group"] for each in found["groups"]] == ["x", "y", "z"]
    for each in found["groups"]:
        own = [i for i, group in enumerate(groups) if group == each["group"]]
        label, said = rows.labels[own], rows.predicted[own]
        right, n, z = np.sum(label == said), len(own), stats.norm.ppf(0.975)
        assert each["accuracy"] == pytest.approx(right / n)
        middle = (right / n + z**2 / (2 * n)) / (1 + z**2 / n)  # Wilson, 1927
        half = z / (1 + z**2 / n) * sqrt(right / n * (1 - right / n) / n + z**2 / (4 * n**2))
        assert (each["accuracy_low"], each["accuracy_high"]) == pytest.approx((middle - half, middle + half))
        assert each["selection_rate (yes)"] == pytest.approx(np.mean(said == 1))
        assert each["false_positive_rate (yes)"] == pytest.approx(np.mean(said[label == 0] == 1))
        assert each["false_negative_rate (yes)"] == pytest.approx(np.mean(said[label == 1] == 0))
        assert not any("(no)" in key for key in each)
    for gap in found["gaps"]:
        values = {each["group"]: each[gap["value"]] for each in found["groups"]}
        assert gap["gap"] == pytest.approx(max(values.values()) - min(values.values()))
        assert values[gap["highest"]] == max(values.values())
        assert values[gap["lowest"]] == min(values.values())
    assert {gap["value"] for gap in found["gaps"]} == {
        "accuracy",
        "selection_rate (yes)",
        "false_positive_rate (yes)",
        "false_negative_rate (yes)",
    }


def test_groups_of_other_tasks(make_rows):
    groups = ("x", "y") * 30
    rows = make_rows("close")
    for i, each in enumerate(by_group(rows, groups, "pearson")["groups"]):
        error = (rows.predicted - rows.labels)[i::2]
        assert (each["mae"], each["bias"]) == pytest.approx((np.abs(error).mean(), error.mean()))
        assert each["pearson"] == pytest.approx(np.corrcoef(rows.predicted[i::2], rows.labels[i::2])[0, 1])
    three = by_group(make_rows("stars"), groups, "f1_macro")["groups"][0]
    assert {"f1_macro", "accuracy", "false_positive_rate (bad)", "selection_rate (good)"} <= set(three)
    rows = make_rows("topics")
    first = by_group(rows, groups, "f1_micro")["groups"][0]
    assert first["accuracy"] == pytest.approx((rows.predicted == rows.labels)[::2].all(1).mean())
    assert first["selection_rate (dog)"] == pytest.approx(rows.predicted[::2, 1].mean())


def test_what_is_undefined_in_a_group_makes_no_gap(make_rows):
    rows = make_rows("close", 5, labels=[1, 2, 3, 4, 4], logits=[[1], [2], [4], [3], [3]])
    found = by_group(rows, ("x", "x", "y", "y", "z"), "pearson")
    assert found["groups"][2] | {"mae": 1, "bias": -1} == {
        "group": "z", "rows": 1, "pearson": 0, "pearson_undefined": 1, "mae": 1, "bias": -1,
    }  # fmt: skip
    gaps = {gap["value"]: gap["gap"] for gap in found["gaps"]}
    assert gaps["pearson"] == pytest.approx(2)
    binary = make_rows("same", 4, labels=[0, 1, 1, 1])
    rates = by_group(binary, ("x", "x", "y", "y"), "accuracy")
    assert np.isnan(rates["groups"][1]["false_positive_rate (yes)"])
    assert "false_positive_rate (yes)" not in {gap["value"] for gap in rates["gaps"]}


def test_the_largest_groups_are_shown(make_rows):
    found = by_group(make_rows("stars"), tuple(str(i // 2) for i in range(60)), "accuracy")
    assert len(found["groups"]) == 20
    assert found["left_out"] == 10
