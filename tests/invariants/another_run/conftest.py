"""A run, trained once, whose checkpoints others go on from, and copies of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from changed_runs import SCHEDULE, SETTINGS

from mtbert.training.arguments import MtBertTrainingArguments
from mtbert.training.checkpoints.sealing import seal
from mtbert.training.trainer import MtBertTrainer


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
