"""Parts of a run that its checkpoint's config does not have: moments, PEFT, teachers, an optimizer of one's own."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from changed_runs import SCHEDULE, reverse, settings
from safetensors.torch import load_file

from mtbert.training.checkpoints.resume_record import FILE
from mtbert.training.checkpoints.sealing import CheckpointError, seal
from mtbert.training.methods.distillation import Distillation
from mtbert.training.optimizers import OptimizerSettings
from mtbert.training.peft import wrap


def shifted(model, by=0.1):
    model.encoder.embeddings.word_embeddings.weight.data += by
    return model


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
