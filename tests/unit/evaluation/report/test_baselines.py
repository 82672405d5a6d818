"""Intervals, the constant answer, curves by threshold and facts of the data, against independent computations."""

import math

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from sklearn import metrics as sk

from mtbert.data.leaks import with_leaks
from mtbert.data.loaded_task import LoadedTask
from mtbert.data.split_report import SplitReport
from mtbert.data.tokenize import EncodingReport
from mtbert.evaluation.metrics import scorer
from mtbert.evaluation.report import data_facts
from mtbert.evaluation.report.baselines import NONE, same_answer, score_interval
from mtbert.evaluation.report.data_facts import label_facts, repeated_texts
from mtbert.evaluation.report.threshold_curves import STEPS, decision_curves, label_curves
from mtbert.modeling.task_spec import TaskSpec

METRICS = {"stars": "f1_macro", "same": "f1", "close": "pearson", "topics": "f1_micro"}


@pytest.mark.parametrize("name", METRICS)
def test_the_interval_is_that_of_resampled_rows(name, make_rows):
    rows = make_rows(name, 80)
    found = score_interval(rows, METRICS[name], None, 3, 400)
    score, random, drawn = scorer(METRICS[name]), np.random.default_rng(3), []
    for _ in range(400):
        sample = random.integers(80, size=80)
        drawn.append(score(rows.predicted[sample], rows.labels[sample]))
    expected = np.quantile(drawn, [0.025, 0.975])
    assert [found["low"], found["high"]] == pytest.approx(expected, abs=0.035)
    exact = score(rows.predicted, rows.labels)
    assert found["low"] < exact < found["high"]
    base = found["baseline"]
    assert base["difference"] == pytest.approx(exact - base["score"])
    assert base["difference_low"] < base["difference"] < base["difference_high"] and base["of"] == "evaluated"
    assert score_interval(rows, METRICS[name], None, 3, 400) == found


def test_the_constant_answer_is_the_most_frequent_one_of_the_training_rows(make_rows):
    rows = make_rows("stars", 6, labels=[0, 0, 0, 0, 1, 2], logits=np.eye(3)[[0, 0, 0, 0, 1, 2]])
    train = label_facts(rows.task, np.array([2, 2, 1, -100, math.nan]))
    assert train == {"counts": {"bad": 0, "fair": 1, "good": 2}, "total": 3}
    base = score_interval(rows, "accuracy", train, 0, 50)["baseline"]
    assert (base["answer"], base["kind"], base["of"], base["score"]) == ("good", "majority", "train", 1 / 6)
    rows = make_rows("close", 5)
    train = label_facts(rows.task, np.array([1, 4, math.nan]))
    assert train == {"mean": 2.5, "total": 2}
    base = score_interval(rows, "pearson", train, 0, 50)["baseline"]
    assert (base["answer"], base["kind"], base["score"]) == ("2.5", "mean", 0)
    rows = make_rows("topics", 5)
    train = label_facts(rows.task, np.array([[1, 0, math.nan], [1, 1, 0], [0, 0, 0]]))
    assert (train["counts"], train["known"]) == ({"cat": 2, "dog": 1, "bird": 0}, {"cat": 3, "dog": 3, "bird": 2})
    assert same_answer(rows, train)[0] == "cat" and same_answer(rows, train)[1].tolist() == [[1, 0, 0]] * 5
    assert same_answer(rows, label_facts(rows.task, np.zeros((2, 3))))[0] == NONE


def test_tags_of_words_have_a_baseline_and_an_interval(make_rows):
    task = TaskSpec("names", "token_classification", labels=["O", "B-x", "I-x"])
    labels = np.array([[1, 2, 0], [0, 1, -100]] * 10)
    rows = make_rows("stars", 1)
    object.__setattr__(rows, "task", task)
    for key, value in (("labels", labels), ("logits", np.eye(3)[np.maximum(labels, 0)])):
        object.__setattr__(rows, key, value)
    found = score_interval(rows, "span_f1", label_facts(task, labels), 0, 20)
    assert found["baseline"]["answer"] == "O" and found["baseline"]["score"] == 0 and found["low"] == 1


@pytest.mark.parametrize("name", METRICS)
def test_one_row_has_no_interval(name, make_rows):
    found = score_interval(make_rows(name, 1), METRICS[name], None, 0, 10)
    assert math.isnan(found["low"]) and math.isnan(found["baseline"]["difference_low"])


def test_curves_of_a_label_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    positive, p = random.random(500) < 0.3, random.random(500).round(3)
    found = label_curves(positive, p)
    assert found["average_precision"] == sk.average_precision_score(positive, p)
    assert len(found["curve"]["recall"]) <= 101 and found["curve"]["recall"] == sorted(found["curve"]["recall"])
    for i, threshold in enumerate(STEPS):
        given = p >= threshold - 1e-12
        assert found["by_threshold"]["f1"][i] == pytest.approx(sk.f1_score(positive, given))
        assert found["by_threshold"]["recall"][i] == pytest.approx(sk.recall_score(positive, given))
        expected = None if not given.any() else sk.precision_score(positive, given)
        assert found["by_threshold"]["precision"][i] == (expected and pytest.approx(expected))
    assert found["best"]["f1"] == max(found["by_threshold"]["f1"])
    assert label_curves(np.zeros(3, bool), np.ones(3))["best"] is None


def test_curves_of_tasks(make_rows):
    for name, labels in (("stars", ["bad", "fair", "good"]), ("same", ["yes"]), ("topics", ["cat", "dog", "bird"])):
        assert list(decision_curves(make_rows(name))["labels"]) == labels
    rows = make_rows("stars")
    found = decision_curves(rows)["confidence"]
    assert (found["share"][0], found["accuracy"][0]) == (1, np.mean(rows.right))
    sure = rows.probabilities.max(axis=1) >= 0.6
    at = found["threshold"].index(0.6)
    assert (found["share"][at], found["accuracy"][at]) == (sure.mean(), rows.right[sure].mean())
    assert "confidence" not in decision_curves(make_rows("topics"))


def split(texts, labels) -> Dataset:
    return Dataset.from_dict({"text": texts, "label": labels, "row": list(range(1, len(texts) + 1))})


def test_repeated_texts_and_those_with_two_labels_are_counted():
    assert repeated_texts(split(["a", "b", "a", "c", "b", "d"], [0, 1, 0, 0, 0, -100])) == {
        "rows": 4,
        "contradictory": 2,
    }
    assert repeated_texts(split(["a", "a"], [0, -100])) == {"rows": 0, "contradictory": 0}
    assert repeated_texts(split(["a", "a"], [[1.0, 0.0], [1.0, 1.0]])) == {"rows": 2, "contradictory": 2}
    assert repeated_texts(split(["a", "a"], [0.5, 0.5])) == {"rows": 2, "contradictory": 0}


@pytest.mark.parametrize("drop", [False, True])
def test_facts_of_the_data(drop):
    task = TaskSpec("stars", labels=["bad", "good"])
    train = split(["one two three", "four five six", "the cat sat here", "good", "good"], [0, 1, 1, 0, 1])
    dev = split(["one two three", "say four five six now", "new"], [0, 1, -100])
    reports = tuple(SplitReport("stars", name, "x.csv", 5, 5, {}) for name in ("train", "dev"))
    data = with_leaks({"stars": LoadedTask(DatasetDict({"train": train, "dev": dev}), reports)}, drop)
    (found,) = data_facts([task], data, "dev", [EncodingReport("stars", "dev", 3, 1, 7)]).values()
    assert found["rows"] == {"train": 3 if drop else 5, "dev": 2}
    assert found["cut"] == {"rows": 1, "total": 3, "tokens": 7}
    assert found.get("leaks") == (None if drop else {"same": 1, "phrases": 1})
    assert found["repeated"] == {"rows": 2, "contradictory": 2}
    assert found["labels"]["counts"] == ({"bad": 1, "good": 2} if drop else {"bad": 2, "good": 3})
