"""Stages of a recipe: which keys a stage may set, and the whole recipe that each of them becomes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import Problem
from ..modeling.limits import limit_problems
from ..training.methods import sections
from .fields import KeyPath, Report, shown, some
from .yaml_layers import Layer, merge, merge_layers

# How a task is trained, which may differ from stage to stage.
TASK_KEYS = (
    "weight",
    "batch_size",
    "examples_per_epoch",
    "learning_rate",
    "weight_decay",
    "class_weights",
    "label_smoothing",
    "balanced",
    "loss",
    "focal_gamma",
    "smooth_l1_beta",
)
# Keys that a stage may set, with all that is below them; `*` stands for a task's name.
STAGE_KEYS: tuple[str, ...] = (
    "schedule",
    "optimizer",
    *sections(),
    "model.freeze_encoder",
    "model.train_layer_norms",
    "training",
    *(f"{where}.{key}" for where in ("all_tasks", "tasks.*") for key in TASK_KEYS),
)

_ONE_MODEL = "every stage trains the same model"
_ONE_PROCESS = "all stages run in the same processes"
_ONE_RUN = "the stages are one run, with one folder and one log"
_ONE_TASK = f"a task is the same in every stage, but for its {', '.join(TASK_KEYS)}"
# Keys that a stage may not set, and why; the longest that fits decides, here and above.
REFUSED_IN_STAGES: dict[str, str] = {
    "encoder": _ONE_MODEL,
    "data_dir": "every stage trains on the same data",
    "leaks": "every stage trains on the same data",
    "sources": "every stage trains on the same data",
    "schedule.draw": "every stage trains on the same data, in which the tasks of a source share rows or do not",
    "model": _ONE_MODEL,
    "peft": _ONE_MODEL,
    "pretraining": "it comes before all stages",
    "stages": "a stage has no stages",
    "card": "the stages are one run, with one card",
    "imports": _ONE_RUN,
    "all_tasks": _ONE_TASK,
    "tasks": _ONE_TASK,
    **dict.fromkeys(
        (f"training.{key}" for key in ("bf16", "fp16", "tf32", "use_cpu", "cpu_threads", "full_determinism")),
        _ONE_PROCESS,
    ),
    **dict.fromkeys((f"training.ddp_{key}" for key in ("backend", "timeout")), _ONE_PROCESS),
    **dict.fromkeys(
        (f"training.{key}" for key in ("output_dir", "resume_from_checkpoint", "report_to", "run_name", "project")),
        _ONE_RUN,
    ),
    **dict.fromkeys(
        (f"training.{key}" for key in ("push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo")), _ONE_RUN
    ),
    "training.seed": "one seed names the run; training.data_seed gives a stage another order of rows",
}


def refusal(path: KeyPath) -> str | None:
    """Why a stage may not set what stands at `path`; None if it may."""
    reason, longest = "it is none of a stage's keys", -1
    for key in (*STAGE_KEYS, *sections(), *REFUSED_IN_STAGES):
        pattern = key.split(".")
        fits = len(path) >= len(pattern) and all(one in ("*", two) for one, two in zip(pattern, path, strict=False))
        if fits and len(pattern) > longest:
            reason, longest = REFUSED_IN_STAGES.get(key), len(pattern)
    return reason


def _leaves(tree: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """The values of a tree that are no mappings, and where they stand."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path, tree


def split_stages(layer: Layer, report: Report) -> list[Layer]:
    """One layer for each stage: what it sets, laid over the rest of the recipe, or nothing if there is no stage.

    `all_tasks` of a stage holds for every task, whatever the rest of the recipe says of it. Keys that a stage may not
    set are noted in the report and left out.
    """
    stages = layer.tree.get("stages")
    if not isinstance(stages, list | tuple) or not all(isinstance(stage, dict) for stage in stages):
        return []
    if problems := limit_problems(("stages",), "stages", len(stages), "has", " stages"):
        report.add_all(problems)
        return []
    rest = {key: value for key, value in layer.tree.items() if key != "stages"}
    origins = {path: origin for path, origin in layer.origins.items() if path[0] != "stages"}
    below = Layer(rest, origins, layer.problems)
    recipe_tasks = rest.get("tasks")
    tasks = [name for name, task in recipe_tasks.items() if task is not None] if isinstance(recipe_tasks, dict) else []
    return [merge_layers(below, _stage(number, stage, layer, tasks, report)) for number, stage in enumerate(stages)]


def _stage(number: int, stage: dict[str, Any], layer: Layer, tasks: list[str], report: Report) -> Layer:
    where: KeyPath = ("stages", str(number))
    stage_layer = Layer({})
    for path, value in _leaves(stage):
        reason = refusal(path) if len(path) > 1 or value is not None else "write what the stage changes in it"
        targets = [("tasks", name, *path[1:]) for name in tasks] if path[0] == "all_tasks" else [path]
        if reason is not None:
            message = f"is {shown(value, path[-1])}, which a stage may not set: {reason}"
            report.add(Problem((*where, *path), message))
        elif path[0] == "tasks" and path[1] not in tasks:
            report.add(Problem((*where, *path), f": the recipe has no task {path[1]!r}; it has: {some(tasks)}"))
        else:
            origin = layer.origins.get((*where, *path), report.source)
            for target in targets:
                stage_layer.tree = merge(stage_layer.tree, _tree(target, value))
                stage_layer.origins[target] = f"{origin}: stages.{number}"
    return stage_layer


def _tree(path: KeyPath, value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value
