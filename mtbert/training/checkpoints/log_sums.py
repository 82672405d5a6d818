"""What a run has summed since its last log, so that the log after a resume covers what came before it, too."""

from __future__ import annotations

import os
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from ..methods.base import TaskTrainer

FILE = "log_sums.safetensors"


class LogSums(TrainerCallback):
    """Saves the sums of a checkpoint's step, and puts them back when training goes on.

    A checkpoint of a version without them resumes as before: the next log then begins at the checkpoint.

    Args:
        trainer: whose sums these are.
    """

    def __init__(self, trainer: TaskTrainer):
        self.trainer = trainer
        self._loaded: dict[str, Tensor] = {}
        self._from_the_start = False
        trainer.add_callback(self)

    def save(self, folder: str) -> None:
        """Write the sums beside a checkpoint's other files; every process has to call it."""
        trainer: Any = self.trainer
        processes, mine = trainer.args.world_size, trainer.args.process_index == 0
        since = {"loss": trainer._tr_loss.double().reshape(1) / processes, **trainer.losses.sums()}
        since |= {f"{name}:{key}": value for name, m in trainer.methods.items() for key, value in m.log_sums().items()}
        if processes > 1:
            since = {name: trainer.accelerator.reduce(value, reduction="sum") for name, value in since.items()}
        finite = trainer.finite
        counts = [trainer._globalstep_last_logged, trainer.losses.steps, finite.skipped, finite.overflowed]
        since["counts"] = torch.tensor(counts, dtype=torch.int64)
        since["total"] = torch.tensor([trainer._total_loss_scalar], dtype=torch.float64)
        if mine and trainer.args.should_save:
            save_file({name: value.cpu().contiguous() for name, value in since.items()}, os.path.join(folder, FILE))

    def load(self, folder: str) -> None:
        """Read the sums of a checkpoint; they are put back when training begins."""
        path = os.path.join(folder, FILE)
        self._loaded = load_file(path) if os.path.exists(path) else {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the sums back: on the first process, since logs add up all processes."""
        loaded, self._loaded = self._loaded, {}
        self._from_the_start = bool(loaded)
        if not loaded:
            return
        trainer: Any = self.trainer
        last, steps, skipped, overflowed = loaded.pop("counts").tolist()
        trainer._total_loss_scalar = loaded.pop("total").item()
        trainer._tr_loss += loaded.pop("loss").to(trainer._tr_loss).squeeze()
        trainer._globalstep_last_logged = last
        trainer.losses.steps = steps
        trainer.finite.skipped, trainer.finite.overflowed = skipped, overflowed
        if args.process_index == 0:
            trainer.losses.add_sums({name: value for name, value in loaded.items() if ":" not in name})
            for name, method in trainer.methods.items():
                own = {key.removeprefix(f"{name}:"): v for key, v in loaded.items() if key.startswith(f"{name}:")}
                if own:
                    method.add_log_sums(own)

    def complete(self, logs: dict[str, float]) -> None:
        """Let `train_loss` be the mean over all steps whose losses are summed, also those before a resume."""
        if "train_loss" in logs and self._from_the_start:
            trainer: Any = self.trainer
            logs["train_loss"] = trainer._total_loss_scalar / max(trainer.state.global_step, 1)
