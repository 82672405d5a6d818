"""Stages: each is the run that one would make by hand, and a run of stages resumes like any other, bit for bit."""

from __future__ import annotations

import importlib
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mtbert.training.checkpoints.resume_record import FILE as RECORD
from mtbert.training.checkpoints.sealing import CheckpointError, seal
from mtbert.training.checkpoints.stages import STATE, WEIGHTS

STEPS, EPOCHS = 4, (1, 2)  # so that checkpoints 2, 4 and 6 of the second stage are in the middle and at ends of epochs
BORDER = STEPS * EPOCHS[0]
STAGES = [
    {"model": {"freeze_encoder": True}, "training": {"learning_rate": 0.01, "num_train_epochs": EPOCHS[0]}},
    {"schedule": {"name": "uniform"}, "all_tasks": {"weight": 2.0}},
]
WORDS = ("the", "cat", "dog", "runs", "sleeps", "is", "very", "good", "bad", "old", "new")
VOLATILE = ("runtime", "per_second", "total_flos", "train_loss")


@pytest.fixture(scope="module")
def finetune():
    return importlib.import_module("mtbert.cli.finetune")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)

    def sentence() -> str:
        return " ".join(random.choice(WORDS, size=random.integers(2, 9)))

    for split, rows in (("train", 20), ("dev", 8)):
        stars = [{"text": sentence(), "label": row % 3} for row in range(rows)]
        close = [{"text": sentence(), "text_pair": sentence(), "label": row % 6} for row in range(rows)]
        for name, values in (("stars", stars), ("close", close)):
            (folder / f"{name}-{split}.jsonl").write_text("\n".join(map(json.dumps, values)) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(finetune, encoder_dir, data_dir, tmp_path_factory):
    """A function: output folder and changes of the recipe → trains it."""

    def train(folder: Path, *overrides: str, **changes) -> Path:
        tree = {
            "encoder": encoder_dir,
            "data_dir": str(data_dir),
            "tasks": {
                "stars": {
                    "labels": 3,
                    "data": {"text": ["text"], "train": "stars-train.jsonl", "dev": "stars-dev.jsonl"},
                },
                "close": {
                    "range": [0, 5],
                    "data": {
                        "text": ["text", "text_pair"],
                        "train": "close-train.jsonl",
                        "dev": "close-dev.jsonl",
                    },
                },
            },
            "schedule": {"name": "annealed", "steps_per_epoch": STEPS},
            "training": {
                "output_dir": str(folder),
                "num_train_epochs": EPOCHS[1],
                "per_device_train_batch_size": 4,
                "learning_rate": 1e-3,
                "warmup_steps": 2,
                "save_strategy": "steps",
                "save_steps": 2,
                "logging_steps": 1,
                "report_to": "none",
                "disable_tqdm": True,
                "cpu_threads": 1,
                "use_cpu": True,
            },
            "stages": STAGES,
        }
        path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree | changes))
        finetune.main([str(path), *overrides])
        return folder

    return train


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory) -> Path:
    """The folder of an uninterrupted run of two stages."""
    return run(tmp_path_factory.mktemp("runs") / "whole")


def log(folder: Path) -> list[dict]:
    entries = json.loads((folder / STATE).read_text())["log_history"]
    return [{k: v for k, v in each.items() if not any(word in k for word in VOLATILE)} for each in entries]


def steps(entries: list[dict]) -> list[dict]:
    return [each for each in entries if "loss" in each]


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_first_stage_leaves_a_frozen_encoder_alone_and_the_second_moves_it(whole, encoder_dir):
    start = load_file(Path(encoder_dir, "model.safetensors"))
    start = {f"encoder.{name}": weight for name, weight in start.items() if not name.startswith("pooler.")}
    border, end = load_file(whole / "stage-1" / WEIGHTS), load_file(whole / "model.safetensors")
    assert all(torch.equal(border[name], weight) for name, weight in start.items())
    assert not any(torch.equal(end[name], border[name]) for name in start if "layer.0" in name and "weight" in name)
    heads = [name for name in border if name.startswith("heads.")]
    assert heads and not any(torch.equal(end[name], border[name]) for name in heads)


def test_each_stage_is_the_run_that_one_would_make_by_hand(whole, run, tmp_path, monkeypatch):
    """The second run by hand starts from the first one's weights, which the model is given before it is trained."""
    first = run(tmp_path / "first", stages=STAGES[:1])
    assert same(load_file(whole / "stage-1" / WEIGHTS), load_file(first / "model.safetensors"))

    from mtbert import MtBertForMultiTask

    monkeypatch.setattr(
        MtBertForMultiTask, "from_encoder", lambda *args, **kwargs: MtBertForMultiTask.from_pretrained(first)
    )
    values = {"weight": 2.0}
    second = run(
        tmp_path / "second",
        "--schedule.name=uniform",
        *(f"--tasks.{task}.{key}={value}" for task in ("stars", "close") for key, value in values.items()),
        stages=[],
    )
    assert same(load_file(whole / "model.safetensors"), load_file(second / "model.safetensors"))
    by_hand = steps(log(second))
    in_run = [each for each in steps(log(whole)) if each["stage"] == 2]
    assert [each["step"] for each in in_run] == [each["step"] + BORDER for each in by_hand]
    assert [each["epoch"] for each in in_run] == pytest.approx([each["epoch"] + EPOCHS[0] for each in by_hand])
    different = {"step", "epoch", "stage"}
    strip = [[{k: v for k, v in each.items() if k not in different} for each in part] for part in (in_run, by_hand)]
    assert strip[0] == strip[1]


def test_the_log_is_one_over_the_border(whole):
    state = json.loads((whole / STATE).read_text())
    steps = [each for each in state["log_history"] if "loss" in each]
    assert [each["step"] for each in steps] == list(range(1, STEPS * sum(EPOCHS) + 1))
    assert [each["epoch"] for each in steps] == pytest.approx([step / STEPS for step in range(1, len(steps) + 1)])
    assert [each["stage"] for each in steps] == [1] * BORDER + [2] * (len(steps) - BORDER)
    assert (state["global_step"], state["epoch"]) == (len(steps), sum(EPOCHS))
    for stage, saved in ((1, {2, 4}), (2, {2, 4, 6, 8})):
        found = {path.name for path in (whole / f"stage-{stage}").glob("checkpoint-*")}
        assert found == {f"checkpoint-{step}" for step in saved}
    assert not list(whole.glob("checkpoint-*"))


def test_the_record_sums_over_the_stages(whole):
    record = json.loads((whole / "record.json").read_text())
    entries = json.loads((whole / STATE).read_text())["log_history"]
    assert record["steps"] == STEPS * sum(EPOCHS)
    assert record["seconds"] == pytest.approx(sum(each.get("train_runtime", 0) for each in entries))
    assert sum("train_runtime" in each for each in entries) == 2
    assert set(record["examples"]) == {"1", "2", "3"}
    assert all(sum(counts.values()) == 4 * STEPS for counts in record["examples"].values())
    encoder = next(row for row in record["parameters"] if row["component"] == "encoder")
    assert encoder["moved"] > 0 and encoder["trainable"] == encoder["parameters"]


def cut_in_stage_1(folder: Path) -> None:
    shutil.rmtree(folder / "stage-2")
    shutil.rmtree(folder / "stage-1" / "checkpoint-4")
    for name in (STATE, WEIGHTS):
        (folder / "stage-1" / name).unlink()


def cut_at_the_border(folder: Path) -> None:
    shutil.rmtree(folder / "stage-2")


def cut_in_an_epoch_of_stage_2(folder: Path) -> None:
    for step in (4, 6, 8):
        shutil.rmtree(folder / "stage-2" / f"checkpoint-{step}")


def cut_at_an_epoch_of_stage_2(folder: Path) -> None:
    for step in (6, 8):
        shutil.rmtree(folder / "stage-2" / f"checkpoint-{step}")


def cut_at_the_end(folder: Path) -> None:
    (folder / "record.json").unlink()


CUTS = (
    cut_in_stage_1,
    cut_at_the_border,
    cut_in_an_epoch_of_stage_2,
    cut_at_an_epoch_of_stage_2,
    cut_at_the_end,
)


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.__name__)
def test_a_run_resumes_in_every_stage(cut, whole, run, tmp_path, assert_same_weights):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for name in ("model.safetensors", STATE):
        (folder / name).unlink()
    cut(folder)
    run(folder, "--training.resume_from_checkpoint", "true")
    assert same(load_file(whole / "model.safetensors"), load_file(folder / "model.safetensors"))
    assert_same_weights(whole / "stage-2" / "checkpoint-8", folder / "stage-2" / "checkpoint-8")
    assert steps(log(whole)) == steps(log(folder))
    records = [json.loads((each / "record.json").read_text()) for each in (whole, folder)]
    for key in ("steps", "examples", "losses", "parameters"):
        assert records[0][key] == records[1][key]


def test_a_finished_stage_is_passed_over(whole, run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "stage-2")
    before = {path: path.stat().st_mtime_ns for path in (folder / "stage-1").rglob("*")}
    run(folder, "--training.resume_from_checkpoint", "true")
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "stage-1").rglob("*")}


@pytest.fixture
def interrupted(whole, tmp_path):
    """A function: what is cut off a copy of the whole run → its folder."""

    def copy(*cuts) -> Path:
        folder = tmp_path / "run"
        shutil.copytree(whole, folder)
        for name in ("model.safetensors", STATE):
            (folder / name).unlink()
        for each in cuts:
            each(folder)
        return folder

    return copy


AGAIN = ("--training.resume_from_checkpoint", "true")


@pytest.mark.parametrize("cut", [cut_at_the_border, cut_in_an_epoch_of_stage_2], ids=lambda cut: cut.__name__)
def test_a_stage_that_has_ended_must_be_that_of_the_recipe(cut, interrupted, run):
    folder = interrupted(cut)
    other = [STAGES[0] | {"schedule": {"name": "sqrt"}}, STAGES[1]]
    with pytest.raises(
        CheckpointError, match=r'stage-1 is of another run .*\nschedule.name was "annealed" and is "sqrt"'
    ):
        run(folder, *AGAIN, stages=other)
    with pytest.raises(CheckpointError, match=r"stage-1 is of .*\ntasks.stars.labels was .*\ndata.train.stars.content"):
        run(folder, *AGAIN, "--tasks.stars.labels", "['2', '1', '0']")


def test_the_stage_that_was_interrupted_must_be_that_of_the_recipe(interrupted, run):
    folder, other = interrupted(cut_in_an_epoch_of_stage_2), [STAGES[0], {"schedule": {"name": "sqrt"}}]
    with pytest.raises(CheckpointError) as refused:
        run(folder, *AGAIN, stages=other)
    first, *lines, _ = str(refused.value).splitlines()
    assert "stage-2/checkpoint-2 is of another run" in first
    assert lines == [
        "tasks.close.weight was 2.0 and is 1.0",
        "tasks.stars.weight was 2.0 and is 1.0",
        'schedule.name was "uniform" and is "sqrt"',
    ]


def test_the_recipes_files_and_encoder_must_be_the_same(interrupted, run, data_dir, encoder_dir, tmp_path):
    folder, data, other = interrupted(cut_in_stage_1), tmp_path / "data", tmp_path / "encoder"
    shutil.copytree(data_dir, data)
    shutil.copytree(encoder_dir, other)
    weights = load_file(other / "model.safetensors")
    weights["embeddings.word_embeddings.weight"] += 0.1
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    run(folder, *AGAIN, "--data_dir", str(data))  # the same rows elsewhere
    for name in ("stage-2", "stage-1/checkpoint-4"):
        shutil.rmtree(folder / name)
    for name in (STATE, WEIGHTS):
        (folder / "stage-1" / name).unlink()
    rows = (data / "close-train.jsonl").read_text().splitlines()
    (data / "close-train.jsonl").write_text("\n".join(rows[:-1]) + "\n")
    with pytest.raises(
        CheckpointError, match=r"one:\nencoder.weights_hash was .*\ndata.train.close.rows was 20 and is 19"
    ):
        run(folder, *AGAIN, "--data_dir", str(data), "--encoder", str(other))


@pytest.mark.parametrize("cut", [cut_at_the_border, cut_in_an_epoch_of_stage_2], ids=lambda cut: cut.__name__)
def test_stages_of_an_earlier_version_go_on_with_one_warning(cut, interrupted, run, whole):
    folder = interrupted(cut)
    for record in folder.rglob(RECORD):
        record.unlink()
    for checkpoint in folder.rglob("checkpoint-*"):
        seal(checkpoint)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(folder, *AGAIN)
    assert sum("could not be checked" in str(each.message) for each in caught) == 1
    assert same(load_file(whole / "model.safetensors"), load_file(folder / "model.safetensors"))


def test_a_run_of_three_stages_resumes_at_its_second_border(run, tmp_path):
    stages = [{"training": {"num_train_epochs": 1}}] * 3
    folder, again = run(tmp_path / "three", stages=stages), tmp_path / "again"
    shutil.copytree(folder, again)
    shutil.rmtree(again / "stage-3")
    run(again, *AGAIN, stages=stages)
    assert same(load_file(folder / "model.safetensors"), load_file(again / "model.safetensors"))
    assert steps(log(folder)) == steps(log(again))


def test_a_new_run_and_a_resumed_one_need_their_folder(whole, run, tmp_path):
    with pytest.raises(ValueError, match="has files in it, which would be overwritten"):
        run(whole)
    with pytest.raises(ValueError, match="no complete checkpoint in .*stage-1; drop the key to start anew"):
        run(tmp_path / "new", "--training.resume_from_checkpoint", "true")


def test_stages_under_mixed_precision_resume_at_the_border(run, tmp_path):
    """accelerate wraps a model once a process, and a resumed second stage is another process's first."""
    folder, again = run(tmp_path / "bf16", "--training.bf16", "true"), tmp_path / "again"
    shutil.copytree(folder, again)
    shutil.rmtree(again / "stage-2")
    run(again, "--training.bf16", "true", "--training.resume_from_checkpoint", "true")
    assert same(load_file(folder / "model.safetensors"), load_file(again / "model.safetensors"))


def test_stages_of_a_model_inside_peft(run, tmp_path):
    peft = {"r": 2, "target_modules": ["query"]}
    stages = [{"training": {"num_train_epochs": 1}}, {}]
    folder = run(tmp_path / "peft", peft=peft, stages=stages)
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    shutil.rmtree(again / "stage-2")
    (again / "adapter_model.safetensors").unlink()
    run(again, "--training.resume_from_checkpoint", "true", peft=peft, stages=stages)
    weights = [load_file(each / "adapter_model.safetensors") for each in (folder, again)]
    assert same(*weights) and not any("layer.0.attention.self.query.weight" in name for name in weights[0])
