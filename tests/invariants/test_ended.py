"""A run that has ended is left alone when it is started again; what is damaged in its folder is named and made anew."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import yaml

from mtbert.training.checkpoints.run_lock import LOCK, FolderInUseError
from mtbert.training.checkpoints.sealing import CHECKSUMS
from mtbert.training.checkpoints.stages import STATE, WEIGHTS

SCORED = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "eval_loss"}
RUNS = {
    "steps within an epoch": {"training": {"max_steps": 3}},
    "an epoch and a half": {"training": {"num_train_epochs": 1.5}},
    "whole epochs": {"training": {"num_train_epochs": 1}},
    "early stopping": {"training": {**SCORED, "early_stopping_patience": 1, "early_stopping_threshold": 100}},
    "the best": {"training": {**SCORED, "max_steps": 3, "save_total_limit": 1, "load_best_model_at_end": True}},
    "averaging": {"averaging": {"type": "ema", "decay": 0.5}, "training": {"max_steps": 3}},
    "two stages": {"stages": [{"training": {"num_train_epochs": 1}}, {"training": {"max_steps": 3}}]},
}


@pytest.fixture(scope="module")
def run(encoder_dir, tmp_path_factory):
    """A function: output folder and changes of the recipe → trains it, or goes on with it."""
    finetune = importlib.import_module("mtbert.cli.finetune")
    data = tmp_path_factory.mktemp("data")
    for split, rows in (("train", 12), ("dev", 6)):
        lines = [json.dumps({"text": "the cat " * (row % 5 + 1), "label": row % 3}) for row in range(rows)]
        (data / f"{split}.jsonl").write_text("\n".join(lines) + "\n")

    def train(folder: Path, changes: dict, *overrides: str) -> Path:
        tree = {
            "encoder": encoder_dir,
            "data_dir": str(data),
            "tasks": {"stars": {"labels": 3, "data": {"text": ["text"], "train": "train.jsonl", "dev": "dev.jsonl"}}},
            "schedule": {"name": "annealed", "steps_per_epoch": 2},
            **changes,
            "training": {
                "output_dir": str(folder),
                "num_train_epochs": 4,
                "per_device_train_batch_size": 4,
                "save_strategy": "steps",
                "save_steps": 1,
                "report_to": "none",
                "disable_tqdm": True,
                "cpu_threads": 1,
                "use_cpu": True,
                "resume_from_checkpoint": "auto",
                **changes.get("training", {}),
            },
        }
        (folder.parent / "recipe.yaml").write_text(yaml.safe_dump(tree))
        finetune.main([str(folder.parent / "recipe.yaml"), *overrides])
        return folder

    return train


def contents(folder: Path) -> dict[str, tuple]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("case", RUNS)
def test_a_run_that_has_ended_takes_no_step_and_stays_as_it_is(case, run, tmp_path, capsys):
    folder = run(tmp_path / "run", RUNS[case])
    (folder / "log.txt").write_text("mine")  # is no part of it
    before = contents(folder)
    assert LOCK not in before
    capsys.readouterr()
    for word in ("auto", "true") if case == "two stages" else ("auto",):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            run(folder, RUNS[case], f"--training.resume_from_checkpoint={word}")
        told = f"this run has ended: nothing is left to do, and {folder} stays as it is"
        assert "".join(told.split()) in "".join(capsys.readouterr().out.split())  # a terminal breaks lines
        assert contents(folder) == before
    (folder / "log.txt").write_text("mine, longer")
    run(folder, RUNS[case])
    assert {**contents(folder), "log.txt": before["log.txt"]} == before


def test_more_steps_go_on_with_a_warning(run, tmp_path):
    case = RUNS["steps within an epoch"]
    folder = run(tmp_path / "run", case)
    with pytest.warns(UserWarning, match="max_steps"):
        run(folder, case, "--training.max_steps=5")
    assert json.loads((folder / STATE).read_text())["global_step"] == 5 and (folder / "checkpoint-5").is_dir()
    before = contents(folder)
    run(folder, case, "--training.max_steps=5")
    assert contents(folder) == before


@pytest.mark.parametrize("stages", [{}, {"stages": [{}]}], ids=["no stages", "a stage"])
def test_the_weights_of_a_checkpoint_are_hashed_once_on_resume(stages, run, tmp_path, monkeypatch):
    case = {"training": {"max_steps": 2, "learning_rate": 1e-3, "lr_scheduler_type": "constant"}, **stages}
    folder = run(tmp_path / "run", case)
    hashed = []
    hash_file = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, kind: hashed.append(str(file.name)) or hash_file(file, kind)
    )
    with pytest.warns(UserWarning, match="max_steps"):
        run(folder, case, "--training.max_steps=3", "--training.resume_from_checkpoint=true")
    last = folder / ("stage-1" if stages else "") / "checkpoint-2"
    assert json.loads((folder / STATE).read_text())["global_step"] == 3
    assert hashed.count(str(last / "model.safetensors")) == 1


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 2
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("hurt", "name"),
    [
        *((flip, name) for name in ("model.safetensors", STATE, "record.json", "scores.json", "config.json")),
        *((cut, name) for name in ("model.safetensors", "record.json", CHECKSUMS)),
        *((Path.unlink, name) for name in ("model.safetensors", STATE)),
    ],
)
def test_what_is_damaged_in_an_ended_run_is_named_and_written_again(hurt, name, run, ended, tmp_path):
    folder = shutil.copytree(ended, tmp_path / "run")
    hurt(folder / name)
    if hurt is Path.unlink and name == STATE:  # which is how it looks before the run has ended
        run(folder, RUNS["steps within an epoch"])
    else:
        with pytest.warns(
            UserWarning, match=rf"is of a run that has ended, but is damaged \(\S*{name} .*checkpoint-3$"
        ):
            run(folder, RUNS["steps within an epoch"])
    for each in ("model.safetensors", "config.json"):
        assert (folder / each).read_bytes() == (ended / each).read_bytes()
    assert json.loads((folder / STATE).read_text())["global_step"] == 3
    assert not (folder / "checkpoint-4").exists()


@pytest.fixture(scope="module")
def ended(run, tmp_path_factory) -> Path:
    """A run of three steps."""
    return run(tmp_path_factory.mktemp("ended") / "run", RUNS["steps within an epoch"])


def test_an_ended_run_of_an_earlier_version_is_left_alone(run, ended, tmp_path):
    folder = shutil.copytree(ended, tmp_path / "run")
    (folder / CHECKSUMS).unlink()
    before = contents(folder)
    run(folder, RUNS["steps within an epoch"])
    assert contents(folder) == before
    (folder / "record.json").write_text("{")
    with pytest.warns(UserWarning, match="record.json"):
        run(folder, RUNS["steps within an epoch"])
    assert (folder / "model.safetensors").read_bytes() == (ended / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def staged(run, tmp_path_factory) -> Path:
    """A run of two stages of which the second has not begun."""
    folder = run(tmp_path_factory.mktemp("staged") / "run", RUNS["two stages"])
    shutil.copytree(folder, folder.parent / "whole")
    shutil.rmtree(folder / "stage-2")
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    return folder


@pytest.mark.parametrize(
    ("hurt", "name"),
    [
        *((flip, name) for name in (WEIGHTS, STATE, "resume_record.json")),
        (cut, WEIGHTS),
        *((Path.unlink, name) for name in (WEIGHTS, STATE)),
    ],
)
def test_a_stages_damaged_end_is_named_and_the_stage_trained_again(hurt, name, run, staged, tmp_path):
    folder = shutil.copytree(staged, tmp_path / "run")
    hurt(folder / "stage-1" / name)
    told = rf"the end of the stage in {folder}/stage-1 is damaged \({name} .*\); the stage goes on from its last"
    if hurt is Path.unlink and name == STATE:  # which is how it looks before the stage has ended
        run(folder, RUNS["two stages"])
    else:
        with pytest.warns(UserWarning, match=told):
            run(folder, RUNS["two stages"])
    for each in ("model.safetensors", f"stage-1/{WEIGHTS}"):
        assert (folder / each).read_bytes() == (staged.parent / "whole" / each).read_bytes()


def test_the_end_of_a_stage_of_an_earlier_version_goes_on(run, staged, tmp_path):
    folder = shutil.copytree(staged, tmp_path / "run")
    (folder / "stage-1" / CHECKSUMS).unlink()
    before = contents(folder / "stage-1")
    run(folder, RUNS["two stages"])
    assert contents(folder / "stage-1") == before
    whole = staged.parent / "whole" / "model.safetensors"
    assert (folder / "model.safetensors").read_bytes() == whole.read_bytes()


def test_a_second_run_in_the_folder_is_refused_before_any_work(run, ended, tmp_path):
    folder = shutil.copytree(ended, tmp_path / "run")
    (folder / LOCK).write_text(json.dumps({"host": "elsewhere", "pid": os.getpid(), "started": 1.0}))
    before = contents(folder)
    with pytest.raises(FolderInUseError, match=f"another run .process {os.getpid()} on 'elsewhere'"):
        run(folder, RUNS["steps within an epoch"], "--training.max_steps=5")
    assert contents(folder) == before
