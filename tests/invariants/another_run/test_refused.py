"""A checkpoint of another run is refused by name before anything of it is loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from changed_runs import (
    BATCH,
    SCHEDULE,
    change,
    content,
    other_words,
    rename,
    reverse,
    rows_of,
    settings,
    swap,
    with_fields,
    without,
)

from mtbert.data.sampling import Schedule
from mtbert.training.arguments import TaskTraining
from mtbert.training.checkpoints.resume_record import FILE
from mtbert.training.checkpoints.sealing import CheckpointError
from mtbert.training.methods.averaging import Averaging
from mtbert.training.methods.proximal import Proximal
from mtbert.training.methods.rdrop import RDrop
from mtbert.training.methods.simcse import SimCSE
from mtbert.training.methods.smart import Smart
from mtbert.training.methods.surgery import Surgery
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.optimizers import OptimizerSettings
from mtbert.training.peft import wrap

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
    "attention dropout": (
        {"config": {"attention_probs_dropout_prob": 0.0}},
        ["encoder.attention_probs_dropout_prob was 0.1 and is 0.0"],
    ),
    "tasks' training": (
        {
            "task_training": {
                "stars": TaskTraining(weight=2.0, batch_size=3, examples_per_epoch=5, label_smoothing=0.1),
                "same": TaskTraining(balanced=True),
                "topics": TaskTraining(class_weights=(1.0, 2.0, 3.0)),
                "close": TaskTraining(loss="smooth_l1", smooth_l1_beta=0.5),
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
            'tasks.close.loss was null and is "smooth_l1"',
            "tasks.close.smooth_l1_beta was 1.0 and is 0.5",
            "schedule.mixed was true and is false",
        ],
    ),
    "fresh samples": (
        {"schedule": replace(SCHEDULE, resample=True)},
        ["schedule.resample was false and is true"],
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
            "methods": [RDrop(), SimCSE()],
            "smart": Smart(),
            "proximal": Proximal(decay=0.9, late_decay=0.9),
            "averaging": Averaging(),
            "optimizer": OptimizerSettings(layer_decay=0.9),
            "loss": LossSettings("uncertainty"),
        },
        [
            'rdrop was null and is {"weight": 1.0}',
            'simcse was null and is {"weight": 1.0, "temperature": 0.05, "tasks": null}',
            'smart was null and is {"weight": 1.0',
            'proximal was null and is {"weight": 1.0',
            'averaging was null and is {"type": "ema"',
            "optimizer.layer_decay was null and is 0.9",
            'loss.weighting was "fixed" and is "uncertainty"',
        ],
    ),
    "surgery": (
        {"surgery": Surgery()},
        ['surgery was null and is {"method": "pcgrad", "c": null, "reduction": "sum"}'],
    ),
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
    assert [line[: len(sentence)] for line, sentence in zip(sorted(lines), sorted(expected), strict=True)] == sorted(
        expected
    )


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


@pytest.mark.parametrize("change", ["tasks in another order", "tasks' fields", "encoder and adapter"])
def test_its_config_is_compared(change, copied, make_run):
    with pytest.raises(CheckpointError, match=r"checkpoint-2 is of another run than this one:\n(tasks|model.adapter)"):
        make_run(**REFUSED[change][0]).train(resume_from_checkpoint=str(copied(FILE)))
