"""Invariants of SMART: 7 (λ_s = μ = 0 is off), 5 (a resumed run), and 3 (accumulation; of the proximal point)."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from mtbert.data.sampling import Schedule
from mtbert.training.arguments import MtBertTrainingArguments, TaskTraining
from mtbert.training.methods.proximal import TEACHER_FILE, Proximal
from mtbert.training.methods.smart import Smart
from mtbert.training.trainer import MtBertTrainer

SCHEDULE = Schedule("annealed", mixed=True, steps_per_epoch=6)
VOLATILE = ("runtime", "per_second", "total_flos", "train_loss")
SETTINGS = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "epoch", "learning_rate": 1e-3}
SMART = Smart(weight=2.0, radius=1e-2, step_size=1e-1, steps=2)
PROXIMAL = Proximal(weight=2.0, decay=0.5, late_decay=0.8, switch=0.4)


@pytest.fixture
def train(encoded, tmp_path):
    """A function: model, name of a folder, settings → the trainer of a finished run."""

    def run(model, name, smart=None, proximal=None, resume=None, schedule=SCHEDULE, task_training=None, **settings):
        fixed = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1, "seed": 3}
        defaults = {"per_device_train_batch_size": 8, "num_train_epochs": 2}
        args = MtBertTrainingArguments(str(tmp_path / name), **{**fixed, **defaults, **SETTINGS, **settings})
        trainer = MtBertTrainer(
            model,
            args,
            encoded(),
            encoded((10, 9, 8, 7), 1),
            schedule=schedule,
            task_training=task_training,
            smart=smart,
            proximal=proximal,
        )
        trainer.train(resume_from_checkpoint=None if resume is None else str(tmp_path / resume))
        return trainer

    return run


def history(trainer, after=0):
    logged = [each for each in trainer.state.log_history if each["step"] > after]
    return [{k: v for k, v in each.items() if not any(word in k for word in VOLATILE)} for each in logged]


def test_weights_of_0_are_off(train, make_model, assert_same_weights, tmp_path):
    """Invariant 7, with dropout, bit for bit: weights, optimizer, and all that is logged."""
    off = train(make_model(), "off")
    zero = train(make_model(), "zero", Smart(weight=0.0), Proximal(weight=0.0))
    assert_same_weights(tmp_path / "off" / "checkpoint-12", tmp_path / "zero" / "checkpoint-12")
    assert history(off) == history(zero)
    assert not (tmp_path / "zero" / "checkpoint-12" / TEACHER_FILE).exists()


@pytest.mark.parametrize("packed", [True, False])
def test_a_regularised_run_resumes(train, make_model, assert_same_weights, tmp_path, packed):
    """Invariant 5: in the middle of an epoch and at its end, before and after the decay switches."""
    whole = train(make_model(packed=packed), "whole", SMART, PROXIMAL)
    logged = {key for entry in whole.state.log_history for key in entry}
    assert {f"{part}_{task.name}" for part in ("smart", "proximal") for task in whole.tasks} <= logged
    for step in (3, 6, 9):
        name = f"from-{step}"
        resumed = train(make_model(packed=packed), name, SMART, PROXIMAL, resume=f"whole/checkpoint-{step}")
        ends = [tmp_path / folder / "checkpoint-12" for folder in ("whole", name)]
        assert_same_weights(*ends)
        teachers = [load_file(end / TEACHER_FILE) for end in ends]
        assert all(torch.equal(teachers[0][key], teachers[1][key]) for key in teachers[0])
        assert history(whole, step) == history(resumed, step)
    state = json.loads((ends[1] / "trainer_state.json").read_text())
    assert state["global_step"] == 12


@pytest.mark.parametrize("schedule", [SCHEDULE, Schedule("simultaneous", steps_per_epoch=3)], ids=lambda s: s.name)
def test_accumulation_with_a_teacher_is_the_whole_batch(train, still_model, schedule):
    """Invariant 3. (SMART's noise has the shape of a micro-batch, so it differs.)"""
    weights = {"stars": TaskTraining(weight=3.0)}
    ends, logs = [], []
    for micro in (1, 2, 4):
        model = still_model()
        common = {"schedule": schedule, "task_training": weights, "optim": "sgd", "learning_rate": 0.05}
        sizes = {"per_device_train_batch_size": 8 // micro, "gradient_accumulation_steps": micro}
        trainer = train(model, f"micro-{micro}", proximal=PROXIMAL, save_strategy="no", **common, **sizes)
        ends.append(torch.cat([each.detach().flatten() for each in model.parameters()]))
        logs.append([v for entry in history(trainer) for k, v in entry.items() if k.startswith("proximal_")])
    for end, log in zip(ends[1:], logs[1:], strict=True):
        torch.testing.assert_close(end, ends[0], rtol=1e-5, atol=1e-5)
        assert log == pytest.approx(logs[0], rel=1e-3, abs=1e-7)
    assert max(logs[0]) > 1e-6


def test_accumulation_with_smart_has_its_penalty_in_the_same_scale(train, still_model):
    """R_s of a step's rows, whatever the micro-batches: the noise decides where the ascent starts, little more."""
    means = []
    for micro in (1, 4):
        trainer = train(
            still_model(),
            f"micro-{micro}",
            Smart(radius=1e-3, step_size=1.0, steps=3),
            save_strategy="no",
            learning_rate=0.0,
            per_device_train_batch_size=8 // micro,
            gradient_accumulation_steps=micro,
        )
        entries = history(trainer)
        means.append(
            [
                sum(e.get(f"smart_{t.name}", 0.0) * e.get(f"examples_{t.name}", 0) for e in entries)
                for t in trainer.tasks
            ]
        )
    assert means[1] == pytest.approx(means[0], rel=0.5)
