"""What a report says of how a model was trained: encoder, recipe, methods and commit, without paths of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..origins.encoder_name import encoder_name
from ..recipe import Recipe


def report_setup(recipe: Recipe, record: Mapping[str, Any], split: str) -> dict[str, Any]:
    """Return the setup of a run, as `analyse_run` takes it.

    Args:
        recipe: the run's recipe.
        record: contents of its record.json; may be empty.
        split: the split that is evaluated.
    """
    recorded = record.get("encoder") or {}
    sizes = [f"{recorded[key]} {key}" for key in ("layers", "width") if recorded.get(key)]
    sizes = [size.replace("width", "wide") for size in sizes]
    name = recorded.get("name") or encoder_name(recipe.encoder) or recorded.get("family") or "a local encoder"
    methods = [name for name, settings in recipe.methods.items() if getattr(settings, "weighting", "") != "fixed"]
    if recipe.pretraining is not None:
        methods.append("pre-training")
    if recipe.peft is not None:
        methods.append(str(recipe.peft.get("type", "lora")))
    if recipe.model.adapter is not None:
        methods.append(f"{recipe.model.adapter.type} adapters")
    return {
        "split": split,
        "encoder": f"{name} ({', '.join(sizes)})" if sizes else name,
        "recipe": "; then ".join(_stage(stage) for stage in recipe.in_stages()),
        "methods": ", ".join(name.replace("_", " ") for name in methods),
        "commit": record.get("commit"),
        "measured": dict(record.get("measured", {})),
        "chosen_on_dev": any(_chose(stage) for stage in recipe.in_stages()),
    }


def _stage(recipe: Recipe) -> str:
    """Describe the schedule and the main training arguments of a stage in a few words."""
    value = recipe.training_value
    steps = value("max_steps")
    length = f"{steps:,} steps" if steps > 0 else f"{value('num_train_epochs'):g} epochs"
    batch = value("per_device_train_batch_size") * value("gradient_accumulation_steps")
    mixed = "mixed " if recipe.schedule.mixed else ""
    return f"{mixed}{recipe.schedule.name}, {length}, batch {batch}, learning rate {value('learning_rate'):g}"


def _chose(recipe: Recipe) -> bool:
    value = recipe.training_value
    return bool(value("load_best_model_at_end") or value("early_stopping_patience"))
