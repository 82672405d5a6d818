"""A run's course out of its log, against hand-made logs."""

import json
import math

import numpy as np
import pytest

from mtbert.data.sampling import Plan, Schedule
from mtbert.evaluation.report.course import (
    StagedPlan,
    best,
    conflicts,
    cost,
    learning_curves,
    pretraining_losses,
    read_run,
    sampling,
)

LOG = [
    {"step": 0, "epoch": 0, "eval_a_accuracy": 0.2, "eval_a_loss": 1.5, "eval_overall": 0.3, "eval_runtime": 1.0},
    {"step": 5, "epoch": 0.5, "loss": 2.0, "examples_a": 30, "loss_a": 1.2, "examples_b": 10, "loss_b": 3.0},
    {"step": 10, "epoch": 1.0, "loss": 1.9, "examples_a": 40, "loss_a": 1.1, "examples_b": 0},
    {"step": 10, "epoch": 1.0, "eval_a_accuracy": 0.6, "eval_overall": 0.5, "train_a_accuracy": 0.7, "eval_runtime": 2},
    {"step": 20, "epoch": 2.0, "loss": 1.5, "examples_a": 20, "loss_a": 1.0, "examples_b": 60, "loss_b": 2.0},
    {"step": 20, "epoch": 2.0, "eval_a_accuracy": 0.6, "eval_overall": 0.4, "eval_runtime": 2.0},
    {"step": 20, "epoch": 2.0, "train_runtime": 25.0, "train_loss": 1.7},
    {"step": 20, "epoch": 2.0, "eval_a_accuracy": 0.9, "eval_overall": 0.9, "eval_runtime": 50.0},
]  # fmt: skip


def test_curves_are_the_logged_values_by_epoch():
    found = learning_curves(LOG, {"a": "accuracy", "b": "pearson"})
    a = found["tasks"]["a"]
    assert [(each["epoch"], each["value"]) for each in a["loss"]] == [(0.5, 1.2), (1, 1.1), (2, 1.0)]
    assert [(each["step"], each["value"]) for each in a["train"]["accuracy"]] == [(10, 0.7)]
    assert [each["value"] for each in a["dev"]["loss"]] == [1.5]
    assert found["tasks"]["b"]["dev"] == {}
    assert found["tasks"]["b"]["best"] is None


def test_the_model_scored_after_training_is_no_point_of_the_course():
    """It may be an earlier step's, loaded at the end."""
    found = learning_curves(LOG, {"a": "accuracy"})
    assert [each["value"] for each in found["tasks"]["a"]["dev"]["accuracy"]] == [0.2, 0.6, 0.6]
    assert [each["value"] for each in found["overall"]["dev"]] == [0.3, 0.5, 0.4]


def test_the_best_epoch_is_the_first_of_the_best():
    found = learning_curves(LOG, {"a": "accuracy"})
    assert found["tasks"]["a"]["best"] == {"epoch": 1.0, "step": 10, "value": 0.6}
    assert found["overall"]["best"]["epoch"] == 1.0
    course = [{"value": math.nan}, {"value": 3.0}, {"value": 1.0}]
    assert best(course, rises=False) == {"value": 1.0}
    assert best(course[:1]) is None


def test_losses_of_a_pretraining():
    log = [
        {"step": 4, "epoch": 1.0, "loss": 3.0, "learning_rate": 1e-5},
        {"step": 4, "epoch": 1.0, "eval_loss": 2.5, "eval_runtime": 1.0},
        {"step": 8, "epoch": 2.0, "loss": 2.0},
        {"step": 8, "epoch": 2.0, "eval_loss": 2.25},
        {"step": 12, "epoch": 3.0, "loss": 1.5},
        {"step": 12, "epoch": 3.0, "eval_loss": 2.375},
        {"step": 12, "epoch": 3.0, "train_runtime": 5.0, "train_loss": 2.2},
    ]
    found = pretraining_losses(log, use_epoch=3)
    assert [(point["epoch"], point["value"]) for point in found["train"]] == [(1, 3.0), (2, 2.0), (3, 1.5)]
    assert [(point["step"], point["value"]) for point in found["dev"]] == [(4, 2.5), (8, 2.25), (12, 2.375)]
    assert found["best"] == {"epoch": 2.0, "step": 8, "value": 2.25} and found["use_epoch"] == 3
    without_dev = pretraining_losses(log[::2])
    assert without_dev["dev"] == [] and without_dev["best"] is without_dev["use_epoch"] is None
    assert pretraining_losses([]) is None


def test_what_was_sampled_is_counted_by_epoch_and_stands_beside_the_plan():
    plan = Plan(Schedule("annealed", steps_per_epoch=10), ("a", "b"), (90, 10), 8, 2, seed=1)
    table = sampling(LOG, ["a", "b"], plan)
    assert [each["sampled"] for each in table] == [{"a": 70, "b": 10}, {"a": 20, "b": 60}]
    assert table[0]["probability"] == pytest.approx({"a": 0.9, "b": 0.1})
    weights = np.array([90, 10]) ** 0.2
    assert list(table[1]["probability"].values()) == pytest.approx(weights / weights.sum())
    for each in table:
        assert sum(each["planned"].values()) == 80
        assert list(each["planned"].values()) == plan.epoch_rows(each["epoch"] - 1).tolist()
    assert "planned" not in sampling(LOG, ["a", "b"], None)[0]
    in_turn = Plan(Schedule("round_robin", steps_per_epoch=10), ("a", "b"), (90, 10), 8, 2)
    assert sampling(LOG, ["a", "b"], in_turn)[0]["probability"] is None
    assert sampling([], ["a"], plan) == []


def test_conflicts_are_means_and_courses_of_what_was_logged():
    log = [
        {"step": 1, "epoch": 0.1, "cos_a_b": 0.5, "cos_c_a": -0.2, "conflicts": 1, "gradient_norm_a": 2.0},
        {"step": 2, "epoch": 0.2, "cos_a_b": -0.1, "conflicts": 2},
    ]
    found = conflicts(log, ["a", "b", "c"])
    expected = [[1, 0.2, -0.2], [0.2, 1, np.nan], [-0.2, np.nan, 1]]
    np.testing.assert_allclose(found["cosines"], expected)
    assert [each["value"] for each in found["course"]["a, b"]] == [0.5, -0.1]
    assert [each["value"] for each in found["conflicts"]] == [1, 2]
    assert list(found["norms"]) == ["a"]
    assert conflicts(LOG, ["a", "b"]) is None


def test_throughput_leaves_the_evaluations_out():
    found = cost(LOG, {"device": "cpu", "threads": 2, "precision": "no"})
    assert found["examples"] == 160
    assert (found["seconds"], found["evaluation_seconds"]) == (25, 5)
    assert found["examples_per_second"] == pytest.approx(160 / 20)
    assert found["steps_per_second"] == pytest.approx(20 / 20)
    assert (found["device"], found["threads"]) == ("cpu", 2)
    assert "seconds" not in cost(LOG[:3], {})


def test_seconds_and_evaluations_of_all_stages_count():
    later = [{**entry, "epoch": entry["epoch"] + 2, "step": entry["step"] + 20} for entry in LOG[1:]]
    found = cost([*LOG[:-1], *later], {})
    assert (found["seconds"], found["evaluation_seconds"]) == (50, 9)
    assert (found["steps"], found["examples"]) == (40, 320)
    assert found["examples_per_second"] == pytest.approx(320 / 41)


def test_the_plan_of_each_stage_holds_for_its_epochs():
    turns = Plan(Schedule("round_robin", steps_per_epoch=4), ("a", "b"), (90, 10), 8, 2)
    drawn = Plan(Schedule("proportional", steps_per_epoch=3), ("a", "b"), (90, 10), 8, 5)
    plan = StagedPlan((turns, drawn))
    for epoch in range(6):
        own, place = (turns, epoch) if epoch < 2 else (drawn, epoch - 2)
        assert plan.epoch_rows(epoch).tolist() == own.epoch_rows(place).tolist()
    log = [{"step": 4 * e, "epoch": float(e), "examples_a": 8, "examples_b": 8} for e in (1, 2, 3, 5)]
    table = sampling(log, ["a", "b"], plan)
    assert [each["probability"] for each in table] == [None, None, *[pytest.approx({"a": 0.9, "b": 0.1})] * 2]
    assert [sum(each["planned"].values()) for each in table] == [32, 32, 24, 48]  # nothing was logged in epoch 4


def test_energy_is_what_codecarbon_has_written(tmp_path):
    assert "kwh" not in cost(LOG, {}, tmp_path)
    lines = ["timestamp,duration,emissions,energy_consumed", "t,10,0.002,0.01", "t,10,0.001,0.005"]
    (tmp_path / "emissions.csv").write_text("\n".join(lines) + "\n")
    found = cost(LOG, {}, tmp_path)
    assert (found["kwh"], found["co2_kg"]) == pytest.approx((0.015, 0.003))


def test_a_folder_without_files_is_a_run_without_a_course(tmp_path):
    run = read_run(tmp_path)
    assert (list(run.log), run.record, run.scores) == ([], {}, {})
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": LOG}))
    (tmp_path / "record.json").write_text('{"threads": 1}')
    assert read_run(tmp_path).log == LOG
    assert read_run(tmp_path).record == {"threads": 1}
