"""A training run that a test kills: `python killed_run.py FOLDER` trains what the test has put into FOLDER.

`model/` (a checkpoint), `train/<task>` and `eval/<task>` (encoded data sets) and `settings.json` (training arguments).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from datasets import load_from_disk
from transformers import TrainerCallback

from mtbert.data.sampling import Schedule
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.training.arguments import MtBertTrainingArguments
from mtbert.training.trainer import MtBertTrainer

SPLITS = ("train", "eval")


class SlowSteps(TrainerCallback):
    """Leaves the time to be killed."""

    def on_step_end(self, args, state, control, **kwargs):
        time.sleep(0.2)


def make_trainer(folder: Path, output: Path, **kwargs) -> MtBertTrainer:
    """The run that `folder` describes, from its start."""
    settings = json.loads((folder / "settings.json").read_text())
    data = {split: {each.name: load_from_disk(str(each)) for each in (folder / split).iterdir()} for split in SPLITS}
    return MtBertTrainer(
        MtBertForMultiTask.from_pretrained(folder / "model"),
        MtBertTrainingArguments(output_dir=str(output), **settings),
        data["train"],
        data["eval"],
        schedule=Schedule("annealed", mixed=True, steps_per_epoch=6),
        **kwargs,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    run = Path(sys.argv[1])
    make_trainer(run, run / "killed", callbacks=[SlowSteps()]).train()
