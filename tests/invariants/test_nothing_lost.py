"""Damaged best checkpoints, a user's copies and full disks: what is lost is named, and nothing else is lost with it."""

from __future__ import annotations

import errno
import shutil
import warnings
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.trainer_utils import EvalLoopOutput

from mtbert.data.sampling import Schedule
from mtbert.training.checkpoints.sealing import CheckpointError, damage

SCHEDULE = Schedule("annealed", mixed=True, steps_per_epoch=6)
SAVING = {"save_strategy": "steps", "save_steps": 4, "learning_rate": 1e-3}
BEST = {
    **SAVING,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_overall",
}
WEIGHTS = "model.safetensors"
DAMAGES = {
    "flipped": (lambda folder: flip(folder / WEIGHTS), "model.safetensors is not what was written"),
    "cut": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]),
        "but was written with",
    ),
    "without weights": (lambda folder: (folder / WEIGHTS).unlink(), "model.safetensors is missing"),
    "deleted": (lambda folder: shutil.rmtree(folder), "there is no such folder"),
}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def scored(make_model, make_trainer, tmp_path):
    """A function: the scores at steps 4, 8, 12 → a trainer that finds these."""

    def make(scores=(0.9, 0.5, 0.1), **settings):
        trainer = make_trainer(make_model(), tmp_path / "run", SCHEDULE, **{**BEST, **settings})

        def evaluation_loop(dataloader, description, metric_key_prefix):
            metrics = {f"{metric_key_prefix}_overall": scores[trainer.state.global_step // 4 - 1]}
            return EvalLoopOutput(None, None, metrics, 1)

        trainer.evaluation_loop = evaluation_loop
        return trainer

    return make


def has_weights_of(trainer, checkpoint: Path) -> bool:
    saved, now = load_file(checkpoint / WEIGHTS), trainer.model.state_dict()
    return all(torch.equal(now[name], value) for name, value in saved.items())


@pytest.mark.parametrize(("hurt", "told"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_best_checkpoint_is_named_at_the_start_and_the_next_best_taken(scored, tmp_path, hurt, told):
    scored().train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-12")
    best, other = (tmp_path / "run" / f"checkpoint-{step}" for step in (4, 8))
    hurt(best)
    trainer = scored()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train(resume_from_checkpoint=str(other))
    said = [str(each.message) for each in caught if "best checkpoint" in str(each.message)]
    assert len(said) == 2 and all(told in each and str(best) in each for each in said)
    assert "so far, is damaged" in said[0] and f"; {other}, the next best one, is taken" in said[1]
    assert trainer.state.best_model_checkpoint == str(other) and has_weights_of(trainer, other)


@pytest.mark.parametrize(("hurt", "told"), DAMAGES.values(), ids=DAMAGES)
def test_without_another_one_the_last_weights_are_kept(scored, tmp_path, hurt, told):
    trainer = scored(load_best_model_at_end=False)
    trainer.train()
    shutil.copytree(tmp_path / "run" / "checkpoint-12", tmp_path / "last")
    trainer.model.heads["stars"].out_proj.bias.data += 1  # as if another step had been taken
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    for step in (4, 8, 12):
        hurt(tmp_path / "run" / f"checkpoint-{step}")
    with pytest.warns(UserWarning, match=rf"checkpoint-4, the best .*{told}.*; the weights of the last step are kept"):
        trainer._load_best_model()
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
    assert trainer.state.best_model_checkpoint is None


def test_the_best_checkpoint_of_a_folder_that_has_moved(scored, tmp_path):
    scored().train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-12")
    (tmp_path / "run").rename(tmp_path / "moved")
    trainer = scored(output_dir=str(tmp_path / "moved"), save_total_limit=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*best checkpoint")
        trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 12 and has_weights_of(trainer, tmp_path / "moved" / "checkpoint-4")


def test_a_whole_best_checkpoint_is_loaded_without_a_word(scored, tmp_path):
    trainer = scored((0.5, 0.9, 0.1))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*best checkpoint")
        trainer.train()
    assert has_weights_of(trainer, tmp_path / "run" / "checkpoint-8")


@pytest.mark.parametrize("limit", [1, 2])
def test_a_users_copies_are_neither_removed_nor_resumed_from(scored, tmp_path, limit):
    run = tmp_path / "run"
    scored((0.1, 0.5, 0.9), max_steps=8).train()
    shutil.rmtree(run / "checkpoint-8")
    for name in ("checkpoint-backup-2", "checkpoint-mine-99", "checkpoint-99", "checkpoint-007", "checkpoint-٣"):
        shutil.copytree(run / "checkpoint-4", run / name)
    (run / "checkpoint-1-old").mkdir()
    (run / "checkpoint-3").write_text("notes")
    shutil.copytree(run / "checkpoint-4", tmp_path / "elsewhere")
    (run / "checkpoint-5").symlink_to(tmp_path / "elsewhere")
    mine = {name: content for name, content in contents(run).items() if not name.startswith("checkpoint-4/")}
    elsewhere = contents(tmp_path / "elsewhere")
    trainer = scored((0.1, 0.5, 0.9), save_total_limit=limit)
    taken = []
    step = trainer.training_step
    trainer.training_step = lambda *args: (taken.append(trainer.state.global_step), step(*args))[1]
    trainer.train(resume_from_checkpoint=True)
    assert taken[0] == 4 and trainer.state.global_step == 12
    assert {name: contents(run).get(name) for name in mine} == mine
    assert (run / "checkpoint-5").is_symlink() and contents(tmp_path / "elsewhere") == elsewhere
    assert damage(run / "checkpoint-12") == "" and (run / "checkpoint-8").exists() == (limit == 2)


def test_the_last_checkpoint_stays_beside_the_best_one(scored, tmp_path):
    """The model is saved after the training: until then there must be something to go on from."""
    scored(save_total_limit=1).train()
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-4"]


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("I/O error: No space left on device (os error 28)"),
        OSError(errno.ENOSPC, "No space left on device"),
        Exception("No space left on device (os error 28)"),  # of tokenizers
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_a_full_disk_in_the_last_save(make_model, make_trainer, tmp_path, monkeypatch, error, before):
    run = tmp_path / "run"
    trainer = make_trainer(make_model(), run, SCHEDULE, **SAVING, max_steps=4)
    trainer.train()
    if before:
        trainer.save_model()
    there = contents(run)

    def half(self, folder, **kwargs):
        Path(folder, "config.json").write_text("{}")
        Path(folder, WEIGHTS).write_bytes(b"half")
        raise error

    monkeypatch.setattr(type(trainer.model), "save_pretrained", half)
    told = (
        r"run could not be written: .*No space left on device.*; [\d,.]+ MiB are free there, .*checkpoint-4 is the last"
    )
    with pytest.raises(CheckpointError, match=told + r" one .*; make room, and go on with --training.resume_from"):
        trainer.save_model()
    assert contents(run) == there and damage(run / "checkpoint-4") == ""
    with pytest.raises(CheckpointError, match="checkpoint-4 could not be written"):
        trainer._save_checkpoint(trainer.model, None)


Usage = namedtuple("Usage", "total used free")


def test_room_is_looked_for_before_the_first_step(make_model, make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(make_model(), tmp_path / "run", SCHEDULE, **SAVING)
    size = sum(each.numel() * each.element_size() for each in trainer.model.parameters())
    monkeypatch.setattr("mtbert.files.shutil.disk_usage", lambda place: Usage(0, 0, size))
    with pytest.raises(OSError, match=r"what this run writes takes about .* MiB, but .* MiB are free in"):
        trainer.train()
    assert trainer.state.global_step == 0 and not contents(tmp_path)
    monkeypatch.setattr("mtbert.files.shutil.disk_usage", lambda place: Usage(0, 0, 5 * size))
    with pytest.warns(UserWarning, match=r"a model and 3 checkpoints takes? about .* or set training.save_total_limit"):
        trainer.train()
    assert trainer.state.global_step == 12
