"""Every way of training, by name: what its recipe sets beyond the common settings. `PADDED_TOO` also run padded."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ways_start import SLOTS, TASKS, task_data

FINETUNE, PRETRAIN = "recipes/finetune.py", "recipes/pretrain.py"
TRAINING = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.01,
    "warmup_steps": 2,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "cpu_threads": 1,
    "seed": 3,
}
MASKING = {"num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 0.01, "seed": 5}


@dataclass(frozen=True)
class Way:
    """A way of training.

    Attributes:
        recipe: sections of the recipe; they are laid over the common ones.
        tasks: name → TaskSpec's fields.
        per_task: name → further fields of a task in the recipe, which its initial weights do not depend on.
        shared: name → `data` of a task that names a source of the recipe.
        script: the script that trains.
        dev: whether the tasks have dev splits, on which the trained model is scored.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=lambda: TASKS)
    per_task: dict[str, dict[str, Any]] = field(default_factory=dict)
    shared: dict[str, dict[str, Any]] = field(default_factory=dict)
    script: str = FINETUNE
    dev: bool = False

    @property
    def adapter(self) -> dict[str, Any] | None:
        """AdapterSpec's fields, or None."""
        return self.recipe.get("model", {}).get("adapter")

    def specs(self, dropout: float) -> dict[str, dict[str, Any]]:
        """Name → TaskSpec's fields, with this probability of dropout where a task has none of its own."""
        return {name: {"dropout": dropout, **task} for name, task in self.tasks.items()}

    def start(self, dropout: float) -> str:
        """A name for the model that it begins with: the same for ways that begin with the same one."""
        return json.dumps([self.specs(dropout), self.adapter], sort_keys=True)

    def recipe_tree(self, output_dir: str, start: str, dropout: float, steps: int | None) -> dict[str, Any]:
        """The whole recipe.

        Args:
            start: the folder of what `ways_start` writes.
            steps: most optimizer steps; None: two epochs of three steps.
        """
        data = {name: self.shared.get(name) or task_data(name, self.dev) for name in self.tasks}
        tasks = {name: {**spec, "data": data[name]} for name, spec in self.specs(dropout).items()}
        tree = {
            "encoder": f"{start}/encoder",
            "data_dir": f"{start}/data",
            "tasks": _merge(tasks, self.per_task),
            "schedule": {"steps_per_epoch": 3},
            "training": {"output_dir": output_dir, **TRAINING},
        }
        tree = _merge(tree, self.recipe)
        if steps is not None:
            tree["training"]["max_steps"] = steps
        if "distillation" in tree:
            tree["distillation"] = {"teachers": [f"{start}/teacher"], **tree["distillation"]}
        return tree


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(below))
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else copy.deepcopy(value)
    return merged


def _schedule(name: str, **keys: Any) -> Way:
    return Way({"schedule": {"name": name, **keys}})


def _together(section: str, **keys: Any) -> Way:
    """All tasks in each step, and one more section."""
    return Way({"schedule": {"name": "simultaneous"}, section: keys})


def _in_turn(**sections: Any) -> Way:
    """One task in each step, in turn, and more sections."""
    return Way({"schedule": {"name": "round_robin", "steps_per_epoch": 4}, **sections})


def _adapter(**keys: Any) -> Way:
    return _in_turn(model={"adapter": {"size": 4, **keys}})


def _heads(tasks: dict[str, dict[str, Any]]) -> Way:
    return Way({"schedule": {"name": "simultaneous"}}, {name: {**TASKS[name], **task} for name, task in tasks.items()})


def _head(**keys: Any) -> dict[str, Any]:
    return {"head": keys}


PACKED: dict[str, Way] = {
    "plain": Way(),
    "one task": Way(tasks={"stars": TASKS["stars"]}),
    **{f"schedule {name}": _schedule(name) for name in ("proportional", "sqrt", "annealed", "min_annealed", "uniform")},
    "schedule temperature": _schedule("temperature", temperature=3.0),
    "schedule mixed": _schedule("annealed", mixed=True),
    "schedule mixed temperature": _schedule("temperature", temperature=3.0, mixed=True),
    "schedule round_robin": _schedule("round_robin", steps_per_epoch=4),
    "schedule sequential": _schedule("sequential", steps_per_epoch=8),
    "schedule simultaneous": _schedule("simultaneous"),
    "adapter pal": _adapter(type="pal", heads=2),
    "adapter pal published": _adapter(type="pal", heads=2, activation="identity", init="published", layers=[1]),
    "adapter pal_top": _adapter(type="pal_top", heads=2),
    "adapter low_rank": _adapter(type="low_rank"),
    "adapter houlsby": _adapter(type="houlsby"),
    "adapter top_layers": _adapter(type="top_layers", heads=2, depth=2),
    "heads linear": _heads(
        {
            "stars": {**_head(type="linear"), "pooling": "cls"},
            "same": {**_head(type="linear", features="u;v"), "pair": "both"},
            "close": _head(type="linear", features="u;v;|u-v|;u*v"),
            "topics": {**_head(type="linear"), "pooling": "mean"},
        }
    ),
    "heads mlp": _heads(
        {
            "stars": {**_head(type="mlp", layers=2, hidden_size=8, dropout=0.1), "pooling": "pooler"},
            "same": {**_head(type="mlp", layers=1, activation="tanh"), "pair": "siamese"},
            "close": {**_head(type="mlp", layers=1, activation="gelu"), "pair": "cross"},
            "topics": _head(type="mlp", layers=1, activation="identity"),
        }
    ),
    "heads attention": _heads(
        {
            "stars": {**_head(type="attention", attention_heads=2), "pooling": "cls"},
            "same": _head(type="attention", layers=1),
            "close": {**_head(type="attention", output="sigmoid"), "pair": "cross"},
            "topics": _head(type="attention", attention_heads=4, hidden_size=8, layers=1),
        }
    ),
    "heads cosine": _heads({"stars": {}, "close": _head(type="cosine", layers=1, output="relu")}),
    "heads cosine identity": _heads({"close": _head(type="cosine")}),
    "surgery pcgrad": _together("surgery", method="pcgrad"),
    "surgery cagrad": _together("surgery", method="cagrad", c=0.4),
    "surgery mgda": _together("surgery", method="mgda"),
    "surgery upgrad": _together("surgery", method="upgrad"),
    "smart": _together("smart", weight=1.0),
    "smart published": _together("smart", weight=0.5, steps=2, norm="l2", projection="published"),
    "proximal": _in_turn(proximal={"weight": 2.0, "decay": 0.9, "late_decay": 0.99, "switch": 0.3}),
    "optimizer separate": _in_turn(optimizer={"per_task": "separate"}),
    "optimizer rates": Way(
        {"schedule": {"name": "round_robin", "steps_per_epoch": 4}, "optimizer": {"per_task": "rates"}},
        per_task={"same": {"learning_rate": 0.002, "weight_decay": 0.3}},
    ),
    "optimizer parts": Way(
        {
            "optimizer": {"encoder_learning_rate": 0.002, "head_learning_rate": 0.02, "layer_decay": 0.7},
            "training": {"weight_decay": 0.1, "max_grad_norm": 0.5},
        }
    ),
    "optimizer sgd": Way({"training": {"optim": "sgd", "lr_scheduler_type": "cosine"}}),
    "losses uncertainty": _together("loss", weighting="uncertainty", learning_rate=0.05),
    "losses of rows": Way(
        {"schedule": {"name": "simultaneous"}},
        per_task={
            "stars": {"class_weights": "balanced", "label_smoothing": 0.1, "batch_size": 3},
            "same": {"balanced": True, "weight": 2.0, "data": {"symmetric": True}},
            "topics": {"class_weights": [1, 2, 3], "examples_per_epoch": 12},
        },
    ),
    "losses of tasks": Way(
        {"schedule": {"name": "simultaneous"}},
        per_task={
            "stars": {"loss": "focal", "class_weights": "balanced"},
            "same": {"loss": "focal", "focal_gamma": 0.5},
            "close": {"loss": "correlation"},
            "topics": {"loss": "focal"},
        },
    ),
    "ordinal": Way({"schedule": {"name": "simultaneous"}}, {**TASKS, "stars": {**TASKS["stars"], "ordinal": True}}),
    "words": Way({"schedule": {"name": "simultaneous"}}, {"stars": TASKS["stars"], "slots": SLOTS}),
    "averaging ema": Way({"averaging": {"type": "ema", "decay": 0.8}}),
    "averaging swa": Way({"averaging": {"type": "swa", "start": 0.0}}),
    "distillation": Way(
        {
            "schedule": {"name": "round_robin", "steps_per_epoch": 4},
            "distillation": {"weight": 0.6, "temperature": 3.0},
        },
        per_task={"stars": {"data": {"unlabelled": "stars-unlabelled.jsonl"}}},
    ),
    "distillation annealed": Way({"distillation": {"weight": 1.0, "final_weight": 0.0, "temperature": 1.0}}),
    "affinity": Way({"affinity": {"every": 2, "rows": 2}}),
    "stages": Way(
        {
            "stages": [
                {"model": {"freeze_encoder": True, "train_layer_norms": True}, "training": {"learning_rate": 0.02}},
                {"schedule": {"name": "simultaneous"}},
            ]
        }
    ),
    "source": Way(
        {"sources": {"texts": {"train": "stars-train.jsonl"}}},
        {**TASKS, "mood": {**TASKS["stars"], "pooling": "cls"}},
        shared={name: {"source": "texts", "label": "label"} for name in ("stars", "mood")},
    ),
    "frozen encoder": Way({"model": {"freeze_encoder": True}}),
    "peft lora": Way({"peft": {"type": "lora", "r": 2, "target_modules": ["query", "value"]}}),
    "pretraining": Way({"pretraining": {**MASKING, "use_epoch": 1, "keep_epochs": [1]}}),
    "pretraining alone": Way({"pretraining": MASKING}, script=PRETRAIN),
    "accumulation": Way({"training": {"gradient_accumulation_steps": 2, "gradient_checkpointing": True}}),
    "evaluation": Way(
        {
            "training": {
                "eval_strategy": "steps",
                "eval_steps": 2,
                "eval_on_start": True,
                "eval_train": True,
                "save_strategy": "steps",
                "save_steps": 2,
                "load_best_model_at_end": True,
                "metric_for_best_model": "eval_overall",
            }
        }
    ),
}

# Ways that also run with `model.packed: false`: those whose batches or modules take another path there.
PADDED_TOO = (
    "plain",
    "schedule mixed",
    "schedule simultaneous",
    "adapter pal",
    "adapter pal_top",
    "adapter low_rank",
    "adapter houlsby",
    "adapter top_layers",
    "heads linear",
    "heads mlp",
    "heads attention",
    "heads cosine",
    "surgery pcgrad",
    "smart",
    "proximal",
    "distillation",
    "words",
    "peft lora",
    "source",
    "evaluation",
)
# Ways that are scored after training; "evaluation" is scored before and between, too.
SCORED = (
    "plain",
    "one task",
    "words",
    "evaluation",
    "pretraining alone",
    *(name for name in PACKED if name.startswith("heads")),
)


def _padded(way: Way) -> Way:
    return replace(way, recipe=_merge(way.recipe, {"model": {"packed": False}}))


WAYS: dict[str, Way] = {name: replace(way, dev=name in SCORED) for name, way in PACKED.items()}
WAYS |= {f"{name}, padded": _padded(WAYS[name]) for name in PADDED_TOO}

# The ways whose losses are stored with the tests.
STORED = (
    "schedule mixed",
    "schedule simultaneous",
    "adapter pal",
    "adapter houlsby",
    "heads attention",
    "surgery pcgrad",
    "surgery cagrad",
    "smart",
    "losses uncertainty",
    "optimizer separate",
    "words",
    "schedule mixed, padded",
)
