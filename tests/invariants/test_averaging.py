"""Runs whose weights are averaged: what is evaluated, what is saved, and that a resume is exact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from mtbert.data.sampling import Schedule
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.training.arguments import MtBertTrainingArguments
from mtbert.training.checkpoints.resume_record import FILE as RECORD
from mtbert.training.checkpoints.sealing import seal
from mtbert.training.methods.averaging import FILE, Averaging
from mtbert.training.peft import wrap
from mtbert.training.trainer import MtBertTrainer

STEPS = 3  # an epoch's
EMA, SWA = Averaging("ema", 0.7), Averaging("swa", start=0.3)
both = pytest.mark.parametrize("settings", [EMA, SWA], ids=["ema", "swa"])


@pytest.fixture
def make_averaged(make_model, encoded):
    """A function: folder, averaging, settings → a trainer of 4 epochs."""

    def make(folder, averaging=None, model=None, callbacks=None, **settings) -> MtBertTrainer:
        values = {
            "output_dir": str(folder),
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "logging_steps": 1,
            "save_strategy": "no",
            "per_device_train_batch_size": 8,
            "num_train_epochs": 4,
            "learning_rate": 1e-2,
            "warmup_steps": 2,
            "seed": 3,
            **settings,
        }
        return MtBertTrainer(
            model or make_model(),
            MtBertTrainingArguments(**values),
            encoded(),
            encoded((10, 9, 8, 7), 1),
            schedule=Schedule("annealed", steps_per_epoch=STEPS),
            averaging=averaging,
            callbacks=callbacks,
        )

    return make


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


class Keep(TrainerCallback):
    """Keeps the weights after every step, before and behind an evaluation."""

    def __init__(self):
        self.steps, self.begun, self.evaluated = {}, {}, {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.steps[state.global_step] = weights_of(model)

    def on_prediction_step(self, args, state, control, model=None, **kwargs):
        self.evaluated[state.global_step] = weights_of(model)

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.begun[state.global_step] = weights_of(model)


def test_ema_of_a_run_has_its_closed_form(make_averaged, tmp_path):
    kept = Keep()
    trainer = make_averaged(tmp_path, EMA, callbacks=[kept])
    trainer.train()
    last, d = 4 * STEPS, EMA.decay
    scales = {1: d ** (last - 1), **{step: (1 - d) * d ** (last - step) for step in range(2, last + 1)}}
    for name, found in weights_of(trainer.model).items():
        expected = sum(scale * kept.steps[step][name] for step, scale in scales.items())
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_swa_is_the_mean_of_a_plain_runs_epochs(make_averaged, tmp_path):
    """From 30 % of 12 steps: the ends of epochs 2, 3 and 4."""
    make_averaged(tmp_path / "plain", save_strategy="epoch").train()
    ends = [load_file(tmp_path / "plain" / f"checkpoint-{step}" / "model.safetensors") for step in (6, 9, 12)]
    trainer = make_averaged(tmp_path / "swa", SWA)
    trainer.train()
    trainer.save_model(str(tmp_path / "published"))
    published = load_file(tmp_path / "published" / "model.safetensors")
    for name, found in published.items():
        torch.testing.assert_close(found, sum(end[name] for end in ends) / 3, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(published[name], ends[-1][name]) for name in published)


@both
def test_evaluations_use_the_average_and_training_goes_on_without_it(make_averaged, tmp_path, settings):
    plain, kept = Keep(), Keep()
    make_averaged(tmp_path / "plain", callbacks=[plain]).train()
    trainer = make_averaged(tmp_path / "run", settings, callbacks=[kept], eval_strategy="epoch", save_strategy="epoch")
    trainer.train()
    for step, weights in plain.steps.items():
        assert_equal(kept.steps[step], weights)
    for step, weights in kept.begun.items():
        if step:
            assert_equal(weights, kept.steps[step])
    for step in (6, 9, 12):
        saved = load_file(tmp_path / "run" / f"checkpoint-{step}" / "model.safetensors")
        assert_equal(kept.evaluated[step], saved)
        if settings is EMA or step > 6:
            assert any(not torch.equal(saved[name], weight) for name, weight in kept.steps[step].items())


@both
def test_scores_are_those_of_the_published_model(make_averaged, tmp_path, settings):
    trainer = make_averaged(tmp_path / "run", settings, eval_strategy="epoch")
    trainer.train()
    logged = [each for each in trainer.state.log_history if "eval_loss" in each][-1]
    scores = trainer.evaluate()
    trainer.save_model(str(tmp_path / "published"))
    loaded = MtBertForMultiTask.from_pretrained(tmp_path / "published")
    assert_equal(weights_of(loaded), weights_of(trainer.model))
    again = make_averaged(tmp_path / "again", model=loaded).evaluate()
    for key in (key for key in scores if key.startswith("eval_") and not key.endswith(("runtime", "per_second"))):
        assert again[key] == pytest.approx(scores[key], rel=1e-5, abs=1e-6) == logged[key]


@pytest.mark.parametrize("inside", [False, True], ids=["plain", "peft"])
@both
def test_a_resumed_run_is_the_uninterrupted_one(make_averaged, make_model, tmp_path, settings, inside):
    def make(folder):
        model = wrap(make_model(), {"r": 2, "target_modules": ["query"]}) if inside else None
        strategies = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 2}
        return make_averaged(tmp_path / folder, settings, model=model, **strategies)

    make("whole").train()
    for step in (2, 6, 8):
        make(f"from-{step}").train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        ends = [tmp_path / folder / "checkpoint-12" for folder in ("whole", f"from-{step}")]
        for name in ("adapter_model.safetensors" if inside else "model.safetensors", FILE):
            assert_equal(*(load_file(end / name) for end in ends))
        assert_equal_states(*(torch.load(end / "optimizer.pt", weights_only=True) for end in ends))
        assert history(ends[0], step) == history(ends[1], step)


def assert_equal_states(one: dict, other: dict) -> None:
    for number, state in one["state"].items():
        assert_equal(state, other["state"][number])


def history(folder: Path, after: int) -> list[dict]:
    logged = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    logged = [each for each in logged if each["step"] > after]
    assert any("eval_loss" in each for each in logged)
    times = ("runtime", "per_second", "total_flos", "train_loss")
    return [{k: v for k, v in each.items() if not any(word in k for word in times)} for each in logged]


@both
def test_the_best_checkpoint_is_an_average(make_averaged, tmp_path, settings):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_overall", "save_total_limit": 9}
    trainer = make_averaged(tmp_path, settings, eval_strategy="epoch", save_strategy="epoch", **best)
    trainer.train()
    saved = load_file(Path(trainer.state.best_model_checkpoint) / "model.safetensors")
    assert_equal(weights_of(trainer.model), saved)
    assert trainer.evaluate()["eval_overall"] == pytest.approx(trainer.state.best_metric)


@pytest.mark.filterwarnings("ignore:.* could not be checked")
def test_resuming_needs_the_same_kind_of_run(make_averaged, tmp_path):
    """Also where a checkpoint does not state what it is of."""
    for name, settings in (("with", EMA), ("without", None)):
        make_averaged(tmp_path / name, settings, save_strategy="epoch", num_train_epochs=1).train()
        (tmp_path / name / "checkpoint-3" / RECORD).unlink()
        seal(tmp_path / name / "checkpoint-3")
    with pytest.raises(ValueError, match="was saved with averaging"):
        make_averaged(tmp_path / "a").train(resume_from_checkpoint=str(tmp_path / "with" / "checkpoint-3"))
    with pytest.raises(ValueError, match="was saved without averaging"):
        make_averaged(tmp_path / "b", EMA).train(resume_from_checkpoint=str(tmp_path / "without" / "checkpoint-3"))


def test_a_second_run_of_a_trainer_begins_its_own_average(make_averaged, tmp_path):
    """With a learning rate of 0 it is the weights that the first run ended with."""
    trainer = make_averaged(tmp_path, SWA)
    trainer.train()
    start = weights_of(trainer.model)
    trainer.args.learning_rate, trainer.optimizer = 0.0, None
    trainer.train()
    for name, weight in weights_of(trainer.model).items():
        torch.testing.assert_close(weight, start[name], rtol=1e-6, atol=1e-7)


def test_wrong_settings_are_refused(make_averaged, tmp_path):
    with pytest.raises(ValueError, match="averaging.decay is 1.0, but must be in"):
        make_averaged(tmp_path, Averaging(decay=1.0))
