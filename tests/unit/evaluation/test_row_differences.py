"""Differences between rows: scores of resamples, intervals over seeds and dev rows, and verdicts."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from mtbert.evaluation.row_differences import (
    DevTask,
    findings_table,
    row_difference,
    scores_by_seed,
    verdict,
)

RANDOM = np.random.default_rng(0)
CLASSES = RANDOM.integers(3, size=80).astype(float)
SCORES = RANDOM.normal(size=80)
TASKS = {"mood": DevTask("accuracy", CLASSES), "close": DevTask("pearson", SCORES)}


def guesses(right: float, noise: float, seeds=(1, 2, 3), key: int = 0):
    """Predictions of a model that has `right` of the classes, and scores with that much noise."""
    random = np.random.default_rng(key)
    return {
        seed: {
            "mood": np.where(random.random(80) < right, CLASSES, (CLASSES + 1) % 3),
            "close": SCORES + noise * random.normal(size=80),
        }
        for seed in seeds
    }


@pytest.mark.parametrize(
    ("metric", "labels", "score"),
    [
        ("accuracy", CLASSES, sk.accuracy_score),
        ("f1_macro", CLASSES, lambda y, x: sk.f1_score(y, x, average="macro")),
        ("pearson", SCORES, lambda y, x: stats.pearsonr(x, y).statistic),
        ("mse", SCORES, sk.mean_squared_error),
    ],
)
def test_scores_of_resamples_are_those_of_the_libraries(metric, labels, score):
    predicted = np.stack([np.roll(labels, shift) * 0.5 + labels * 0.5 for shift in (1, 2)])
    predicted = predicted.round() if metric in ("accuracy", "f1_macro") else predicted
    weights = RANDOM.multinomial(80, np.full(80, 1 / 80), size=5)
    found = scores_by_seed(metric, predicted, labels, weights)
    assert found.shape == (5, 2)
    for number, row in enumerate(weights):
        chosen = np.repeat(np.arange(80), row)
        expected = [score(labels[chosen], of_seed[chosen]) for of_seed in predicted]
        np.testing.assert_allclose(found[number], expected, rtol=1e-9)


BINARY = (CLASSES > 0).astype(float)
SEVERAL = (RANDOM.random((80, 4)) < [0.5, 0.3, 0.1, 0.0]).astype(float)


@pytest.mark.parametrize(
    ("metric", "labels", "score"),
    [
        ("matthews", BINARY, sk.matthews_corrcoef),
        ("matthews", CLASSES, sk.matthews_corrcoef),
        ("f1", BINARY, sk.f1_score),
        ("f1_macro", CLASSES, lambda y, x: sk.f1_score(y, x, average="macro")),
        ("f1_micro", CLASSES, lambda y, x: sk.f1_score(y, x, average="micro")),
        ("f1_micro", SEVERAL, lambda y, x: sk.f1_score(y, x, average="micro", zero_division=0)),
        ("f1_macro", SEVERAL, lambda y, x: sk.f1_score(y, x, average="macro", zero_division=0)),
        ("accuracy", SEVERAL, sk.accuracy_score),
    ],
)
def test_counted_scores_of_resamples_are_those_of_the_library(metric, labels, score):
    rolled = np.roll(labels, 3, axis=0)
    mask = np.random.default_rng(1).random((2, *labels.shape)) < 0.3
    predicted = np.where(mask, rolled, labels)
    weights = RANDOM.multinomial(80, np.full(80, 1 / 80), size=6)
    weights[5] = 0
    weights[5, np.flatnonzero(labels.reshape(80, -1)[:, 0] == 0)[:3]] = 2  # a resample without some classes
    found = scores_by_seed(metric, predicted, labels, weights)
    for number, row in enumerate(weights):
        chosen = np.repeat(np.arange(80), row)
        expected = [score(labels[chosen], of_seed[chosen]) for of_seed in predicted]
        np.testing.assert_allclose(found[number], expected, atol=1e-12)


def test_the_raw_mean_has_an_interval_too():
    a, b = guesses(0.9, 0.2), guesses(0.4, 2.0, key=1)
    table = row_difference(a, b, TASKS, means=("raw_mean", "overall"))
    assert list(table) == ["raw_mean", "overall", "mood", "close"]
    assert table["raw_mean"]["difference"] == pytest.approx(
        (table["mood"]["difference"] + table["close"]["difference"]) / 2
    )
    assert table["raw_mean"]["low"] < table["raw_mean"]["difference"] < table["raw_mean"]["high"]
    assert table["overall"] == row_difference(a, b, TASKS)["overall"]


def test_an_undefined_correlation_is_0():
    for metric in ("pearson", "matthews"):
        assert scores_by_seed(metric, np.ones((1, 4)), np.arange(4.0), np.ones((1, 4), dtype=int)).tolist() == [[0.0]]


def test_equal_rows_do_not_differ():
    table = row_difference(guesses(0.7, 0.5), guesses(0.7, 0.5), TASKS)
    for values in table.values():
        assert values["difference"] == values["low"] == values["high"] == 0


def test_the_difference_is_that_of_the_means_and_lies_in_its_interval():
    a, b = guesses(0.9, 0.2), guesses(0.4, 2.0, key=1)
    table = row_difference(a, b, TASKS)
    means = {side: np.mean([(row[n]["mood"] == CLASSES).mean() for n in row]) for side, row in (("a", a), ("b", b))}
    assert table["mood"]["difference"] == pytest.approx(means["a"] - means["b"])
    halved = table["close"]["difference"] / 2
    assert table["overall"]["difference"] == pytest.approx((table["mood"]["difference"] + halved) / 2)
    for values in table.values():
        assert 0 < values["low"] < values["difference"] < values["high"] and values["seeds"] == 3


def test_only_common_seeds_count():
    table = row_difference(guesses(0.9, 0.2, (1, 2, 5)), guesses(0.4, 2.0, (2, 5, 7)), TASKS)
    assert table["overall"]["seeds"] == 2
    assert row_difference(guesses(0.9, 0.2, (1,)), guesses(0.4, 2.0, (2,)), TASKS) == {}


def test_one_seed_gives_the_bootstrap_over_rows():
    """The spread of a paired accuracy difference: the standard deviation of the rows' differences over √n."""
    a, b = guesses(0.8, 0.3, (1,)), guesses(0.6, 0.6, (1,), key=3)
    values = row_difference(a, b, {"mood": TASKS["mood"]}, resamples=8000)["mood"]
    by_row = (a[1]["mood"] == CLASSES).astype(float) - (b[1]["mood"] == CLASSES)
    assert (values["high"] - values["low"]) / 2 == pytest.approx(1.96 * by_row.std() / np.sqrt(80), rel=0.05)


def test_seeds_that_disagree_widen_the_interval():
    """All rows of a seed are alike, so that only seeds vary; two seeds' deviations are multiplied by √2."""
    labels = np.zeros(50)
    task = {"mood": DevTask("accuracy", labels)}
    right, wrong = {"mood": labels}, {"mood": labels + 1}
    a, b = {1: right, 2: right, 3: wrong, 4: wrong}, dict.fromkeys((1, 2, 3, 4), wrong)
    values = row_difference(a, b, task, resamples=20000)["mood"]
    assert values["difference"] == 0.5
    draws = np.random.default_rng(1).integers(2, size=(20000, 4)).mean(1)
    expected = np.quantile(0.5 + (draws - 0.5) * np.sqrt(4 / 3), [0.025, 0.975])
    np.testing.assert_allclose([values["low"], values["high"]], expected, atol=0.01)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.1, 0.2, "held"), (-0.2, -0.1, "reversed"), (-0.1, 0.1, "undecided"), (0, 0, "undecided")],
)
def test_verdicts(low, high, word):
    assert verdict(low, high) == word


def test_findings_are_judged_by_their_first_score():
    values = {"a": 0.5, "b": 0.4, "difference": 0.1, "low": 0.05, "high": 0.2, "seeds": 2}
    findings = [
        {"finding": "a beats b", "rows": ["a", "b"], "scores": ["overall", "sst"]},
        {"finding": "b beats c", "rows": ["b", "c"], "scores": ["overall"]},
    ]
    first, second = findings_table(findings, {("a", "b"): {"overall": values, "para": values}})
    assert (first["verdict"], list(first["differences"])) == ("held", ["overall"])
    assert (second["verdict"], second["differences"]) == ("not run", {})
