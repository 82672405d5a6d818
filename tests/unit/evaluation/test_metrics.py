"""Every metric against a formula written out in numpy, and what happens at the edges."""

import json
import subprocess
import sys
import warnings

import evaluate
import numpy as np
import pytest
import torch
from tagged import SLOTS

from mtbert.evaluation.metrics import (
    F1,
    METRICS,
    Accuracy,
    Matthews,
    OrdinalAgreement,
    Pearson,
    RegressionErrors,
    all_metrics,
    averages,
    check_metric,
    default_metrics,
    labelled_rows,
    score_task,
    score_tasks,
)
from mtbert.evaluation.own_metrics import register_metric
from mtbert.modeling.decoding import decisions
from mtbert.modeling.problem_types import PROBLEM_TYPES
from mtbert.modeling.task_spec import TaskSpec

TASKS = {
    "single": TaskSpec("sentiment", labels=5),
    "two": TaskSpec("polarity", labels=2),
    "binary": TaskSpec("paraphrase", problem_type="binary_classification", labels=2),
    "regression": TaskSpec("similarity", range=(0, 5)),
    "multi": TaskSpec("topics", problem_type="multi_label_classification", labels=4),
    "ordinal": TaskSpec("urgency", ordinal=True, labels=4),
}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def f1_by_hand(prediction, reference):
    """F1 of one class; both arguments are boolean arrays."""
    hits = np.sum(prediction & reference)
    total = np.sum(prediction) + np.sum(reference)
    return 2 * hits / total if total else 0.0


def pearson_by_hand(x, y):
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())


def ranks_by_hand(x):
    """Mean rank of each value, ties sharing theirs."""
    return np.array([np.mean(np.flatnonzero(np.sort(x) == value)) for value in x])


class TestMetricClasses:
    @pytest.mark.parametrize("classes", [2, 5])
    def test_classifications_follow_their_formulas(self, rng, classes):
        x, y = rng.integers(0, classes, 200), rng.integers(0, classes, 200)
        given = {"predictions": x, "references": y}
        one_hot = np.eye(classes)
        covariance = lambda a, b: ((one_hot[a] - one_hot[a].mean(0)) * (one_hot[b] - one_hot[b].mean(0))).sum()  # noqa: E731
        macro = np.mean([f1_by_hand(x == c, y == c) for c in range(classes)])
        assert Accuracy().compute(**given) == {"accuracy": pytest.approx(np.mean(x == y))}
        assert F1("macro").compute(**given) == {"f1_macro": pytest.approx(macro)}
        assert F1("micro").compute(**given) == {"f1_micro": pytest.approx(np.mean(x == y))}
        expected = covariance(x, y) / np.sqrt(covariance(x, x) * covariance(y, y))
        assert Matthews().compute(**given) == {"matthews": pytest.approx(expected)}

    @pytest.mark.parametrize("classes", [2, 5])
    def test_ordinal_agreement_follows_its_formulas(self, rng, classes):
        """Weighted kappa by its matrices (Cohen, 1968); classes that do not occur count in the distances."""
        x, y = rng.integers(0, classes, 200), rng.integers(0, classes, 200)
        x[x == 1], y[y == 1] = 0, 0
        squares = (np.arange(classes)[:, None] - np.arange(classes)) ** 2
        observed = np.array([[np.sum((y == i) & (x == j)) for j in range(classes)] for i in range(classes)])
        expected = observed.sum(1)[:, None] * observed.sum(0) / 200
        found = OrdinalAgreement().compute(predictions=x, references=y)
        if classes == 2:
            assert found == {"qwk": 0.0, "qwk_undefined": 1.0, "within_one": 1.0}  # all are of class 0
        else:
            kappa = 1 - (squares * observed).sum() / (squares * expected).sum()
            assert found == {"qwk": pytest.approx(kappa), "within_one": pytest.approx(np.mean(abs(x - y) <= 1))}

    def test_a_kappa_without_agreement_beyond_chance_is_0(self):
        assert OrdinalAgreement().compute(predictions=[2, 2, 2], references=[0, 1, 4])["qwk"] == 0
        assert OrdinalAgreement().compute(predictions=[0, 1, 4], references=[0, 1, 4])["qwk"] == 1

    def test_binary_f1_is_of_class_one_and_compute_may_override_the_average(self, rng):
        x, y = rng.integers(0, 2, 50), rng.integers(0, 2, 50)
        assert F1().compute(predictions=x, references=y) == {"f1": pytest.approx(f1_by_hand(x == 1, y == 1))}
        overridden = F1().compute(predictions=x, references=y, average="macro")
        assert overridden == F1("macro").compute(predictions=x, references=y)

    def test_an_unknown_average_is_refused_by_name(self):
        with pytest.raises(ValueError, match="average is 'weighted', but must be one of: binary, macro, micro"):
            F1("weighted").compute(predictions=[1], references=[1])

    def test_regressions_follow_their_formulas(self, rng):
        x = (5 + rng.normal(size=100)).astype(np.float32)
        y = np.round(x + rng.normal(size=100), 1).astype(np.float32)  # with ties
        given = {"predictions": x, "references": y}
        error = x.astype(np.float64) - y
        assert METRICS["pearson"].build().compute(**given)["pearson"] == pytest.approx(pearson_by_hand(x, y), rel=1e-5)
        spearman = pearson_by_hand(ranks_by_hand(x), ranks_by_hand(y))
        assert METRICS["spearman"].build().compute(**given)["spearman"] == pytest.approx(spearman)
        assert RegressionErrors().compute(**given) == {
            "mse": pytest.approx(np.mean(error**2)),
            "rmse": pytest.approx(np.sqrt(np.mean(error**2))),
            "mae": pytest.approx(np.mean(np.abs(error))),
            "medae": pytest.approx(np.sort(np.abs(error))[49:51].mean()),
            "msle": pytest.approx(np.mean((np.log(1 + x.astype(np.float64)) - np.log(1 + y.astype(np.float64))) ** 2)),
            "explained_variance": pytest.approx(1 - np.var(error) / np.var(y.astype(np.float64))),
            "r2": pytest.approx(1 - np.sum(error**2) / np.sum((y - y.mean(dtype=np.float64)) ** 2)),
        }

    def test_a_logarithmic_error_of_minus_one_or_less_is_undefined(self):
        scores = RegressionErrors().compute(predictions=[-1.0, 2.0], references=[0.0, 2.0])
        assert np.isnan(scores["msle"])
        assert scores["msle_undefined"] == 1.0
        scores = RegressionErrors().compute(predictions=[-0.5, 2.0], references=[0.0, 2.0])
        assert scores["msle"] == pytest.approx(np.log(0.5) ** 2 / 2)
        assert "msle_undefined" not in scores

    def test_logits_given_for_class_ids_are_refused_rather_than_truncated(self):
        with pytest.raises(ValueError, match="predictions must be class ids, but hold 0.75"):
            Accuracy().compute(predictions=[0.75, 1.0], references=[0, 1])

    @pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, lambda values: values.tolist()])
    def test_one_label_stays_a_label_in_arrays_tensors_and_lists(self, rng, kind):
        x, y = rng.integers(0, 2, (30, 1)), rng.integers(0, 2, (30, 1))
        found = F1("micro").compute(predictions=kind(x), references=kind(y))
        assert found == {"f1_micro": pytest.approx(f1_by_hand(x == 1, y == 1))}

    def test_scores_of_a_regression_are_not_truncated(self):
        assert RegressionErrors().compute(predictions=[0.5, 0.5], references=[0, 1])["mae"] == 0.5

    def test_batches_added_one_by_one_count_together(self):
        metric = Accuracy()
        metric.add_batch(predictions=[1, 1], references=[1, 0])
        metric.add_batch(predictions=[0, 0], references=[0, 0])
        assert metric.compute() == {"accuracy": 0.75}

    def test_two_live_metrics_share_no_file(self):
        first, second = Accuracy(), Accuracy()
        assert first.experiment_id != second.experiment_id
        first.add_batch(predictions=[1], references=[1])
        second.add_batch(predictions=[0], references=[1])
        assert first.cache_file_name is None and second.cache_file_name is None
        assert (first.compute(), second.compute()) == ({"accuracy": 1.0}, {"accuracy": 0.0})

    def test_they_combine(self):
        both = evaluate.combine([Accuracy(), F1(), F1("macro")])
        scores = both.compute(predictions=[1, 0, 1, 1], references=[1, 0, 0, 1])
        assert scores == {"accuracy": 0.75, "f1": 0.8, "f1_macro": pytest.approx((0.8 + 2 / 3) / 2)}

    def test_the_global_random_state_is_left_alone(self):
        np.random.seed(3)
        before = np.random.get_state()[1].copy()
        Pearson().compute(predictions=[1, 2, 3], references=[3, 1, 2])
        assert np.array_equal(np.random.get_state()[1], before)

    def test_they_work_where_no_connection_can_be_made(self):
        code = """
import json, socket
def refuse(*args, **kwargs): raise OSError("a connection was tried")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from mtbert.evaluation.metrics import METRICS
given = {"predictions": [0, 1, 1, 0], "references": [0, 1, 0, 0]}
words = {key: [values] for key, values in given.items()} | {"classes": ("O", "B-X")}
rows = lambda spec: words if spec.reads_classes else given
print(json.dumps([spec.build().compute(**rows(spec))[name] for name, spec in METRICS.items()]))
"""
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert len(json.loads(result.stdout)) == len(METRICS)


class TestOwnMetrics:
    @pytest.fixture(autouse=True)
    def _table_as_it_was(self):
        before = dict(METRICS)
        yield
        METRICS.clear()
        METRICS.update(before)

    def test_one_for_ordinal_tasks(self, rng):
        register_metric("bias", lambda x, y: np.mean(x - y), ["ordinal_classification"])
        logits, labels = rng.normal(size=(30, 3)), rng.integers(0, 4, 30)
        scores = score_task(TASKS["ordinal"], logits, labels, "bias")
        assert scores["bias"] == pytest.approx(np.mean(decisions(TASKS["ordinal"], logits) - labels))
        assert check_metric(TASKS["single"], "bias") != []

    def test_one_whose_name_came_to_be_built_in_takes_its_place(self, rng):
        register_metric("within_one", lambda x, y: 0.25, ["single_label_classification"])
        for name in ("single", "ordinal"):
            logits = rng.normal(size=(9, TASKS[name].num_labels))
            assert score_task(TASKS[name], logits, rng.integers(0, 4, 9), "within_one")["within_one"] == 0.25
        with pytest.raises(ValueError, match="there is a metric 'accuracy' already"):
            register_metric("accuracy", lambda x, y: 0.5)


class TestMetricsOfATask:
    def test_every_kind_of_task_has_defaults_that_suit_it(self):
        tasks = [*TASKS.values(), SLOTS]
        assert {task.problem_type for task in tasks} == set(PROBLEM_TYPES)
        for task in tasks:
            assert check_metric(task, default_metrics(task)[0]) == []
            assert all(task.problem_type in METRICS[name].problem_types for name in default_metrics(task))

    def test_each_metric_that_passes_the_check_can_score(self, rng):
        for task in TASKS.values():
            shape = (40, task.num_labels)
            logits = rng.normal(size=shape)
            labels = decisions(task, rng.normal(size=shape))
            usable = [name for name in METRICS if check_metric(task, name) == []]
            assert usable
            for name in usable:
                scores = score_task(task, logits, labels, name)
                assert next(iter(scores)) == name
                assert set(scores) == {name, *default_metrics(task)}

    @pytest.mark.parametrize(
        ("task", "name", "message"),
        [
            ("single", "pearson", "metric is 'pearson', which cannot score a single_label_classification"),
            ("regression", "accuracy", "cannot score a regression; use one of: pearson, spearman, r2"),
            ("multi", "matthews", "cannot score a multi_label_classification"),
            ("single", "qwk", "cannot score a single_label_classification"),
            ("ordinal", "f1", "cannot score an ordinal_classification; use one of: accuracy, f1_macro"),
            ("ordinal", "mae", "lower is better, but the averages and the best checkpoint need a score that rises"),
            ("regression", "mse", "lower is better, but the averages and the best checkpoint need a score that rises"),
            ("single", "f1", "'f1', which needs 2 classes, but the task has 5; use one of: accuracy, f1_macro"),
            ("binary", "acc", "'acc', which is unknown; use one of: accuracy, f1, f1_macro, f1_micro, matthews"),
        ],
    )
    def test_a_metric_that_does_not_suit_is_refused_with_a_remedy(self, task, name, message):
        (problem,) = check_metric(TASKS[task], name)
        assert message in str(problem)
        shape = (1, TASKS[task].num_labels)
        with pytest.raises(ValueError, match=f"metric is '{name}'"):
            score_task(TASKS[task], np.zeros(shape), np.zeros(1), name)


class TestPredictions:
    @pytest.mark.parametrize(
        ("task", "logits", "expected"),
        [
            ("single", [[0, 1, 5, 2, 3], [9, 0, 0, 0, 0]], [2, 0]),
            ("binary", [[-0.1], [0.0], [0.1]], [0, 0, 1]),
            ("regression", [[2.5], [-1.0]], [2.5, -1.0]),
            ("multi", [[1, -1, 0, 2]], [[1, 0, 0, 1]]),
            ("ordinal", [[-1, 9, 9], [1, 0, 9], [9, 9, 0.1]], [0, 1, 3]),
        ],
    )
    def test_they_are_what_the_logits_say(self, task, logits, expected):
        assert decisions(TASKS[task], np.array(logits)).tolist() == expected

    def test_no_rows_give_no_predictions(self):
        for task in TASKS.values():
            assert len(decisions(task, np.zeros((0, task.num_labels)))) == 0

    def test_another_shape_is_refused(self):
        with pytest.raises(ValueError, match=r"'sentiment': logits must be \(rows, 5\), but are \(3, 2\)"):
            decisions(TASKS["single"], np.zeros((3, 2)))
        with pytest.raises(ValueError, match=r"'similarity': logits must be \(rows, 1\), but are \(3,\)"):
            decisions(TASKS["regression"], np.zeros(3))

    def test_logits_that_are_not_finite_are_refused(self):
        with pytest.raises(ValueError, match="1 of 2 rows have logits that are not finite: the training has diverged"):
            decisions(TASKS["binary"], np.array([[np.nan], [1.0]]))


class TestScoreTask:
    def test_rows_without_a_label_change_nothing(self, rng):
        for key in ("single", "binary", "regression"):
            task = TASKS[key]
            logits = rng.normal(size=(30, task.num_labels))
            labels = decisions(task, rng.normal(size=(30, task.num_labels))).astype(float)
            gaps = labels.copy()
            gaps[::3] = np.nan
            if key != "regression":
                gaps[1::3] = -100
            kept = ~np.isnan(gaps) & (gaps != -100)
            logits[~kept] = np.nan  # not even looked at
            assert score_task(task, logits, gaps) == score_task(task, logits[kept], labels[kept])

    def test_a_regression_may_have_minus_100_as_a_score(self):
        task = TaskSpec("temperature", range=(-200, 200))
        scores = score_task(task, np.array([[0.0], [0.0], [4.0]]), np.array([-100, 0.0, np.nan]))
        assert scores["mse"] == 5000

    def test_missing_entries_of_a_multi_label_row_count_for_no_f1(self, rng):
        task = TASKS["multi"]
        logits, labels = rng.normal(size=(60, 4)), rng.integers(0, 2, (60, 4)).astype(float)
        labels[rng.random((60, 4)) < 0.3] = np.nan
        labels[rng.random((60, 4)) < 0.1] = -100
        labels[:3] = np.nan
        known = ~np.isnan(labels) & (labels != -100)
        x, y = logits > 0, labels == 1
        columns = [f1_by_hand(x[known[:, c], c], y[known[:, c], c]) for c in range(4)]
        expected = {"f1_micro": f1_by_hand(x[known], y[known]), "f1_macro": np.mean(columns)}
        assert score_task(task, logits, labels) == pytest.approx(expected)
        labelled = known.any(1)
        exact = np.mean(((x == y) | ~known).all(1)[labelled])
        assert score_task(task, logits, labels, "accuracy")["accuracy"] == pytest.approx(exact)

    def test_a_multi_label_task_may_have_one_label(self, rng):
        task = TaskSpec("topic", problem_type="multi_label_classification", labels=1)
        logits, labels = rng.normal(size=(30, 1)), rng.integers(0, 2, (30, 1))
        expected = f1_by_hand(logits > 0, labels == 1)
        assert score_task(task, logits, labels) == pytest.approx({"f1_micro": expected, "f1_macro": expected})

    def test_no_labelled_row_gives_no_score(self):
        for task in TASKS.values():
            shape = (3, 4) if task.num_labels == 4 else (3,)
            logits = np.zeros((3, task.num_labels))
            assert score_task(task, logits, np.full(shape, np.nan)) == {}
            assert score_task(task, logits[:0], np.zeros(shape)[:0]) == {}
        assert score_task(TASKS["single"], np.zeros((3, 5)), np.full(3, -100)) == {}

    @pytest.mark.parametrize(
        ("predicted", "gold"),
        [([1, 1, 1], [0, 2, 5]), ([0, 1, 2], [3, 3, 3]), ([1], [1])],
        ids=["constant predictions", "constant labels", "one row"],
    )
    def test_an_undefined_correlation_is_zero_and_flagged(self, predicted, gold):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scores = score_task(TASKS["regression"], np.array(predicted, float)[:, None], np.array(gold, float))
        assert scores["pearson"] == scores["spearman"] == 0.0
        assert scores["pearson_undefined"] == scores["spearman_undefined"] == 1.0
        assert "mse_undefined" not in scores

    def test_further_metrics_are_computed_where_they_are_named(self, rng):
        for task in TASKS.values():
            logits = rng.normal(size=(40, task.num_labels))
            labels = decisions(task, rng.normal(size=(40, task.num_labels)))
            names = all_metrics(task)
            assert names[0] == default_metrics(task)[0]
            assert "f1" not in names or task.num_labels <= 2
            scores = score_task(task, logits, labels, names=names)
            assert {key for key in scores if not key.endswith("_undefined")} == set(names)
            alone = score_task(task, logits, labels)
            assert {name: scores[name] for name in alone} == alone

    def test_rows_are_labelled_where_something_is_known(self):
        multi = np.array([[np.nan, 1, 0, -100], [np.nan] * 4, [-100] * 4, [0, 0, 0, 0]])
        assert labelled_rows(TASKS["multi"], multi).tolist() == [True, False, False, True]
        assert labelled_rows(TASKS["single"], np.array([0, -100, 2])).tolist() == [True, False, True]
        assert labelled_rows(TASKS["regression"], np.array([-100, np.nan])).tolist() == [True, False]

    def test_r2_and_matthews_are_flagged_too(self):
        same = np.ones((3, 1))
        scores = score_task(TASKS["regression"], same, np.ones(3), "r2")
        assert (scores["r2"], scores["r2_undefined"]) == (0.0, 1.0)
        scores = score_task(TASKS["binary"], same, np.array([0, 1, 1]), "matthews")
        assert (scores["matthews"], scores["matthews_undefined"]) == (0.0, 1.0)

    def test_a_defined_correlation_has_no_flag(self):
        scores = score_task(TASKS["regression"], np.array([[0.0], [1.0], [3.0]]), np.array([1.0, 2.0, 5.0]))
        assert list(scores) == ["pearson", "spearman", "mse"]

    def test_a_class_that_nothing_names_counts_without_a_warning(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scores = score_task(TASKS["binary"], np.array([[-1.0], [-1.0]]), np.array([0, 0]))
        assert scores == {"accuracy": 1.0, "f1": 0.0}

    def test_labels_of_another_shape_are_refused(self):
        with pytest.raises(ValueError, match=r"'topics': labels must be \(3, 4\), but are \(3,\)"):
            score_task(TASKS["multi"], np.zeros((3, 4)), np.zeros(3))
        with pytest.raises(ValueError, match=r"'similarity': labels must be \(3,\), but are \(2,\)"):
            score_task(TASKS["regression"], np.zeros((3, 1)), np.zeros(2))


class TestScoreTasks:
    def test_each_task_is_scored_alone_and_their_main_metrics_are_averaged(self, rng):
        tasks = [TASKS["regression"], TASKS["single"], TASKS["multi"]]
        logits = {task.name: rng.normal(size=(30, task.num_labels)) for task in tasks}
        labels = {task.name: decisions(task, rng.normal(size=(30, task.num_labels))) for task in tasks}
        metrics = {"similarity": "spearman", "sentiment": None, "topics": None}
        scores, means = score_tasks(tasks, metrics, logits, labels)
        assert list(scores) == ["similarity", "sentiment", "topics"]
        for task in tasks:
            assert scores[task.name] == score_task(task, logits[task.name], labels[task.name], metrics[task.name])
        main = [scores["similarity"]["spearman"], scores["sentiment"]["accuracy"], scores["topics"]["f1_micro"]]
        assert means["raw_mean"] == pytest.approx(sum(main) / 3)
        assert means["overall"] == pytest.approx(((1 + main[0]) / 2 + main[1] + main[2]) / 3)

    def test_a_task_without_a_labelled_row_is_in_no_average_and_one_without_logits_nowhere(self):
        tasks = [TASKS["regression"], TASKS["single"], TASKS["two"]]
        logits = {"similarity": np.zeros((2, 1)), "polarity": np.array([[2.0, 1.0], [2.0, 1.0]])}
        labels = {"similarity": np.full(2, np.nan), "polarity": np.array([0, 1])}
        scores, means = score_tasks(tasks, dict.fromkeys(("similarity", "sentiment", "polarity")), logits, labels)
        assert list(scores) == ["similarity", "polarity"] and scores["similarity"] == {}
        assert means == {"raw_mean": 0.5, "overall": 0.5}


class TestAverages:
    def test_correlations_are_mapped_to_zero_to_one_in_overall_only(self):
        main = {"a": ("accuracy", 0.5), "b": ("pearson", 0.8), "c": ("matthews", -0.2)}
        assert averages(main) == pytest.approx({"raw_mean": 1.1 / 3, "overall": (0.5 + 0.9 + 0.4) / 3})

    def test_of_nothing_there_are_none(self):
        assert averages({}) == {}

    @pytest.mark.parametrize("name", ["mse", "rmse", "mae", "nonsense"])
    def test_a_metric_that_does_not_rise_is_refused(self, name):
        with pytest.raises(ValueError, match=f"metrics that rise, .* are not: {{'b': '{name}'}}; give"):
            averages({"a": ("accuracy", 0.5), "b": (name, 0.1)})
