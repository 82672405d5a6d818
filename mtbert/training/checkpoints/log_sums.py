"""Save the sums since the last log in a checkpoint, so that the first log after a resume covers the steps before it."""

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
    """Saves the sums since the last log in each checkpoint, and restores them when a run resumes.

    Without the file, as in checkpoints of older versions, the next log covers the steps after the checkpoint only.

    Args:
        trainer: the trainer that keeps the sums.
    """

    def __init__(self, trainer: TaskTrainer):
        self.trainer = trainer
        self._loaded: dict[str, Tensor] = {}
        self._from_the_start = False
        trainer.add_callback(self)

    def save(self, folder: str) -> None:
        """Write the sums into a checkpoint. Collective: every process must call it."""
        trainer: Any = self.trainer
        processes, is_first = trainer.args.world_size, trainer.args.process_index == 0
        sums = {"loss": trainer._tr_loss.double().reshape(1) / processes, **trainer.losses.sums()}
        for name, method in trainer.methods.items():
            sums |= {f"{name}:{key}": value for key, value in method.log_sums().items()}
        if processes > 1:
            sums = {name: trainer.accelerator.reduce(value, reduction="sum") for name, value in sums.items()}
        finite = trainer.finite
        counts = [trainer._globalstep_last_logged, trainer.losses.steps, finite.skipped, finite.overflowed]
        sums["counts"] = torch.tensor(counts, dtype=torch.int64)
        sums["total"] = torch.tensor([trainer._total_loss_scalar], dtype=torch.float64)
        if is_first and trainer.args.should_save:
            save_file({name: value.cpu().contiguous() for name, value in sums.items()}, os.path.join(folder, FILE))

    def load(self, folder: str) -> None:
        """Read the sums of a checkpoint; they are restored when training begins."""
        path = os.path.join(folder, FILE)
        self._loaded = load_file(path) if os.path.exists(path) else {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restore the sums, those of tasks and methods on the first process only, because logs add up all processes."""
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
                sums = {key.removeprefix(f"{name}:"): v for key, v in loaded.items() if key.startswith(f"{name}:")}
                if sums:
                    method.add_log_sums(sums)

    def complete(self, logs: dict[str, float]) -> None:
        """Set `train_loss` of a resumed run to the mean over all its steps, also those before the resume."""
        if "train_loss" in logs and self._from_the_start:
            trainer: Any = self.trainer
            logs["train_loss"] = trainer._total_loss_scalar / max(trainer.state.global_step, 1)
