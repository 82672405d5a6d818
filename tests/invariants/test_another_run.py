"""A checkpoint goes on as the run that it is of, or is refused by name before anything of it is loaded."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from mtbert.data.sampling import Schedule
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.training.arguments import MtBertTrainingArguments, TaskTraining
from mtbert.training.checkpoints.resume_record import FILE, data_record
from mtbert.training.checkpoints.sealing import CheckpointError, seal
from mtbert.training.methods.averaging import Averaging
from mtbert.training.methods.distillation import Distillation
from mtbert.training.methods.proximal import Proximal
from mtbert.training.methods.smart import Smart
from mtbert.training.methods.surgery import Surgery
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.optimizers import OptimizerSettings
from mtbert.training.peft import wrap
from mtbert.training.trainer import MtBertTrainer

SETTINGS = {
    **{"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_steps": 2, "logging_steps": 1, "seed": 3},
    **{"per_device_train_batch_size": 4, "num_train_epochs": 2, "learning_rate": 1e-3},
    "lr_scheduler_type": "constant",
}
SCHEDULE = Schedule("uniform", mixed=True, steps_per_epoch=2)  # four steps, checkpoints after 2 and 4
LENGTH = "num_train_epochs or max_steps, in steps was 4 and is 6"
BATCH = "training.per_device_train_batch_size × processes × gradient_accumulation_steps was 4 and is 8"


def rename(values: dict, old: str = "same", new: str = "alike") -> dict:
    return {new if name == old else name: value for name, value in values.items()}


def without(values: dict, name: str = "topics") -> dict:
    return {key: value for key, value in values.items() if key != name}


@pytest.fixture
def make_run(make_model, tasks, encoded, tmp_path):
    """A function: folder and what is changed of a run → its trainer.

    `specs`, `train` and `dev` are functions of what the run has; `model` one that makes its model.
    """

    def make(folder="new", specs=None, train=None, dev=None, model=None, settings=(), adapter=None, config=(), **own):
        changed = {spec.name: spec for spec in tasks}
        changed = specs(changed) if specs else changed
        data, held_out = encoded(), encoded((10, 9, 8, 7), 1)
        own = {"schedule": SCHEDULE, **own}
        return MtBertTrainer(
            model() if model else make_model(tuple(changed.values()), adapter=adapter, **dict(config)),
            MtBertTrainingArguments(str(tmp_path / folder), **SETTINGS | dict(settings)),
            train(data) if train else data,
            dev(held_out) if dev else held_out,
            **own,
        )

    return make


@pytest.fixture(scope="module")
def _kept(tmp_path_factory):
    return {"folder": tmp_path_factory.mktemp("kept")}


@pytest.fixture
def trained(make_run, _kept, tmp_path):
    """A function: name and what a run has → the folder of its checkpoints; each is trained once."""

    def train(name="plain", **values) -> Path:
        if name not in _kept:
            make_run("whole", **values).train()
            _kept[name] = _kept["folder"] / name
            shutil.move(tmp_path / "whole", _kept[name])
        return _kept[name]

    return train


@pytest.fixture
def copied(trained, tmp_path):
    """A function: names of files → a copy of the plain run's second checkpoint without them."""

    def copy(*names: str) -> Path:
        folder = tmp_path / "copy" / "checkpoint-2"
        shutil.copytree(trained() / "checkpoint-2", folder)
        for name in names:
            (folder / name).unlink()
        seal(folder)
        return folder

    return copy


def swap(rows: datasets.Dataset) -> datasets.Dataset:
    return rows.select([1, 0, *range(2, len(rows))])


def change(rows: datasets.Dataset, column: str, value) -> datasets.Dataset:
    values = rows.with_format(None)[:]
    values[column][3] = value
    return datasets.Dataset.from_dict(values, features=rows.features)


def rows_of(**changes):
    """The same data with the rows of some tasks changed."""
    return {"train": lambda data: data | {name: change(data[name]) for name, change in changes.items()}}


def settings(**values):
    return {"settings": values}


def reverse(values: dict) -> dict:
    return dict(reversed(values.items()))


def with_fields(**changes):
    """The same tasks with other fields, and data that does not say which classes its labels are of."""
    specs = lambda specs: specs | {name: replace(specs[name], **fields) for name, fields in changes.items()}  # noqa: E731
    return {"specs": specs, "train": without_classes, "dev": without_classes}


def without_classes(splits: dict) -> dict:
    bare = {name: rows.select(range(len(rows))) for name, rows in splits.items()}
    for rows in bare.values():
        rows._info = rows.info.copy()
        rows.info.description = ""
    return bare


def content(*tasks: str) -> list[str]:
    return [f"data.train.{task}.content_hash was " for task in tasks]


def other_words(rows: datasets.Dataset) -> list[int]:
    """The tokens of the row that `change` changes, with another word before the last token."""
    *first, word, last = rows.with_format(None)[3]["input_ids"]
    return [*first, 9 if word != 9 else 10, last]


# what is changed → all that is told of it, but for the names of parameters
REFUSED = {
    "tasks in another order": (
        {"specs": reverse},
        ['tasks was ["stars", "same", "close", "topics"] and is ["topics", "close", "same", "stars"]'],
    ),
    "a task with another name": (
        {
            "specs": lambda specs: {name: replace(each, name=name) for name, each in rename(specs).items()},
            "train": rename,
            "dev": rename,
        },
        [
            'tasks was ["stars", "same", "close", "topics"] and is ["stars", "alike", "close", "topics"]',
            "data.train.same was {",
            "data.train.alike was not there and is {",
        ],
    ),
    "a task fewer": (
        {"specs": without, "train": without, "dev": without},
        ['tasks was ["stars", "same", "close", "topics"] and is ["stars", "same", "close"]', "data.train.topics was {"],
    ),
    "tasks' fields": (
        with_fields(
            stars={"labels": ["2", "1", "0"], "pooling": "max", "dropout": 0.0, "max_length": 20},
            same={"labels": ["neither", "both"], "head": {"type": "mlp", "layers": 1, "activation": "gelu"}},
            close={"range": (0, 10), "token_types": False},
        ),
        [
            'tasks.stars.labels was ["0", "1", "2"] and is ["2", "1", "0"]',
            'tasks.stars.pooling was "mean" and is "max"',
            "tasks.stars.dropout was 0.1 and is 0.0",
            "tasks.stars.max_length was null and is 20",
            'tasks.same.labels was ["no", "yes"] and is ["neither", "both"]',
            'tasks.same.head.activation was "relu" and is "gelu"',
            "tasks.close.range was [0, 5] and is [0, 10]",
            "tasks.close.token_types was true and is false",
            *content("stars"),  # its numbers are names of labels, too
        ],
    ),
    "encoder and adapter": (
        {"adapter": {"type": "low_rank", "size": 4}, "config": {"hidden_dropout_prob": 0.0}},
        ["model.adapter was null and is {", "encoder.hidden_dropout_prob was 0.1 and is 0.0"],
    ),
    "tasks' training": (
        {
            "task_training": {
                "stars": TaskTraining(weight=2.0, batch_size=3, examples_per_epoch=5, label_smoothing=0.1),
                "same": TaskTraining(balanced=True),
                "topics": TaskTraining(class_weights=(1.0, 2.0, 3.0)),
            },
            "schedule": replace(SCHEDULE, mixed=False),
        },
        [
            "tasks.stars.weight was 1.0 and is 2.0",
            "tasks.stars.batch_size was null and is 3",
            "tasks.stars.examples_per_epoch was null and is 5",
            "tasks.stars.label_smoothing was 0.0 and is 0.1",
            "tasks.same.balanced was false and is true",
            "tasks.topics.class_weights was null and is [1.0, 2.0, 3.0]",
            "schedule.mixed was true and is false",
        ],
    ),
    "another schedule": (
        {"schedule": Schedule("temperature", mixed=True, steps_per_epoch=3, temperature=2.0)},
        [
            'schedule.name was "uniform" and is "temperature"',
            "schedule.temperature was null and is 2.0",
            "schedule.steps_per_epoch was 2 and is 3",
        ],
    ),
    "methods": (
        {
            "smart": Smart(),
            "proximal": Proximal(decay=0.9, late_decay=0.9),
            "averaging": Averaging(),
            "optimizer": OptimizerSettings(layer_decay=0.9),
            "loss": LossSettings("uncertainty"),
        },
        [
            'smart was null and is {"weight": 1.0',
            'proximal was null and is {"weight": 1.0',
            'averaging was null and is {"type": "ema"',
            "optimizer.layer_decay was null and is 0.9",
            'loss.weighting was "fixed" and is "uncertainty"',
        ],
    ),
    "surgery": ({"surgery": Surgery()}, ['surgery was null and is {"method": "pcgrad", "c": null}']),
    "seed": (settings(seed=4), ["training.seed was 3 and is 4", "training.data_seed was 3 and is 4"]),
    "seed of the data": (settings(data_seed=4), ["training.data_seed was 3 and is 4"]),
    "batch": (settings(per_device_train_batch_size=8), [BATCH]),
    "accumulation": (settings(gradient_accumulation_steps=2), [BATCH]),
    "arguments": (
        settings(
            **{"learning_rate": 2e-3, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 2},
            **{"weight_decay": 0.1, "max_grad_norm": 0.5, "optim": "adamw_torch", "adam_beta2": 0.9},
        ),
        [
            "training.learning_rate was 0.001 and is 0.002",
            'training.lr_scheduler_type was "constant" and is "constant_with_warmup"',
            "training.weight_decay was 0.0 and is 0.1",
            "training.max_grad_norm was 1.0 and is 0.5",
            'training.optim was "adamw_torch_fused" and is "adamw_torch"',
            "training.adam_beta2 was 0.999 and is 0.9",
            "training.warmup_steps was 0 and is 2",
        ],
    ),
    "rows in another order": (rows_of(stars=swap, topics=swap), content("stars", "topics")),
    "other numbers of rows": (
        rows_of(stars=lambda rows: rows.select(range(19)), same=lambda rows: rows.select([*range(12), 0])),
        [
            "data.train.stars.rows was 20 and is 19",
            *content("stars"),
            "data.train.same.rows was 12 and is 13",
            *content("same"),
        ],
    ),
    "one cell of each task": (
        rows_of(
            stars=lambda rows: change(rows, "label", 2),
            same=lambda rows: change(rows, "input_ids", other_words(rows)),
            close=lambda rows: change(rows, "label", 0.25),
            topics=lambda rows: change(rows, "label", [1.0, 1.0, 1.0]),
        ),
        content("stars", "same", "close", "topics"),
    ),
}


@pytest.mark.parametrize("change", REFUSED)
def test_another_run_is_refused_by_name(change, trained, make_run, monkeypatch):
    changes, expected = REFUSED[change]
    checkpoint = trained() / "checkpoint-2"
    trainer = make_run(**changes)
    monkeypatch.setattr(trainer, "_load_from_checkpoint", lambda *given: pytest.fail("weights were loaded"))
    with pytest.raises(CheckpointError) as refused:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    first, *lines, last = str(refused.value).splitlines()
    assert first == f"resume_from_checkpoint: {checkpoint} is of another run than this one:"
    assert last.startswith("Go on with what it was trained with, or ")
    lines = [line for line in lines if not line.startswith("parameters.")]
    assert [line[: len(sentence)] for line, sentence in zip(lines, expected, strict=True)] == expected


def test_all_that_differs_is_told_at_once(trained, make_run):
    changes = settings(seed=4, learning_rate=1.0) | {"schedule": replace(SCHEDULE, name="sqrt")}
    trainer = make_run(**rows_of(close=swap), **changes)
    with pytest.raises(CheckpointError) as refused:
        trainer.train(resume_from_checkpoint=str(trained() / "checkpoint-2"))
    names = [line.partition(" was ")[0] for line in str(refused.value).splitlines()[1:-1]]
    seeds = ["training.seed", "training.data_seed"]
    assert names == ["schedule.name", "training.learning_rate", *seeds, "data.train.close.content_hash"]


def test_what_is_trained_must_be_the_same(trained, make_run, make_model):
    """A frozen encoder, and LoRA, have fewer parameters to train."""

    def frozen():
        model = make_model()
        model.freeze_encoder()
        return model

    for model in (frozen, lambda: wrap(make_model(), {"r": 2, "target_modules": ["query"]})):
        with pytest.raises(CheckpointError, match=r'parameters.decayed\[0\] was "encoder.embeddings.*, and so on at 1'):
            make_run(model=model).train(resume_from_checkpoint=str(trained() / "checkpoint-2"))


# ---- what may change ----

ALLOWED = {
    "nothing": {},
    "logs, saves and evaluations": settings(
        **{"logging_steps": 2, "save_steps": 1, "save_total_limit": 1, "eval_strategy": "steps", "eval_steps": 3},
        **{"per_device_eval_batch_size": 3, "metric_for_best_model": "eval_loss", "eval_train": True, "run_name": "x"},
    ),
    "workers, threads and recomputing": settings(
        dataloader_num_workers=1, cpu_threads=1, activation_checkpointing=True, on_nonfinite="skip"
    ),
    "a task's metric": {"task_training": {"stars": TaskTraining(metric="f1_macro")}},
    "smart with a weight of 0": {"smart": Smart(weight=0.0)},
    "a number of steps for one of epochs": settings(max_steps=4),
    "the data's seed written out": settings(data_seed=3),
    "data from another file": {
        "train": lambda data: {
            name: datasets.Dataset.from_dict(rows.with_format(None)[:]).remove_columns("row")
            for name, rows in data.items()
        }
    },
    "rows picked out": {
        "train": lambda data: {
            n: rows.select([0, *range(len(rows))]).select(range(1, len(rows) + 1)) for n, rows in data.items()
        }
    },
}


@pytest.mark.parametrize("change", ALLOWED)
def test_what_may_change_leaves_the_weights_alone(change, trained, make_run, assert_same_weights, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*checkpoint-2")
        make_run("again", **ALLOWED[change]).train(resume_from_checkpoint=str(trained() / "checkpoint-2"))
    assert_same_weights(trained() / "checkpoint-4", tmp_path / "again" / "checkpoint-4")


def shifted(model, by=0.1):
    model.encoder.embeddings.word_embeddings.weight.data += by
    return model


def test_the_checkpoints_weights_take_the_place_of_the_models(
    trained, make_run, make_model, assert_same_weights, tmp_path
):
    trainer = make_run("again", model=lambda: shifted(make_model()))
    trainer.train(resume_from_checkpoint=str(trained() / "checkpoint-2"))
    assert_same_weights(trained() / "checkpoint-4", tmp_path / "again" / "checkpoint-4")
    from_it = MtBertForMultiTask.from_pretrained(trained() / "checkpoint-2")
    make_run("loaded", model=lambda: from_it).train(resume_from_checkpoint=str(trained() / "checkpoint-2"))


def test_micro_batches_and_padding_may_change(trained, make_run, make_model, tmp_path):
    """They draw dropout otherwise."""
    values = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    make_run("again", **settings(**values), model=lambda: make_model(packed=False)).train(
        resume_from_checkpoint=str(trained() / "checkpoint-2")
    )
    assert (tmp_path / "again" / "checkpoint-4").is_dir()


def test_a_longer_run_is_the_uninterrupted_one_where_no_step_depends_on_the_length(
    trained, make_run, assert_same_weights, tmp_path
):
    make_run("longer", **settings(num_train_epochs=3)).train()
    for more in ({"num_train_epochs": 3}, {"max_steps": 6}):
        folder = f"again {more}"
        make_run(folder, **settings(**more)).train(resume_from_checkpoint=str(trained() / "checkpoint-4"))
        assert_same_weights(tmp_path / "longer" / "checkpoint-6", tmp_path / folder / "checkpoint-6")


def told(trainer, checkpoint) -> list[str]:
    """What a resumed run warns of its checkpoint."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train(resume_from_checkpoint=str(checkpoint))
    return [str(each.message) for each in caught if "checkpoint-" in str(each.message)]


DEPENDS_ON_LENGTH = {
    "linear": (settings(lr_scheduler_type="linear"), LENGTH),
    "share of warm-up": (settings(lr_scheduler_type="constant_with_warmup", warmup_steps=0.5), LENGTH),
    "annealed": (
        {"schedule": replace(SCHEDULE, name="annealed")},
        "num_train_epochs or max_steps, in epochs of the schedule was 2 and is 3",
    ),
    "mean of epochs": ({"averaging": Averaging("swa")}, LENGTH),
    "switch of the teacher": ({"proximal": Proximal()}, LENGTH),
}


@pytest.mark.parametrize("case", DEPENDS_ON_LENGTH)
def test_a_longer_run_goes_on_with_a_warning_where_steps_depend_on_the_length(case, trained, make_run):
    values, sentence = DEPENDS_ON_LENGTH[case]
    folder = trained(case, **values)
    longer = values | settings(**{**values.get("settings", {}), "num_train_epochs": 3})
    trainer = make_run(**longer)
    (message,) = told(trainer, folder / "checkpoint-2")
    assert re.search(sentence, message) and "ends otherwise than a run that had this length" in message
    assert trainer.state.global_step == 6


@pytest.mark.parametrize(
    ("dev", "sentence"),
    [
        (lambda data: data | {"stars": swap(data["stars"])}, "data.dev.stars.content_hash was "),
        (lambda data: data | {"stars": data["stars"].select([0])}, "data.dev.stars.rows was 10 and is 1"),
        (without, 'data.dev.topics was {"rows": 7, "content_hash": '),
        (lambda data: None, "data.dev.close was {"),
    ],
    ids=["order", "rows", "task", "none"],
)
def test_other_dev_data_is_warned_of(dev, sentence, trained, make_run, assert_same_weights, tmp_path):
    (message,) = told(make_run("again", dev=dev), trained() / "checkpoint-2")
    assert "the dev data has changed" in message and sentence in message
    assert_same_weights(trained() / "checkpoint-4", tmp_path / "again" / "checkpoint-4")


# ---- checkpoints of versions that stated nothing ----


def test_an_older_checkpoint_goes_on_with_one_warning(trained, copied, make_run, assert_same_weights, tmp_path):
    (message,) = told(make_run("again"), copied(FILE))
    unchecked = "tasks.*.weight, tasks.*.batch_size", "schedule", "smart", "training", "data", "parameters", "peft"
    assert all(name in message.partition("run: ")[2] for name in unchecked) and "encoder" not in message
    assert_same_weights(trained() / "checkpoint-4", tmp_path / "again" / "checkpoint-4")
    assert (tmp_path / "again" / "checkpoint-4" / FILE).is_file()


@pytest.mark.parametrize("change", ["tasks in another order", "tasks' fields", "encoder and adapter"])
def test_its_config_is_compared(change, copied, make_run):
    with pytest.raises(CheckpointError, match=r"checkpoint-2 is of another run than this one:\n(tasks|model.adapter)"):
        make_run(**REFUSED[change][0]).train(resume_from_checkpoint=str(copied(FILE)))


def test_a_key_that_is_not_stated_is_named(copied, make_run):
    checkpoint = copied()
    record = json.loads((checkpoint / FILE).read_text())
    del record["training.seed"], record["tasks.stars.balanced"], record["tasks.same.balanced"]
    (checkpoint / FILE).write_text(json.dumps(record))
    seal(checkpoint)
    (message,) = told(make_run("again"), checkpoint)
    assert message.endswith("those of the interrupted run: tasks.*.balanced, training.seed")


@pytest.mark.parametrize(
    ("text", "told"),
    [("[1]", "holds a list, but must hold an object"), ("", "can not be read as JSON: "), ("{", "can not be read as ")],
)
def test_a_record_that_cannot_be_read_is_refused(text, told, copied, make_run):
    checkpoint = copied()
    (checkpoint / FILE).write_text(text)
    seal(checkpoint)
    with pytest.raises(CheckpointError, match=f"{FILE} {told}"):
        make_run().train(resume_from_checkpoint=str(checkpoint))


# ---- an optimizer's state alone ----


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch", "sgd", "rmsprop", "adagrad"])
def test_moments_of_other_shapes_are_never_loaded(optim, trained, make_run, tmp_path):
    extra = {"optim": optim} | ({"optim_args": "momentum=0.9"} if optim == "sgd" else {})
    folder = trained(optim, **settings(**extra))
    checkpoint = tmp_path / "checkpoint-2"
    shutil.copytree(folder / "checkpoint-2", checkpoint)
    for name in (FILE, "config.json"):
        (checkpoint / name).unlink()
    seal(checkpoint)
    trainer = make_run(specs=reverse, **settings(**extra))
    with pytest.warns(UserWarning, match="could not be checked"), pytest.raises(CheckpointError) as refused:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert f"the optimizer's state in {checkpoint} is of another model or other tasks: " in str(refused.value)
    assert re.search(r" of heads.same.\S+ is \(1, 96\), but must be \(1, 32\)", str(refused.value))


@pytest.mark.parametrize("separate", [False, True])
def test_states_of_each_task_are_checked(separate, make_run, trained, make_model, tmp_path):
    """Groups that differ in number, and moments that differ in shape."""
    schedule, kind = replace(SCHEDULE, mixed=False), OptimizerSettings(per_task="separate" if separate else None)
    checkpoint = tmp_path / "checkpoint-2"
    shutil.copytree(trained(f"separate {separate}", schedule=schedule, optimizer=kind) / "checkpoint-2", checkpoint)
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    if separate:
        moments = next(each for each in state["state"].values() if each)
        next(iter(moments.values()))["exp_avg"] = torch.zeros(7)
    else:
        state["param_groups"][0]["params"].append(99)
    torch.save(state, checkpoint / "optimizer.pt")
    seal(checkpoint)
    sentence = r"exp_avg of encoder\..* is \(7,\), but must be " if separate else "it has groups of .* are trained"
    with pytest.raises(CheckpointError, match=sentence):
        make_run(schedule=schedule, optimizer=kind).train(resume_from_checkpoint=str(checkpoint))


# ---- weights that no checkpoint has, teachers, optimizers of one's own ----


def test_peft_and_the_weights_below_it_must_be_the_same(make_run, make_model, trained, assert_same_weights, tmp_path):
    def inside(shift=0.0, **changes):
        model = shifted(make_model(), shift)
        return lambda: wrap(model, {"r": 2, "target_modules": ["query", "value"]} | changes)

    checkpoint = str(trained("peft", model=inside()) / "checkpoint-2")
    for model, sentence in {
        inside(r=4): "peft.default.r was 2 and is 4",
        inside(lora_alpha=4): "peft.default.lora_alpha was 8 and is 4",
        inside(lora_dropout=0.5): "peft.default.lora_dropout was 0.0 and is 0.5",
        inside(shift=0.1): "encoder.weights_hash was ",
    }.items():
        with pytest.raises(CheckpointError, match=sentence):
            make_run(model=model).train(resume_from_checkpoint=checkpoint)
    make_run("again", model=inside()).train(resume_from_checkpoint=checkpoint)
    one, other = (
        load_file(each / "checkpoint-4" / "adapter_model.safetensors") for each in (trained("peft"), tmp_path / "again")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_encoder_that_a_recipe_names_must_be_the_same(make_run, make_model, trained):
    checkpoint = str(trained("recipe", recipe={}) / "checkpoint-2")
    with pytest.raises(CheckpointError, match=r"one:\nencoder.weights_hash was .*\nGo on"):
        make_run(model=lambda: shifted(make_model()), recipe={}).train(resume_from_checkpoint=checkpoint)
    make_run(recipe={}).train(resume_from_checkpoint=checkpoint)


def targets(value: float):
    """Data in which a teacher says the same of every row."""

    def add(data):
        column = [[value, 0.25, 0.25]] * len(data["stars"])
        return data | {"stars": data["stars"].add_column("teacher", column)}

    return add


def test_teachers_must_say_the_same_wherever_they_are(make_run, make_model, trained, tmp_path, _kept):
    def run(teacher, weight=0.5, said=0.5):
        return {"train": targets(said), "distillation": Distillation((str(teacher),), weight)}

    folders = [_kept["folder"] / name for name in ("teacher", "moved", "other")]
    make_model().save_pretrained(folders[0])
    shutil.copytree(folders[0], folders[1])
    model = make_model()
    model.heads["stars"].out_proj.bias.data += 1
    model.save_pretrained(folders[2])
    checkpoint = str(trained("taught", **run(folders[0])) / "checkpoint-2")
    for changes, sentence in (
        (run(folders[2]), r"distillation.teachers was \["),
        (run(folders[0], 0.7), "distillation.weight was 0.5 and is 0.7"),
        ({"train": targets(0.5)}, r"distillation was \{.* and is null"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            make_run(**changes).train(resume_from_checkpoint=checkpoint)
    make_run(**run(folders[1], said=0.5001)).train(resume_from_checkpoint=checkpoint)


def test_targets_of_nobodys_are_compared_themselves(make_run, trained):
    distillation = Distillation(("nobody",))
    checkpoint = str(trained("targets", train=targets(1.0), distillation=distillation) / "checkpoint-2")
    make_run(train=targets(1.0), distillation=distillation).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(CheckpointError, match="data.train.stars.content_hash was "):
        make_run(train=targets(0.5), distillation=distillation).train(resume_from_checkpoint=checkpoint)
    assert "nobody" not in Path(checkpoint, FILE).read_text()


def test_an_optimizer_of_ones_own_must_be_the_same(make_run, make_model, trained):
    def run(kind=torch.optim.AdamW, **values):
        model = make_model()
        return {"model": lambda: model, "optimizers": (kind(model.parameters(), lr=0.01, **values), None)}

    checkpoint = str(trained("own", **run()) / "checkpoint-2")
    make_run(**run()).train(resume_from_checkpoint=checkpoint)
    for values, sentence in (
        (run(weight_decay=0.5), "optimizers.optimizer.weight_decay was 0.01 and is 0.5"),
        (run(torch.optim.SGD), 'optimizers.optimizer.class was "AdamW" and is "SGD"'),
        (
            {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1})},
            "optimizers.optimizer_cls_and_kwargs was null and",
        ),
        ({}, r"optimizers.optimizer was \{.* and is null"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            make_run(**values).train(resume_from_checkpoint=checkpoint)


# ---- the data's hash ----


def test_another_tokenizer_is_another_run(trained, make_run, splits, tokenizer):
    """Two words that exchange their ids; the texts are encoded by the trainer itself."""
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    words = tree["model"]["vocab"]
    words["cat"], words["dog"] = words["dog"], words["cat"]
    backend = Tokenizer.from_str(json.dumps(tree))
    other = PreTrainedTokenizerFast(tokenizer_object=backend, **tokenizer.special_tokens_map)
    texts = {"train": lambda data: splits((20, 12, 17, 9))}
    checkpoint = str(trained() / "checkpoint-2")
    with pytest.raises(CheckpointError, match=r"one:\ndata.train.stars.content_hash was .*\ndata.train.same.content"):
        make_run(**texts, processing_class=other).train(resume_from_checkpoint=checkpoint)
    make_run(**texts, processing_class=tokenizer).train(resume_from_checkpoint=checkpoint)


def test_the_hash_is_of_the_rows_as_they_are_read():
    def record(ids, **columns):
        return data_record({"a": datasets.Dataset.from_dict({"input_ids": ids, **columns})}, None)["data.train"]["a"]

    one = record([[1, 2], [3]], label=[0, 1])
    assert one == record([[1, 2], [3]], label=[0, 1], id=["x", "y"], row=[7, 9])
    others = [
        record([[1], [2, 3]], label=[0, 1]),
        record([[3], [1, 2]], label=[1, 0]),
        record([[1, 2], [3]], label=[0.0, 1.0]),
        record([[1, 2], [3]], label=[0, None]),
        record([[1, 2], [3]]),
        record([[1, 2], [3]], label=[0, 1], token_type_ids=[[0, 0], [0]]),
    ]
    assert len({each["content_hash"] for each in (one, *others)}) == 7
    rows = datasets.Dataset.from_dict({"input_ids": [[number] for number in range(50_000)]})
    small = rows.cast_column("input_ids", datasets.List(datasets.Value("int32")))
    parts = datasets.concatenate_datasets([rows.select(range(3)), rows.select(range(3, 50_000))])
    picked = rows.select([1, *range(50_000)]).select(range(1, 50_001))
    hashes = [data_record({"a": each}, None)["data.train"] for each in (rows, small, parts, picked)]
    assert all(each == hashes[0] for each in hashes)
    assert data_record({"a": rows.select(range(49_999, -1, -1))}, None)["data.train"] != hashes[0]
