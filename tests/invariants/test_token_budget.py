"""Steps that are bounded by tokens: accumulation, resuming, the log and the estimate of memory hold for them too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtbert.data.sampling import Schedule
from mtbert.data.token_plan import TokenPlan
from mtbert.errors import InputError
from mtbert.training.arguments import MtBertTrainingArguments
from mtbert.training.memory import estimate
from tests.invariants.test_accumulation import losses_by_task
from tests.invariants.test_resume import LATE, MIDDLE, STEPS, assert_resumes  # noqa: F401

SCHEDULES = {
    "annealed": Schedule("annealed", steps_per_epoch=STEPS),
    "mixed": Schedule("annealed", mixed=True, steps_per_epoch=STEPS),
    "sequential": Schedule("sequential", steps_per_epoch=STEPS),
    "simultaneous": Schedule("simultaneous", steps_per_epoch=STEPS),
    "resampled": Schedule("uniform", resample=True, steps_per_epoch=STEPS),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def budget_of(schedule: Schedule) -> int:
    """A budget that some steps reach."""
    return 240 if schedule.name == "simultaneous" else 60


@every_schedule
def test_a_step_and_its_accumulated_parts_train_to_the_same_weights(schedule, still_model, make_trainer, tmp_path):
    runs = []
    for batch, accumulation in ((8, 1), (2, 4)):
        values = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        values |= {"max_tokens_per_step": budget_of(schedule), "optim": "sgd", "learning_rate": 0.05}
        trainer = make_trainer(still_model(), tmp_path, schedule, num_train_epochs=1, **values)
        trainer.train()
        runs.append(trainer)
    whole, parts = runs
    counts = whole.plan().counts(0, 0)
    assert counts.max() > 1 and (counts.sum(1) < (32 if schedule.name == "simultaneous" else 8)).any()
    logged = losses_by_task(whole)
    for step, own in zip(counts, logged, strict=True):
        assert [own[f"examples_{task.name}"] for task in whole.tasks] == step.tolist()
    for name, weight in parts.model.state_dict().items():
        torch.testing.assert_close(weight, whole.model.state_dict()[name], rtol=1e-6, atol=2e-6)
    for one, other in zip(losses_by_task(parts), logged, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


@every_schedule
def test_a_resumed_run_is_the_uninterrupted_one(schedule, assert_resumes):  # noqa: F811
    assert_resumes(schedule, (MIDDLE, LATE), max_tokens_per_step=budget_of(schedule))


def test_a_run_resumes_with_its_budget_only(make_model, make_trainer, tmp_path):
    schedule, values = SCHEDULES["annealed"], {"save_strategy": "steps", "save_steps": 3, "max_steps": 3}
    make_trainer(make_model(), tmp_path / "a", schedule, max_tokens_per_step=60, **values).train()
    trainer = make_trainer(make_model(), tmp_path / "b", schedule, **values | {"max_steps": 4})
    with pytest.raises(ValueError, match=r"training.max_tokens_per_step was 60 and is null"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "a/checkpoint-3"))


def test_without_steps_per_epoch_a_run_takes_the_steps_that_are_printed(make_model, make_trainer, tmp_path, capsys):
    trainer = make_trainer(make_model(), tmp_path, Schedule("sequential"), max_tokens_per_step=40, num_train_epochs=1)
    plan = trainer.plan()
    assert isinstance(plan, TokenPlan) and plan.epoch_rows(0).tolist() == [20, 12, 17, 9]
    trainer.train()
    assert trainer.state.global_step == plan.steps_per_epoch > 10
    assert trainer.state.epoch == 1
    assert "of at most 40 tokens" in " ".join(capsys.readouterr().out.split())


def test_the_estimate_of_memory_takes_the_budget_as_the_longest_pass(make_model, make_trainer, tmp_path):
    schedule = SCHEDULES["mixed"]
    tokens = {}
    for budget in (60, 80, 10**6):
        trainer = make_trainer(make_model(), tmp_path / str(budget), schedule, max_tokens_per_step=budget)
        tokens[budget] = estimate(trainer)[1]
    assert 45 < tokens[60] <= 60 < tokens[80] <= 80
    assert tokens[10**6] == estimate(make_trainer(make_model(), tmp_path / "none", schedule))[1]


def test_a_row_that_is_longer_than_the_budget_is_refused_before_training(make_model, make_trainer, encoded, tmp_path):
    name, split = next(iter(encoded((20, 12, 17, 9)).items()))
    longest = int(np.argmax([len(ids) for ids in split["input_ids"]]))
    with pytest.raises(InputError, match=rf"max_tokens_per_step is 3, but row {longest} .* of the task {name!r} has"):
        make_trainer(make_model(), tmp_path, SCHEDULES["annealed"], max_tokens_per_step=3)


@pytest.mark.parametrize("value", [0, -5])
def test_a_budget_below_1_is_refused(value, tmp_path):
    with pytest.raises(InputError, match=f"max_tokens_per_step is {value}, but must be 1 or more"):
        MtBertTrainingArguments(output_dir=str(tmp_path), max_tokens_per_step=value)
