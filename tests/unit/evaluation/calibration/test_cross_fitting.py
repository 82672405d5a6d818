"""Cross-fitting: folds, no row is scored by a fit that saw it, and figures against scikit-learn."""

import json

import numpy as np
import pytest
from datasets import Dataset
from scipy.special import expit
from sklearn.metrics import precision_recall_fscore_support

from mtbert.errors import InputError
from mtbert.evaluation.calibration import Goals, calibrate_task, cross_fitting
from mtbert.evaluation.calibration.folds import make_folds, strata, text_groups
from mtbert.evaluation.report import TaskRows
from mtbert.modeling.task_spec import TaskSpec

STARS = TaskSpec("stars", labels=("bad", "fair", "good"))
SPAM = TaskSpec("spam", "binary_classification", labels=("no", "yes"))
TAGS = TaskSpec("tags", "multi_label_classification", labels=("a", "b"))
SCORE = TaskSpec("score", range=(0, 5))
ALL = (STARS, SPAM, TAGS, SCORE)


def make_rows(task, count=400, seed=0, texts=None, noise=1.0, labels=None) -> TaskRows:
    random = np.random.default_rng(seed)
    texts = [f"text {i}" for i in range(count)] if texts is None else texts
    logits = random.normal(0, noise, (count, task.num_labels))
    if task.kind.several:
        labels = (random.random((count, task.num_labels)) < 0.5).astype(float) if labels is None else labels
        logits += 2 * labels - 1
    elif task.kind.numeric:
        labels = random.uniform(0, 5, count) if labels is None else labels
        logits += labels[:, None]
    else:
        labels = random.integers(0, len(task.classes), count) if labels is None else labels
        logits += np.eye(len(task.classes))[labels] if task.kind.exclusive else 2 * labels[:, None] - 1.0
    columns = {"text": texts, "row": list(range(1, count + 1))}
    return TaskRows.of(task, Dataset.from_dict(columns), 2 * logits if not task.kind.numeric else logits, labels)


class TestFolds:
    def test_equal_texts_share_a_fold(self):
        texts = [("A cat.", "A dog."), ("a  dog.", "A CAT."), ("A cat.", "A cow."), ("A cat.", "A dog.")]
        assert text_groups(texts).tolist() == [0, 0, 1, 0]
        groups = np.random.default_rng(0).integers(0, 40, 300)
        folds = make_folds(np.zeros(300), groups, 5, seed=1)
        assert all(len(set(folds[groups == group])) == 1 for group in range(40))

    def test_are_stratified_and_seeded(self):
        labels = np.array([0] * 70 + [1] * 20 + [2] * 10)
        folds = make_folds(labels, np.arange(100), 5, seed=3)
        for fold in range(5):
            assert np.bincount(labels[folds == fold]).tolist() == [14, 4, 2]
        assert (folds == make_folds(labels, np.arange(100), 5, seed=3)).all()
        assert (folds != make_folds(labels, np.arange(100), 5, seed=4)).any()

    def test_strata_of_scores_and_of_several_labels(self):
        assert np.bincount(strata(SCORE, np.arange(100.0))).tolist() == [10] * 10
        several = np.array([[1, 1], [1, 0], [0, 0], [1, np.nan]])
        assert strata(TAGS, several).tolist() == [1, 0, -1, 0]

    def test_too_few_different_texts_are_refused(self):
        with pytest.raises(InputError, match="'stars' has 4 labelled rows with different texts, but 5 folds need 5"):
            calibrate_task(make_rows(STARS, 8, texts=["a", "b", "c", "d"] * 2), Goals())


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
class TestCrossFitting:
    def test_scores_no_row_by_a_fit_that_saw_it(self, task, monkeypatch):
        rows, seen, scored = make_rows(task), [], []
        number = {row.tobytes(): i for i, row in enumerate(rows.logits)}
        whole, decide = cross_fitting.fit, cross_fitting.decide

        def fit(spec, logits, *args):
            seen.append({number[row.tobytes()] for row in logits})
            return whole(spec, logits, *args)

        def decided(spec, logits, fold_of, fits):
            scored.extend({int(i) for i in np.flatnonzero(fold_of == fold)} for fold in range(len(fits)))
            return decide(spec, logits, fold_of, fits)

        monkeypatch.setattr(cross_fitting, "fit", fit)
        monkeypatch.setattr(cross_fitting, "decide", decided)
        calibrate_task(rows, Goals())
        everything, *parts = seen
        assert everything == set(range(400)) and len(parts) == len(scored) == 5
        for part, test in zip(parts, scored, strict=True):
            assert test and not part & test and part | test == everything

    def test_figures_are_json_and_name_the_calibration(self, task):
        calibration, figures = calibrate_task(make_rows(task), Goals())
        assert json.loads(json.dumps(figures, allow_nan=False))["calibration"] == calibration.to_dict()
        assert figures["rows"] == sum(fold["rows"] for fold in figures["folds"]) == 400

    def test_is_the_same_for_the_same_seed(self, task):
        rows = make_rows(task)
        assert calibrate_task(rows, Goals(), seed=4) == calibrate_task(rows, Goals(), seed=4)


def test_a_precision_that_only_noise_reached_is_not_reported():
    """On the rows that it was fitted on, the threshold has the precision; on others, of pure noise, it has not."""
    reached = []
    for seed in range(8):
        random = np.random.default_rng(seed)
        labels = np.array([0, 1] * 150)
        rows = make_rows(SPAM, 300, seed, labels=labels)
        noise = TaskRows(SPAM, random.normal(0, 1, (300, 1)), labels, rows.texts, rows.names)
        calibration, figures = calibrate_task(noise, Goals(precision=0.55), seed=seed)
        if calibration.thresholds is not None:
            reached.append(figures["thresholds"]["yes"]["with"]["precision"] or 0)
    assert np.mean(reached) < 0.55


def test_figures_of_thresholds_are_those_of_scikit_learn():
    rows = make_rows(SPAM, 600, noise=2)
    _, figures = calibrate_task(rows, Goals())
    label = figures["thresholds"]["yes"]
    precision, recall, f1, _ = precision_recall_fscore_support(rows.labels, rows.logits[:, 0] > 0, average="binary")
    assert label["without"] == pytest.approx({"precision": precision, "recall": recall, "f1": f1})
    assert label["rows"] == rows.labels.sum()
    assert max(map(len, label["curve"].values())) <= 200


def test_temperature_lowers_the_loss_of_an_overconfident_head():
    rows = make_rows(STARS, 600)
    hot = TaskRows(STARS, rows.logits * 4, rows.labels, rows.texts, rows.names)
    calibration, figures = calibrate_task(hot, Goals())
    assert calibration.temperature > 2
    assert figures["nll"]["after"] < figures["nll"]["before"]
    assert figures["reliability"]["after"]["ece"] < figures["reliability"]["before"]["ece"]
    assert figures["sets"]["covered"] == pytest.approx(0.9, abs=0.04)
    assert sum(figures["sets"]["sizes"].values()) == pytest.approx(1)


def test_missing_entries_of_several_labels_are_left_out():
    labels = (np.random.default_rng(0).random((500, 2)) < 0.5).astype(float)
    rows = make_rows(TAGS, 500, labels=labels.copy())
    gaps = rows.labels.copy()
    gaps[:80, 1] = np.nan
    with_gaps = TaskRows(TAGS, rows.logits, gaps, rows.texts, rows.names)
    _, figures = calibrate_task(with_gaps, Goals())
    given = expit(rows.logits[80:, 1]) > 0.5
    expected = precision_recall_fscore_support(labels[80:, 1], given, average="binary")[2]
    assert figures["thresholds"]["b"]["without"]["f1"] == pytest.approx(expected)
    assert "sets" not in figures and "abstention" not in figures


def test_what_is_not_fitted_is_named():
    labels = np.array([0] * 150 + [1] * 40)
    _, figures = calibrate_task(make_rows(SPAM, 190, labels=labels), Goals())
    assert "no threshold for 'yes': only 40 rows are 'yes', but 100 of each class are needed" in figures["notes"]
    assert "thresholds" not in figures
    _, figures = calibrate_task(make_rows(STARS, 8), Goals())
    assert "no sets: a coverage of 0.9 needs 9 rows, but there are 8" in figures["notes"]
    assert any(note.startswith("no temperature: it needs 20 rows") for note in figures["notes"])


def test_folds_that_cannot_fit_a_part_are_left_out_of_its_figures():
    _, figures = calibrate_task(make_rows(SCORE, 10), Goals())
    assert figures["calibration"]["quantile"] is not None and "intervals" not in figures
    assert figures["notes"] == ["5 of 5 folds could not fit sets; the figures of sets leave them out"]


def test_rows_of_one_class_are_calibrated_without_a_temperature():
    calibration, figures = calibrate_task(make_rows(STARS, 60, labels=np.ones(60, dtype=np.int64)), Goals())
    assert calibration.temperature == 1 and calibration.quantile is not None
    assert "no temperature: all rows have the same label" in figures["notes"]
