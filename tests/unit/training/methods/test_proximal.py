"""The momentum teacher: a closed form over a run, its outputs, its file."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attached import attached
from safetensors.torch import load_file
from transformers import TrainerCallback

from mtbert.data.sampling import Schedule
from mtbert.training.checkpoints.resume_record import FILE as RECORD
from mtbert.training.checkpoints.sealing import seal
from mtbert.training.methods.divergences import divergence
from mtbert.training.methods.proximal import TEACHER_FILE, Proximal, ProximalPenalty
from mtbert.training.peft import wrap
from mtbert.training.trainer import MtBertTrainer

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class Recorder(TrainerCallback):
    """Keeps θ at the beginning and after every step."""

    def __init__(self, model):
        self.model, self.weights = model, []

    def take(self):
        self.weights.append({n: p.detach().double().clone() for n, p in self.model.named_parameters()})

    def on_train_begin(self, *args, **kwargs):
        self.take()

    def on_step_end(self, *args, **kwargs):
        self.take()


@pytest.fixture
def make_trainer(make_trainer):
    """A function: model, settings → a trainer on the tiny data."""

    def make(model, proximal=None, **settings) -> MtBertTrainer:
        defaults = {"per_device_train_batch_size": 8, "max_steps": 10, "learning_rate": 1e-3}
        return make_trainer(model, schedule=Schedule("simultaneous"), proximal=proximal, **defaults | settings)

    return make


@pytest.fixture
def still_model(make_model, tasks):
    """A function: a model without dropout."""
    return lambda: make_model([replace(task, dropout=0.0) for task in tasks], **NO_DROPOUT)


def test_the_teacher_is_the_closed_form_over_a_run(make_model, make_trainer):
    """θ̄ = Π β_s θ_0 + Σ_s (1 − β_s) (Π of the later β) θ_s, with β switching after 30 % of ten steps."""
    model, settings = make_model(), Proximal(decay=0.5, late_decay=0.9, switch=0.3)
    trainer, recorder = make_trainer(model, settings), Recorder(model)
    trainer.add_callback(recorder)
    trainer.train()
    decays = [0.5] * 3 + [0.9] * 7
    factors = [math.prod(decays)] + [(1 - decays[s]) * math.prod(decays[s + 1 :]) for s in range(10)]
    assert sum(factors) == pytest.approx(1)
    teacher = trainer.methods["proximal"].teacher
    assert teacher.keys() == recorder.weights[0].keys()
    for name, found in teacher.items():
        expected = sum(f * weights[name] for f, weights in zip(factors, recorder.weights, strict=True))
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)


def test_the_decay_switches_after_its_share_of_the_run():
    settings = Proximal()
    assert [settings.decay_at(step, 100) for step in (1, 10, 11, 100)] == [0.99, 0.99, 0.999, 0.999]
    assert {replace(settings, switch=0.0).decay_at(step, 10) for step in range(1, 11)} == {0.999}
    assert {replace(settings, switch=1.0).decay_at(step, 10) for step in range(1, 11)} == {0.99}


def test_the_penalty_is_the_divergence_from_a_model_with_the_teachers_weights(make_model, tasks):
    model, other = make_model().train(), make_model()
    inputs = {"input_ids": torch.randint(6, 30, (4, 7)), "task": "close"}
    penalty = attached(ProximalPenalty(Proximal()), model, tasks)
    before = penalty.penalties(inputs, model.eval()(**inputs))
    assert torch.equal(before["close"], torch.zeros(2))  # θ̄ = θ
    with torch.no_grad():
        for one, two in zip(model.parameters(), other.parameters(), strict=True):
            one += 0.05 * torch.randn_like(one)
            two += 0.75 * (one - two)
    penalty.update(model, 0.25)
    model.train()
    model.heads["stars"].eval()
    modes = [module.training for module in model.modules()]
    outputs = model(**inputs)
    found = penalty.penalties(inputs, outputs)["close"]
    expected = divergence(tasks[2], outputs.logits, other.eval()(**inputs).logits)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)
    assert (found > 0).all() and [module.training for module in model.modules()] == modes
    found.sum().backward()
    assert any(each.grad is not None and each.grad.abs().max() > 0 for each in model.parameters())
    assert not any(each.requires_grad for each in penalty.teacher.values())


@pytest.mark.parametrize("bf16", [False, True])
def test_it_begins_at_0_and_is_logged_for_each_task(still_model, make_trainer, bf16):
    trainer = make_trainer(still_model(), Proximal(), bf16=bf16, max_steps=4)
    trainer.train()
    logged = [[e[f"proximal_{t.name}"] for t in trainer.tasks] for e in trainer.state.log_history if "loss" in e]
    assert logged[0] == [0.0] * 4
    assert all(value > 0 for value in logged[-1])
    assert not any("skipped" in key for entry in trainer.state.log_history for key in entry)


def test_it_holds_the_weights_near_the_teacher(still_model, make_trainer):
    distances = {}
    for weight in (0.0, 100.0):
        model = still_model()
        start = [each.detach().clone() for each in model.parameters()]
        make_trainer(model, Proximal(weight=weight, decay=0.999, late_decay=0.999), optim="sgd").train()
        distances[weight] = sum(
            float((now.detach() - then).square().sum()) for now, then in zip(model.parameters(), start, strict=True)
        )
    assert distances[100.0] < distances[0.0]


def test_only_what_is_trained_is_averaged(make_model, make_trainer):
    frozen, tuned = make_model(), wrap(make_model(), {"r": 2, "target_modules": ["query"]})
    frozen.freeze_encoder()
    for model in (frozen, tuned):
        trainer = make_trainer(model, Proximal(), max_steps=2)
        trainer.train()
        names = {name for name, each in model.named_parameters() if each.requires_grad}
        assert trainer.methods["proximal"].teacher.keys() == names
        assert not any(name.endswith("word_embeddings.weight") for name in names)


def test_a_second_run_begins_with_a_new_teacher(make_model, make_trainer):
    model = make_model()
    trainer = make_trainer(model, Proximal(decay=0.9), max_steps=2)
    trainer.train()
    recorder = Recorder(model)
    trainer.add_callback(recorder)
    trainer.train()
    first, *later = recorder.weights
    decays = [trainer.methods["proximal"].settings.decay_at(step, 2) for step in (1, 2)]
    for name, found in trainer.methods["proximal"].teacher.items():
        expected = first[name]
        for decay, each in zip(decays, later, strict=True):
            expected = decay * expected + (1 - decay) * each[name]
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)


def test_the_teacher_is_saved_in_every_checkpoint(make_model, make_trainer, tmp_path):
    trainer = make_trainer(make_model(), Proximal(), max_steps=4, save_strategy="steps", save_steps=2)
    trainer.train()
    for step in (2, 4):
        saved = load_file(tmp_path / "run" / f"checkpoint-{step}" / TEACHER_FILE)
        assert saved.keys() == trainer.methods["proximal"].teacher.keys()
    assert all(torch.equal(saved[name], each) for name, each in trainer.methods["proximal"].teacher.items())


@pytest.mark.filterwarnings("ignore:.* could not be checked")
def test_a_checkpoint_without_a_fitting_teacher_is_refused(make_model, make_trainer, tmp_path):
    """Also where it does not state what it is of."""
    make_trainer(make_model(), None, max_steps=2, save_strategy="steps", save_steps=1).train()
    path = str(tmp_path / "run" / "checkpoint-1")
    Path(path, RECORD).unlink()
    seal(path)
    with pytest.raises(ValueError, match=rf"proximal: .*checkpoint-1 has no {TEACHER_FILE}"):
        make_trainer(make_model(), Proximal()).train(resume_from_checkpoint=path)
    penalty = attached(ProximalPenalty(Proximal()), make_model())
    penalty.teacher = {"other": torch.zeros(1)}
    penalty.save(path)
    with pytest.raises(ValueError, match=r"the model differ in what is trained: "):
        penalty.load(path)


def test_every_setting_that_is_out_of_range_is_named():
    found = Proximal(-1.0, 1.0, -0.1, 2.0).problems()
    fields = ("weight", "decay", "late_decay", "switch")
    assert len(found) == len(fields)
    for name, sentence in zip(fields, found, strict=True):
        assert sentence.path == (name,) and ", but must be " in sentence.message
    assert Proximal().problems() == []
