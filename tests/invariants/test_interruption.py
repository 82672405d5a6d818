"""A run that is told to end leaves a checkpoint that goes on as if nothing had been; a full disk loses none."""

from __future__ import annotations

import os
import signal
import subprocess
import threading

import pytest
from transformers import TrainerCallback

from mtbert.data.sampling import Schedule
from mtbert.training.checkpoints.sealing import CheckpointError, damage

SCHEDULE = Schedule("annealed", mixed=True, steps_per_epoch=6)
SAVING = {"save_strategy": "steps", "save_steps": 4, "learning_rate": 1e-3}


class Told(TrainerCallback):
    """Sends the process a signal in the middle of a step."""

    def __init__(self, step: int):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("step", [1, 4, 7, 11])
def test_a_run_told_to_end_goes_on_to_the_same_weights(step, make_model, make_trainer, assert_same_weights, tmp_path):
    whole = make_trainer(make_model(), tmp_path / "whole", SCHEDULE, **SAVING)
    whole.train()
    before = signal.getsignal(signal.SIGTERM)
    trainer = make_trainer(make_model(), tmp_path / "told", SCHEDULE, **SAVING)
    trainer.add_callback(Told(step))
    with pytest.raises(SystemExit) as ended:
        trainer.train()
    assert ended.value.code == 143 and signal.getsignal(signal.SIGTERM) == before
    assert trainer.state.global_step == step and damage(tmp_path / "told" / f"checkpoint-{step}") == ""
    resumed = make_trainer(make_model(), tmp_path / "told", SCHEDULE, **SAVING)
    resumed.train(resume_from_checkpoint=True)
    assert_same_weights(tmp_path / "whole" / "checkpoint-12", tmp_path / "told" / "checkpoint-12")


def test_without_checkpoints_the_signal_is_left_alone(make_model, make_trainer, tmp_path):
    trainer, seen = make_trainer(make_model(), tmp_path, SCHEDULE), []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        trainer.add_callback(Told(2))
        trainer.train()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM] and trainer.state.global_step == 12


def test_a_thread_trains_without_watching_for_signals(make_model, make_trainer, tmp_path):
    trainer = make_trainer(make_model(), tmp_path, SCHEDULE, **SAVING)
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert trainer.state.global_step == 12


def test_resuming_without_a_checkpoint_is_refused(make_model, make_trainer, tmp_path):
    trainer = make_trainer(make_model(), tmp_path, SCHEDULE, **SAVING)
    with pytest.raises(CheckpointError, match="no complete checkpoint in"):
        trainer.train(resume_from_checkpoint=True)


def test_a_damaged_checkpoint_is_refused_or_passed_over(make_model, make_trainer, assert_same_weights, tmp_path):
    make_trainer(make_model(), tmp_path / "run", SCHEDULE, **SAVING).train()
    torn, last = tmp_path / "run" / "checkpoint-8", tmp_path / "run" / "checkpoint-12"
    whole = last.rename(tmp_path / "whole")
    with (torn / "optimizer.pt").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(CheckpointError, match="checkpoint-8 is not complete .optimizer.pt has 1,000 bytes"):
        make_trainer(make_model(), tmp_path / "run", SCHEDULE, **SAVING).train(resume_from_checkpoint=str(torn))
    with pytest.warns(UserWarning, match="checkpoint-8 is not complete .* going on from the one before it"):
        make_trainer(make_model(), tmp_path / "run", SCHEDULE, **SAVING).train(resume_from_checkpoint=True)
    assert_same_weights(whole, last)


def test_older_checkpoints_are_removed_after_the_new_one_is_complete(make_model, make_trainer, tmp_path, monkeypatch):
    from mtbert.training.checkpoints import interruption

    trainer, seen = make_trainer(make_model(), tmp_path, SCHEDULE, **SAVING, save_total_limit=1), []

    def watched(folder, limit, kept):
        seen.append([path.name for path in sorted(tmp_path.glob("checkpoint-*")) if not damage(path)])
        remove(folder, limit, kept)

    remove = interruption.remove_older
    monkeypatch.setattr(interruption, "remove_older", watched)
    trainer.train()
    assert seen == [["checkpoint-4"], ["checkpoint-4", "checkpoint-8"], ["checkpoint-12", "checkpoint-8"]]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-12"]
    assert '"save_total_limit": 1' in (tmp_path / "checkpoint-12" / "training_args.json").read_text()


@pytest.fixture(params=["720k", "860k", "1m"])
def small_disk(request, tmp_path):
    """A folder on a small file system; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_loses_no_earlier_checkpoint(small_disk, make_model, make_trainer, assert_same_weights, tmp_path):
    """A checkpoint of this model takes some 300 KiB, so that one of the first does not fit."""
    every_step = {**SAVING, "save_steps": 1}
    whole = make_trainer(make_model(), tmp_path / "whole", SCHEDULE, **SAVING)
    whole.train()
    trainer = make_trainer(make_model(), small_disk / "run", SCHEDULE, **every_step)
    with pytest.raises(CheckpointError, match=r"could not be written: .* MiB are free there, .* is the last one"):
        trainer.train()
    step = trainer.state.global_step
    left = sorted((small_disk / "run").glob("checkpoint-*"))
    assert left and all(damage(each) == "" for each in left)
    assert not (small_disk / "run" / f"checkpoint-{step}").exists()
    resumed = make_trainer(make_model(), tmp_path / "more", SCHEDULE, **SAVING)
    resumed.train(resume_from_checkpoint=str(left[-1]))
    assert_same_weights(tmp_path / "whole" / "checkpoint-12", tmp_path / "more" / "checkpoint-12")
