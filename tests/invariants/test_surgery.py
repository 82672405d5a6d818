"""Invariant 6: surgery without conflict is the plain sum; and what else must not change a run with surgery."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mtbert.data.sampling import Schedule
from mtbert.modeling.task_spec import AdapterSpec
from mtbert.training.arguments import TaskTraining
from mtbert.training.methods.surgery import Surgery
from mtbert.training.peft import wrap

SIMULTANEOUS = Schedule("simultaneous", steps_per_epoch=3)
MIXED = Schedule("annealed", mixed=True, steps_per_epoch=4)
UNEQUAL = {"close": TaskTraining(batch_size=1), "same": TaskTraining(batch_size=3, weight=0.5)}
SGD = {"optim": "sgd", "learning_rate": 0.05}  # linear in the gradient, so that rounding stays rounding


class Summed(Surgery):
    """Collects and combines as surgery does, with weights of 1."""

    def weights(self, gramian, key):
        return torch.ones_like(gramian[0])


@pytest.fixture
def train(make_trainer, still_model, tmp_path):
    """A function: schedule, surgery, settings → a trainer that has trained."""

    def run(schedule, surgery, task_training=None, make_model=still_model, folder="run", **settings):
        trainer = make_trainer(
            make_model(), tmp_path / folder, schedule, task_training, own={"surgery": surgery}, **settings
        )
        trainer.train()
        return trainer

    return run


def logs(trainer) -> list[dict[str, float]]:
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    keys = ("loss", "examples_", "grad_norm", "cos_", "conflicts", "gradient_norm_")
    return [{k: v for k, v in each.items() if k.startswith(keys)} for each in logged]


def assert_alike(one, other, tolerance=2e-6):
    for name, weight in one.model.state_dict().items():
        torch.testing.assert_close(other.model.state_dict()[name], weight, rtol=1e-5, atol=tolerance)
    for left, right in zip(logs(one), logs(other), strict=True):
        shared = left.keys() & right.keys()
        assert {k: left[k] for k in shared} == pytest.approx({k: right[k] for k in shared}, rel=1e-4, abs=1e-5)


def lora(make_model, still_tasks):
    return lambda: wrap(
        make_model(still_tasks, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        {"r": 4, "target_modules": ["query", "value"]},
    )


def adapters(make_model, still_tasks):
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return lambda: make_model(still_tasks, adapter=AdapterSpec("pal", size=12, heads=3), **dropout)


def norms_only(make_model, still_tasks):
    def make():
        model = make_model(still_tasks, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        model.freeze_encoder(layer_norms=False)
        return model

    return make


def whole(make_model, still_tasks):
    return lambda: make_model(still_tasks, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@pytest.mark.parametrize(
    ("schedule", "make"),
    [(SIMULTANEOUS, whole), (MIXED, whole), (MIXED, adapters), (SIMULTANEOUS, lora), (SIMULTANEOUS, norms_only)],
)
def test_weights_of_one_train_as_without_surgery(schedule, make, make_model, still_tasks, train):
    """Every weight, loss and gradient norm of a run; the steps of the mixed schedule lack tasks now and then."""
    task_training = UNEQUAL if schedule is SIMULTANEOUS else {"same": TaskTraining(weight=0.5)}
    model = make(make_model, still_tasks)
    plain = train(schedule, None, task_training, model, **SGD)
    summed = train(schedule, Summed(), task_training, model, **SGD)
    start = model().state_dict()
    moved = {name: float((value - start[name]).abs().max()) for name, value in plain.model.state_dict().items()}
    assert max(value for name, value in moved.items() if "encoder" in name) > 1e-5
    assert_alike(plain, summed)


def test_a_task_that_a_step_lacks_is_left_alone(train):
    """Its head has no gradient, so that weight decay does not move it; 3 rows a step are never of all 4 tasks."""
    settings = {**SGD, "weight_decay": 0.1, "per_device_train_batch_size": 3}
    assert_alike(train(MIXED, None, **settings), train(MIXED, Summed(), **settings))


@pytest.mark.parametrize("surgery", [Surgery(), Surgery("upgrad")], ids=lambda surgery: surgery.method)
def test_a_batch_and_its_accumulated_parts_train_to_the_same_weights(surgery, train):
    runs = [
        train(
            SIMULTANEOUS,
            surgery,
            UNEQUAL,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            **SGD,
        )
        for batch, accumulation in ((8, 1), (2, 4))
    ]
    assert any(each["conflicts"] for each in logs(runs[0]))
    assert_alike(*runs)


def test_surgery_changes_a_run(train):
    plain, cut = (train(SIMULTANEOUS, surgery, **SGD).model.state_dict() for surgery in (None, Surgery()))
    assert max(float((cut[name] - plain[name]).abs().max()) for name in plain) > 1e-4


def test_a_resumed_run_is_the_uninterrupted_one(make_model, make_trainer, assert_same_weights, tmp_path: Path):
    settings = {"save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2, "learning_rate": 1e-3}
    settings["per_device_train_batch_size"] = 4
    trainer = make_trainer(make_model(), tmp_path / "whole", MIXED, own={"surgery": Surgery()}, **settings)
    trainer.train()
    assert any(each["conflicts"] for each in logs(trainer)[3:])
    for step in (3, 6):
        resumed = make_trainer(make_model(), tmp_path / f"{step}", MIXED, own={"surgery": Surgery()}, **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert_same_weights(tmp_path / "whole" / "checkpoint-8", tmp_path / f"{step}" / "checkpoint-8")
        assert logs(resumed)[step:] == logs(trainer)[step:]
