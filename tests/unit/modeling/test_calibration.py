"""A task's calibration changes its answers by one rule, and a task without one answers as before."""

import json

import numpy as np
import pytest

from mtbert.errors import InputError
from mtbert.evaluation.prediction_files import prediction_columns
from mtbert.modeling.answers import Prediction
from mtbert.modeling.calibration import Calibration
from mtbert.modeling.configuration_mtbert import TaskSpec
from mtbert.modeling.decoding import decisions, probabilities

LOGITS = np.array([[1.0, -1.0, 0.2], [0.0, 2.0, 1.0], [-3.0, -1.0, 4.0]], dtype=np.float32)


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def task(**fields):
    return TaskSpec("mood", **{"labels": ("low", "middle", "high"), **fields})


class TestTemperature:
    def test_divides_logits(self):
        scaled = task(calibration={"temperature": 2.5})
        assert probabilities(scaled, LOGITS) == pytest.approx(softmax(LOGITS / 2.5), abs=1e-6)

    def test_keeps_the_most_probable_label(self):
        assert (decisions(task(calibration={"temperature": 7.0}), LOGITS) == LOGITS.argmax(axis=1)).all()

    def test_keeps_precision(self):
        assert probabilities(task(calibration={"temperature": 2.5}), LOGITS).dtype == np.float32
        assert probabilities(task(calibration={"temperature": 2.5}), LOGITS.astype(np.float64)).dtype == np.float64

    def test_of_one_is_none(self):
        assert (probabilities(task(calibration={}), LOGITS) == probabilities(task(), LOGITS)).all()


class TestThresholds:
    def test_of_several_labels(self):
        of_labels = TaskSpec(
            "tags",
            "multi_label_classification",
            labels=("a", "b", "c"),
            calibration={"thresholds": [0.7, None, 0.9]},
        )
        logits = np.array([[0.8, 0.1, 2.0], [0.9, 0.0, 2.3]])  # sigmoid: .69 .525 .881, .711 .5 .909
        assert decisions(of_labels, logits).tolist() == [[0, 1, 0], [1, 0, 1]]

    def test_equality_gives_the_label(self):
        of_labels = TaskSpec(
            "tags", "multi_label_classification", labels=("a",), calibration={"thresholds": [0.5], "temperature": 3}
        )
        assert decisions(of_labels, np.zeros((1, 1))).tolist() == [[1]]

    @pytest.mark.parametrize("problem_type", ["binary_classification", "single_label_classification"])
    def test_of_two_classes(self, problem_type):
        binary = TaskSpec("spam", problem_type, labels=("no", "yes"), calibration={"thresholds": [0.3]})
        p = np.array([0.29, 0.31, 0.8])
        logits = np.log(p / (1 - p))[:, None]
        logits = logits if binary.kind.binary else np.concatenate([np.zeros_like(logits), logits], axis=1)
        prediction = Prediction.of(binary, logits)
        assert prediction.labels == ["no", "yes", "yes"]
        assert prediction.confidence == pytest.approx([0.71, 0.31, 0.8])


class TestSets:
    def test_hold_probable_labels(self):
        conformal = task(calibration={"coverage": 0.9, "quantile": 0.8})
        p = softmax(LOGITS)
        expected = [[name for name, of in zip(conformal.classes, row, strict=True) if of >= 0.2] for row in p]
        assert Prediction.of(conformal, LOGITS).sets == expected

    def test_intervals_stay_in_the_range(self):
        spec = TaskSpec("score", range=(0, 5), calibration={"coverage": 0.8, "quantile": 0.5})
        intervals = Prediction.of(spec, np.array([[0.2], [3.0], [4.9]])).sets
        assert intervals == [pytest.approx(row) for row in [(0, 0.7), (2.5, 3.5), (4.4, 5)]]

    def test_need_a_fitted_coverage(self):
        with pytest.raises(InputError, match="mtbert calibrate"):
            _ = Prediction.of(task(), LOGITS).sets


class TestFiles:
    def test_have_columns_for_what_was_fitted(self):
        spec = task(calibration={"coverage": 0.9, "quantile": 0.8, "abstain_below": 0.7})
        columns = prediction_columns(spec, LOGITS)
        assert columns["mood.set"] == ["low|high", "middle|high", "high"]
        assert columns["mood.abstained"] == ["true", "true", "false"]
        assert Prediction.of(spec, LOGITS).to_dict()["mood.abstained"] == [True, True, False]

    def test_have_no_further_columns_without(self):
        assert list(prediction_columns(task(), LOGITS)) == ["mood", "mood:low", "mood:middle", "mood:high"]


class TestConfig:
    def test_without_calibration_is_as_before(self):
        assert "calibration" not in task().to_dict()

    def test_round_trip(self):
        spec = TaskSpec(
            "tags", "multi_label_classification", labels=("a", "b"), calibration={"thresholds": [0.25, None]}
        )
        assert TaskSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"temperature": 0.0}, "temperature is 0.0, but must be positive"),
            ({"thresholds": [0.5, 0.5, 0.5]}, "thresholds has 3 numbers, but must have none"),
            ({"coverage": 0.9}, "quantile and coverage belong together"),
            ({"abstain_below": 1.2}, r"abstain_below is 1.2, but must lie in \[0, 1\]"),
            ({"quantile": -1.0, "coverage": 0.9}, "quantile is -1.0, but must be 0 or more"),
            ({"temperature": "warm"}, "temperature is 'warm', but must be a finite number"),
            ({"heat": 1.0}, "unknown keys"),
        ],
    )
    def test_refuses(self, fields, message):
        with pytest.raises(InputError, match=message):
            task(calibration=fields)

    def test_regression_has_no_temperature(self):
        with pytest.raises(InputError, match="a regression has none"):
            TaskSpec("score", calibration=Calibration(temperature=2.0))

    def test_threshold_outside(self):
        with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
            TaskSpec("spam", "binary_classification", labels=2, calibration={"thresholds": [1.5]})
