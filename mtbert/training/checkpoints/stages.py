"""Stages of a run: they train one model in turn and share one log; a resumed run skips the stages that have ended."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from torch import nn
from transformers import TrainerState

from ...errors import InputError
from ..arguments import MtBertTrainingArguments
from ..methods.base import TaskTrainer
from .resume_record import check_record, write_record
from .run_folder import choose_checkpoint, resumes_last, starts_anew
from .sealing import CHECKSUMS, STATE, damage, last_complete, seal, write_state, writing_model

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Stage:
    """Position of a stage in its run.

    Attributes:
        number: 1 for the first stage.
        step: optimizer steps of all earlier stages.
        epoch: epochs of all earlier stages.
    """

    number: int
    step: int = 0
    epoch: float = 0.0

    @property
    def folder(self) -> str:
        """Name of this stage's folder in the run's output folder; it holds its checkpoints and its final weights."""
        return f"stage-{self.number}"

    @contextmanager
    def continued(self, state: TrainerState) -> Iterator[None]:
        """Within, the state's step and epoch count from the start of the run, as in the log and in reports."""
        of_stage = state.global_step, state.epoch
        state.global_step, state.epoch = self.step + state.global_step, self.epoch + (state.epoch or 0.0)
        try:
            yield
        finally:
            state.global_step, state.epoch = of_stage


class Stages:
    """The stages of a run, and the progress of an earlier run in its folder.

    Each stage but the last writes its final weights, the trainer's state and its record into `output_dir/stage-<i>`. A
    run without stages writes no such folder.

    Args:
        args: the run's arguments: `output_dir` and `resume_from_checkpoint`.
        count: number of stages in the recipe; 0: none.

    Attributes:
        finished: number of stages that ended in an earlier run in this folder.
        checkpoint: the checkpoint from which the next stage resumes; None: it starts at its beginning.
        states: the states of the stages that have ended.

    Raises:
        ValueError: if there is no checkpoint to resume from, or the output folder of a new run has files in it.
    """

    def __init__(self, args: MtBertTrainingArguments, count: int):
        self.folder, self.count = Path(args.output_dir), count
        self.finished = 0
        self.states: list[Any] = []
        if not count or not resumes_last(args):
            self.checkpoint = choose_checkpoint(args)
            return
        while self.finished < count - 1 and _has_ended(self.folder / Stage(self.finished + 1).folder):
            self.finished += 1
        self.checkpoint = last_complete(self.folder / Stage(self.finished + 1).folder)
        if not self.finished and self.checkpoint is None and not starts_anew(args, self.folder):
            raise InputError(
                f"resume_from_checkpoint: no complete checkpoint in {self.folder / Stage(1).folder}; drop the key to "
                "start anew"
            )

    def next(self, model: nn.Module) -> tuple[Stage | None, str | None]:
        """The position of the next stage, and the checkpoint that it resumes from.

        Args:
            model: if the previous stage ended in an earlier run, its final weights are loaded into the model.
        """
        if not self.count:
            return None, self.checkpoint
        before = join_states(self.states) if self.states else TrainerState()
        if 0 < len(self.states) <= self.finished:
            load_model(model, str(self.folder / Stage(len(self.states)).folder / WEIGHTS))
        checkpoint = self.checkpoint if len(self.states) == self.finished else None
        return Stage(len(self.states) + 1, before.global_step, before.epoch), checkpoint

    def passes_over(self, trainer: TaskTrainer) -> bool:
        """Whether the next stage has ended in an earlier run. Collective: every process must call it.

        Args:
            trainer: the trainer of that stage.

        Raises:
            CheckpointError: if it ended with other settings or other data.
        """
        if len(self.states) >= self.finished:
            return False
        end = self.folder / Stage(len(self.states) + 1).folder
        self.states.append(TrainerState.load_from_json(str(end / STATE)))
        last = len(self.states) == self.finished and self.checkpoint is None  # with a checkpoint, its check warns
        check_record(end, trainer.resume_record(), last and trainer.is_world_process_zero())
        return True

    def end(self, trainer: TaskTrainer) -> None:
        """Record the end of a stage; if another stage follows, write its weights, record and state."""
        self.states.append(trainer.state)
        if len(self.states) >= self.count:
            return
        if trainer.is_world_process_zero():
            end = self.folder / Stage(len(self.states)).folder
            with writing_model(end, end) as part:
                save_model(trainer.model, os.path.join(part, WEIGHTS))
                write_record(part, trainer.resumable.record)
                write_state(part, trainer.state)
                seal(part)

    def join(self) -> TrainerState:
        """The state of the whole run."""
        return join_states(self.states)


def _has_ended(folder: Path) -> bool:
    """Whether a stage has ended and its files are undamaged; warn of damage, after which it is trained again."""
    if not (folder / STATE).is_file():
        return False
    if not (folder / CHECKSUMS).is_file():  # earlier versions wrote none
        return True
    damaged = damage(folder, (WEIGHTS, STATE))
    if damaged:
        warnings.warn(
            f"the end of the stage in {folder} is damaged ({damaged}); the stage goes on from its last checkpoint",
            stacklevel=4,
        )
    return not damaged


def join_states(states: Sequence[TrainerState]) -> TrainerState:
    """Join the states of several stages into one: one log, with steps, epochs and costs summed."""
    *before, last = states
    if not before:
        return last
    summed = ("global_step", "epoch", "max_steps", "num_train_epochs", "num_input_tokens_seen", "total_flos")
    values = {name: sum(getattr(state, name) for state in states) for name in summed}
    if last.best_global_step is not None:
        values["best_global_step"] = last.best_global_step + sum(state.global_step for state in before)
    return replace(last, **values, log_history=[entry for state in states for entry in state.log_history])
