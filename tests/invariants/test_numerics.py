"""What is not finite never gets into the weights, is told by name, and is counted."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from mtbert.data.sampling import Schedule
from mtbert.training.arguments import MtBertTrainingArguments
from mtbert.training.finite_steps import IN_A_ROW, NotFinite, guarded
from mtbert.training.methods.surgery import Surgery
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.optimizers import OptimizerSettings

STEPS = 6
MIXED = Schedule("uniform", mixed=True, steps_per_epoch=STEPS)
WAYS = {
    "one task a step": (Schedule("round_robin", steps_per_epoch=STEPS), {}),
    "mixed": (MIXED, {}),
    "surgery": (MIXED, {"surgery": Surgery()}),
    "upgrad": (MIXED, {"surgery": Surgery("upgrad")}),
    "separate optimizers": (
        Schedule("round_robin", steps_per_epoch=STEPS),
        {"optimizer": OptimizerSettings(per_task="separate")},
    ),
    "uncertainty": (MIXED, {"loss": LossSettings("uncertainty", 0.1)}),
}
every_way = pytest.mark.parametrize(("schedule", "own"), WAYS.values(), ids=WAYS)
BROKEN = 3  # place of the broken row


@pytest.fixture
def broken_trainer(make_model, make_trainer, tmp_path):
    """A function: schedule, settings → a trainer, one row of whose task `close` has a score of 1e30."""

    def make(schedule, own=None, folder="run", **settings):
        trainer = make_trainer(make_model(), tmp_path / folder, schedule, own=own, learning_rate=1e-3, **settings)
        close = trainer.train_dataset["close"]
        labels = np.asarray(close["label"][:], dtype=np.float32)
        labels[BROKEN] = 1e30  # its square, the loss, is beyond float32; the gradient is not
        feature = close.features["label"]
        column = close.remove_columns("label").add_column("label", labels.tolist(), feature=feature)
        trainer.train_dataset = {**trainer.train_dataset, "close": column}
        return trainer

    return make


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_finite_loss_is_itself():
    loss = torch.tensor([0.1, -3.7e20], requires_grad=True)
    assert torch.equal(guarded(loss), loss)
    guarded(loss).sum().backward()
    assert torch.equal(loss.grad, torch.ones(2))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_a_loss_that_is_not_finite_spoils_its_gradient(value):
    weight = torch.ones((), requires_grad=True)
    guarded(weight + value).backward()
    assert weight.grad.isnan()


@every_way
def test_a_run_stops_and_names_task_and_row(schedule, own, broken_trainer, tmp_path):
    trainer = broken_trainer(schedule, own, save_strategy="steps", save_steps=1, num_train_epochs=4)
    with pytest.raises(NotFinite, match=r"task 'close' is (infinite|nan) in the file's rows \d+") as error:
        trainer.train()
    number = int(re.search(r"step (\d+)", str(error.value)).group(1))
    row = trainer.train_dataset["close"][BROKEN]["row"]
    assert f"rows {row}." in str(error.value) and "--training.on_nonfinite skip" in str(error.value)
    assert trainer.state.global_step == number - 1
    last = sorted(tmp_path.glob("run/checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    assert not last if number == 1 else last[-1].name == f"checkpoint-{number - 1}"
    assert all(value.isfinite().all() for value in weights(trainer).values())


@every_way
def test_a_skipped_step_changes_nothing_and_is_counted(schedule, own, broken_trainer):
    trainer = broken_trainer(schedule, own, on_nonfinite="skip", num_train_epochs=4)
    seen, kept = [], trainer._get_grad_norm

    def watched(model, grad_norm=None):
        before, skipped = weights(trainer), trainer.finite.skipped
        norm = kept(model, grad_norm=grad_norm)
        seen.append((trainer.finite.skipped > skipped, before))
        return norm

    trainer._get_grad_norm = watched
    trainer.train()
    after = [before for _, before in seen[1:]] + [weights(trainer)]
    skipped = [was for was, _ in seen]
    assert any(skipped) and not all(skipped)
    for (was, before), now in zip(seen, after, strict=True):
        assert same(before, now) == was
    logged = sum(entry.get("nonfinite_skipped", 0) for entry in trainer.state.log_history)
    assert logged == sum(skipped)
    assert all(value.isfinite().all() for value in weights(trainer).values())


def test_skipping_is_without_effect_where_all_is_finite(make_model, make_trainer, tmp_path):
    found = {}
    for mode in ("stop", "skip"):
        trainer = make_trainer(make_model(), tmp_path / mode, MIXED, on_nonfinite=mode)
        trainer.train()
        found[mode] = weights(trainer)
    assert same(found["stop"], found["skip"])


def test_a_gradient_that_is_not_finite_stops_a_run_too(make_model, make_trainer, tmp_path):
    model = make_model()
    trainer = make_trainer(model, tmp_path, Schedule("sequential"))
    model.encoder.embeddings.word_embeddings.weight.register_hook(lambda gradient: gradient * torch.inf)
    message = r"step 1: the gradient is not finite, .* The step held task 'stars', the file's rows \d+"
    with pytest.raises(NotFinite, match=message):
        trainer.train()


def test_a_late_look_stops_before_anything_is_saved(broken_trainer, tmp_path):
    """As on a GPU: the step is over when its gradient is looked at."""
    trainer = broken_trainer(MIXED, num_train_epochs=4, save_strategy="steps", save_steps=1)
    trainer.finite.late = True
    with pytest.raises(NotFinite, match="task 'close' is infinite") as error:
        trainer.train()
    number = int(re.search(r"step (\d+)", str(error.value)).group(1))
    assert not (tmp_path / "run" / f"checkpoint-{number}").exists()


def test_a_run_that_skips_step_after_step_has_diverged(make_model, make_trainer, tmp_path):
    model = make_model()
    schedule = Schedule("uniform", steps_per_epoch=IN_A_ROW + 5)
    trainer = make_trainer(model, tmp_path, schedule, on_nonfinite="skip")
    model.encoder.embeddings.word_embeddings.weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(NotFinite, match=f"no update for {IN_A_ROW} steps, .* has diverged"):
        trainer.train()
    assert trainer.state.global_step == IN_A_ROW - 1


@every_way
def test_the_scaler_of_fp16_leaves_out_what_overflows(schedule, own, make_model, make_trainer, tmp_path):
    """fp16 on a CPU, which accelerate has for GPUs only: its factor begins so high that the first steps overflow."""
    trainer = make_trainer(make_model(), tmp_path, schedule, own=own, num_train_epochs=3, max_grad_norm=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=1000)
    trainer.accelerator.scaler, trainer.accelerator.native_amp = scaler, True
    trainer.accelerator.state._mixed_precision = "fp16"
    before = weights(trainer)
    try:
        trainer.train()
    finally:
        trainer.accelerator.state._mixed_precision = "no"
    overflowed = sum(entry.get("overflow_skipped", 0) for entry in trainer.state.log_history)
    assert 0 < overflowed < 3 * STEPS and scaler.get_scale() == 2.0 ** (20 - overflowed)
    now = weights(trainer)
    assert all(value.isfinite().all() for value in now.values()) and not same(before, now)


def test_the_choice_is_checked():
    with pytest.raises(ValueError, match="on_nonfinite is 'ignore', but must be stop or skip"):
        MtBertTrainingArguments("out", on_nonfinite="ignore", use_cpu=True, report_to="none")
