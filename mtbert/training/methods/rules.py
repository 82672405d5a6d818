"""Settings that exclude each other, for recipes and Python alike; rules of a method are in the method's file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from peft import PeftModel
from torch import nn

from ...data.sampling import drawing
from ...errors import Problem, refuse
from ...modeling.display import shortened
from ..distributed.process_group import FP16_WITH_SHARES, fsdp_is_asked_for
from ..optimizers import GROUPED, OptimizerSettings
from . import REGISTRY, method_module
from .task_losses import CORRELATION

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from ...modeling.modeling_mtbert import MtBertForMultiTask
    from ..objective import TaskTraining

ANY_TASK = "*"


class Run:
    """Settings of a run, looked up by their recipe keys.

    Args:
        sections: section of a recipe → its settings, an object or a mapping; None or left out: not set. `tasks` maps
            task names to the settings of each task.
    """

    def __init__(self, **sections: Any):
        self._sections = sections

    @property
    def tasks(self) -> Mapping[str, Any]:
        """Task name → settings of the task."""
        return self._sections["tasks"]

    def value(self, key: str) -> Any:
        """The value of a dotted key such as `schedule.mixed`; None where it or its section is not set."""
        value: Any = self._sections
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
        return value.value if isinstance(value, Enum) else value

    def has(self, *keys: str) -> bool:
        """Whether all these keys are set."""
        return all(self.value(key) is not None for key in keys)

    def of_task(self, name: str) -> Run:
        """The same run, in which `tasks.*` means this task."""
        return Run(**self._sections | {"tasks": {**self.tasks, ANY_TASK: self.tasks[name]}})


@dataclass(frozen=True)
class Rule:
    """Two settings that exclude each other.

    Attributes:
        when: `key: value` of the first; `tasks.*` stands for each task in turn.
        conflict: `key: value` of the second, whose key the problem is reported at.
        test: returns whether a run has both.
        reason: why they exclude each other, and what to do.
    """

    when: str
    conflict: str
    test: Callable[[Run], Any]
    reason: str

    def cases(self, run: Run) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], Run]]:
        """Yield the paths of both keys and the run that `test` gets: once, or once for each task."""
        when, conflict = tuple(self.when.partition(":")[0].split(".")), tuple(self.key.split("."))
        if ANY_TASK not in (*when, *conflict):
            yield when, conflict, run
            return
        for name in run.tasks:
            named = [tuple(name if key == ANY_TASK else key for key in path) for path in (when, conflict)]
            yield named[0], named[1], run.of_task(name)

    @property
    def key(self) -> str:
        """The key of `conflict`."""
        return self.conflict.partition(":")[0]

    def problem(self, path: tuple[str, ...], value: str) -> Problem:
        """The problem to report, at the path of `conflict`, which has this value."""
        return Problem(path, f"is {value}, which does not go with {self.when}: {self.reason}")


def with_shares(key: str, reason: str) -> Rule:
    """The rule that a key excludes `training.shard_encoder`."""
    return Rule("training.shard_encoder: true", f"{key}: any", partial(_has_shares, key=key), reason)


def _has_shares(run: Run, key: str) -> bool:
    is_set = run.value(key) not in (None, False, 0)
    return is_set and (run.value("training.shard_encoder") or fsdp_is_asked_for())


def is_frozen_whole(run: Run) -> bool:
    """Whether no parameter of the encoder is trained."""
    return run.value("model.freeze_encoder") and not run.value("model.train_layer_norms")


def _metric(run: Run) -> str:
    return str(run.value("training.metric_for_best_model"))


def correlates(run: Run) -> bool:
    """Whether the loss of the task in question is a correlation over its rows of a micro-batch."""
    return bool(run.value("tasks.*.loss") == CORRELATION)


def sharing_texts(run: Run) -> list[Any]:
    """The settings of the tasks of the source of the task in question, itself included; empty without a source."""
    task = run.tasks[ANY_TASK]
    for names in (run.value("sources") or {}).values():
        members = [run.tasks[name] for name in names if name in run.tasks]
        if any(member is task for member in members):
            return members
    return []


def _differs(run: Run, key: str) -> bool:
    """Whether a key of the task in question is set, but not alike in all tasks of its source."""
    value = run.value(f"tasks.*.{key}")
    others = [Run(task=task).value(f"task.{key}") for task in sharing_texts(run)]
    return value is not None and any(other != value for other in others)


def _processes(run: Run) -> int:
    return max(int(os.environ.get("WORLD_SIZE", "1")), run.value("training.world_size") or 1)


DRAWN_TOGETHER = "sources: drawn together"
_ONE_SETTING = "its texts are drawn for all of its tasks; give these the same value, or set schedule.draw: task"
_CORRELATION = "tasks.*.loss: correlation"
_WHOLE_STEP = "a correlation is over all of a task's rows in a step, which one pass must hold"
_ERRORS = ("_mse", "_rmse", "_mae", "loss")
_BEST = "training.load_best_model_at_end: true"
_RECOMPUTE = "a frozen encoder keeps no activations, so nothing can be saved by computing them again"
_STOP = "training.early_stopping_patience: a number"
_FROZEN = "the encoder is not trained; drop it"
PLAIN_OPTIMIZERS = f"parameters are put in groups of our own, which these take: {', '.join(GROUPED)}"
RULES: tuple[Rule, ...] = (
    Rule(
        "schedule.name: round_robin, sequential or simultaneous",
        "schedule.mixed: true",
        lambda run: (
            run.value("schedule.mixed") and run.value("schedule.name") in ("round_robin", "sequential", "simultaneous")
        ),
        f"such a schedule decides itself which tasks a step holds; mixed works with: {', '.join(drawing())}",
    ),
    Rule(
        "schedule.name: temperature",
        "schedule.temperature: null",
        lambda run: run.value("schedule.name") == "temperature" and not run.has("schedule.temperature"),
        "p_t ~ N_t^(1/T) needs its T; 1 is proportional, large values approach uniform",
    ),
    Rule(
        "schedule.name: any but temperature",
        "schedule.temperature: a number",
        lambda run: run.value("schedule.name") != "temperature" and run.has("schedule.temperature"),
        "only that schedule has a T; set schedule.name: temperature, or drop it",
    ),
    Rule(
        "schedule.mixed: true",
        "tasks.*.batch_size: a number",
        lambda run: run.value("schedule.mixed") and run.has("tasks.*.batch_size"),
        "a mixed step has the run's batch size, and draws how many rows of it are of which task",
    ),
    Rule(
        "peft: a method",
        "model.freeze_encoder: true",
        lambda run: run.has("peft") and run.value("model.freeze_encoder"),
        "peft freezes the encoder itself, and trains what it adds to it; drop freeze_encoder",
    ),
    Rule(
        "model.freeze_encoder: false",
        "model.train_layer_norms: true",
        lambda run: run.value("model.train_layer_norms") and not run.value("model.freeze_encoder"),
        "the norms are trained with the rest; set freeze_encoder: true, or drop it",
    ),
    Rule(
        "model.adapter: null",
        "tasks.*.adapter: false",
        lambda run: not run.has("model.adapter") and run.value("tasks.*.adapter") is False,
        "there is no adapter that the task could do without; set model.adapter, or drop it",
    ),
    Rule(
        "model.freeze_encoder: true",
        "training.gradient_checkpointing: true",
        lambda run: run.value("model.freeze_encoder") and run.value("training.gradient_checkpointing"),
        _RECOMPUTE,
    ),
    Rule(
        "model.freeze_encoder: true",
        "training.activation_checkpointing: true",
        lambda run: run.value("model.freeze_encoder") and run.value("training.activation_checkpointing"),
        _RECOMPUTE,
    ),
    Rule(
        "model.packed: true",
        "training.neftune_noise_alpha: a number",
        lambda run: run.value("model.packed") and run.has("training.neftune_noise_alpha"),
        "its noise is scaled by the length of a text, which a packed batch is not; set model.packed: false",
    ),
    Rule(
        "tasks: two or more",
        "training.ddp_find_unused_parameters: false",
        lambda run: len(run.tasks) > 1 and run.value("training.ddp_find_unused_parameters") is False,
        "the head of a task that a step lacks has no gradient, which several processes would wait for",
    ),
    Rule(
        _BEST,
        "training.eval_strategy: no",
        lambda run: run.value("training.load_best_model_at_end") and run.value("training.eval_strategy") == "no",
        "without evaluations no checkpoint is the best; set eval_strategy to steps or epoch",
    ),
    Rule(
        _BEST,
        "training.save_strategy: another than training.eval_strategy",
        lambda run: (
            run.value("training.load_best_model_at_end")
            and run.value("training.eval_strategy") != "no"
            and run.value("training.save_strategy") not in (run.value("training.eval_strategy"), "best")
        ),
        "the best checkpoint must have been saved when it was evaluated; set both alike, or save_strategy: best",
    ),
    Rule(
        "training.metric_for_best_model: an error or a loss",
        "training.greater_is_better: not false",
        lambda run: (
            _metric(run).endswith(_ERRORS)
            and run.value("training.greater_is_better") is not False
            and (run.value("training.greater_is_better") or not _metric(run).endswith("loss"))
        ),
        "lower is better there; set greater_is_better: false",
    ),
    Rule(
        _STOP,
        "training.eval_strategy: no",
        lambda run: run.has("training.early_stopping_patience") and run.value("training.eval_strategy") == "no",
        "without evaluations there is nothing to wait for; set eval_strategy to steps or epoch",
    ),
    Rule(
        _STOP,
        "training.metric_for_best_model: null",
        lambda run: run.has("training.early_stopping_patience") and not run.has("training.metric_for_best_model"),
        "it must be said what has to get better, such as metric_for_best_model: eval_overall",
    ),
    Rule(
        "optimizer: a key that is set",
        "training.optim: one with groups of its own",
        lambda run: run.value("optimizer") != OptimizerSettings() and run.value("training.optim") not in GROUPED,
        PLAIN_OPTIMIZERS,
    ),
    Rule(
        "model.freeze_encoder: true",
        "optimizer.encoder_learning_rate: a number",
        lambda run: is_frozen_whole(run) and run.has("optimizer.encoder_learning_rate"),
        _FROZEN,
    ),
    Rule(
        "model.freeze_encoder: true",
        "optimizer.layer_decay: a number",
        lambda run: is_frozen_whole(run) and run.has("optimizer.layer_decay"),
        _FROZEN,
    ),
    Rule(
        "peft: a method",
        "optimizer.encoder_learning_rate: a number",
        lambda run: run.has("peft", "optimizer.encoder_learning_rate"),
        "peft freezes the encoder's own weights; what it adds has the adapter_learning_rate",
    ),
    Rule(
        "model.adapter: null",
        "optimizer.adapter_learning_rate: a number",
        lambda run: not run.has("model.adapter") and not run.has("peft") and run.has("optimizer.adapter_learning_rate"),
        "there is no adapter, and nothing that peft adds; set model.adapter or peft, or drop it",
    ),
    Rule(
        "tasks.*.class_weights: balanced or numbers",
        "tasks.*.balanced: true",
        lambda run: run.value("tasks.*.balanced") and run.has("tasks.*.class_weights"),
        "both change how much a class counts; take one of them",
    ),
    Rule(
        DRAWN_TOGETHER,
        "tasks.*.balanced: true",
        lambda run: run.value("tasks.*.balanced") and sharing_texts(run),
        "a text has labels of several tasks, and can be drawn by the classes of one only; set schedule.draw: task",
    ),
    Rule(
        DRAWN_TOGETHER,
        "tasks.*.batch_size: another than of a task of the same source",
        lambda run: _differs(run, "batch_size"),
        _ONE_SETTING,
    ),
    Rule(
        DRAWN_TOGETHER,
        "tasks.*.examples_per_epoch: another than of a task of the same source",
        lambda run: _differs(run, "examples_per_epoch"),
        _ONE_SETTING,
    ),
    Rule(
        "training.gradient_accumulation_steps: 2 or more",
        _CORRELATION,
        lambda run: correlates(run) and (run.value("training.gradient_accumulation_steps") or 1) > 1,
        f"{_WHOLE_STEP}; set gradient_accumulation_steps: 1, or another loss",
    ),
    Rule(
        "training: several processes",
        _CORRELATION,
        lambda run: correlates(run) and _processes(run) > 1,
        f"{_WHOLE_STEP}; launch one process, or set another loss",
    ),
    Rule(
        "tasks.*.batch_size: 1, its own or the run's",
        _CORRELATION,
        lambda run: (
            correlates(run)
            and (run.value("tasks.*.batch_size") or run.value("training.per_device_train_batch_size")) == 1
        ),
        "one row has no correlation; set a larger one, or another loss",
    ),
    with_shares("peft", "it trains so few weights that there is nothing to share out"),
    with_shares("training.fp16", FP16_WITH_SHARES),
    with_shares("training.torch_compile", "layers that are exchanged for shared ones were never compiled here"),
)


def all_rules() -> tuple[Rule, ...]:
    """The rules of this file and of every training method."""
    of_methods = [rule for section in REGISTRY for rule in getattr(method_module(section), "RULES", ())]
    return (*RULES, *of_methods)


def trainer_run(
    model: MtBertForMultiTask | PeftModel,
    args: TrainingArguments,
    tasks: Mapping[str, TaskTraining],
    **sections: Any,
) -> Run:
    """The settings of a trainer, for lookup by recipe keys.

    Args:
        model: the trained model; its parameters tell whether the encoder is frozen.
        args: the training arguments.
        tasks: task name → training settings, for every task of the model.
        sections: `schedule`, `optimizer`, `loss`, and the settings of each method, by section.
    """
    is_wrapped = isinstance(model, PeftModel)
    given: Any = model
    inner = given.get_base_model() if is_wrapped else given
    norms = [module for module in inner.encoder.modules() if isinstance(module, nn.LayerNorm)]
    of_norms = {id(parameter) for norm in norms for parameter in norm.parameters()}
    trained = {id(parameter) for parameter in inner.encoder.parameters() if parameter.requires_grad}
    is_frozen = not is_wrapped and trained <= of_norms
    facts = {
        "adapter": inner.config.adapter,
        "freeze_encoder": is_frozen,
        "train_layer_norms": is_frozen and bool(trained),
        "packed": inner.config.packed,
    }
    peft = next(iter(given.peft_config.values())).peft_type.value.lower() if is_wrapped else None
    of_tasks = {spec.name: vars(spec) | vars(tasks[spec.name]) for spec in inner.tasks}
    return Run(model=facts, peft=peft, training=args, tasks=of_tasks, **sections)


def refuse_combinations(run: Run) -> None:
    """Raise InputError if settings of a trainer exclude each other; it lists all such pairs."""
    refuse(
        rule.problem(_in_python(path), shortened(repr(view.value(rule.key))))
        for rule in all_rules()
        for _, path, view in rule.cases(run)
        if rule.test(view)
    )


def _in_python(path: tuple[str, ...]) -> tuple[str, ...]:
    """The path of the trainer's argument for a recipe key."""
    if path[0] == "training":
        return ("args", *path[1:])
    return (f"task_training[{path[1]!r}]", *path[2:]) if path[0] == "tasks" and len(path) > 1 else path
