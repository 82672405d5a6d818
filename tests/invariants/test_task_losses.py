"""Ordinal tasks and losses by task: accumulation, packing, one optimizer for each task, and a resume, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mtbert.data.sampling import Schedule
from mtbert.evaluation.ensemble import check_members
from mtbert.evaluation.soup import mean_of
from mtbert.modeling.task_spec import TaskSpec
from mtbert.training import memory
from mtbert.training.objective import TaskTraining
from mtbert.training.optimizers import OptimizerSettings
from mtbert.training.trainer import MtBertTrainer

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
URGENCY = TaskSpec("urgency", ordinal=True, labels=4, pooling="mean")
ROW_LOSSES = {
    "stars": TaskTraining(loss="focal", class_weights="balanced"),
    "same": TaskTraining(loss="focal", focal_gamma=1.0),
    "close": TaskTraining(loss="smooth_l1", smooth_l1_beta=0.3),
    "urgency": TaskTraining(loss="focal", balanced=True),
}
SMOOTHED = {"urgency": TaskTraining(class_weights=(1.0, 2.0, 3.0, 4.0), label_smoothing=0.2)}
CORRELATED = {"close": TaskTraining(loss="correlation"), "urgency": TaskTraining(weight=2.0)}


@pytest.fixture
def specs(tasks):
    return tuple(replace(task, dropout=0.0) for task in (*tasks[:3], URGENCY))


@pytest.fixture
def trainer_of(make_model, make_args, splits, specs, tokenizer):
    """A function: folder, losses, settings → a trainer on four tasks without dropout, one of them ordinal."""

    def make(folder="run", tasks=None, schedule=None, packed=True, optimizer=None, **settings):
        values = {"per_device_train_batch_size": 8, "num_train_epochs": 2, "optim": "sgd", "learning_rate": 0.05}
        return MtBertTrainer(
            make_model(specs, packed=packed, **STILL),
            make_args(folder, **values | settings),
            splits((20, 12, 17, 16), specs=specs),
            processing_class=tokenizer,
            settings={
                "schedule": schedule or Schedule("annealed", mixed=True, steps_per_epoch=3),
                "tasks": tasks,
                **({"optimizer": optimizer} if optimizer else {}),
            },
        )

    return make


def trained(trainer) -> dict[str, torch.Tensor]:
    trainer.train()
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def assert_close(one, other):
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=1e-5, atol=5e-6, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("losses", [ROW_LOSSES, SMOOTHED], ids=["losses", "smoothed"])
def test_a_batch_is_its_accumulated_parts(trainer_of, losses):
    whole = trained(trainer_of("whole", losses))
    parts = trained(trainer_of("parts", losses, per_device_train_batch_size=2, gradient_accumulation_steps=4))
    assert_close(whole, parts)
    assert max(float((whole[n] - w).abs().max()) for n, w in trained(trainer_of("plain")).items()) > 1e-4


@pytest.mark.parametrize("losses", [ROW_LOSSES, CORRELATED], ids=["losses", "correlation"])
def test_packed_is_padded(trainer_of, losses):
    assert_close(trained(trainer_of("packed", losses)), trained(trainer_of("padded", losses, packed=False)))


@pytest.mark.parametrize("per_task", [None, "separate"])
def test_a_run_resumes(trainer_of, assert_same_weights, tmp_path, per_task):
    schedule = Schedule("round_robin", steps_per_epoch=4) if per_task else None
    optimizer = OptimizerSettings(per_task=per_task) if per_task else None
    settings = {"save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch", "learning_rate": 1e-3}
    given = {"tasks": CORRELATED, "schedule": schedule, "optimizer": optimizer, **settings}
    trainer_of("whole", **given).train()
    again = trainer_of("again", **given)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    end = f"checkpoint-{again.state.global_step}"
    assert_same_weights(tmp_path / "whole" / end, tmp_path / "again" / end)


def test_weights_and_predictions_of_checkpoints_are_averaged(trainer_of, tokenizer, tmp_path, specs):
    folders = []
    for number in range(2):
        trainer = trainer_of(f"run{number}", learning_rate=0.05 * (number + 1))
        trainer.train()
        trainer.save_model(str(tmp_path / f"member{number}"))
        folders.append(str(tmp_path / f"member{number}"))
    mean, _, _ = mean_of(folders)
    members = [type(mean).from_pretrained(folder) for folder in folders]
    weight = "heads.urgency.out_proj.weight"
    expected = sum(member.get_parameter(weight).detach() for member in members) / 2
    torch.testing.assert_close(mean.get_parameter(weight).detach(), expected)
    assert mean.tasks == specs
    plain = [replace(URGENCY, ordinal=False, problem_type="single_label_classification", dropout=0.0)]
    with pytest.raises(ValueError, match="problem_type is 'ordinal_classification', but must be 'single_label_"):
        check_members(folders, plain)


def test_the_estimate_of_memory_counts_a_logit_less(trainer_of, specs, make_model):
    parts = memory.estimate(trainer_of("run", ROW_LOSSES))[0]
    model = make_model(specs, **STILL)
    assert parts["weights"] == sum(each.nbytes for each in (*model.parameters(), *model.buffers()))
    assert model.heads["urgency"].out_proj.weight.shape[0] == 3
    assert all(np.isfinite(value) for value in parts.values())
