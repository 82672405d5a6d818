"""What may change in a run that goes on, and what is warned of."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import datasets
import pytest
from changed_runs import LENGTH, SCHEDULE, settings, swap, told, without

from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.training.arguments import TaskTraining
from mtbert.training.methods.averaging import Averaging
from mtbert.training.methods.proximal import Proximal
from mtbert.training.methods.smart import Smart

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
