"""What combines with what: training arguments that are refused, settings that exclude each other, and all checks."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..data.sampling import SAMPLED
from ..errors import InputError, Problem
from ..files import path_problem
from ..modeling.limits import reserved_problems
from ..training.arguments import OWN_EVALUATION, OWN_LOADER, OWN_SHARES, REFUSED_TRAINING, WHOLE_MODEL
from ..training.distributed.process_group import NOT_WITH_SHARES, fsdp_is_asked_for
from ..training.methods.uncertainty import FIXED, UNCERTAINTY
from ..training.objective import check_losses
from ..training.optimizers import GROUPED, SEPARATE, STATEFUL, OptimizerSettings
from .fields import KeyPath, Report, defaults, shown

if TYPE_CHECKING:
    from .schema import Recipe, TaskRecipe

# Training arguments of the process, which pre-training and fine-tuning share.
PROCESS_KEYS = ("bf16", "fp16", "tf32", "use_cpu", "cpu_threads", "full_determinism", "ddp_backend", "ddp_timeout")
_BY_THE_TEXTS = "every text is read once an epoch, and the rate falls over all epochs"
REFUSED_PRETRAINING: dict[str, str] = {
    **{key: reason for key, reason in REFUSED_TRAINING.items() if reason in (OWN_LOADER, OWN_EVALUATION)},
    **dict.fromkeys(PROCESS_KEYS, "fine-tuning in the same process has to be alike; set it in training"),
    **dict.fromkeys(
        (key for key, reason in REFUSED_TRAINING.items() if reason in (WHOLE_MODEL, OWN_SHARES)),
        "the encoder is kept from the process that holds the whole model",
    ),
    "accelerator_config": REFUSED_TRAINING["accelerator_config"],
    "auto_find_batch_size": REFUSED_TRAINING["auto_find_batch_size"],
    "average_tokens_across_devices": "the loss always counts the chosen tokens of all processes",
    "bf16_full_eval": "training.bf16 holds for the dev loss too",
    "dataloader_drop_last": _BY_THE_TEXTS,
    "dataloader_in_order": _BY_THE_TEXTS,
    "enable_jit_checkpoint": REFUSED_TRAINING["enable_jit_checkpoint"],
    "fp16_full_eval": "training.fp16 holds for the dev loss too",
    "ignore_data_skip": REFUSED_TRAINING["ignore_data_skip"],
    "label_names": "the labels are the chosen tokens",
    "label_smoothing_factor": "the loss is the cross-entropy of the chosen tokens",
    "load_best_model_at_end": "the encoders of keep_epochs are what is kept",
    "logging_nan_inf_filter": "it waits for the device at every step and hides a diverged loss",
    "max_steps": _BY_THE_TEXTS,
    "prediction_loss_only": "the dev loss is all that is taken",
    "push_to_hub": "what is kept are folders; push one of them",
    "remove_unused_columns": "batches come whole from the data set",
    "resume_from_checkpoint": "a run goes on by itself from what its output folder holds",
    "train_sampling_strategy": _BY_THE_TEXTS,
    "use_liger_kernel": REFUSED_TRAINING["use_liger_kernel"],
}


@dataclass(frozen=True)
class Rule:
    """Two settings that do not go together.

    Attributes:
        when: `key: value` of the one; `tasks.*` stands for each task in turn.
        conflict: `key: value` of the other, which a problem is reported at.
        test: whether a recipe has both.
        reason: why not, and what to do.
    """

    when: str
    conflict: str
    test: Callable[[Recipe], bool]
    reason: str

    def paths(self) -> tuple[KeyPath, KeyPath]:
        """Key paths of `when` and `conflict`."""
        when, conflict = (tuple(side.partition(":")[0].split(".")) for side in (self.when, self.conflict))
        return when, conflict


def _updates_while_backward(optimizer: str) -> bool:
    return optimizer.rpartition(".")[2].lower().endswith(("lomo", "layerwise"))


_ERRORS = ("_mse", "_rmse", "_mae", "loss")
_BEST = "training.load_best_model_at_end: true"
_RECOMPUTE = "a frozen encoder keeps no activations, so nothing can be saved by computing them again"
_STOP = "training.early_stopping_patience: a number"
_SURGERY = "surgery: a method"
_NO_CONFLICT = "one task's gradient has nothing to conflict with"
_INPUT_GRADIENTS = "the ascent asks for gradients of inputs, which PyTorch refuses there; set use_reentrant: false"


def _reentrant(recipe: Recipe, key: str) -> bool:
    values = recipe.training_value(key)
    return isinstance(values, dict) and bool(values.get("use_reentrant"))


def _with_shares(recipe: Recipe, key: str) -> bool:
    path, shards = tuple(key.split(".")), recipe.training_value("shard_encoder") or fsdp_is_asked_for()
    given = path[0] == "training" or getattr(recipe, path[0]) is not None
    return bool(shards and given and recipe.value(path))


_PER_TASK = "optimizer.per_task: separate or rates"
_ONE_TASK = "each step has the optimizer of its one task; take a schedule with one task a step"
_NEEDS_PER_TASK = "a task has its own in steps of its own optimizer only; set optimizer.per_task to separate or rates"
_FROZEN = "the encoder is not trained; drop it"
_PLAIN_OPTIMIZERS = f"parameters are put in groups of our own, which these take: {', '.join(GROUPED)}"
COMBINATIONS: tuple[Rule, ...] = (
    Rule(
        "schedule.name: round_robin, sequential or simultaneous",
        "schedule.mixed: true",
        lambda r: r.schedule.mixed and r.schedule.name in ("round_robin", "sequential", "simultaneous"),
        f"such a schedule decides itself which tasks a step holds; mixed works with: {', '.join(SAMPLED)}",
    ),
    Rule(
        "schedule.name: temperature",
        "schedule.temperature: null",
        lambda r: r.schedule.name == "temperature" and r.schedule.temperature is None,
        "p_t ~ N_t^(1/T) needs its T; 1 is proportional, large values approach uniform",
    ),
    Rule(
        "schedule.name: any but temperature",
        "schedule.temperature: a number",
        lambda r: r.schedule.name != "temperature" and r.schedule.temperature is not None,
        "only that schedule has a T; set schedule.name: temperature, or drop it",
    ),
    Rule(
        "schedule.mixed: true",
        "tasks.*.batch_size: a number",
        lambda r: r.schedule.mixed and any(task.batch_size is not None for task in r.tasks.values()),
        "a mixed step has the run's batch size, and draws how many rows of it are of which task",
    ),
    Rule(
        "peft: a method",
        "model.freeze_encoder: true",
        lambda r: r.peft is not None and r.model.freeze_encoder,
        "peft freezes the encoder itself, and trains what it adds to it; drop freeze_encoder",
    ),
    Rule(
        "model.freeze_encoder: false",
        "model.train_layer_norms: true",
        lambda r: r.model.train_layer_norms and not r.model.freeze_encoder,
        "the norms are trained with the rest; set freeze_encoder: true, or drop it",
    ),
    Rule(
        "model.adapter: null",
        "tasks.*.adapter: false",
        lambda r: r.model.adapter is None and any(not task.adapter for task in r.tasks.values()),
        "there is no adapter that the task could do without; set model.adapter, or drop it",
    ),
    Rule(
        "model.freeze_encoder: true",
        "training.gradient_checkpointing: true",
        lambda r: r.model.freeze_encoder and bool(r.training_value("gradient_checkpointing")),
        _RECOMPUTE,
    ),
    Rule(
        "model.freeze_encoder: true",
        "training.activation_checkpointing: true",
        lambda r: r.model.freeze_encoder and bool(r.training_value("activation_checkpointing")),
        _RECOMPUTE,
    ),
    Rule(
        "model.packed: true",
        "training.neftune_noise_alpha: a number",
        lambda r: r.model.packed and r.training_value("neftune_noise_alpha") is not None,
        "its noise is scaled by the length of a text, which a packed batch is not; set model.packed: false",
    ),
    Rule(
        _SURGERY,
        "schedule.mixed: false",
        lambda r: r.surgery is not None and r.schedule.name in SAMPLED and not r.schedule.mixed,
        f"such a step has one task, and {_NO_CONFLICT}; set schedule.mixed: true, or schedule.name: simultaneous",
    ),
    Rule(
        _SURGERY,
        "schedule.name: round_robin or sequential",
        lambda r: r.surgery is not None and r.schedule.name in ("round_robin", "sequential"),
        f"such a step has one task, and {_NO_CONFLICT}; set schedule.name: simultaneous",
    ),
    Rule(
        "tasks: one",
        "surgery.method: any",
        lambda r: r.surgery is not None and len(r.tasks) == 1,
        f"{_NO_CONFLICT}; drop it",
    ),
    Rule(
        _SURGERY,
        "model.freeze_encoder: true",
        lambda r: r.surgery is not None and r.model.freeze_encoder and not r.model.train_layer_norms,
        "the tasks train no parameter that they share; train the encoder, its norms, or peft in it, or drop surgery",
    ),
    Rule(
        _SURGERY,
        "training.optim: lomo, adalomo, or a layerwise one",
        lambda r: r.surgery is not None and _updates_while_backward(str(r.training_value("optim"))),
        "it updates the weights in the middle of a task's backward pass, before there are gradients to combine",
    ),
    Rule(
        "smart: a mapping",
        "training.neftune_noise_alpha: a number",
        lambda r: r.smart is not None and r.training_value("neftune_noise_alpha") is not None,
        "both disturb the embeddings, and smart compares with embeddings that nothing disturbs; drop one of them",
    ),
    Rule(
        "smart: a mapping",
        "training.tf32: true",
        lambda r: r.smart is not None and r.training_value("tf32") is True,
        "its passes need all bits of fp32 to see a perturbation of its radius; set tf32: false",
    ),
    Rule(
        "smart: a mapping",
        "training.activation_checkpointing_kwargs: use_reentrant: true",
        lambda r: r.smart is not None and _reentrant(r, "activation_checkpointing_kwargs"),
        _INPUT_GRADIENTS,
    ),
    Rule(
        "smart: a mapping",
        "training.gradient_checkpointing_kwargs: use_reentrant: true",
        lambda r: r.smart is not None and _reentrant(r, "gradient_checkpointing_kwargs"),
        _INPUT_GRADIENTS,
    ),
    Rule(
        "tasks: two or more",
        "training.ddp_find_unused_parameters: false",
        lambda r: len(r.tasks) > 1 and r.training_value("ddp_find_unused_parameters") is False,
        "the head of a task that a step lacks has no gradient, which several processes would wait for",
    ),
    Rule(
        "tasks: none with data.dev",
        "training.eval_strategy: steps or epoch",
        lambda r: r.training_value("eval_strategy") != "no" and not any(task.data.dev for task in r.tasks.values()),
        "there is nothing to evaluate; give a task data.dev, or set eval_strategy: no",
    ),
    Rule(
        _BEST,
        "training.eval_strategy: no",
        lambda r: r.training_value("load_best_model_at_end") and r.training_value("eval_strategy") == "no",
        "without evaluations no checkpoint is the best; set eval_strategy to steps or epoch",
    ),
    Rule(
        _BEST,
        "training.save_strategy: another than training.eval_strategy",
        lambda r: (
            r.training_value("load_best_model_at_end")
            and r.training_value("eval_strategy") != "no"
            and r.training_value("save_strategy") not in (r.training_value("eval_strategy"), "best")
        ),
        "the best checkpoint must have been saved when it was evaluated; set both alike, or save_strategy: best",
    ),
    Rule(
        "training.metric_for_best_model: an error or a loss",
        "training.greater_is_better: not false",
        lambda r: (
            str(r.training_value("metric_for_best_model")).endswith(_ERRORS)
            and r.training_value("greater_is_better") is not False
            and (
                r.training_value("greater_is_better") or not r.training_value("metric_for_best_model").endswith("loss")
            )
        ),
        "lower is better there; set greater_is_better: false",
    ),
    Rule(
        _STOP,
        "training.eval_strategy: no",
        lambda r: r.training_value("early_stopping_patience") is not None and r.training_value("eval_strategy") == "no",
        "without evaluations there is nothing to wait for; set eval_strategy to steps or epoch",
    ),
    Rule(
        _STOP,
        "training.metric_for_best_model: null",
        lambda r: (
            r.training_value("early_stopping_patience") is not None
            and r.training_value("metric_for_best_model") is None
        ),
        "it must be said what has to get better, such as metric_for_best_model: eval_overall",
    ),
    Rule(
        _PER_TASK,
        "schedule.name: simultaneous",
        lambda r: r.optimizer.per_task is not None and r.schedule.name == "simultaneous",
        _ONE_TASK,
    ),
    Rule(
        _PER_TASK,
        "schedule.mixed: true",
        lambda r: r.optimizer.per_task is not None and r.schedule.mixed,
        _ONE_TASK,
    ),
    Rule(
        "optimizer.per_task: null",
        "tasks.*.learning_rate: a number",
        lambda r: r.optimizer.per_task is None and any(task.learning_rate is not None for task in r.tasks.values()),
        _NEEDS_PER_TASK,
    ),
    Rule(
        "optimizer.per_task: null",
        "tasks.*.weight_decay: a number",
        lambda r: r.optimizer.per_task is None and any(task.weight_decay is not None for task in r.tasks.values()),
        _NEEDS_PER_TASK,
    ),
    Rule(
        "tasks.*.learning_rate: a number",
        "training.learning_rate: 0",
        lambda r: (
            not r.training_value("learning_rate") and any(task.learning_rate is not None for task in r.tasks.values())
        ),
        "a task's rate is a multiple of the run's, whose schedule it follows; set a positive one",
    ),
    Rule(
        "optimizer.per_task: separate",
        "training.optim: any but AdamW",
        lambda r: r.optimizer.per_task == SEPARATE and r.training_value("optim") not in STATEFUL,
        f"each task has its own state of AdamW; take one of: {', '.join(STATEFUL)}",
    ),
    Rule(
        "optimizer: a key that is set",
        "training.optim: one with groups of its own",
        lambda r: r.optimizer != OptimizerSettings() and r.training_value("optim") not in GROUPED,
        _PLAIN_OPTIMIZERS,
    ),
    Rule(
        "model.freeze_encoder: true",
        "optimizer.encoder_learning_rate: a number",
        lambda r: (
            r.model.freeze_encoder and not r.model.train_layer_norms and r.optimizer.encoder_learning_rate is not None
        ),
        _FROZEN,
    ),
    Rule(
        "model.freeze_encoder: true",
        "optimizer.layer_decay: a number",
        lambda r: r.model.freeze_encoder and not r.model.train_layer_norms and r.optimizer.layer_decay is not None,
        _FROZEN,
    ),
    Rule(
        "peft: a method",
        "optimizer.encoder_learning_rate: a number",
        lambda r: r.peft is not None and r.optimizer.encoder_learning_rate is not None,
        "peft freezes the encoder's own weights; what it adds has the adapter_learning_rate",
    ),
    Rule(
        "model.adapter: null",
        "optimizer.adapter_learning_rate: a number",
        lambda r: r.model.adapter is None and r.peft is None and r.optimizer.adapter_learning_rate is not None,
        "there is no adapter, and nothing that peft adds; set model.adapter or peft, or drop it",
    ),
    Rule(
        "loss.weighting: uncertainty",
        "training.optim: one with groups of its own",
        lambda r: r.loss.weighting == UNCERTAINTY and r.training_value("optim") not in GROUPED,
        _PLAIN_OPTIMIZERS,
    ),
    Rule(
        "loss.weighting: fixed",
        "loss.learning_rate: a number",
        lambda r: r.loss.weighting == FIXED and r.loss.learning_rate is not None,
        "it is the rate of the log-variances; set loss.weighting: uncertainty, or drop it",
    ),
    Rule(
        "tasks.*.class_weights: balanced or numbers",
        "tasks.*.balanced: true",
        lambda r: any(task.balanced and task.class_weights is not None for task in r.tasks.values()),
        "both change how much a class counts; take one of them",
    ),
    Rule(
        "tasks.*.data.unlabelled: texts",
        "distillation: null",
        lambda r: r.distillation is None and any(task.data.unlabelled for task in r.tasks.values()),
        "only a teacher says what is to be learned from texts without labels; set distillation, or drop them",
    ),
    Rule(
        "tasks.*.data.unlabelled: texts",
        "tasks.*.balanced: true",
        lambda r: any(task.balanced and task.data.unlabelled for task in r.tasks.values()),
        "a text without a label belongs to no class; take one of them",
    ),
    Rule(
        "stages: one or more",
        "training.resume_from_checkpoint: a folder",
        lambda r: r.stages and r.training.get("resume_from_checkpoint") not in (None, "true", "True", "latest", "auto"),
        "what comes after that checkpoint belongs to the same run; write true, which takes the last one of all stages",
    ),
    *(
        Rule("training.shard_encoder: true", f"{key}: any", partial(_with_shares, key=key), reason)
        for key, reason in NOT_WITH_SHARES.items()
    ),
)


def check(recipe: Recipe, report: Report) -> None:
    """Note everything that is wrong with values whose types are right."""
    if recipe.encoder == "":
        report.add(Problem(("encoder",), "is empty; give a folder, or a name on the hub"))
    if not recipe.tasks and not report.broken(("tasks",)):
        report.add(Problem(("tasks",), ": there are none; give at least one, as a name with its settings"))
    _check_training(recipe, report)
    if recipe.pretraining is not None and not report.broken(("pretraining",)):
        _check_pretraining(recipe.pretraining, report)
    for rule in COMBINATIONS:
        _check_rule(rule, recipe, report)
    for key in ("schedule", "optimizer", "loss", "surgery", "smart", "proximal", "averaging", "distillation", "card"):
        settings = getattr(recipe, key)
        if settings is not None and not report.broken((key,)):
            report.add_all(each.under(key) for each in settings.problems())
    valid = [_check_task(name, task, report) for name, task in recipe.tasks.items()]
    if all(valid) and recipe.tasks and not report.broken(("tasks",)):
        _check_best_metric(recipe, report)


def _check_training(recipe: Recipe, report: Report) -> None:
    for key, reason in REFUSED_TRAINING.items():
        if key not in recipe.training:
            continue
        value, default = recipe.training[key], recipe.training_default(key)
        if (value or None) != (default or None):  # null, false, 0 and empty all mean "off"
            report.add(Problem(("training", key), f"is {shown(value, key)}, which is refused: {reason}"))
    if not recipe.training.get("output_dir") and not report.broken(("training", "output_dir")):
        remedy = "give it in the recipe or on the command line: --training.output_dir DIR"
        report.add(Problem(("training", "output_dir"), f"is missing; {remedy}"))
    for section, given in (("training", recipe.training), ("pretraining", recipe.pretraining or {})):
        if given.get("output_dir") and (problem := path_problem(given["output_dir"])):
            report.add(Problem((section, "output_dir"), f"is {shown(given['output_dir'])}, which {problem}"))


def _check_pretraining(given: dict[str, Any], report: Report) -> None:
    from ..training.arguments import PretrainingArguments, pretraining_problems

    known = defaults(PretrainingArguments)
    for key, reason in REFUSED_PRETRAINING.items():
        if key in given and (given[key] or None) != (known.get(key) or None):
            report.add(Problem(("pretraining", key), f"is {shown(given[key], key)}, which is refused: {reason}"))
    report.add_all(each.under("pretraining") for each in pretraining_problems(known | given))


def _check_rule(rule: Rule, recipe: Recipe, report: Report) -> None:
    paths = rule.paths()
    in_turn = any(path[:2] == ("tasks", "*") for path in paths)
    for name in recipe.tasks if in_turn else (None,):
        one = replace(recipe, tasks={name: recipe.tasks[name]}) if in_turn else recipe
        when, conflict = (tuple(name if key == "*" else key for key in path) for path in paths)
        if not report.broken(when) and not report.broken(conflict) and rule.test(one):
            value = one.value(conflict)
            report.add(Problem(conflict, f"is {shown(value)}, which does not go with {rule.when}: {rule.reason}"))


def _check_task(name: str, task: TaskRecipe, report: Report) -> bool:
    """Note what is wrong with a task; whether its spec could be made and its metric suits it."""
    path, before = ("tasks", name), len(report.lines)
    if not report.broken((*path, "data")):
        report.add_all(each.under(*path, "data") for each in task.data.problems())
    training = task.training()
    report.add_all(each.under(*path) for each in training.problems())
    if report.broken(path):
        return False
    try:
        spec = task.spec(name)
    except InputError as error:
        problems = error.values or [Problem((), f": {error}")]
        problems = [each for each in problems if each.path != ("texts",)]  # data.text has its line already
    else:
        problems = [*check_losses(spec, training), *reserved_problems(name)]
        if task.metric is not None:
            from ..evaluation.metrics import check_metric  # importing evaluate takes seconds

            problems = [*check_metric(spec, task.metric), *problems]
    report.add_all(each.under(*path) for each in problems)
    return len(report.lines) == before


def _check_best_metric(recipe: Recipe, report: Report) -> None:
    name = recipe.training_value("metric_for_best_model")
    path = ("training", "metric_for_best_model")
    if not isinstance(name, str) or report.broken(path):
        return
    known = known_scores(recipe)
    full = name if name.startswith("eval_") else f"eval_{name}"
    if full not in known:
        near = difflib.get_close_matches(full, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        report.add(Problem(path, f"is {shown(name)}, which no evaluation has; {hint}known ones: {', '.join(known)}"))


def known_scores(recipe: Recipe) -> list[str]:
    """The names of the scores that an evaluation of a valid recipe has; averages and the mean loss come first."""
    from ..evaluation.metrics import default_metrics  # importing evaluate takes seconds

    known = ["eval_overall", "eval_raw_mean", "eval_loss"]
    for name, task in recipe.tasks.items():
        if task.data.dev:
            metrics = dict.fromkeys((*filter(None, [task.metric]), *default_metrics(task.spec(name)), "loss"))
            known += [f"eval_{name}_{metric}" for metric in metrics]
    return known
