"""Fits of temperature, thresholds, conformal quantile and abstention against scikit-learn, grids and formulas."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, log_softmax
from sklearn.metrics import f1_score, log_loss, precision_recall_curve

from mtbert.evaluation.calibration.fitting import (
    Goals,
    binary_parts,
    conformal_quantile,
    fit,
    fit_abstention,
    fit_temperature,
    fit_threshold,
    log_losses,
    threshold_problems,
)
from mtbert.modeling.calibration import Calibration
from mtbert.modeling.decoding import decisions, in_sets, probabilities
from mtbert.modeling.task_spec import TaskSpec

STARS = TaskSpec("stars", labels=("bad", "fair", "good"))
SPAM = TaskSpec("spam", "binary_classification", labels=("no", "yes"))
TWO = TaskSpec("two", labels=("no", "yes"))
TAGS = TaskSpec("tags", "multi_label_classification", labels=("a", "b"))
SCORE = TaskSpec("score")


def sample(task, rows, seed=0, heat=2.5):
    """Logits whose softmax or sigmoid at the temperature `heat` is the true probability of the sampled labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (rows, task.num_labels))
    if task.kind.numeric:
        return logits, logits[:, 0] + random.normal(0, 0.5, rows)
    if task.kind.exclusive:
        cumulated = np.exp(log_softmax(logits, axis=1)).cumsum(axis=1)
        return logits * heat, (random.random(rows)[:, None] > cumulated).sum(axis=1).clip(max=task.num_labels - 1)
    labels = random.random(logits.shape) < expit(logits)
    return logits * heat, labels.astype(float) if task.kind.several else labels[:, 0].astype(np.int64)


class TestTemperature:
    @pytest.mark.parametrize("task", [STARS, SPAM, TWO, TAGS], ids=lambda task: task.name)
    def test_is_the_minimum_of_a_fine_grid(self, task):
        logits, labels = sample(task, 600)
        temperature, problem = fit_temperature(task, logits, labels)
        grid = np.exp(np.linspace(math.log(0.5), math.log(10), 3001))
        losses = [log_losses(task, logits / t, labels).mean() for t in grid]
        assert problem == ""
        assert temperature == pytest.approx(grid[np.argmin(losses)], rel=2e-3)
        assert temperature == pytest.approx(2.5, rel=0.25)

    def test_has_a_gradient_of_zero(self):
        logits, labels = sample(STARS, 400)
        temperature, _ = fit_temperature(STARS, logits, labels)
        loss = lambda t: log_losses(STARS, logits / t, labels).mean()  # noqa: E731
        assert (loss(temperature + 1e-3) - loss(temperature - 1e-3)) / 2e-3 == pytest.approx(0, abs=1e-5)

    def test_loss_is_that_of_scikit_learn(self):
        logits, labels = sample(STARS, 50)
        assert log_losses(STARS, logits, labels).mean() == pytest.approx(log_loss(labels, probabilities(STARS, logits)))

    def test_loss_of_large_logits_is_finite(self):
        assert np.isfinite(log_losses(STARS, np.array([[9000.0, 0, 0]]), np.array([1]))).all()
        assert log_losses(TAGS, np.array([[50.0, -50.0]]), np.array([[0.0, 1.0]])) == pytest.approx([50, 50])

    def test_leaves_missing_entries_out(self):
        logits, labels = sample(TAGS, 300)
        kept = labels.copy()
        kept[:200, 1] = np.nan
        rows = np.concatenate([logits[:, :1].ravel(), logits[200:, 1]])[:, None]
        entries = np.concatenate([labels[:, 0], labels[200:, 1]]).astype(np.int64)
        expected, _ = fit_temperature(SPAM, rows, entries)
        assert fit_temperature(TAGS, logits, kept)[0] == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize(
        ("logits", "labels", "problem"),
        [
            (np.eye(3)[[0, 1, 2] * 3], [0, 1, 2] * 3, "needs 20 rows, but there are 9"),
            (np.random.default_rng(0).normal(size=(30, 3)), [1] * 30, "all rows have the same label"),
            (np.eye(3)[[0, 1, 2] * 10], [0, 1, 2] * 10, "no minimum"),
            (np.zeros((30, 3)), [0, 1, 2] * 10, "no minimum"),
            (-9 * np.eye(3)[[0, 1, 2] * 10], [0, 1, 2] * 10, "no minimum"),
        ],
        ids=["few rows", "one class", "every row right", "constant", "every row wrong"],
    )
    def test_is_one_where_the_rows_cannot_tell(self, logits, labels, problem):
        temperature, why = fit_temperature(STARS, logits, np.array(labels))
        assert temperature == 1 and problem in why


class TestThreshold:
    @pytest.mark.parametrize("digits", [1, 6])
    def test_has_the_best_f1_of_scikit_learn(self, digits):
        random = np.random.default_rng(digits)
        positive = random.random(500) < 0.3
        scores = np.round(expit(random.normal(positive * 1.0, 1)), digits)
        precision, recall, _ = precision_recall_curve(positive, scores)
        best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
        threshold, _ = fit_threshold(scores, positive, Goals())
        assert f1_score(positive, scores >= threshold) == pytest.approx(best)

    @pytest.mark.parametrize("goal", ["precision", "recall"])
    @pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
    def test_meets_a_goal_as_well_as_any(self, goal, level):
        random = np.random.default_rng(3)
        positive = random.random(800) < 0.4
        scores = expit(random.normal(positive * 2.0, 1))
        precision, recall, levels = precision_recall_curve(positive, scores)
        meets, rival = (precision, recall) if goal == "precision" else (recall, precision)
        threshold, problem = fit_threshold(scores, positive, Goals(**{goal: level}))
        given = scores >= threshold
        hits = (given & positive).sum()
        reached = {"precision": hits / given.sum(), "recall": hits / positive.sum()}
        other = {"precision": "recall", "recall": "precision"}[goal]
        assert problem == ""
        assert reached[goal] >= level
        assert reached[other] == pytest.approx(rival[:-1][meets[:-1] >= level].max())

    def test_says_where_no_threshold_meets_a_precision(self):
        scores, positive = np.array([0.9, 0.8, 0.2]), np.array([False, True, True])
        assert fit_threshold(scores, positive, Goals(precision=0.9)) == (
            None,
            "no threshold reaches a precision of 0.9; the highest is 0.667",
        )

    def test_stands_between_scores_so_that_fp32_decides_alike(self):
        random = np.random.default_rng(0)
        positive = random.random(2000) < 0.5
        scores = expit(random.normal(positive * 1.0, 3))
        threshold, _ = fit_threshold(scores, positive, Goals())
        assert ((scores >= threshold) == (scores.astype(np.float32) >= np.float32(threshold))).all()

    def test_needs_100_rows_that_bear_the_label(self):
        labels = np.zeros((400, 2))
        labels[:99, 0] = labels[:100, 1] = 1
        assert threshold_problems(TAGS, labels) == ["99 rows bear it, but 100 are needed", ""]
        assert threshold_problems(TAGS, np.ones((200, 2))) == ["every row bears it"] * 2
        assert threshold_problems(SPAM, np.array([0] * 100 + [1] * 100)) == [""]
        (problem,) = threshold_problems(SPAM, np.array([0] * 99 + [1] * 100))
        assert problem == "only 99 rows are 'no', but 100 of each class are needed"
        assert threshold_problems(STARS, np.zeros(9)) == []

    def test_parts_leave_missing_entries_out(self):
        labels = np.array([[1, np.nan], [0, 1.0]])
        parts = binary_parts(TAGS, np.array([[0.9, 0.8], [0.2, 0.7]]), labels)
        assert [(name, scores.tolist(), positive.tolist()) for name, scores, positive in parts] == [
            ("a", [0.9, 0.2], [True, False]),
            ("b", [0.7], [True]),
        ]


class TestConformal:
    @pytest.mark.parametrize(
        ("rows", "coverage", "place"), [(9, 0.9, 9), (19, 0.55, 11), (99, 0.95, 95), (50, 0.8, 41)]
    )
    def test_takes_the_place_of_the_formula(self, rows, coverage, place):
        scores = np.random.default_rng(0).permutation(rows) + 1.0
        assert conformal_quantile(scores, coverage) == (place, "")

    def test_refuses_too_few_rows_by_number(self):
        assert conformal_quantile(np.arange(8.0), 0.9) == (None, "a coverage of 0.9 needs 9 rows, but there are 8")
        assert conformal_quantile(np.arange(98.0), 0.99)[1].startswith("a coverage of 0.99 needs 99 rows")

    @pytest.mark.parametrize("task", [STARS, SPAM, SCORE], ids=lambda task: task.name)
    def test_covers_exchangeable_rows(self, task):
        """Over many draws the mean coverage of new rows is at least 1 − α, and at most 1 − α + 1 / (n + 1)."""
        held, draws, rows, new = 0, 60, 99, 200
        for seed in range(draws):
            logits, labels = sample(task, rows + new, seed)
            calibration, _ = fit(task, logits[:rows], labels[:rows], Goals(accuracy=None), [False] * (task is SPAM))
            spec = replace(task, calibration=calibration)
            members = in_sets(spec, probabilities(spec, logits[rows:]))
            truth = labels[rows:]
            if task.kind.numeric:
                held += ((members[:, 0] <= truth) & (truth <= members[:, 1])).sum()
            else:
                held += members[np.arange(new), truth].sum()
        # each draw's coverage varies by Beta(90, 10), with a standard deviation of .03, besides the binomial noise
        spread = 4 * math.sqrt(0.9 * 0.1 / 101 / draws + 0.9 * 0.1 / draws / new)
        assert 0.9 - spread <= held / draws / new <= 0.9 + 1 / (rows + 1) + spread

    def test_equal_rows_stay_in_their_sets_in_fp32(self):
        logits = np.tile(np.float64([[1.3, 0.2, -0.7]]), (50, 1))
        labels = np.zeros(50, dtype=np.int64)
        calibration, _ = fit(STARS, logits, labels, Goals(), [])
        spec = replace(STARS, calibration=calibration)
        assert in_sets(spec, probabilities(spec, logits.astype(np.float32)))[:, 0].all()


class TestAbstention:
    def test_is_the_lowest_confidence_with_the_accuracy(self):
        confidences = np.linspace(0.99, 0.5, 100)
        right = np.arange(100) % 10 < np.linspace(10, 3, 100)
        below, problem = fit_abstention(confidences, right, 0.9)
        kept = confidences >= below
        assert problem == "" and right[kept].mean() >= 0.9
        for lower in confidences[~kept]:
            assert right[confidences >= lower].mean() < 0.9

    def test_says_where_no_confidence_will_do(self):
        below, problem = fit_abstention(np.linspace(0.9, 0.5, 100), np.arange(100) % 2 == 0, 0.9)
        assert below is None and "the highest is 0.5" in problem
        assert fit_abstention(np.ones(5), np.ones(5, bool), 0.9) == (None, "it needs 30 rows, but there are 5")

    def test_keeps_all_rows_of_an_accurate_task(self):
        confidences = np.linspace(0.4, 1, 50)
        below, _ = fit_abstention(confidences, np.ones(50, bool), 0.9)
        assert below is not None and (confidences >= below).all()


def test_a_fit_uses_thresholds_on_calibrated_probabilities_and_abstains_by_the_confidence_of_the_decision():
    logits, labels = sample(SPAM, 900)
    calibration, notes = fit(SPAM, logits, labels, Goals(accuracy=0.8), [True])
    spec = replace(SPAM, calibration=calibration)
    assert notes == []
    of_labels = expit(logits[:, 0] / calibration.temperature)
    assert (decisions(spec, logits) == (of_labels >= calibration.thresholds[0])).all()
    assert spec.problems() == []


def test_parts_that_are_not_asked_for_are_not_fitted():
    logits, labels = sample(STARS, 60)
    calibration, _ = fit(STARS, logits, labels, Goals(coverage=None, accuracy=None), [])
    assert calibration == Calibration(calibration.temperature)


def test_a_regression_has_an_interval_alone():
    logits, labels = sample(SCORE, 60)
    calibration, notes = fit(SCORE, logits, labels, Goals(coverage=0.8), [])
    errors = np.sort(np.abs(logits[:, 0] - labels))
    assert calibration == Calibration(coverage=0.8, quantile=errors[math.ceil(61 * 0.8) - 1]) and notes == []
