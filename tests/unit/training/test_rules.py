"""Settings that exclude each other: what a recipe refuses, the trainer refuses too."""

import pytest
from peft import LoraConfig, get_peft_model

from mtbert.data.sampling import SAMPLED, SCHEDULES, Schedule
from mtbert.modeling.task_spec import TaskSpec
from mtbert.recipe.combinations import RULES as OF_RECIPES
from mtbert.training.arguments import MtBertTrainingArguments
from mtbert.training.methods.rules import Run, all_rules
from mtbert.training.trainer import MtBertTrainer

PER_TASK = {"optimizer": {"per_task": "rates"}, "schedule": "round_robin"}
SHARED = {"schedule": "simultaneous"}
AFFINITY = {"affinity": {"every": 5}}
SMART = {"smart": {}}
SURGERY = {"surgery": "pcgrad"}
CORRELATION = {"task": "two", "task_training": {"two": {"loss": "correlation"}}}
STOPPING = {"early_stopping_patience": 2}
# Rule, as `when + conflict` → arguments of a trainer; `args` are training arguments, `model` makes the model, `task`
# is that of the conflict (`one` where there is none).
CASES = {
    "schedule.name: round_robin, sequential or simultaneous + schedule.mixed: true": {
        "schedule": {"name": "sequential", "mixed": True}
    },
    "schedule.name: temperature + schedule.temperature: null": {"schedule": "temperature"},
    "schedule.name: any but temperature + schedule.temperature: a number": {"schedule": {"temperature": 2.0}},
    "schedule.mixed: true + tasks.*.batch_size: a number": {
        "schedule": {"mixed": True},
        "task_training": {"one": {"batch_size": 2}},
    },
    "peft: a method + model.freeze_encoder: true": None,  # a model inside peft is never just frozen
    "model.freeze_encoder: false + model.train_layer_norms: true": None,  # in Python a norm is trained, or it is not
    "model.adapter: null + tasks.*.adapter: false": {"model": "task without adapter"},
    "model.freeze_encoder: true + training.gradient_checkpointing: true": {
        "model": "frozen",
        "args": {"gradient_checkpointing": True},
    },
    "model.freeze_encoder: true + training.activation_checkpointing: true": {
        "model": "frozen",
        "args": {"activation_checkpointing": True},
    },
    "model.packed: true + training.neftune_noise_alpha: a number": {"args": {"neftune_noise_alpha": 5.0}},
    "tasks: two or more + training.ddp_find_unused_parameters: false": {"args": {"ddp_find_unused_parameters": False}},
    "training.load_best_model_at_end: true + training.eval_strategy: no": None,  # transformers refuses it before
    # as above
    "training.load_best_model_at_end: true + training.save_strategy: another than training.eval_strategy": None,
    "training.metric_for_best_model: an error or a loss + training.greater_is_better: not false": {
        "args": {"metric_for_best_model": "eval_two_mse"}
    },
    "training.early_stopping_patience: a number + training.eval_strategy: no": {
        "args": STOPPING | {"metric_for_best_model": "overall"}
    },
    "training.early_stopping_patience: a number + training.metric_for_best_model: null": {
        "args": STOPPING | {"eval_strategy": "epoch"}
    },
    "optimizer.per_task: separate or rates + schedule.name: simultaneous": PER_TASK | SHARED,
    "optimizer.per_task: separate or rates + schedule.mixed: true": PER_TASK | {"schedule": {"mixed": True}},
    "optimizer.per_task: null + tasks.*.learning_rate: a number": {"task_training": {"one": {"learning_rate": 1e-3}}},
    "optimizer.per_task: null + tasks.*.weight_decay: a number": {"task_training": {"one": {"weight_decay": 0.1}}},
    "tasks.*.learning_rate: a number + training.learning_rate: 0": PER_TASK
    | {"task_training": {"one": {"learning_rate": 1e-3}}, "args": {"learning_rate": 0.0}},
    "optimizer.per_task: separate + training.optim: any but AdamW": {
        "optimizer": {"per_task": "separate"},
        "args": {"optim": "sgd"},
    },
    "optimizer: a key that is set + training.optim: one with groups of its own": {
        "optimizer": {"layer_decay": 0.9},
        "args": {"optim": "adafactor"},
    },
    "model.freeze_encoder: true + optimizer.encoder_learning_rate: a number": {
        "model": "frozen",
        "optimizer": {"encoder_learning_rate": 1e-3},
    },
    "model.freeze_encoder: true + optimizer.layer_decay: a number": {
        "model": "frozen",
        "optimizer": {"layer_decay": 0.9},
    },
    "peft: a method + optimizer.encoder_learning_rate: a number": {
        "model": "lora",
        "optimizer": {"encoder_learning_rate": 1e-3},
    },
    "model.adapter: null + optimizer.adapter_learning_rate: a number": {"optimizer": {"adapter_learning_rate": 1e-3}},
    "loss.weighting: uncertainty + training.optim: one with groups of its own": {
        "loss": "uncertainty",
        "args": {"optim": "adafactor"},
    },
    "loss.weighting: fixed + loss.learning_rate: a number": {"loss": {"learning_rate": 0.1}},
    "tasks.*.class_weights: balanced or numbers + tasks.*.balanced: true": {
        "task_training": {"one": {"class_weights": [1, 2, 3], "balanced": True}}
    },
    "training.gradient_accumulation_steps: 2 or more + tasks.*.loss: correlation": CORRELATION
    | {"args": {"gradient_accumulation_steps": 2}},
    "training: several processes + tasks.*.loss: correlation": None,  # tests/unit/training/methods/test_task_losses.py
    "tasks.*.batch_size: 1, its own or the run's + tasks.*.loss: correlation": {
        "task": "two",
        "task_training": {"two": {"loss": "correlation", "batch_size": 1}},
    },
    "group_weights: of the task + tasks.*.loss: correlation": CORRELATION
    | {"group_weights": {"columns": {"two": "group"}}},
    "loss.weighting: uncertainty + tasks.*.loss: any": {
        "loss": "uncertainty",
        "task_training": {"one": {"loss": "focal"}},
    },
    "surgery: a method + schedule.mixed: false": SURGERY | {"schedule": "sqrt"},
    "surgery: a method + schedule.name: round_robin or sequential": SURGERY | {"schedule": "round_robin"},
    "tasks: one + surgery.method: any": SURGERY | SHARED | {"model": "one task"},
    "surgery: a method + model.freeze_encoder: true": SURGERY | SHARED | {"model": "frozen"},
    "surgery: a method + training.optim: lomo, adalomo, or a layerwise one": SURGERY
    | SHARED
    | {"args": {"optim": "adalomo"}},
    "smart: a mapping + training.neftune_noise_alpha: a number": SMART
    | {"model": "padded", "args": {"neftune_noise_alpha": 5.0}},
    "smart: a mapping + training.tf32: true": None,  # transformers refuses it on a CPU, before
    "smart: a mapping + training.activation_checkpointing_kwargs: use_reentrant: true": SMART
    | {"args": {"activation_checkpointing_kwargs": {"use_reentrant": True}}},
    "smart: a mapping + training.gradient_checkpointing_kwargs: use_reentrant: true": SMART
    | {"args": {"gradient_checkpointing_kwargs": {"use_reentrant": True}}},
    "tasks.*.data.unlabelled: texts + distillation: null": None,  # of files, which the trainer does not see
    "affinity: any + model.freeze_encoder: true": AFFINITY | {"model": "frozen"},
    "affinity: any + training.optim: lomo, adalomo, or a layerwise one": AFFINITY | {"args": {"optim": "adalomo"}},
    "tasks: one + affinity.every: a number": AFFINITY | {"model": "one task"},
    "training.shard_encoder: true + affinity.every: any": AFFINITY,
    # tests/unit/training/test_sources.py
    "sources: drawn together + optimizer.per_task: separate or rates": None,
    "sources: drawn together + tasks.*.balanced: true": None,
    "sources: drawn together + tasks.*.batch_size: another than of a task of the same source": None,
    "sources: drawn together + tasks.*.examples_per_epoch: another than of a task of the same source": None,
    "training.shard_encoder: true + surgery.method: any": SURGERY | SHARED,
    "training.shard_encoder: true + smart.weight: any": SMART,
    "training.shard_encoder: true + proximal.weight: any": {"proximal": {}},
    "training.shard_encoder: true + averaging.type: any": {"averaging": "ema"},
    "training.shard_encoder: true + peft: any": {"model": "lora"},
    "training.shard_encoder: true + optimizer.per_task: any": PER_TASK,
    "training.shard_encoder: true + training.fp16: any": {"args": {"fp16": True}},
    "training.shard_encoder: true + training.torch_compile: any": {"args": {"torch_compile": True}},
}


def name_of(rule) -> str:
    return f"{rule.when} + {rule.conflict}"


@pytest.fixture
def model_of(make_model):
    """A function: what kind of model → it, with tasks `one` (three classes) and `two` (a regression)."""
    one, two = TaskSpec("one", labels=3), TaskSpec("two", range=(0, 5))

    def make(kind: str | None):
        specs = [TaskSpec("one", labels=3, adapter=False) if kind == "task without adapter" else one, two]
        model = make_model(specs[:1] if kind == "one task" else specs, packed=kind != "padded")
        if kind == "frozen":
            model.freeze_encoder()
        if kind == "lora":
            own = [f"heads.{task}" for task in model.heads]
            model = get_peft_model(model, LoraConfig(r=2, target_modules=["query"], modules_to_save=own))
        return model

    return make


def test_there_is_a_case_for_every_rule():
    assert sorted(CASES) == sorted(name_of(rule) for rule in all_rules())


@pytest.mark.parametrize("rule", [rule for rule in all_rules() if CASES.get(name_of(rule))], ids=name_of)
def test_the_trainer_refuses_what_a_recipe_refuses(rule, model_of, tmp_path):
    case = dict(CASES[name_of(rule)])
    model, values, task = model_of(case.pop("model", None)), case.pop("args", {}), case.pop("task", "one")
    values["shard_encoder"] = rule.when == "training.shard_encoder: true"
    args = MtBertTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **values)
    with pytest.raises(ValueError) as error:
        MtBertTrainer(model, args, **case)
    section, _, key = rule.key.partition(".")
    argument = {"training": "args", "tasks": f"task_training[{task!r}]"}.get(section, section)
    subject = ".".join(filter(None, [argument, key.removeprefix("*.")]))
    (line,) = [line for line in str(error.value).splitlines() if line.startswith(f"{subject} is ")]
    assert line.endswith(f", which does not go with {rule.when}: {rule.reason}")


@pytest.mark.parametrize("rule", [*all_rules(), *OF_RECIPES], ids=name_of)
def test_settings_that_are_not_there_break_no_rule(rule):
    run = Run(tasks={}, training={"eval_strategy": "no", "optim": "adamw_torch"})
    assert not [path for _, path, view in rule.cases(run) if "optimizer" not in rule.when and rule.test(view)]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("temperature", [None, 2.0])
def test_rules_of_schedules(name, mixed, temperature):
    """A schedule that draws may be mixed, and that named `temperature`, and no other, has a T."""
    run = Run(schedule=Schedule(name, mixed, temperature=temperature), tasks={})
    broken = [rule.key for rule in all_rules() if rule.key.startswith("schedule.") and rule.test(run)]
    expected = ["schedule.mixed"] if mixed and name not in SAMPLED else []
    expected += ["schedule.temperature"] if (name == "temperature") != (temperature is not None) else []
    assert broken == expected


def test_groups_of_other_tasks_do_not_weigh_a_correlation(model_of, tmp_path):
    args = MtBertTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    groups = {"columns": {"one": "group"}}
    MtBertTrainer(model_of(None), args, task_training={"two": {"loss": "correlation"}}, group_weights=groups)


def test_a_run_is_read_by_keys():
    run = Run(schedule={"name": "sqrt"}, tasks={"a.b": {"weight": 2}, "c": {"weight": 3}}, peft=None)
    assert (run.value("schedule.name"), run.value("schedule.mixed"), run.value("smart.weight")) == ("sqrt", None, None)
    assert [run.of_task(name).value("tasks.*.weight") for name in run.tasks] == [2, 3]
    assert run.has("schedule", "schedule.name") and not run.has("schedule", "peft")
