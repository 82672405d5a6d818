"""Values of a recipe that are refused, alone or together, and that every problem is told at once."""

import json
import re
from dataclasses import asdict

import pytest
from written_recipes import only_problem, problems

from mtbert.data.sampling import Schedule
from mtbert.recipe import (
    COMBINATIONS,
    REFUSED_PRETRAINING,
    REFUSED_TRAINING,
    Recipe,
    help_text,
    load_recipe,
    pretraining_arguments_class,
    training_arguments_class,
)
from mtbert.recipe.fields import known_fields
from mtbert.training.methods import REGISTRY, sections
from mtbert.training.methods.smart import Smart
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.optimizers import OptimizerSettings


def test_every_problem_is_told_at_once(write):
    overrides = [
        "--tasks.sst.dropout=2",
        "--tasks.sst.pooling=sum",
        "--tasks.sst.head.type=cos",
        "--tasks.sst.weight=0",
    ]
    overrides += ["--tasks.sst.data.train=a.xyz", "--tasks.sts.labels=[a]", "--tasks.sts.head.type=cosine"]
    overrides += [
        "--schedule.steps_per_epoch=0",
        "--schedule.temperature=2",
        "--model.paced=true",
        "--training.fsdp=on",
    ]
    told = "\n".join(problems("good.yaml", *overrides))
    for key in ("sst.dropout", "sst.pooling", "sst.head.type", "sst.weight", "sst.data.train"):
        assert f"command line: tasks.{key} is " in told
    assert "tasks.sts.range is for regressions" in told
    assert "good.yaml:6: tasks.sts: a cosine head needs" in told
    for key in ("schedule.steps_per_epoch", "schedule.temperature", "model.paced", "training.fsdp"):
        assert f"command line: {key} " in told


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--tasks.sst.data.text=[a, b, c]", "tasks.sst.data.text names 3 columns, but must name 1, or 2 for pairs"),
        ("--tasks.sst.labels=[a, a]", "tasks.sst.labels ['a', 'a'] repeat a name"),
        (
            "--tasks.sts.metric=accuracy",
            "tasks.sts.metric is 'accuracy', which cannot score a regression; use one of: ",
        ),
        ("--tasks.sst.metric=best", "tasks.sst.metric is 'best', which is unknown; use one of: accuracy"),
        ("--tasks.sst.examples_per_epoch=0", "tasks.sst.examples_per_epoch is 0, but must be 1 or more"),
        ("--tasks.sst.class_weights=[1, 2, 3]", "tasks.sst.class_weights has 3 numbers, but must have 2"),
        ("--tasks.sst.class_weights=[1, 0]", "tasks.sst.class_weights is [1, 0], but must have positive numbers only"),
        ("--tasks.sts.balanced=true", "tasks.sts.balanced is True, but a regression has no classes"),
        ("--tasks.sst.label_smoothing=1", "tasks.sst.label_smoothing is 1, but must be 0 or more and below 1"),
        (
            "--tasks.sst.loss=hinge",
            "tasks.sst.loss is 'hinge', but must be one of: focal, cosine, correlation, smooth_l1",
        ),
        ("--tasks.sst.loss=smooth_l1", "tasks.sst.loss is 'smooth_l1', which is for regressions"),
        ("--tasks.sts.loss=focal", "tasks.sts.loss is 'focal', but a regression has no classes"),
        ("--tasks.sts.loss=cosine", "tasks.sts.loss is 'cosine', but the head is linear, which computes no cosine"),
        ("--tasks.sst.focal_gamma=1", "tasks.sst.focal_gamma is 1, but is for loss: focal; set that, or drop it"),
        ("--tasks.sts.smooth_l1_beta=2", "tasks.sts.smooth_l1_beta is 2, but is for loss: smooth_l1"),
        ("--tasks.sst.ordinal=1", "tasks.sst.ordinal is 1, but must be true or false"),
        ("--tasks.sst={ordinal: true, problem_type: regression, labels: null}", "tasks.sst.ordinal is true, but"),
        ("--tasks.sst={ordinal: true, labels: ['2', '9', '5']}", "tasks.sst.labels ['2', '9', '5'] are numbers that"),
        ("--loss.weighting=learned", "loss.weighting is 'learned', but must be fixed or uncertainty"),
        ("--optimizer.per_task=all", "optimizer.per_task is 'all', but must be separate, rates or null"),
        ("--encoder=", "encoder is empty; give a folder, or a name on the hub"),
        ("--averaging.type=mean", "averaging.type is 'mean', but must be one of: ema, swa"),
        ("--averaging.decay=1", "averaging.decay is 1, but must be in [0, 1)"),
        ("--averaging={type: swa, decay: 0.9}", "averaging.decay is 0.9, but swa weighs all epochs alike; drop it"),
        (
            "--distillation={}",
            "distillation.teachers is [], but must be folders of checkpoints, one or more, each once",
        ),
        ("--distillation={teachers: [a], weight: 2}", "distillation.weight is 2, but must be in [0, 1]"),
        ("--distillation={teachers: [a], final_weight: -1}", "distillation.final_weight is -1, but must be in [0, 1]"),
        ("--affinity.every=0", "affinity.every is 0, but must be 1 or more"),
        ("--affinity.rows=0", "affinity.rows is 0, but must be 1 or more"),
        ("--distillation={teachers: [a], temperature: 0}", "distillation.temperature is 0, but must be positive"),
        (
            "--card.license=Apache 2.0",
            "card.license is 'Apache 2.0', but must be as the hub names it, such as apache-2.0",
        ),
        ("--card.license=other", "card.license is 'other', but card.license_name does not say which; name it there"),
        ("--card={license: mit, license_name: Ours}", "card.license_name is 'Ours', which goes with license: other"),
        ("--card.language=English", "card.language has 'English', but must be of ISO 639 codes, such as en"),
        ("--card.language=[en, en]", "card.language is ['en', 'en'], but must have each once"),
        ("--card.datasets=[./mine]", "card.datasets has './mine', but must be of names on the hub, such as"),
        ("--card.tags=[a, a]", "card.tags is ['a', 'a'], but must have each once"),
        ("--averaging.start=1", "averaging.start is 1, but must be in [0, 1)"),
    ],
)
def test_rules_of_single_values(write, override, message):
    assert only_problem("good.yaml", override).startswith(f"command line: {message}")


REFUSED_VALUES = {
    "accelerator_config": "{split_batches: true}",
    "average_tokens_across_devices": "false",
    "dataloader_in_order": "false",
    "dataloader_multiprocessing_context": "spawn",
    "deepspeed": "zero.json",
    "eval_accumulation_steps": "2",
    "eval_do_concat_batches": "false",
    "fsdp": "full_shard",
    "fsdp_config": "{a: 1}",
    "hub_token": "hf_secret",
    "include_for_metrics": "[inputs]",
    "label_names": "[labels]",
    "label_smoothing_factor": "0.1",
    "length_column_name": "n",
    "liger_kernel_config": "{a: true}",
    "remove_unused_columns": "false",
    "train_sampling_strategy": "group_by_length",
}


@pytest.mark.parametrize("key", sorted(REFUSED_TRAINING))
def test_refused_training_arguments(write, key):
    if key == "parallelism_config":  # no YAML value has its type, where the library gives it one
        line = only_problem("good.yaml", f"--training.{key}={{a: 1}}")
        assert "training.parallelism_config is {'a': 1}, but must be" in line or line.endswith(REFUSED_TRAINING[key])
        return
    line = only_problem("good.yaml", f"--training.{key}={REFUSED_VALUES.get(key, 'true')}")
    assert line.startswith(f"command line: training.{key} is ") and line.endswith(REFUSED_TRAINING[key])
    assert "hf_secret" not in line
    default = load_recipe("good.yaml").training_default(key)
    text = default if isinstance(default, str) else json.dumps(default)
    assert load_recipe("good.yaml", [f"--training.{key}={text}"]).training_value(key) == default


SHARED = ["--sources={s: {text: body, train: a.csv}}"]  # both tasks read the texts of one source
SHARED += [f"--tasks.{task}.data{rest}" for task in ("sst", "sts") for rest in ("=null", ".source=s", ".label=x")]
SETTINGS = {  # the conflict of a row → overrides that make it
    "tasks.*.batch_size: another than of a task of the same source": [[*SHARED, "--tasks.sts.batch_size=2"]],
    "tasks.*.examples_per_epoch: another than of a task of the same source": [
        [*SHARED, "--tasks.sts.examples_per_epoch=2"]
    ],
    "optimizer.per_task: separate or rates": [
        [*SHARED, "--schedule.name=round_robin", "--optimizer.per_task=rates"],
        ["--schedule.name=simultaneous", "--optimizer.per_task=rates"],
        ["--schedule.mixed=true", "--optimizer.per_task=rates"],
    ],
    "model.freeze_encoder: true": [
        ["--affinity={}", "--model.freeze_encoder=true"],
        ["--peft={type: lora}", "--model.freeze_encoder=true"],
        ["--surgery.method=pcgrad", "--schedule.name=simultaneous", "--model.freeze_encoder=true"],
    ],
    "model.train_layer_norms: true": [["--model.train_layer_norms=true"]],
    "tasks.*.adapter: false": [["--tasks.sts.adapter=false"]],
    "schedule.mixed: true": [
        *(["--schedule.mixed=true", f"--schedule.name={n}"] for n in ("round_robin", "simultaneous")),
        ["--schedule.mixed=true", "--optimizer.per_task=rates"],
    ],
    "schedule.temperature: null": [["--schedule.name=temperature"]],
    "schedule.temperature: a number": [["--schedule.temperature=2"]],
    "tasks.*.batch_size: a number": [["--schedule.mixed=true", "--tasks.sts.batch_size=2"]],
    "training.gradient_checkpointing: true": [
        ["--model.freeze_encoder=true", "--training.gradient_checkpointing=true"]
    ],
    "training.activation_checkpointing: true": [
        ["--model.freeze_encoder=true", "--training.activation_checkpointing=true"]
    ],
    "training.neftune_noise_alpha: a number": [
        ["--training.neftune_noise_alpha=5"],
        ["--training.neftune_noise_alpha=5", "--model.packed=false", "--smart={}"],
    ],
    "training.tf32: true": [["--smart={}", "--training.tf32=true"]],
    "training.activation_checkpointing_kwargs: use_reentrant: true": [
        ["--smart={}", "--training.activation_checkpointing_kwargs={use_reentrant: true}"]
    ],
    "training.gradient_checkpointing_kwargs: use_reentrant: true": [
        ["--smart={}", "--training.gradient_checkpointing_kwargs={use_reentrant: true}"]
    ],
    "training.ddp_find_unused_parameters: false": [["--training.ddp_find_unused_parameters=false"]],
    "training.eval_strategy: steps or epoch": [
        ["--training.eval_strategy=epoch", "--tasks.sst.data.dev=null", "--tasks.sts.data.dev=null"]
    ],
    "training.eval_strategy: no": [
        ["--training.load_best_model_at_end=true"],
        ["--training.early_stopping_patience=2", "--training.metric_for_best_model=overall"],
    ],
    "training.save_strategy: another than training.eval_strategy": [
        ["--training.load_best_model_at_end=true", "--training.eval_strategy=epoch"]
    ],
    "training.greater_is_better: not false": [
        ["--training.metric_for_best_model=sts_mse"],
        ["--training.metric_for_best_model=eval_loss", "--training.greater_is_better=true"],
    ],
    "schedule.mixed: false": [["--surgery.method=pcgrad"]],
    "schedule.name: round_robin or sequential": [["--surgery.method=pcgrad", "--schedule.name=sequential"]],
    "training.optim: lomo, adalomo, or a layerwise one": [
        ["--surgery.method=pcgrad", "--schedule.name=simultaneous", "--training.optim=adalomo"],
        ["--affinity={}", "--training.optim=lomo"],
    ],
    "schedule.name: simultaneous": [["--optimizer.per_task=separate", "--schedule.name=simultaneous"]],
    "tasks.*.learning_rate: a number": [["--tasks.sts.learning_rate=1e-4"]],
    "tasks.*.weight_decay: a number": [["--tasks.sts.weight_decay=0.1"]],
    "training.learning_rate: 0": [
        ["--optimizer.per_task=rates", "--tasks.sts.learning_rate=1e-4", "--training.learning_rate=0"]
    ],
    "training.optim: any but AdamW": [["--optimizer.per_task=separate", "--training.optim=sgd"]],
    "training.optim: one with groups of its own": [
        ["--optimizer.layer_decay=0.9", "--training.optim=adafactor"],
        ["--loss.weighting=uncertainty", "--training.optim=adafactor"],
    ],
    "loss.learning_rate: a number": [["--loss.learning_rate=0.1"]],
    "distillation: null": [["--tasks.sst.data.unlabelled=more.csv"]],
    "tasks.*.balanced: true": [
        [*SHARED, "--tasks.sts.range=null", "--tasks.sts.labels=2", "--tasks.sts.balanced=true"],
        [
            *("--tasks.sts.range=null", "--tasks.sts.labels=2", "--tasks.sts.balanced=true"),
            *("--tasks.sts.data.unlabelled=more.csv", "--distillation={teachers: [a]}"),
        ],
        [
            "--tasks.sts.range=null",
            "--tasks.sts.labels=2",
            "--tasks.sts.balanced=true",
            "--tasks.sts.class_weights=[1, 2]",
        ],
    ],
    "optimizer.encoder_learning_rate: a number": [
        ["--model.freeze_encoder=true", "--optimizer.encoder_learning_rate=1e-3"],
        ["--peft={type: lora}", "--optimizer.encoder_learning_rate=1e-3"],
    ],
    "optimizer.layer_decay: a number": [["--model.freeze_encoder=true", "--optimizer.layer_decay=0.9"]],
    "optimizer.adapter_learning_rate: a number": [["--optimizer.adapter_learning_rate=1e-3"]],
    "tasks.*.loss: correlation": [
        ["--tasks.sts.loss=correlation", "--training.gradient_accumulation_steps=2"],
        ["--tasks.sts.loss=correlation", "--training.per_device_train_batch_size=1"],
        ["--tasks.sts.loss=correlation", "--group_weights.columns={sts: first}"],
    ],
    "tasks.*.loss: any": [["--tasks.sts.loss=smooth_l1", "--loss.weighting=uncertainty"]],
    "training.resume_from_checkpoint: a folder": [["--stages=[{}]", "--training.resume_from_checkpoint=out/stage-1"]],
    "affinity.every: a number": [["--affinity={}", "--tasks.sst=null"]],
    "affinity.every: any": [["--affinity={}", "--training.shard_encoder=true"]],
    "surgery.method: any": [
        ["--surgery.method=pcgrad", "--schedule.name=simultaneous", "--tasks.sst=null"],
        ["--surgery.method=pcgrad", "--schedule.name=simultaneous", "--training.shard_encoder=true"],
    ],
    "smart.weight: any": [["--smart={}", "--training.shard_encoder=true"]],
    "proximal.weight: any": [["--proximal={}", "--training.shard_encoder=true"]],
    "averaging.type: any": [["--averaging={type: ema}", "--training.shard_encoder=true"]],
    "peft: any": [["--peft={type: lora}", "--training.shard_encoder=true"]],
    "optimizer.per_task: any": [["--optimizer.per_task=rates", "--training.shard_encoder=true"]],
    "training.fp16: any": [["--training.fp16=true", "--training.shard_encoder=true"]],
    "training.torch_compile: any": [["--training.torch_compile=true", "--training.shard_encoder=true"]],
    "model.reinitialized_layers: 1 or more": [
        ["--model.freeze_encoder=true", "--model.reinitialized_layers=1"],
        ["--peft={type: lora}", "--model.reinitialized_layers=1"],
    ],
    "training.metric_for_best_model: null": [
        ["--training.early_stopping_patience=2", "--training.eval_strategy=epoch"]
    ],
}


@pytest.mark.parametrize("rule", COMBINATIONS, ids=lambda rule: f"{rule.when} + {rule.conflict}")
def test_every_combination_is_refused_with_its_reason(write, rule, monkeypatch):
    cases = SETTINGS[rule.conflict]
    if rule.when == "training: several processes":
        monkeypatch.setenv("WORLD_SIZE", "2")
        cases = [["--tasks.sts.loss=correlation"]]
    section, _, name = rule.conflict.partition(":")[0].partition(".")
    if section == "training" and name not in known_fields(training_arguments_class()):
        pytest.skip(f"this version of transformers has no {name}")
    told = ["".join(problems("good.yaml", *overrides)) for overrides in cases]
    key = rule.conflict.partition(":")[0].replace("*", "sts")
    expected = f"which does not go with {rule.when}: {rule.reason}"
    assert any(re.fullmatch(rf"[\w .:]*: {re.escape(key)} is .*, {re.escape(expected)}", line) for line in told), told


@pytest.mark.parametrize(
    "overrides",
    [
        ["--schedule.name=temperature", "--schedule.temperature=2", "--schedule.mixed=true"],
        ["--schedule.name=round_robin", "--tasks.sts.batch_size=2", "--tasks.sst.examples_per_epoch=1000000"],
        ["--model.packed=false", "--training.neftune_noise_alpha=5"],
        ["--training.ddp_find_unused_parameters=false", "--tasks.sst=null"],
        ["--training.load_best_model_at_end=true", "--training.eval_strategy=epoch", "--training.save_strategy=best"],
        ["--training.metric_for_best_model=eval_sts_mse", "--training.greater_is_better=false"],
        ["--training.metric_for_best_model=loss", "--training.eval_strategy=epoch"],
        ["--training.eval_strategy=epoch", "--tasks.sst.data.dev=null"],
        ["--surgery.method=mgda", "--schedule.name=simultaneous"],
        ["--surgery.method=cagrad", "--surgery.c=0.5", "--schedule.mixed=true"],
        [
            "--surgery.method=pcgrad",
            "--schedule.name=simultaneous",
            "--model.freeze_encoder=true",
            "--model.train_layer_norms=true",
        ],
        ["--optimizer.per_task=separate", "--all_tasks.learning_rate=1e-6", "--tasks.sst.weight_decay=0"],
        ["--optimizer.per_task=rates", "--training.optim=sgd", "--schedule.name=sequential"],
        ["--model.freeze_encoder=true", "--model.train_layer_norms=true", "--optimizer.layer_decay=0.9"],
        ["--peft={type: lora}", "--optimizer.adapter_learning_rate=1e-3"],
        ["--tasks.sst.class_weights=balanced", "--tasks.sst.label_smoothing=0.1"],
        ["--tasks.sst.class_weights=[1, 2.5]", "--loss.weighting=uncertainty", "--loss.learning_rate=0.01"],
        ["--stages=[{}]", "--training.resume_from_checkpoint=true"],
        ["--tasks.sst.ordinal=true", "--tasks.sst.loss=focal", "--tasks.sst.focal_gamma=0", "--tasks.sst.metric=qwk"],
        ["--tasks.sts.loss=correlation", "--group_weights.columns={sst: label}", "--smart={}", "--rdrop={}"],
        ["--tasks.sts.loss=smooth_l1", "--training.gradient_accumulation_steps=2"],
        ["--stages=[{tasks: {sts: {loss: correlation}}}, {tasks: {sts: {loss: smooth_l1, smooth_l1_beta: 0.5}}}]"],
    ],
)
def test_combinations_that_work(write, overrides):
    load_recipe("good.yaml", overrides)


def test_names_of_the_best_metric(write):
    for name in ("overall", "raw_mean", "loss", "sst_accuracy", "sts_spearman", "sst_matthews"):
        for prefix in ("", "eval_"):
            lower = ["--training.greater_is_better=false"] if name == "loss" else []
            arguments = [f"--training.metric_for_best_model={prefix}{name}", "--tasks.sst.metric=matthews", *lower]
            load_recipe("good.yaml", arguments)
    line = only_problem("good.yaml", "--training.metric_for_best_model=sst_acuracy")
    assert "which no evaluation has; did you mean eval_sst_accuracy? known ones: eval_overall, eval_raw_mean" in line
    dropped = ["--tasks.sts.data.dev=null", "--training.metric_for_best_model=sts_pearson"]
    assert "is text 'sts_pearson', which no evaluation has" in only_problem("good.yaml", *dropped)


# ---- pre-training ----


def test_pretraining_arguments(write):
    recipe = load_recipe("good.yaml", ["--pretraining.use_epoch=3", "--training.use_cpu=true", "--training.seed=7"])
    assert recipe.pretraining == {"use_epoch": 3}
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    arguments = recipe.pretraining_arguments(report_to="none")
    assert isinstance(arguments, pretraining_arguments_class())
    assert (arguments.output_dir, arguments.use_cpu, arguments.seed) == ("out/pretraining", True, 42)
    assert (arguments.num_train_epochs, arguments.per_device_train_batch_size) == (40, 32)
    assert (arguments.learning_rate, arguments.warmup_steps, arguments.lr_scheduler_type) == (5e-5, 0.1, "linear")
    assert arguments.kept == (3, 18, 40)
    short = load_recipe("good.yaml", ["--pretraining.num_train_epochs=5", "--pretraining.use_epoch=4"])
    assert short.pretraining_arguments(use_cpu=True, report_to="none").kept == (3, 4, 5)
    assert load_recipe("good.yaml").pretraining is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--pretraining.mask_probability=1", "mask_probability is 1, but must be in (0, 1)"),
        ("--pretraining.max_length=2", "max_length is 2, but must be 3 or more"),
        ("--pretraining.num_train_epochs=2.5", "num_train_epochs is 2.5, but must be a whole number, 1 or more"),
        ("--pretraining.keep_epochs=[0]", "keep_epochs is [0], but must be numbers of epochs, 1 or more"),
        ("--pretraining.use_epoch=41", "use_epoch is 41, but must be in 1 … num_train_epochs, which is 40"),
        ("--pretraining.keep_epoch=[1]", "keep_epoch = [1]: there is no such key; did you mean keep_epochs?"),
        ("--pretraining.keep_epochs=3", "keep_epochs is 3, but must be a list of values"),
    ],
)
def test_values_of_pretraining_that_are_wrong(write, override, message):
    assert only_problem("good.yaml", override) == f"command line: pretraining.{message}"


@pytest.mark.parametrize("key", sorted(REFUSED_PRETRAINING))
def test_refused_arguments_of_pretraining(write, key):
    text = {"cpu_threads": "2", "max_steps": "5", "ddp_backend": "gloo", "ddp_timeout": "5"}.get(key)
    text = text or REFUSED_VALUES.get(key, "x" if key == "resume_from_checkpoint" else "true")
    if key == "parallelism_config":  # no YAML value has its type
        return
    line = only_problem("good.yaml", f"--pretraining.{key}={text}")
    assert line.startswith(f"command line: pretraining.{key} is ") and line.endswith(REFUSED_PRETRAINING[key])


def test_sections_of_methods_stand_beside_the_others(write):
    recipe = load_recipe("good.yaml", ["--smart={}", "--averaging=null"])
    assert recipe.methods == {"smart": Smart(), "loss": LossSettings()} and recipe.value(("smart", "weight")) == 1.0
    tree = recipe.to_dict()
    expected = {"smart": asdict(Smart()), "loss": asdict(LossSettings())}
    assert {key: tree[key] for key in sections()} == dict.fromkeys(sections()) | expected
    assert "methods" not in tree and Recipe.from_dict(json.loads(json.dumps(tree))) == recipe
    line = only_problem("good.yaml", "--methods={smart: {}}")
    assert line.startswith("command line: methods = {'smart': {}}: there is no such key; ")


def test_a_section_is_there_because_its_method_is_registered(write, monkeypatch):
    monkeypatch.delitem(REGISTRY, "smart")
    line = only_problem("good.yaml", "--smart={}")
    assert line.startswith("command line: smart = {}: there is no such key; ")
    assert "smart" not in load_recipe("good.yaml").to_dict() and "--smart." not in help_text()


def test_settings_for_the_trainer(write):
    recipe = load_recipe("good.yaml", ["--schedule.name=sqrt", "--tasks.sst.weight=2", "--optimizer.layer_decay=0.9"])
    settings = recipe.settings()
    assert (settings.schedule, settings.optimizer) == (Schedule("sqrt"), OptimizerSettings(layer_decay=0.9))
    assert settings.tasks == {name: task.training() for name, task in recipe.tasks.items()}
    assert settings.tasks["sst"].weight == 2
