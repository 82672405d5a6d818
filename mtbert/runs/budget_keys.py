"""The keys of a recipe that a budget sets, so that the rows of a table have the same number of examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.spec import CUT, DataSpec
from ..recipe import Recipe, load_recipe
from .budget import BATCH, EPOCHS, FAIR_STEPS, PILOT_SEED, PILOT_SHARE, STEPS, TEXTS_PER_EXAMPLE

Keys = dict[str, Any]


def load(path: Path, overrides: list[str]) -> Recipe:
    """Load and check a row's recipe."""
    return load_recipe(path, [*overrides, "--training.output_dir", "unused"])


def as_overrides(keys: Keys) -> list[str]:
    """Write keys of a recipe as arguments of a command line."""
    return [part for key, value in keys.items() for part in (f"--{key}", "null" if value is None else str(value))]


def small_budget(path: Path, more: list[str], learning_rate: float, curves: bool = False) -> list[str]:
    """Return the overrides of the small budget: the run draws about EPOCHS × STEPS × BATCH rows in all.

    Dev splits are evaluated at the end, with `curves` also after each epoch.
    """
    recipe = load(path, more)
    keys = length_keys(recipe, STEPS) | whole_tasks(recipe) | rate_keys(recipe, learning_rate) | quiet_keys()
    if curves:
        keys["training.eval_strategy"] = "epoch"
    return as_overrides(keys | stage_keys(recipe, keys))


def fair_budget(path: Path, more: list[str], learning_rate: float, steps: int = FAIR_STEPS) -> list[str]:
    """Return the overrides of the fair budget: about EPOCHS × `steps` × BATCH rows in all.

    A stage keeps a learning rate of its own, such as that of the heads alone. Further pre-training has as many texts
    for each example of fine-tuning as in report E: `use_epoch` and the number of epochs stay, an epoch gets shorter.
    """
    recipe = load(path, more)
    keys = length_keys(recipe, steps) | whole_tasks(recipe) | rate_keys(recipe, learning_rate) | quiet_keys()
    keys["training.save_logits"] = True
    if recipe.pretraining is not None:
        epochs = recipe.pretraining_arguments().num_train_epochs
        texts = EPOCHS * FAIR_STEPS * BATCH * TEXTS_PER_EXAMPLE
        keys["pretraining.steps_per_epoch"] = round(texts / epochs / BATCH)
    without_rate = {key: value for key, value in keys.items() if key != "training.learning_rate"}
    return as_overrides(keys | stage_keys(recipe, without_rate))


def pilot_keys(recipe: Recipe) -> list[str]:
    """Return the overrides that a pilot adds: a share of the training rows, and not dev, is evaluated."""
    keys: Keys = {"training.seed": PILOT_SEED}
    for name, task in recipe.tasks.items():
        data = task.data.key(name)
        if any(map(task.data.is_share, CUT)):  # rows of dev and test take no part in the choice
            keys |= _held_out(data, task.data, round(1 / PILOT_SHARE), 0)
        else:
            keys |= {f"{data}.dev": None, f"{data}.dev_share": PILOT_SHARE}
    return as_overrides(keys)


def _held_out(key: str, data: DataSpec, folds: int, fold: int) -> Keys:
    """Return the keys below `key` of data whose dev split is a fold; shares that are cut off for dev and test stay."""
    files: Keys = {f"{key}.{split}": None for split in CUT if not data.is_share(split)}
    return files | {f"{key}.folds": folds, f"{key}.fold": fold}


def total_steps(recipe: Recipe) -> int | None:
    """Return the number of optimizer steps that a recipe without stages says; None if its data decide."""
    if recipe.training_value("max_steps") > 0:
        return int(recipe.training_value("max_steps"))
    epochs = recipe.training_value("num_train_epochs")
    return None if recipe.schedule.steps_per_epoch is None else round(recipe.schedule.steps_per_epoch * epochs)


def steps_keys(recipe: Recipe, steps: int) -> Keys:
    """Return the keys of a run of about `steps` steps in the recipe's number of epochs, or in as many as steps."""
    epochs = min(recipe.training_value("num_train_epochs"), steps)
    keys: Keys = {
        "training.max_steps": -1,
        "training.num_train_epochs": epochs,
        "schedule.steps_per_epoch": max(1, round(steps / epochs)),
    }
    return keys | stage_keys(recipe, keys)


def fold_keys(recipe: Recipe, folds: int, fold: int) -> Keys:
    """Return the keys of a run that is evaluated, once at its end, on a fold of the training rows, and not on dev."""
    keys = quiet_keys() | {"training.save_logits": True, "training.eval_on_start": False}
    for name, task in recipe.tasks.items():
        keys |= _held_out(task.data.key(name), task.data, folds, fold)
    return keys


def length_keys(recipe: Recipe, steps: int) -> Keys:
    """Return the keys of a run's length: a step with a batch of every task counts as many."""
    per_step = BATCH * (len(recipe.tasks) if recipe.schedule.name == "simultaneous" else 1)
    keys = {
        "schedule.steps_per_epoch": max(1, round(steps * BATCH / per_step)),
        "training.num_train_epochs": EPOCHS,
        "training.per_device_train_batch_size": BATCH,
    }
    return keys | {f"tasks.{task}.batch_size": None for task in recipe.tasks}


def whole_tasks(recipe: Recipe) -> Keys:
    """Return the keys of a run whose tasks are drawn by the numbers of all their rows."""
    return {f"tasks.{task}.examples_per_epoch": None for task in recipe.tasks}


def rate_keys(recipe: Recipe, learning_rate: float) -> Keys:
    """Return the keys of the learning rate; the highest of the tasks' own becomes `learning_rate`, the ratios stay."""
    keys: Keys = {
        "training.learning_rate": learning_rate,
        "training.lr_scheduler_type": "linear",
        "training.warmup_steps": 0.1,
    }
    rates = {name: task.learning_rate for name, task in recipe.tasks.items() if task.learning_rate is not None}
    for name, rate in rates.items():
        keys[f"tasks.{name}.learning_rate"] = learning_rate * rate / max(rates.values())
    return keys


def quiet_keys() -> Keys:
    """Return the keys of a run that is evaluated at its end only."""
    return {
        "training.logging_steps": 10,
        "training.eval_strategy": "no",
        "training.save_strategy": "no",
        "training.load_best_model_at_end": "false",
        "training.metric_for_best_model": None,
        "training.early_stopping_patience": None,
        "training.report_to": "none",
    }


def stage_keys(recipe: Recipe, keys: Keys) -> Keys:
    """Return the keys of the stages: two stages have one third and two thirds of the steps."""
    shares = range(1, len(recipe.stages) + 1)
    by_stage: Keys = {}
    for number, stage in enumerate(recipe.stages):
        steps = keys["schedule.steps_per_epoch"] * shares[number] / sum(shares)
        set_by_stage = {f"training.{key}" for key in stage.get("training", ())} & keys.keys()
        values = {key: keys[key] for key in sorted(set_by_stage)} | {"schedule.steps_per_epoch": max(1, round(steps))}
        by_stage |= {f"stages.{number}.{key}": value for key, value in values.items()}
    return by_stage
