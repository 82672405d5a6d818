"""Paired comparisons against closed forms and hand counts."""

from math import comb

import numpy as np
import pytest

from mtbert.evaluation.report import compare_runs
from mtbert.evaluation.report.comparison import bootstrap, check_same_rows, flips, mcnemar, overall
from mtbert.modeling.task_spec import TaskSpec


def other(make_rows, name, seed=5, noise=1.0):
    """The same rows, predicted by another model."""
    rows = make_rows(name)
    logits = rows.logits + np.random.default_rng(seed).normal(0, noise, rows.logits.shape)
    return make_rows(name, labels=rows.labels, logits=logits)


def test_the_interval_of_accuracies_is_the_normal_one_of_paired_differences(make_rows):
    a = make_rows("same", 400)
    logits = a.logits + np.random.default_rng(1).normal(0, 0.7, a.logits.shape)
    b = make_rows("same", 400, labels=a.labels, logits=logits)
    found = bootstrap(a, b, "accuracy", 0, 1000)
    paired = a.right.astype(float) - b.right.astype(float)
    half = 1.96 * paired.std() / np.sqrt(400)
    assert found["difference"] == pytest.approx(paired.mean())
    assert (found["low"], found["high"]) == pytest.approx((paired.mean() - half, paired.mean() + half), abs=half / 8)
    unpaired = 1.96 * np.sqrt((a.right.var() + b.right.var()) / 400)
    assert found["high"] - found["low"] < 0.9 * 2 * unpaired  # pairing helps


@pytest.mark.parametrize(("name", "metric"), [("close", "pearson"), ("topics", "f1_micro"), ("stars", "f1_macro")])
def test_resamples_are_those_of_the_seed(make_rows, name, metric):
    a, b = make_rows(name), other(make_rows, name)
    found, again = (bootstrap(a, b, metric, 3, 40) for _ in range(2))
    assert found["distribution"].tolist() == again["distribution"].tolist()
    assert found["distribution"].tolist() != bootstrap(a, b, metric, 4, 40)["distribution"].tolist()
    random = np.random.default_rng(3)
    if name == "close":
        for value in found["distribution"][:5]:
            own = random.integers(60, size=60)
            first, second = (np.corrcoef(each.predicted[own], a.labels[own])[0, 1] for each in (a, b))
            assert value == pytest.approx(first - second)
    assert (found["low"], found["high"]) == pytest.approx(np.quantile(found["distribution"], [0.025, 0.975]))


def test_the_same_model_twice_differs_by_nothing(make_rows):
    for name in ("stars", "same", "close", "topics"):
        metric = {"close": "pearson", "topics": "f1_micro"}.get(name, "accuracy")
        found = bootstrap(make_rows(name), make_rows(name), metric, 0, 20)
        assert found["difference"] == found["low"] == found["high"] == 0
        if name != "close":
            assert flips(make_rows(name), make_rows(name)) == []


def test_one_row_has_no_interval(make_rows):
    found = bootstrap(make_rows("same", 1), make_rows("same", 1), "accuracy", 0)
    assert np.isnan([found["low"], found["high"]]).all()
    single = bootstrap(make_rows("close", 1), make_rows("close", 1), "pearson", 0)
    assert single["a"] == 0
    assert np.isnan(overall({"close": ("pearson", single)})["low"])


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (7, 2), (10, 10), (3, 25)])
def test_mcnemar_is_the_exact_binomial(only_a, only_b):
    a = np.array([True] * only_a + [False] * only_b + [True, True, False])
    b = np.array([False] * only_a + [True] * only_b + [True, True, False])
    n, k = only_a + only_b, min(only_a, only_b)
    p = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n)
    assert mcnemar(a, b) == {"only_a": only_a, "only_b": only_b, "p": pytest.approx(p)}


def test_overall_is_the_mean_of_scaled_differences(make_rows):
    drawn = {
        "same": ("accuracy", bootstrap(make_rows("same"), other(make_rows, "same"), "accuracy", 0, 50)),
        "close": ("pearson", bootstrap(make_rows("close"), other(make_rows, "close"), "pearson", 1, 50)),
    }
    found = overall(drawn)
    first, second = drawn["same"][1], drawn["close"][1]
    assert found["a"] == pytest.approx((first["a"] + (1 + second["a"]) / 2) / 2)
    assert found["difference"] == pytest.approx((first["difference"] + second["difference"] / 2) / 2)
    together = (first["distribution"] + second["distribution"] / 2) / 2
    assert (found["low"], found["high"]) == pytest.approx(np.quantile(together, [0.025, 0.975]))


def test_flips_are_the_rows_that_are_predicted_otherwise(make_rows):
    a, b = make_rows("stars"), other(make_rows, "stars")
    table = flips(a, b)
    differ = {str(i + 1) for i in range(60) if a.predicted[i] != b.predicted[i]}
    assert {each["row"] for each in table} == differ
    change = []
    for each in table:
        i, names = int(each["row"]) - 1, a.task.labels
        assert (each["a"], each["b"]) == (names[a.predicted[i]], names[b.predicted[i]])
        right = {"a": a.predicted[i] == a.labels[i], "b": b.predicted[i] == a.labels[i]}
        assert each["better"] == next((key for key, yes in right.items() if yes), "neither")
        change.append(abs(a.probabilities[i, a.labels[i]] - b.probabilities[i, a.labels[i]]))
    assert change == sorted(change, reverse=True)


def test_flips_of_regressions_and_of_several_labels(make_rows):
    a, b = make_rows("close"), other(make_rows, "close")
    change = np.abs(np.abs(a.predicted - a.labels) - np.abs(b.predicted - a.labels))
    assert [int(each["row"]) - 1 for each in flips(a, b)] == np.argsort(-change)[:20].tolist()
    a, b = make_rows("topics"), other(make_rows, "topics")
    assert {int(each["row"]) - 1 for each in flips(a, b)} == set(np.flatnonzero((a.predicted != b.predicted).any(1)))


def test_other_rows_are_refused(make_rows):
    with pytest.raises(ValueError, match=r"'stars': the two runs were given other rows \(60 and 59\)"):
        check_same_rows(make_rows("stars"), make_rows("stars", 59))
    with pytest.raises(ValueError, match="were given other rows"):
        check_same_rows(make_rows("stars", labels=[0] * 60), make_rows("stars", labels=[1] * 60))
    task = TaskSpec("stars", labels=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"'stars': labels is \('bad', 'fair', 'good'\) in one run and"):
        check_same_rows(make_rows("stars"), make_rows(task))


def test_tasks_that_one_run_lacks_are_left_out(make_rows):
    a = {"same": make_rows("same"), "stars": make_rows("stars"), "close": make_rows("close", 0)}
    b = {"same": other(make_rows, "same"), "close": make_rows("close", 0)}
    found = compare_runs(a, b, {"same": "accuracy", "stars": "accuracy", "close": "pearson"}, resamples=20)
    assert list(found["tasks"]) == ["same"]
    assert found["left_out"] == ["close", "stars"]
    assert "distribution" not in found["tasks"]["same"]["bootstrap"]
    with pytest.raises(ValueError, match="no task with labelled rows in common"):
        compare_runs({"same": a["same"]}, {"stars": a["stars"]}, {"same": "accuracy"})
