"""Ordinal tasks (CORN): the paper's formulas as loops, and every way in which a model gives an answer."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import pipeline

from mtbert.errors import InputError
from mtbert.evaluation.course_files import CourseFile
from mtbert.evaluation.ensemble import combine
from mtbert.evaluation.prediction_files import prediction_columns
from mtbert.modeling import heads, ordinal
from mtbert.modeling.answers import Prediction
from mtbert.modeling.decoding import decisions, probabilities
from mtbert.modeling.hub_upload import add_code
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.pipeline import PIPELINE_TASK
from mtbert.modeling.task_spec import TaskSpec

URGENCY = TaskSpec("urgency", ordinal=True, labels=("1", "2", "3", "4", "5"))
TEXTS = ["the cat sleeps .", "a dog", "is the old house not very good ?", "fish"]


def drawn(rows=200, columns=4, scale=1.5):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * scale


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def published_loss(logits, labels, classes):
    """Equation 4, by the loop of coral-pytorch's `corn_loss`: over subsets, divided by the rows of all subsets."""
    total = rows = 0
    for task in range(classes - 1):
        chosen = labels > task - 1
        target = (labels[chosen] > task).to(logits)
        rows += len(target)
        z = logits[chosen, task]
        total -= (F.logsigmoid(z) * target + (F.logsigmoid(z) - z) * (1 - target)).sum()
    return total / rows


class TestFormulas:
    def test_the_loss_is_the_published_one_times_the_mean_number_of_subsets_of_a_row(self):
        logits, labels = drawn(), torch.arange(200) % 5
        losses, _ = heads.row_losses(URGENCY, logits, labels)
        subsets = (labels + 1).clamp(max=4).double().mean()
        published = published_loss(logits.float(), labels, 5)
        torch.testing.assert_close(losses.mean(), published * subsets.float())
        torch.testing.assert_close(losses, -probabilities_by_hand(logits)[range(200), labels].log().float())

    def test_a_missing_label_costs_nothing(self):
        losses, mask = heads.row_losses(URGENCY, drawn(3), torch.tensor([2, -100, 4]))
        assert losses[1] == 0 and mask.tolist() == [True, False, True] and (losses[[0, 2]] > 0).all()

    def test_probabilities_are_differences_of_products(self):
        logits = drawn()
        found = URGENCY.kind.probabilities(logits)
        torch.testing.assert_close(found, probabilities_by_hand(logits))
        torch.testing.assert_close(found.sum(1), torch.ones(200, dtype=torch.float64))

    def test_the_answer_counts_cumulative_probabilities_above_a_half(self):
        logits = drawn(scale=3.0) + 0.5
        expected = [sum(math.prod(map(sigmoid, row[: k + 1])) > 0.5 for k in range(4)) for row in logits.tolist()]
        assert URGENCY.kind.decisions(logits).tolist() == expected
        assert set(expected) == {0, 1, 2, 3, 4}

    def test_logits_are_found_again_from_probabilities(self):
        logits = drawn()
        torch.testing.assert_close(ordinal.logits_of(ordinal.log_probabilities(logits)), logits)
        p = ordinal.probabilities_of(ordinal.exceedances(logits))
        torch.testing.assert_close(p, ordinal.log_probabilities(logits).exp())

    def test_two_classes_are_a_binary_classification(self):
        logits, labels = drawn(50, 1), torch.arange(50) % 2
        two, binary = TaskSpec("t", ordinal=True, labels=2), TaskSpec("t", "binary_classification", labels=2)
        for one, other in zip(
            heads.row_losses(two, logits, labels), heads.row_losses(binary, logits, labels), strict=True
        ):
            torch.testing.assert_close(one, other)
        torch.testing.assert_close(two.kind.probabilities(logits), binary.kind.probabilities(logits))
        assert torch.equal(two.kind.decisions(logits), binary.kind.decisions(logits))

    def test_extreme_logits_stay_finite(self):
        logits = torch.full((2, 4), 300.0, requires_grad=True)
        losses, _ = heads.row_losses(URGENCY, torch.stack([logits[0], -logits[1]]), torch.tensor([0, 4]))
        losses.sum().backward()
        assert losses.isfinite().all() and logits.grad.isfinite().all()


def probabilities_by_hand(logits):
    rows = []
    for row in logits.tolist():
        above = [1.0, *(math.prod(map(sigmoid, row[: k + 1])) for k in range(len(row))), 0.0]
        rows.append([above[k] - above[k + 1] for k in range(len(row) + 1)])
    return torch.tensor(rows, dtype=torch.float64)


class TestSpec:
    def test_both_ways_to_write_it_are_one_task(self):
        other = TaskSpec("urgency", "ordinal_classification", labels=["1", "2", "3", "4", "5"])
        assert other == URGENCY == TaskSpec.from_dict(URGENCY.to_dict())
        assert (URGENCY.num_labels, URGENCY.kind.binary, URGENCY.ordinal) == (4, False, True)
        assert "ordinal" not in URGENCY.to_dict()  # config.json has problem_type
        assert replace(URGENCY, labels=3).num_labels == 2

    def test_other_tasks_are_written_as_before(self):
        assert "ordinal" not in TaskSpec("t", labels=3).to_dict()
        assert not TaskSpec("t", labels=3).ordinal

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"labels": None}, "labels are missing"),
            ({"labels": ["one"]}, "labels has 1 name"),
            ({"labels": ["1", "3", "2"]}, "labels .*'1', '3', '2'.* are numbers that are not in order"),
            ({"range": (1, 5)}, "range is for regressions"),
            ({"problem_type": "regression", "labels": None}, "ordinal is true, but problem_type is 'regression'"),
            ({"problem_type": "single_label_classification"}, "ordinal is true, but problem_type is 'single_label"),
            ({"ordinal": "yes"}, "ordinal is 'yes', but must be true or false"),
            ({"head": {"type": "cosine"}, "texts": 2, "pair": "siamese"}, "a cosine head needs a regression"),
            ({"calibration": {"thresholds": [0.5, 0.5]}}, "thresholds has 2 numbers, but must have none"),
        ],
    )
    def test_what_is_wrong_is_told(self, fields, message):
        with pytest.raises(InputError, match=message):
            TaskSpec("t", **{"ordinal": True, "labels": ["1", "2", "3"], **fields})

    @pytest.mark.parametrize("labels", [["low", "high"], ["5", "3", "1"], ["-1", "0", "0.5"], ["1", "2", "many"], 5])
    def test_labels_in_order(self, labels):
        assert TaskSpec("t", ordinal=True, labels=labels).ordinal


class TestAnswers:
    def test_a_temperature_divides_logits_before_the_median_is_taken(self):
        logits = np.array([[1.4, 0.9, 0.0, 0.0]])  # P(y > 1) is .57, and .44 at twice the temperature
        warm = replace(URGENCY, calibration={"temperature": 3.0})
        assert (Prediction.of(URGENCY, logits).labels, Prediction.of(warm, logits).labels) == (["3"], ["2"])
        np.testing.assert_allclose(probabilities(warm, logits), probabilities_by_hand(torch.tensor(logits / 3)))
        above = 1 - probabilities(warm, logits).cumsum(1)[:, :-1]
        assert decisions(warm, logits) == (above > 0.5).sum(1)

    def test_confidence_sets_and_abstention(self):
        logits = drawn(30).numpy()
        task = replace(URGENCY, calibration={"coverage": 0.8, "quantile": 0.7, "abstain_below": 0.4})
        found, p = Prediction.of(task, logits), probabilities_by_hand(torch.tensor(logits)).numpy()
        chosen = decisions(task, logits)
        np.testing.assert_allclose(found.confidence, p[range(30), chosen])
        assert found.sets == [[URGENCY.classes[i] for i in range(5) if row[i] >= 0.3] for row in p]
        assert (found.abstained == (p[range(30), chosen] < 0.4)).all()

    def test_a_threshold_of_two_classes(self):
        task = TaskSpec("t", ordinal=True, labels=("no", "yes"), calibration={"thresholds": [0.3]})
        assert Prediction.of(task, np.log(np.array([[0.29 / 0.71], [0.31 / 0.69]]))).labels == ["no", "yes"]

    def test_prediction_files_have_a_column_for_each_class(self):
        table = prediction_columns(URGENCY, np.float32([[3.0, 3.0, -3.0, 0.0]]))
        assert list(table) == ["urgency", *(f"urgency:{i}" for i in range(1, 6))]
        assert table["urgency"] == ["3"] and sum(table[f"urgency:{i}"][0] for i in range(1, 6)) == pytest.approx(1)

    def test_the_course_has_a_file_of_sentiments(self):
        file = CourseFile(TaskSpec("stars", ordinal=True, labels=5))
        assert file.heading == "Predicted_Sentiment"
        assert file.values(np.float32([[9, 9, -9, 0], [-9, 0, 0, 0], [9, 9, 9, 9]])) == ["2", "0", "4"]
        assert CourseFile(URGENCY, "similarity").values(np.float32([[9, 9, 9, 9]])) == ["5.0"]

    @pytest.mark.parametrize("count", [1, 3])
    def test_an_ensemble_is_the_mean_of_the_distributions(self, count):
        members = [drawn(20, 4, scale).numpy() for scale in (1.0, 3.0, 0.3)[:count]]
        mean = np.mean([probabilities_by_hand(torch.tensor(member)) for member in members], axis=0)
        found = combine(URGENCY, members)
        np.testing.assert_allclose(probabilities(URGENCY, found), mean)
        assert (decisions(URGENCY, found) == (1 - mean.cumsum(1)[:, :-1] > 0.5).sum(1)).all()
        assert np.isfinite(combine(URGENCY, [np.full((2, 4), 1000.0), np.full((2, 4), -1000.0)])).all()


class TestModel:
    @pytest.fixture
    def model(self, make_model, tasks):
        return make_model([*tasks, URGENCY]).eval()

    def test_forward_has_the_loss_of_the_labels(self, model, tokenizer):
        inputs = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"), task="urgency")
        with torch.no_grad():
            output = model(**inputs, labels=torch.tensor([0, 4, 2, -100]))
        assert output.logits.shape == (4, 4)
        expected = -probabilities_by_hand(output.logits.double())[range(3), [0, 4, 2]].log().mean()
        assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
        with pytest.raises(InputError, match="5 in row 0, but must be whole numbers from 0 to 4"):
            model(**inputs, labels=torch.tensor([5, 4, 2, 0]))

    def test_it_is_saved_added_and_taken_out(self, model, make_model, tokenizer, tmp_path):
        model.save_pretrained(tmp_path)
        again = MtBertForMultiTask.from_pretrained(tmp_path).eval()
        expected = model.predict(TEXTS, tasks="urgency", tokenizer=tokenizer)
        for other in (again, model.extract_task("urgency")):
            found = other.predict(TEXTS, tasks="urgency", tokenizer=tokenizer)
            np.testing.assert_array_equal(found.logits, expected.logits)
            assert found.labels == expected.labels
        with pytest.raises(InputError, match="has no decoding of an ordinal task's logits"):
            model.extract_task("urgency", to="sequence_classification")
        plain = make_model()
        plain.add_task(URGENCY)
        assert plain.heads["urgency"].out_proj.out_features == 4
        assert set(plain.predict(TEXTS, tasks="urgency", tokenizer=tokenizer).labels) <= set(URGENCY.classes)

    def test_the_pipeline_gives_the_median_and_all_probabilities(self, model, tokenizer):
        expected = model.predict(TEXTS, tasks="urgency", tokenizer=tokenizer)
        pipe = pipeline(PIPELINE_TASK, model=model, tokenizer=tokenizer)
        found = pipe(TEXTS, tasks="urgency")
        assert [answer["label"] for answer in found] == expected.labels
        assert [answer["score"] for answer in found] == pytest.approx(expected.confidence.tolist(), abs=1e-5)
        (all_labels,) = pipe(TEXTS[:1], tasks="urgency", top_k=None)
        assert {answer["label"] for answer in all_labels} == set(URGENCY.classes)
        assert sum(answer["score"] for answer in all_labels) == pytest.approx(1)

    def test_a_graph_has_its_logits(self, model, tokenizer, tmp_path):
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        (name,) = model.export_onnx(tmp_path / "model.onnx", "urgency")
        inputs = tokenizer(TEXTS, padding=True, return_tensors="np")
        session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
        zeros = np.zeros_like(inputs["input_ids"])
        given = {each.name: inputs.get(each.name, zeros).astype(np.int64) for each in session.get_inputs()}
        expected = model.predict(TEXTS, tasks="urgency", tokenizer=tokenizer)
        np.testing.assert_allclose(session.run([name], given)[0], expected.logits, atol=1e-4)

    def test_it_answers_by_the_code_beside_it(self, model, tokenizer, tmp_path):
        """As on a hub: without mtbert."""
        model.save_pretrained(tmp_path / "saved")
        tokenizer.save_pretrained(tmp_path / "saved")
        add_code(tmp_path / "saved")
        code = (
            "import json, sys\nsys.modules['mtbert'] = None\nfrom transformers import AutoModel\n"
            "model = AutoModel.from_pretrained('saved', trust_remote_code=True)\n"
            f"print(json.dumps(model.predict({TEXTS!r}, tasks='urgency').to_dict()))"
        )
        environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        expected = model.predict(TEXTS, tasks="urgency", tokenizer=tokenizer).to_dict()
        assert found["urgency"] == expected["urgency"]
        assert found["urgency:3"] == pytest.approx(expected["urgency:3"], abs=1e-5)
