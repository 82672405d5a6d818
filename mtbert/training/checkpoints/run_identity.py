"""The record of a run: everything that its weights, moments and plan depend on; `resume_record.py` compares it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from peft import PeftModel

from ...data.pools import sources_of
from ..methods import method_classes
from ..methods.base import TaskTrainer
from .resume_record import (
    Record,
    arguments_record,
    data_record,
    model_record,
    parameters_record,
    peft_record,
    weights_hash,
)


def common_record(trainer: Any, section: str, counts_steps: bool = False, without: Collection[str] = ()) -> Record:
    """The part of the record that fine-tuning and pre-training have in common.

    Args:
        section: recipe section of the trainer's arguments.
        counts_steps: whether something besides the learning rate and the plan depends on the length of the run.
        without: columns of the data that are not compared.
    """
    return {
        **arguments_record(trainer.args, trainer.plan(), section, counts_steps),
        **data_record(trainer.train_dataset, trainer.eval_dataset, without),
        "parameters": parameters_record(trainer.model, trainer.get_decay_parameter_names(trainer.model)),
        "optimizers": trainer.resumable.given,
    }


def training_record(trainer: TaskTrainer) -> Record:
    """The record of a fine-tuning run."""
    model, plan, methods = trainer.model, trainer.plan(), trainer.methods.values()
    record = model_record(model.config)
    for name, settings in trainer.task_training.items():
        values = {key: value for key, value in asdict(settings).items() if key != "metric"}
        record |= {f"tasks.{name}.{key}": value for key, value in values.items()}
    inside = isinstance(model, PeftModel)
    record["peft"] = peft_record(model.peft_config) if inside else None
    # A peft checkpoint does not hold the encoder's weights, and a recipe only names them.
    if inside or trainer.settings.recipe is not None:
        weights = model.encoder.named_parameters()
        weights = [(name, parameter) for name, parameter in weights if not (inside and parameter.requires_grad)]
        record["encoder.weights_hash"] = weights_hash(weights)
    for key in ("name", "mixed", "temperature", "resample"):
        record[f"schedule.{key}"] = getattr(plan.schedule, key)
    record["schedule.steps_per_epoch"] = plan.steps_per_epoch
    record["sources"] = {source: list(tasks) for source, tasks in sources_of(trainer.train_dataset).items()}
    record["optimizer"] = trainer.settings.optimizer
    record |= {
        method_class.section: method_class.absent_record
        for method_class in method_classes()
        if "." not in method_class.section
    }
    record |= {method.section: method.record() for method in methods if "." not in method.section}
    without = [column for method in methods for column in method.columns_not_compared()]
    counts_steps = any(method.depends_on_length for method in methods)
    return record | common_record(trainer, "training", counts_steps, without)
