"""The report of an ordinal task: what a classification has, and distances in ranks."""

import numpy as np
import pytest
from scipy.special import expit

from mtbert.evaluation.report.analysis import analyse_run, analyse_task
from mtbert.evaluation.report.course import RunLog
from mtbert.evaluation.report.write import write_report
from mtbert.modeling.task_spec import TaskSpec

URGENCY = TaskSpec("urgency", ordinal=True, labels=("low", "middle", "high", "now"))


@pytest.fixture
def rows(make_rows):
    labels = np.arange(60) % 4
    logits = np.random.default_rng(0).normal(size=(60, 3)) + 2 * (labels[:, None] > np.arange(3)) - 1
    return make_rows(URGENCY, 60, labels=labels, logits=logits, groups={"sex": ["f", "m"] * 30})


def test_distances_are_in_ranks(rows):
    found = analyse_task(rows, "qwk")
    away = rows.predicted - rows.labels
    assert found["within_one"]["within_one_class"] == found["scores"]["within_one"] == np.mean(abs(away) <= 1)
    assert found["scores"]["mae"] == pytest.approx(np.mean(abs(away)))
    assert found["signed_error"]["length"]["points"]["error"] == away.tolist()
    assert set(found["scores"]) == {"qwk", "mae", "within_one", "accuracy", "f1_macro", "f1_micro", "matthews"}


def test_decisions_and_calibration_are_those_of_its_probabilities(rows):
    found = analyse_task(rows, "qwk")
    above = np.hstack([np.ones((60, 1)), expit(rows.logits).cumprod(1), np.zeros((60, 1))])
    p = above[:, :-1] - above[:, 1:]
    np.testing.assert_allclose(rows.probabilities, p)
    np.testing.assert_allclose(rows.losses, -np.log(p[range(60), rows.labels]))
    assert (rows.predicted == (above[:, 1:-1] > 0.5).sum(1)).all()
    counts = np.zeros((4, 4), dtype=int)
    np.add.at(counts, (rows.labels, rows.predicted), 1)
    assert found["classes"]["counts"] == counts.tolist()
    bins = found["calibration"]["bins"]
    assert sum(each["rows"] * each["confidence"] for each in bins) == pytest.approx(p[range(60), rows.predicted].sum())


def test_its_page_is_written(rows, tmp_path, monkeypatch):
    monkeypatch.setattr("mtbert.evaluation.report.write._png", lambda picture: b"png")
    monkeypatch.setattr("mtbert.evaluation.report.write._svg", lambda picture, prefix, title: [])
    run = {"name": "runs/a", "against": None, "split": "dev", "examples": 5, "resamples": 20, "seed": 0, "notes": []}
    numbers = analyse_run({"urgency": rows}, {"urgency": "qwk"}, RunLog(tmp_path, (), {}, {}), None, 5)
    html = write_report(tmp_path / "report", {**numbers, "run": run}).read_text("utf-8")
    for text in ("qwk", "within one class", "Signed error by length", "Calibration"):
        assert text in html
