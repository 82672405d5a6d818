"""Runs of every schedule and every way of training, in processes that kill themselves at a random point."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import load_from_disk
from transformers import TrainerCallback

from mtbert.data.sampling import SCHEDULES, Schedule
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.training.arguments import MtBertTrainingArguments, TaskTraining
from mtbert.training.checkpoints.sealing import last_complete
from mtbert.training.methods.averaging import Averaging
from mtbert.training.methods.proximal import Proximal
from mtbert.training.methods.smart import Smart
from mtbert.training.methods.surgery import Surgery
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.optimizers import OptimizerSettings
from mtbert.training.trainer import MtBertTrainer

STEPS, EPOCHS, SAVED = 6, 2, 2
MIXED = Schedule("annealed", mixed=True, steps_per_epoch=STEPS)
TURNS = Schedule("round_robin", steps_per_epoch=STEPS)
CASES = {
    **{
        name: {"schedule": Schedule(name, steps_per_epoch=STEPS, temperature=2.0 if name == "temperature" else None)}
        for name in SCHEDULES
    },
    "mixed": {"schedule": MIXED},
    "surgery": {"schedule": MIXED, "surgery": Surgery()},
    "smart and proximal": {"schedule": MIXED, "smart": Smart(radius=1e-3, step_size=1.0), "proximal": Proximal()},
    "averaged": {"schedule": MIXED, "averaging": Averaging("ema", 0.5)},
    "separate": {"schedule": TURNS, "optimizer": OptimizerSettings(per_task="separate")},
    "rates": {
        "schedule": TURNS,
        "optimizer": OptimizerSettings(per_task="rates"),
        "task_training": {"stars": TaskTraining(learning_rate=3e-3)},
    },
    "uncertainty": {"schedule": MIXED, "loss": LossSettings("uncertainty", 0.1)},
    "loading worker": {"schedule": MIXED, "arguments": {"dataloader_num_workers": 1}},
    "accumulated": {
        "schedule": MIXED,
        "arguments": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
    },
}


@dataclass(frozen=True)
class Point:
    """Where a run ends: `delay` seconds after an event's `count`-th time, by a signal to itself.

    Attributes:
        event: `step` (it begins), `update` (before the optimizer), `save` (a checkpoint is begun) or `seal` (all of it
            but its checksums is written).
    """

    event: str
    count: int
    delay: float
    signal: signal.Signals = signal.SIGKILL


class Fuse(TrainerCallback):
    """Ends the process at a point."""

    def __init__(self, point: Point):
        self.point, self.seen = point, 0

    def note(self, event: str) -> None:
        """An event came."""
        self.seen += event == self.point.event
        if event == self.point.event and self.seen == self.point.count:
            threading.Thread(target=self._burn, daemon=True).start()
            if self.point.delay == 0:
                time.sleep(0.1)  # at this very point

    def _burn(self) -> None:
        time.sleep(self.point.delay)
        os.kill(os.getpid(), self.point.signal)

    def on_step_begin(self, args, state, control, **kwargs):
        self.note("step")

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.note("update")


def make_trainer(data: Path, output: Path, case: str) -> MtBertTrainer:
    """The run of a case on the data in a folder: `model/`, `train/<task>`, `eval/<task>`."""
    own = dict(CASES[case])
    splits = {
        split: {each.name: load_from_disk(str(each)) for each in sorted((data / split).iterdir())}
        for split in ("train", "eval")
    }
    values = {
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 3,
        "logging_steps": 1,
        "eval_strategy": "epoch",
        "save_strategy": "steps",
        "save_steps": SAVED,
        "save_total_limit": 2,
        "num_train_epochs": EPOCHS,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 8,
        **own.pop("arguments", {}),
    }
    args = MtBertTrainingArguments(output_dir=str(output), **values)
    return MtBertTrainer(
        MtBertForMultiTask.from_pretrained(data / "model"), args, splits["train"], splits["eval"], **own
    )


def train(data: Path, output: Path, case: str, point: Point | None) -> None:
    """Train a case from its last complete checkpoint, if there is one, to its end or to the point that kills it."""
    from mtbert.training.checkpoints import interruption

    torch.set_num_threads(1)
    log = output.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    trainer = make_trainer(data, output, case)
    if point is not None:
        fuse = Fuse(point)
        trainer.add_callback(fuse)
        for event, name in (("save", "start"), ("seal", "seal")):
            setattr(interruption, name, _announced(fuse, event, getattr(interruption, name)))
    trainer.train(resume_from_checkpoint=last_complete(output) if output.is_dir() else None)
    (output / "ended.json").write_text(json.dumps({"step": trainer.state.global_step}))


def _announced(fuse: Fuse, event: str, function):
    def call(*args):
        fuse.note(event)
        return function(*args)

    return call
