"""For every key of a recipe, changing it changes a number: a key without effect is a defect."""

import json
from dataclasses import fields

import pytest
import yaml
from safetensors.torch import load_file

from mtbert.data.sampling import Schedule
from mtbert.data.spec import DataSpec
from mtbert.model_card import CardSettings
from mtbert.modeling.task_spec import AdapterSpec, HeadSpec
from mtbert.recipe import ModelRecipe, Recipe, TaskRecipe
from mtbert.training.arguments import MtBertTrainingArguments, PretrainingArguments, TrainingArguments
from mtbert.training.methods.affinity import Affinity
from mtbert.training.methods.averaging import Averaging
from mtbert.training.methods.distillation import Distillation
from mtbert.training.methods.group_weights import GroupWeights
from mtbert.training.methods.proximal import Proximal
from mtbert.training.methods.rdrop import RDrop
from mtbert.training.methods.simcse import SimCSE
from mtbert.training.methods.smart import Smart
from mtbert.training.methods.surgery import Surgery
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.optimizers import OptimizerSettings

COURSE = {"format": "cs224n", "id": "id"}
SST = {**COURSE, "text": "sentence", "label": "sentiment", "train": "ids-sst-train.csv", "dev": "ids-sst-dev.csv"}
PAIR = {**COURSE, "text": ["sentence1", "sentence2"], "label": "is_duplicate", "train": "quora-train.csv"}
STS = {**PAIR, "label": "similarity", "train": "sts-train.csv", "dev": "sts-dev.csv"}
BASE = {
    "tasks": {
        "sst": {"labels": 5, "data": SST},
        "para": {"problem_type": "binary_classification", "labels": 2, "data": {**PAIR, "dev": "quora-dev.csv"}},
        "sts": {"range": [0, 5], "pair": "siamese", "data": STS, "head": {"type": "mlp", "layers": 1}},
    },
    "schedule": {"name": "proportional", "steps_per_epoch": 3},
    "training": {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "save_strategy": "no",
        "eval_strategy": "epoch",
        "report_to": "none",
        "disable_tqdm": True,
        "cpu_threads": 1,
    },
}

FILMS = {key: value for key, value in SST.items() if key != "label"}
SHARED = {  # two tasks that read the same texts
    "sources": {"films": FILMS, "others": {**FILMS, "train": "ids-sst-dev.csv"}},
    "tasks.sst.data": {"source": "films", "label": "sentiment"},
    "tasks.mood": {"labels": 5, "data": {"source": "films", "label": "sentiment2"}},
    "schedule.name": "round_robin",
}

MULTI = "multi_label_classification"
FOLD = {"tasks.sst.data.dev": None, "tasks.sst.data.folds": 2, "tasks.sst.data.fold": 0}

# key → (another value, settings that both runs have so that the key can matter)
KEYS = {
    "sources": ({"films": {**FILMS, "sample": 9}}, SHARED),
    "sources.films.train": ("ids-sst-dev.csv", SHARED),
    "sources.films.dev": ("ids-sst-train.csv", SHARED),
    "sources.films.sample": (9, SHARED),
    "tasks.sst.data.source": ("others", SHARED),
    "schedule.draw": ("task", SHARED),
    "tasks.sst.data.text": ("id", {}),
    "tasks.sst.data.label": ("sentiment2", {}),
    "tasks.sts.data.symmetric": (True, {}),
    "tasks.sst.data.sample": (5, {}),
    "tasks.sst.data.dev_share": (0.5, {"tasks.sst.data.dev_share": 0.25, "tasks.sst.data.dev": None}),
    "tasks.sst.data.folds": (3, {**FOLD, "tasks.sst.data.folds": 2}),
    "tasks.sst.data.fold": (1, {**FOLD, "tasks.sst.data.fold": 0}),
    "tasks.sst.data.sample_seed": (1, {"tasks.sst.data.sample": 5, "schedule.name": "round_robin"}),
    "tasks.sst.data.empty": ("none", {"tasks.sst.problem_type": MULTI, "tasks.sst.data.label": "tags"}),
    "tasks.sst.data.label_separator": (
        ";",
        {
            "tasks.sst.problem_type": MULTI,
            "tasks.sst.labels": ["a;b", "c", "a", "b|c"],
            "tasks.sst.data.label": "marks",
            "tasks.sst.data.label_separator": "|",
        },
    ),
    "tasks.para.data.dev": ("25%", {"tasks.para.data.dev": "50%"}),
    "tasks.sst.data.train": ("ids-sst-dev.csv", {}),
    "tasks.sst.data.dev": ("ids-sst-train.csv", {}),
    "leaks": ("drop", {}),
    "tasks.sst.problem_type": ("multi_label_classification", {}),
    "tasks.sst.labels": (6, {}),
    "tasks.sts.range": ([0, 10], {"tasks.sts.head.output": "sigmoid"}),
    "tasks.sts.pair": ("cross", {}),
    "tasks.sst.pooling": ("mean", {}),
    "tasks.sst.dropout": (0.5, {}),
    "tasks.para.separator": (["[SEP]", "[unused36]"], {}),
    "tasks.para.token_types": (False, {}),
    "tasks.sst.max_length": (5, {}),
    "tasks.sst.weight": (3.0, {}),
    "tasks.sst.batch_size": (2, {}),
    "tasks.sst.examples_per_epoch": (3, {}),
    "tasks.sst.metric": ("f1_macro", {}),
    "tasks.sst.learning_rate": (0.001, {"optimizer.per_task": "rates"}),
    "tasks.sst.weight_decay": (0.9, {"optimizer.per_task": "rates"}),
    "tasks.sst.class_weights": ([1, 2, 3, 4, 5], {}),
    "tasks.sst.label_smoothing": (0.5, {}),
    "tasks.sst.balanced": (True, {}),
    "tasks.sst.ordinal": (True, {}),
    "tasks.sst.loss": ("focal", {}),
    "tasks.sst.focal_gamma": (0.5, {"tasks.sst.loss": "focal"}),
    "tasks.sts.loss": ("correlation", {}),
    "tasks.sts.smooth_l1_beta": (0.1, {"tasks.sts.loss": "smooth_l1"}),
    "tasks.sst.head.type": ("attention", {}),
    "tasks.sts.head.layers": (2, {}),
    "tasks.sts.head.hidden_size": (8, {}),
    "tasks.sts.head.activation": ("tanh", {}),
    "tasks.sts.head.dropout": (0.5, {}),
    "tasks.sst.head.attention_heads": (4, {"tasks.sst.head.type": "attention"}),
    "tasks.sts.head.features": ("u;v", {}),
    "tasks.sts.head.output": ("sigmoid", {}),
    "schedule.name": ("round_robin", {}),
    "schedule.mixed": (True, {}),
    "schedule.steps_per_epoch": (2, {}),
    "schedule.temperature": (0.1, {"schedule.name": "temperature", "schedule.temperature": 50.0}),
    "schedule.resample": (True, {}),
    "training.max_tokens_per_step": (60, {}),
    "surgery.method": ("mgda", {"schedule.name": "simultaneous", "surgery.method": "pcgrad"}),
    "surgery.reduction": ("mean", {"schedule.name": "simultaneous", "surgery.method": "pcgrad"}),
    "surgery.c": (0.9, {"schedule.name": "simultaneous", "surgery.method": "cagrad", "surgery.c": 0.1}),
    "model.freeze_encoder": (True, {}),
    "model.attention_dropout": (0.0, {}),
    "model.reinitialized_layers": (1, {}),
    "model.train_layer_norms": (True, {"model.freeze_encoder": True}),
    "model.adapter.type": ("pal", {"model.adapter.type": "low_rank", "model.adapter.size": 12}),
    "model.adapter.size": (6, {"model.adapter.type": "low_rank"}),
    "model.adapter.heads": (4, {"model.adapter.size": 12}),
    "model.adapter.activation": ("identity", {"model.adapter.size": 12}),
    "model.adapter.layers": ([1], {"model.adapter.size": 12}),
    "model.adapter.init": ("published", {"model.adapter.size": 12}),
    "model.adapter.depth": (2, {"model.adapter.type": "top_layers", "model.adapter.size": 12}),
    "model.adapter.input": (
        "all",
        {"model.adapter.type": "pal_top", "model.adapter.size": 12, "all_tasks.pooling": "mean"},
    ),
    "tasks.sst.adapter": (False, {"model.adapter.size": 12}),
    "optimizer.per_task": ("separate", {"schedule.name": "round_robin", "schedule.steps_per_epoch": 6}),
    "optimizer.encoder_learning_rate": (0.001, {}),
    "optimizer.adapter_learning_rate": (0.001, {"model.adapter.size": 12}),
    "optimizer.head_learning_rate": (0.001, {}),
    "optimizer.layer_decay": (0.5, {}),
    "loss.weighting": ("uncertainty", {}),
    "loss.learning_rate": (0.3, {"loss.weighting": "uncertainty"}),
    "peft": ({"r": 2, "target_modules": ["query"]}, {}),
    "group_weights.columns": ({"sst": "source"}, {"group_weights.columns": {"sst": "age"}}),
    "group_weights.power": (0.5, {"group_weights.columns": {"sst": "age"}}),
    "rdrop": ({}, {}),
    "rdrop.weight": (3.0, {"rdrop.weight": 1.0}),
    "smart": ({}, {}),
    "smart.weight": (3.0, {"smart.weight": 1.0}),
    "smart.steps": (2, {"smart.steps": 1}),
    "smart.step_size": (1e-6, {"smart.step_size": 1e-3}),
    "smart.noise": (1e-3, {"smart.noise": 1e-5}),
    "smart.radius": (1e-3, {"smart.radius": 1e-5}),
    "smart.norm": ("l2", {"smart.norm": "inf"}),
    "smart.projection": ("published", {"smart.projection": "ball"}),
    "smart.scale": ("labels", {"smart.scale": "range"}),
    "proximal": ({}, {}),
    "proximal.weight": (3.0, {"proximal.weight": 1.0}),
    "proximal.decay": (0.5, {"proximal.decay": 0.9, "proximal.switch": 1.0}),
    "proximal.late_decay": (0.5, {"proximal.late_decay": 0.9}),
    "proximal.switch": (1.0, {"proximal.switch": 0.0}),
    "simcse": ({}, {}),
    "simcse.weight": (3.0, {"simcse.weight": 1.0}),
    "simcse.temperature": (0.5, {"simcse.temperature": 0.05}),
    "simcse.tasks": (["sst", "sts"], {"simcse.weight": 1.0}),
    "averaging.type": ("swa", {"averaging.type": "ema", "averaging.start": 0.0}),
    "averaging.decay": (0.5, {"averaging.type": "ema"}),
    "averaging.start": (0.7, {"averaging.type": "ema"}),
    "distillation.teachers": (["seed 8"], {"distillation.teachers": ["seed 7"]}),
    "distillation.weight": (0.9, {"distillation.teachers": ["seed 7"]}),
    "tasks.sst.data.unlabelled": ("ids-sst-test-student.csv", {"distillation.teachers": ["seed 7"]}),
    "distillation.temperature": (5.0, {"distillation.teachers": ["seed 7"]}),
    "distillation.final_weight": (0.0, {"distillation.teachers": ["seed 7"]}),
    "stages": ([{"model": {"freeze_encoder": True}}, {}], {"stages": [{}, {}]}),
    "pretraining": ({"num_train_epochs": 1, "learning_rate": 0.01}, {}),
    "pretraining.mask_probability": (0.5, {"pretraining.num_train_epochs": 1, "pretraining.learning_rate": 0.01}),
    "pretraining.max_length": (5, {"pretraining.num_train_epochs": 1, "pretraining.learning_rate": 0.01}),
    "pretraining.steps_per_epoch": (2, {"pretraining.num_train_epochs": 1, "pretraining.learning_rate": 0.01}),
    "pretraining.remove_duplicates": (
        True,
        {
            "tasks.sts.data": {**PAIR, "dev": "quora-dev.csv"},  # the texts of the other task of pairs
            "pretraining.num_train_epochs": 1,
            "pretraining.learning_rate": 0.01,
        },
    ),
    "pretraining.use_epoch": (1, {"pretraining.num_train_epochs": 2, "pretraining.learning_rate": 0.01}),
    "training.eval_train": (True, {}),
    "training.seed": (7, {}),
    "training.data_seed": (7, {}),
    "training.num_train_epochs": (3, {}),
    "training.learning_rate": (0.02, {}),
    "training.weight_decay": (0.5, {}),
    "training.max_grad_norm": (0.01, {}),
    "training.bf16": (True, {"training.use_cpu": True}),
    "training.early_stopping_patience": (
        1,
        {
            "training.metric_for_best_model": "eval_overall",
            "training.learning_rate": 0.0,
            "training.num_train_epochs": 4,
        },
    ),
    "training.early_stopping_threshold": (
        1e9,
        {
            "training.metric_for_best_model": "eval_loss",
            "training.learning_rate": 1e-4,
            "training.num_train_epochs": 4,
            "training.early_stopping_patience": 1,
        },
    ),
}

# What changes no number of a run, and where it is tested instead.
ELSEWHERE = {
    "encoder": "every recipe is run with another encoder than it names",
    "data_dir": "every recipe is run with another data_dir than it names",
    "training": "transformers' own, apart from the keys above",
    "tasks.*.data.test": "tests/unit/data/test_splits.py: rows to predict",
    "tasks.*.data.hub": "tests/unit/data/test_splits.py: a dataset by name",
    "tasks.*.data.subset": "tests/unit/data/test_splits.py",
    "tasks.*.data.revision": "tests/unit/data/test_splits.py",
    "tasks.*.data.format": "tests/unit/data/test_course_files.py: without it the course's tab-separated .csv fail",
    "tasks.*.data.separator": "tests/unit/data/test_delimited.py: how rows become fields",
    "tasks.*.data.quoting": "tests/unit/data/test_delimited.py: how rows become fields",
    "tasks.*.data.id": "tests/unit/data/test_checked_rows.py: names rows in files",
    "pretraining.keep_epochs": "tests/invariants/test_pretraining.py: which encoders are kept",
    "pretraining.cpu_threads": "refused; training.cpu_threads holds",
    "training.save_logits": "tests/recipes/test_outputs.py: one file more",
    "training.console": "tests/unit/training/progress/test_progress.py: what is printed",
    "pretraining.console": "tests/unit/training/progress/test_pretraining.py: what is printed",
    "training.cpu_threads": "tests/unit/training/distributed/test_machine.py: the same numbers, faster",
    "training.shard_encoder": "tests/distributed/test_many_processes.py: the same numbers, in less memory",
    "training.on_nonfinite": "tests/invariants/test_numerics.py: whether a run ends at a broken row",
    "affinity": "tests/unit/training/methods/test_affinity.py: a run with it gives the same numbers",
    "affinity.every": "tests/unit/training/methods/test_affinity.py: what is measured, and written to a file",
    "affinity.rows": "as above",
    "imports": "tests/recipes/test_extending.py: what is imported trains",
    **{f"card.{each.name}": "tests/unit/test_model_card.py: what the card says" for each in fields(CardSettings)},
    "model.packed": "tests/invariants/test_packed.py: the same numbers, faster",
}


def put(tree: dict, path: str, value) -> None:
    *parents, last = path.split(".")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = value


@pytest.fixture(scope="module")
def run(finetune, encoder_dir, course_dir, tmp_path_factory):
    """Settings → all numbers of a run: its losses, its scores and its final weights."""
    memories = tmp_path_factory.mktemp("memories")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtbert.training.methods.teacher_cache.memory_folder", lambda: memories)
        yield _runs(finetune, encoder_dir, course_dir, tmp_path_factory)


def _runs(finetune, encoder_dir, course_dir, tmp_path_factory):
    lines = {split: (course_dir / f"ids-sst-{split}.csv").read_text().splitlines() for split in ("train", "dev")}
    lines["dev"].append(lines["train"][1])  # a leak
    for split, (header, *rows) in lines.items():
        rows = [f"{row}\t{(i * 3) % 5}\t{'old' if i % 4 else 'new'}\t{i // 8}" for i, row in enumerate(rows)]
        tags, marks = ("0|1", "2", ""), ("a;b|c", "c", "a")
        rows = [f"{row}\t{tags[i % 3]}\t{marks[i % 3]}" for i, row in enumerate(rows)]
        header = f"{header}\tsentiment2\tage\tsource\ttags\tmarks"
        (course_dir / f"ids-sst-{split}.csv").write_text("\n".join([header, *rows]) + "\n")
    done, folders = {}, {}

    def teacher(seed: str) -> str:
        numbers({"training.seed": int(seed.removeprefix("seed "))})
        return folders[json.dumps({"training.seed": int(seed.removeprefix("seed "))})]

    def numbers(settings: dict):
        key = json.dumps(settings, sort_keys=True)
        if key not in done:
            folder = tmp_path_factory.mktemp("run")
            tree = json.loads(json.dumps(BASE)) | {"encoder": encoder_dir, "data_dir": str(course_dir)}
            put(tree, "training.output_dir", str(folder / "out"))
            folders[key] = str(folder / "out")
            for path, value in settings.items():
                if path == "distillation.teachers":
                    value = [teacher(each) for each in value]
                put(tree, path, json.loads(json.dumps(value)))  # a copy, which further settings may change
            (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
            finetune.main([str(folder / "recipe.yaml")])
            state = json.loads((folder / "out" / "trainer_state.json").read_text())["log_history"]
            log = [{k: v for k, v in each.items() if not k.endswith(("_runtime", "_per_second"))} for each in state]
            saved = "adapter_model" if "peft" in settings else "model"
            weights = load_file(folder / "out" / f"{saved}.safetensors")
            done[key] = log, {name: weight.tolist() for name, weight in weights.items()}
        return done[key]

    return numbers


def test_two_runs_alike_give_the_same_numbers(run):
    assert run({}) == run({"training.disable_tqdm": True})


@pytest.mark.parametrize("key", KEYS)
def test_changing_a_key_changes_a_number(key, run):
    value, shared = KEYS[key]
    assert run(shared) != run({**shared, key: value})


def test_no_key_is_without_a_test():
    def under(prefix: str, cls, leave=()) -> set[str]:
        return {f"{prefix}{each.name}" for each in fields(cls) if each.name not in leave}

    nested = ("tasks", "schedule", "model", "optimizer", "card", "methods")
    known = under("", Recipe, nested) | under("schedule.", Schedule) | under("surgery.", Surgery)
    known |= (
        under("model.", ModelRecipe, ("adapter",))
        | under("model.adapter.", AdapterSpec)
        | under("tasks.*.", TaskRecipe, ("data", "head"))
    )
    known |= under("card.", CardSettings)
    known |= under("averaging.", Averaging) | under("distillation.", Distillation)
    known |= under("optimizer.", OptimizerSettings) | under("loss.", LossSettings)
    known |= under("tasks.*.data.", DataSpec) | under("tasks.*.head.", HeadSpec)
    known |= under("rdrop.", RDrop) | under("smart.", Smart) | under("proximal.", Proximal)
    known |= under("group_weights.", GroupWeights) | under("simcse.", SimCSE) | under("affinity.", Affinity)
    own = {each.name for each in fields(MtBertTrainingArguments)} - {each.name for each in fields(TrainingArguments)}
    known |= {f"training.{name}" for name in own}
    own = {each.name for each in fields(PretrainingArguments)} - {each.name for each in fields(TrainingArguments)}
    known |= {f"pretraining.{name}" for name in own}
    tested = {".".join(["tasks", "*", *key.split(".")[2:]]) if key.startswith("tasks.") else key for key in KEYS}
    assert known - tested - set(ELSEWHERE) == set()
