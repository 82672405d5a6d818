"""Scores of entities: those of seqeval, on random tags of every scheme."""

import warnings

import numpy as np
import pytest
from seqeval import metrics as seqeval
from tagged import SLOTS

from mtbert.errors import InputError
from mtbert.evaluation import metrics, own_metrics
from mtbert.evaluation.metrics import METRICS, all_metrics, check_metric, part_tables, score_task, scorer
from mtbert.evaluation.span_metrics import EntityScores, counts_by_row, resampled
from mtbert.modeling.task_spec import TaskSpec


def drawn(classes, seed, rows=7, words=9):
    random = np.random.default_rng(seed)
    labels = random.integers(len(classes), size=(rows, words))
    predicted = np.where(random.random(labels.shape) < 0.6, labels, random.integers(len(classes), size=labels.shape))
    missing = random.random(labels.shape) < (0.2 if seed % 2 else 0)
    missing |= np.arange(words) >= random.integers(1, words + 1, size=(rows, 1))
    return predicted, np.where(missing, -100, labels)


def as_tags(classes, ids, labels):
    rows = [
        [classes[i] for i, known in zip(*row, strict=True) if known != -100] for row in zip(ids, labels, strict=True)
    ]
    return [row for row, of_row in zip(rows, labels, strict=True) if (of_row != -100).any()]


@pytest.mark.parametrize("prefixes", ["I", "BI", "IE", "BIES", "S"])
@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_seqeval(prefixes, seed):
    classes = ("O", *(f"{prefix}-{kind}" for kind in ("X", "Y-Z") for prefix in prefixes))
    task = TaskSpec("t", "token_classification", labels=classes)
    predicted, labels = drawn(classes, seed)
    found = score_task(task, np.eye(len(classes))[predicted], labels)
    given, ours = as_tags(classes, labels, labels), as_tags(classes, predicted, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "span_f1": seqeval.f1_score(given, ours),
            "span_precision": seqeval.precision_score(given, ours),
            "span_recall": seqeval.recall_score(given, ours),
            "word_accuracy": seqeval.accuracy_score(given, ours),
        }
        report = seqeval.classification_report(given, ours, output_dict=True)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected)
    known = np.where(labels == -100, -100, predicted)
    assert scorer("span_f1", task)(known, labels) == pytest.approx(expected["span_f1"])
    (table,) = part_tables(task, known, labels)
    for row in table["rows"]:
        if row["entity"] in report:
            theirs = report[row["entity"]]
            assert (row["f1"], row["precision"], row["recall"]) == pytest.approx(
                (theirs["f1-score"], theirs["precision"], theirs["recall"])
            )
            assert row["labelled"] == theirs["support"]


def test_nothing_found_and_nothing_to_find():
    logits = np.eye(4)[np.zeros((2, 3), dtype=int)]
    assert score_task(SLOTS, logits, np.array([[0, 0, 1], [0, -100, -100]]))["span_f1"] == 0
    assert score_task(SLOTS, logits, np.zeros((2, 3))) == {
        "span_f1": 0.0,
        "span_precision": 0.0,
        "span_recall": 0.0,
        "word_accuracy": 1.0,
    }
    assert score_task(SLOTS, logits, np.full((2, 3), -100)) == {}


def test_labels_of_fewer_words_than_logits_are_of_the_first_words():
    logits = np.eye(4)[np.array([[0, 3, 3]])]
    assert score_task(SLOTS, logits, np.array([[0, 3]]))["span_f1"] == 1
    with pytest.raises(InputError, match=r"labels must be \(1, 3\), but are \(3,\)"):
        score_task(SLOTS, logits, np.zeros(3))


def test_metrics_of_rows_do_not_suit_words():
    assert all_metrics(SLOTS)[0] == "span_f1" and check_metric(SLOTS, "span_recall") == []
    (problem,) = check_metric(SLOTS, "accuracy")
    assert "cannot score a token_classification" in str(problem)
    (problem,) = check_metric(TaskSpec("t", labels=2), "span_f1")
    assert "cannot score a single_label_classification" in str(problem)


def test_a_metric_needs_the_names_of_the_tags():
    with pytest.raises(InputError, match="need the names of the tags"):
        METRICS["span_f1"].build().compute(predictions=[[0, 1]], references=[[0, 1]])


def test_a_metric_of_ones_own_gets_ids_by_word(monkeypatch):
    monkeypatch.setattr(own_metrics, "METRICS", dict(METRICS))
    monkeypatch.setattr(metrics, "METRICS", own_metrics.METRICS)
    found = lambda x, y: float((x[y != -100] > 0).mean())  # noqa: E731
    own_metrics.register_metric("found", found, problem_types=["token_classification"])
    own_metrics.register_metric("of_rows", lambda x, y: 1.0)
    assert "found" in all_metrics(SLOTS) and "of_rows" not in all_metrics(SLOTS)
    logits = np.eye(4)[np.array([[0, 3, 3]])]
    assert score_task(SLOTS, logits, np.array([[0, 3, -100]]), names=("found",))["found"] == 0.5


def test_scores_of_resamples_are_those_of_the_repeated_rows():
    random = np.random.default_rng(3)
    labels = random.integers(0, 4, size=(30, 7))
    labels[random.random(labels.shape) < 0.2] = -100
    labels[4] = -100  # a row without labels
    predicted = np.where(random.random(labels.shape) < 0.6, np.maximum(labels, 0), random.integers(0, 4, labels.shape))
    weights = random.multinomial(30, np.full(30, 1 / 30), size=20)
    counts = [counts_by_row(ids, labels, SLOTS.classes) for ids in (predicted, labels)]
    for name in EntityScores.names:
        found = resampled(name, *counts, weights)
        for row, score in zip(weights, found, strict=True):
            chosen = np.repeat(np.arange(30), row)
            results = (
                METRICS[name]
                .build()
                .compute(predictions=predicted[chosen], references=labels[chosen], classes=SLOTS.classes)
            )
            assert score == pytest.approx(results[name])
    nothing = np.zeros((30, 3))
    assert all((resampled(name, nothing, nothing, weights) == 0).all() for name in EntityScores.names)


def test_counts_of_rows_do_not_depend_on_the_padding():
    labels = np.array([[1, 2, -100], [3, -100, -100]])
    predicted = np.array([[1, 2], [3, 0]])
    expected = [[1, 1, 2], [1, 1, 1]]
    assert counts_by_row(predicted, labels, SLOTS.classes).tolist() == expected
    wider = np.pad(predicted, ((0, 0), (0, 3)))
    assert counts_by_row(wider, labels, SLOTS.classes).tolist() == expected
    with pytest.raises(InputError, match="have at most 1 words a row, but the labels have more"):
        counts_by_row(predicted[:, :1], labels, SLOTS.classes)
