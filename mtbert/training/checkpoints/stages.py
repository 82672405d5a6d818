"""Stages of a run: they train one model in turn, keep one history, and are passed over where they have ended before."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

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
    """Where a stage stands in its run.

    Attributes:
        number: 1 for the first.
        step: optimizer steps of the stages before it.
        epoch: epochs of the stages before it.
    """

    number: int
    step: int = 0
    epoch: float = 0.0

    @property
    def folder(self) -> str:
        """Its folder in the run's output folder: its checkpoints, and its end."""
        return f"stage-{self.number}"

    @contextmanager
    def continued(self, state: TrainerState) -> Iterator[None]:
        """Within it, a trainer's step and epoch are those of the whole run, as the log and all reports have them."""
        own = state.global_step, state.epoch
        state.global_step, state.epoch = self.step + state.global_step, self.epoch + (state.epoch or 0.0)
        try:
            yield
        finally:
            state.global_step, state.epoch = own


class Stages:
    """The stages of a run and how far they have come.

    A run without stages is one that leaves no trace of them. At its end, a stage that another follows leaves the
    weights, the trainer's state and what they depend on in `output_dir/stage-<i>`.

    Args:
        args: the run's arguments: `output_dir` and `resume_from_checkpoint`.
        count: the number of stages that the recipe lists; 0: none.

    Attributes:
        finished: how many stages have ended in an earlier run of this folder.
        checkpoint: the checkpoint that the next one goes on from; None: its beginning.
        states: the states of the stages that have ended.

    Raises:
        ValueError: if there is nothing to go on from, or the output folder of a new run has files in it.
    """

    def __init__(self, args: MtBertTrainingArguments, count: int):
        self.folder, self.count = Path(args.output_dir), count
        self.finished, self.states = 0, []
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
        """The place in the run of the next stage, and its checkpoint.

        Args:
            model: gets what the stage begins with, where the one before has ended in an earlier run.
        """
        if not self.count:
            return None, self.checkpoint
        before = join_states(self.states) if self.states else TrainerState()
        if 0 < len(self.states) <= self.finished:
            load_model(model, str(self.folder / Stage(len(self.states)).folder / WEIGHTS))
        checkpoint = self.checkpoint if len(self.states) == self.finished else None
        return Stage(len(self.states) + 1, before.global_step, before.epoch), checkpoint

    def passes_over(self, trainer: TaskTrainer) -> bool:
        """Whether the next stage has ended in an earlier run; every process has to call it.

        Args:
            trainer: of that stage, as this run would train it.

        Raises:
            CheckpointError: if it has ended with other settings or other data.
        """
        if len(self.states) >= self.finished:
            return False
        end = self.folder / Stage(len(self.states) + 1).folder
        self.states.append(TrainerState.load_from_json(str(end / STATE)))
        last = len(self.states) == self.finished and self.checkpoint is None  # else the checkpoint is warned of
        check_record(end, trainer.resume_record(), last and trainer.is_world_process_zero())
        return True

    def end(self, trainer: TaskTrainer) -> None:
        """Keep what a stage leaves: its state, and its weights where another stage follows."""
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
    """Whether what a stage leaves at its end is there and whole; damage is warned of, and the stage trained again."""
    if not (folder / STATE).is_file():
        return False
    if not (folder / CHECKSUMS).is_file():  # of a version that wrote none
        return True
    damaged = damage(folder, (WEIGHTS, STATE))
    if damaged:
        warnings.warn(
            f"the end of the stage in {folder} is damaged ({damaged}); the stage goes on from its last checkpoint",
            stacklevel=4,
        )
    return not damaged


def join_states(states: Sequence[TrainerState]) -> TrainerState:
    """The state of several stages as of one run: one log, and steps, epochs and costs summed."""
    *before, last = states
    if not before:
        return last
    summed = ("global_step", "epoch", "max_steps", "num_train_epochs", "num_input_tokens_seen", "total_flos")
    values = {name: sum(getattr(state, name) for state in states) for name in summed}
    if last.best_global_step is not None:
        values["best_global_step"] = last.best_global_step + sum(state.global_step for state in before)
    return replace(last, **values, log_history=[entry for state in states for entry in state.log_history])
