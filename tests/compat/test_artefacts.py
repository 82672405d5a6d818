"""What earlier versions left on disks goes on working: models, adapters, checkpoints, recipes, logs and scores."""

from __future__ import annotations

import importlib.util
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

from mtbert import MtBertForMultiTask
from mtbert.hub import saved_card
from mtbert.recipe import load_recipe

HERE = Path(__file__).parent
VERSIONS = sorted(path.name for path in HERE.iterdir() if (path / "VERSION").is_file())
CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # processors round differently


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def make_artefacts():
    """The script that made the artefacts, as a module."""
    return load(HERE / "make_artefacts.py")


@pytest.fixture(params=VERSIONS)
def artefacts(request, tmp_path, monkeypatch) -> Path:
    """A copy of one version's artefacts, which is the current folder."""
    folder = tmp_path / request.param
    shutil.copytree(HERE / request.param, folder)
    monkeypatch.chdir(folder)
    return folder


def assert_logits(model, folder: Path, name: str, make_artefacts) -> None:
    expected = json.loads((folder / "logits.json").read_text())[name]
    logits = make_artefacts.logits.logits_of(model, AutoTokenizer.from_pretrained(folder / name))
    assert logits.keys() == expected.keys()
    for task, values in expected.items():
        np.testing.assert_allclose(logits[task], values, **CLOSE, err_msg=task)


def test_a_model_has_the_same_logits(artefacts, make_artefacts):
    model = MtBertForMultiTask.from_pretrained(artefacts / "run")
    assert_logits(model, artefacts, "run", make_artefacts)
    expected = json.loads((artefacts / "logits.json").read_text())["run"]
    for task in model.tasks:
        rows = make_artefacts.logits.TEXTS if task.texts == 1 else [tuple(pair) for pair in make_artefacts.logits.PAIRS]
        np.testing.assert_allclose(model.predict(rows, task.name).logits, expected[task.name], **CLOSE)


def test_a_model_is_saved_and_loaded_again(artefacts, make_artefacts):
    MtBertForMultiTask.from_pretrained(artefacts / "run").save_pretrained(artefacts / "again")
    AutoTokenizer.from_pretrained(artefacts / "run").save_pretrained(artefacts / "run")
    assert_logits(MtBertForMultiTask.from_pretrained(artefacts / "again"), artefacts, "run", make_artefacts)


def test_an_adapter_has_the_same_logits(artefacts, make_artefacts):
    model = make_artefacts.load_adapter(artefacts / "peft", artefacts / "encoder")
    assert_logits(model, artefacts, "peft", make_artefacts)


def test_a_checkpoint_resumes_to_the_same_end(artefacts, make_artefacts):
    end, log = load_file("run/model.safetensors"), json.loads(Path("run/trainer_state.json").read_text())["log_history"]
    shutil.copytree("run/checkpoint-4", "from/checkpoint-4")
    settings = ["--training.output_dir", "resumed", "--training.resume_from_checkpoint", "from/checkpoint-4"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_artefacts.finetune.main(["run.yaml", *settings])
    (message,) = [str(each.message) for each in caught if "checkpoint-4" in str(each.message)]
    assert "did not state all that a run depends on" in message and "optimizer" in message
    resumed = load_file("resumed/model.safetensors")
    assert resumed.keys() == end.keys()
    for name, weight in end.items():
        # softmax cancels a bias of keys: its gradient is rounding, which differs by processor and which AdamW scales
        # to whole steps of at most the learning rate, .01 and falling
        close = {"atol": 0.01} if name.endswith("attention.self.key.bias") else CLOSE
        np.testing.assert_allclose(resumed[name], weight, **close, err_msg=name)
    again = json.loads(Path("resumed/trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in again] == [entry["step"] for entry in log]
    for entry, before in zip(again, log, strict=True):
        assert before.keys() <= entry.keys()
        for key in before:
            if key.startswith(("loss", "eval_")) and not key.endswith(("runtime", "per_second")):
                np.testing.assert_allclose(entry[key], before[key], **CLOSE, err_msg=key)
    scores = json.loads(Path("resumed/scores.json").read_text())
    before = json.loads(Path("run/scores.json").read_text())
    assert before.keys() <= scores.keys()


def test_recipes_say_what_they_said(artefacts):
    def assert_within(old, new, where: str) -> None:
        if isinstance(old, dict):
            assert old.keys() <= new.keys(), f"{where} lost {old.keys() - new.keys()}"
            for key, value in old.items():
                assert_within(value, new[key], f"{where}.{key}")
        else:
            assert new == old, where

    for name, values in json.loads((artefacts / "resolved.json").read_text()).items():
        assert_within(values, load_recipe(name).to_dict(), name)


def test_a_card_is_made_of_a_run(artefacts):
    card = saved_card(MtBertForMultiTask.from_pretrained("run"), "user/tiny")
    assert "stars" in card.text and card.data.eval_results


def test_the_folder_is_small():
    for version in VERSIONS:
        assert sum(path.stat().st_size for path in (HERE / version).rglob("*")) < 2**20
