"""A trainer with dev splits, and a model that computes the same in training and evaluation."""

import pytest

from mtbert.data.sampling import Schedule
from mtbert.modeling.task_spec import TaskSpec
from mtbert.training.arguments import MtBertTrainingArguments
from mtbert.training.trainer import MtBertTrainer

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def make_args(tmp_path):
    def make(**kwargs) -> MtBertTrainingArguments:
        values = {
            "output_dir": str(tmp_path / "run"),
            "per_device_train_batch_size": 6,
            "per_device_eval_batch_size": 8,
            "num_train_epochs": 1,
            "learning_rate": 1e-3,
            "save_strategy": "no",
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return MtBertTrainingArguments(**{**values, **kwargs})

    return make


@pytest.fixture
def make_trainer(make_model, make_args, splits, tokenizer):
    """A function: settings of the trainer and of its arguments → a trainer on the four tasks, with dev splits."""

    def make(kind=MtBertTrainer, model=None, steps=None, **kwargs):
        own = ("schedule", "task_training", "callbacks", "train_dataset", "eval_dataset", "processing_class")
        own += ("compute_metrics",)
        given = {key: kwargs.pop(key) for key in own if key in kwargs}
        defaults = {
            "train_dataset": splits(),
            "eval_dataset": splits((9, 10, 11, 12), seed=1),
            "processing_class": tokenizer,
            "schedule": Schedule(steps_per_epoch=steps),
        }
        return kind(model or make_model(), make_args(**kwargs), **{**defaults, **given})

    return make


@pytest.fixture
def plain_model(make_model, tasks):
    """A function: a model without any dropout, so that training and evaluation compute the same."""
    specs = [TaskSpec.from_dict({**task.to_dict(), "dropout": 0.0}) for task in tasks]
    return lambda: make_model(specs, **NO_DROPOUT)
