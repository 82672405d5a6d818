"""Runs that may be stopped at any time: by a signal, by a killed process, or by a full disk."""

from __future__ import annotations

import math
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from peft import PeftModel
from transformers import TrainerCallback, TrainerState
from transformers.trainer_utils import SaveStrategy

from .._compat import holding
from ..methods.base import TaskTrainer
from ..optimizers import MOMENTS
from .resume_record import (
    Record,
    check_moments,
    check_record,
    given_record,
    write_record,
)
from .run_folder import save_arguments
from .run_lock import only_run_in
from .sealing import (
    MODEL_FILES,
    STATE,
    CheckpointError,
    check_room_for_run,
    damage,
    forget_checked_files,
    last_complete,
    next_best,
    remove_older,
    seal,
    start,
    write_state,
    writing,
    writing_model,
)

Result = TypeVar("Result")
ASKED = 10  # of how many steps processes ask each other in one


class StopOnSignal(TrainerCallback):
    """Ends a run after the step in which it was told to end, with a checkpoint.

    Of several processes one may be told; all end after the same step, the next whose number is divisible by 10.

    Attributes:
        received: the signal, or None.
        stopped: whether the run was ended.
    """

    def __init__(self):
        self.received: int | None = None
        self.stopped = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within, SIGTERM is noted instead of ending the process; outside the main thread it cannot be."""
        self.received, self.stopped = None, False
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _note(self, number: int, frame: Any) -> None:
        self.received = number

    def on_step_end(self, args, state, control, **kwargs):
        told = self.received is not None
        if args.world_size > 1:  # the processes may be told in different steps, and asking waits for the device
            if state.global_step % ASKED:
                return
            flag = torch.tensor(float(told), device=args.device)
            torch.distributed.all_reduce(flag)
            told = bool(flag)
        if told:
            self.stopped = control.should_save = control.should_training_stop = True


class ResumableRun(TrainerCallback):
    """What makes a trainer's run resumable: sealed checkpoints (`sealing.seal`), and one on SIGTERM.

    Each checkpoint states what the run depends on (`resume_record.py`); another run does not go on from it. The
    trainer hands its own methods of saving and loading over, as `save`, `load` and so on.

    Args:
        trainer: has `plan()` and `resume_record()`.

    Attributes:
        record: of this run, as it began.
        given: what the trainer was given of optimizer and scheduler.
    """

    def __init__(self, trainer: TaskTrainer):
        self.trainer = trainer
        self.given = given_record(trainer.optimizer, trainer.lr_scheduler, trainer.optimizer_cls_and_kwargs)
        self.record: Record = {}
        self._held: Mapping[str, Any] = {}  # arguments that have another value while a checkpoint is written
        self._best: str | None = None
        self._limit: int | None = None
        self.on_signal = StopOnSignal()
        trainer.add_callback(self)
        if trainer.args.save_strategy != SaveStrategy.NO:
            trainer.add_callback(self.on_signal)

    # ---- training ----

    @contextmanager
    def running(self, resume_from_checkpoint: str | bool | None) -> Iterator[str | None]:
        """Within, the run trains; it gets the checkpoint to go on from, or None.

        Args:
            resume_from_checkpoint: a folder, or true: the last complete checkpoint of this run's folder.

        Raises:
            CheckpointError: if the checkpoint to go on from is damaged, or of another run, or there is none.
            SystemExit: after SIGTERM and the checkpoint that it asks for; a shell has 143 for it.
        """
        trainer, checkpoint = self.trainer, self._complete(resume_from_checkpoint)
        main = trainer.is_world_process_zero()
        if trainer.train_dataset is not None:
            self.record = trainer.resume_record()
            if checkpoint:
                check_record(checkpoint, self.record, main)
        self._best = self._look_at_best(checkpoint) if checkpoint else None
        with only_run_in(trainer.args.output_dir, main):
            self._check_room()
            if trainer.args.save_strategy == SaveStrategy.NO:  # no checkpoint is wanted: the signal ends the process
                yield checkpoint
                return
            with self.on_signal.watching():
                yield checkpoint
        if self.on_signal.stopped:
            if main:
                print(
                    f"told to end: stopped after step {trainer.state.global_step:,}, whose checkpoint is in "
                    f"{self.folder}; go on with --training.resume_from_checkpoint true",
                    flush=True,
                )
            raise SystemExit(128 + signal.SIGTERM)

    @property
    def folder(self) -> str:
        """Where the run's checkpoints are."""
        return self.trainer._get_output_dir(None)

    def _complete(self, checkpoint: str | bool | None) -> str | None:
        """The folder of the checkpoint to go on from, which is whole."""
        if checkpoint is True:
            last = last_complete(self.folder)
            if last is None:
                raise CheckpointError(f"resume_from_checkpoint: no complete checkpoint in {self.folder}; drop the key")
            return last
        if checkpoint and (found := damage(checkpoint)):
            where = f"resume_from_checkpoint: {checkpoint}"
            raise CheckpointError(f"{where} is not complete ({found}); take an earlier one")
        return checkpoint or None

    def _check_room(self) -> None:
        """Look whether there is room for what the run will write; see `check_room_for_run`."""
        trainer, args = self.trainer, self.trainer.args
        if not args.should_save or trainer.train_dataset is None:
            return
        trained = sum(p.numel() * p.element_size() for p in trainer.model.parameters() if p.requires_grad)
        whole = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
        weights = trained if isinstance(trainer.model, PeftModel) else whole
        moments = 0 if args.save_only_model else MOMENTS * trained
        plan = trainer.plan()
        every = args.save_steps if args.save_steps >= 1 else math.ceil(args.save_steps * plan.total_steps)
        counts = {SaveStrategy.NO: 0, SaveStrategy.STEPS: plan.total_steps // every, SaveStrategy.EPOCH: plan.epochs}
        count = counts.get(args.save_strategy, 1)
        check_room_for_run(args.output_dir, weights, moments, count, args.save_total_limit)

    def is_over(self) -> bool:
        """Whether the run has taken all of its steps: a checkpoint may be of the last one."""
        return self.trainer.state.global_step >= self.trainer.state.max_steps

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Leave every checkpoint when training ends: transformers removes all but the best where one may stay, also
        those that a user has put there, and the last one is needed until the model is saved."""
        if "train_runtime" in (logs or {}):
            self._limit, args.save_total_limit = args.save_total_limit, None

    def on_train_end(self, args, state, control, **kwargs) -> None:
        args.save_total_limit = self._limit

    # ---- the best checkpoint ----

    def _look_at_best(self, checkpoint: str) -> str | None:
        """The best checkpoint so far of a resumed run, if it is wanted at the end; damage is warned of.

        It is looked for where it was, and then in this run's folder, which may have moved.
        """
        best = TrainerState.load_from_json(os.path.join(checkpoint, STATE)).best_model_checkpoint
        if not self.trainer.args.load_best_model_at_end or best is None:
            return None
        if not os.path.isdir(best):
            best = os.path.join(self.folder, os.path.basename(best))
        if found := damage(best, needed=MODEL_FILES):
            warnings.warn(
                f"{best}, the best checkpoint so far, is damaged ({found}); unless a better one comes, the next best "
                "one is taken at the end",
                stacklevel=4,
            )
        return best

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Name the best checkpoint so far, which transformers forgets if it is gone or has moved."""
        if self._best is not None:
            state.best_model_checkpoint = self._best

    def load_best(self, load: Callable[[], None]) -> None:
        """Load the best checkpoint that is whole; if none is, keep the last weights. Damage is warned of."""
        state, args = self.trainer.state, self.trainer.args
        best = state.best_model_checkpoint
        forget_checked_files()  # of hours ago
        if found := damage(best, needed=MODEL_FILES):
            metric = args.metric_for_best_model
            metric = metric if metric.startswith("eval_") else f"eval_{metric}"
            other = next_best(self.folder, metric, args.greater_is_better)
            state.best_model_checkpoint = None if other is None else str(other)
            instead = "the weights of the last step" if other is None else f"{other}, the next best one,"
            verb = "are kept" if other is None else "is taken"
            warnings.warn(f"{best}, the best checkpoint, is damaged ({found}); {instead} {verb}", stacklevel=3)
        if state.best_model_checkpoint is not None:
            load()

    # ---- checkpoints and the final model ----

    def save_model(self, save: Callable[[str], None], output_dir: str | None, internal: bool) -> None:
        """Save the model; its files appear when all of them are written, or in a checkpoint as they come.

        Raises:
            CheckpointError: if they cannot be written; nothing of them is left, and every checkpoint is as it was.
        """
        args = self.trainer.args
        if internal and output_dir is not None:  # a checkpoint, which is whole when it is sealed
            return save(output_dir)
        folder = args.output_dir if output_dir is None else output_dir
        with writing_model(folder, self.folder, args.should_save) as part:
            save(part)
        if args.push_to_hub and not internal:
            self.trainer.push_to_hub(commit_message="Model save", revision=args.hub_revision)

    def save_state(self) -> None:
        """Write `trainer_state.json` into the output folder."""
        if self.trainer.args.should_save:
            write_state(self.trainer.args.output_dir, self.trainer.state)

    def save_arguments(self, folder: str | None) -> None:
        """Write the arguments as JSON in place of transformers' pickle."""
        args = self.trainer.args
        save_arguments(args.output_dir if folder is None else folder, args, self._held)

    def save_checkpoint(self, save: Callable[[], None]) -> str:
        """Write a checkpoint whole, seal it, and only then remove older ones; returns its folder."""
        args, state = self.trainer.args, self.trainer.state
        checkpoint = os.path.join(self.folder, f"checkpoint-{state.global_step}")
        with writing(checkpoint, args.should_save):
            if args.should_save:
                start(checkpoint)
            self.trainer.accelerator.wait_for_everyone()
            self._held = {"save_total_limit": args.save_total_limit, "push_to_hub": args.push_to_hub}
            with holding(args, save_total_limit=None, push_to_hub=False):
                save()
            self._held = {}
            self.trainer.accelerator.wait_for_everyone()
            if args.should_save:
                write_record(checkpoint, self.record)
                seal(checkpoint)
        return checkpoint

    def remove_older(self, checkpoint: str) -> None:
        """Remove checkpoints beyond `save_total_limit`, the last and the best one left out."""
        args = self.trainer.args
        if args.should_save:
            kept = (checkpoint, self.trainer.state.best_model_checkpoint)
            remove_older(self.folder, args.save_total_limit, kept)

    @contextmanager
    def checking_moments(self, checkpoint: str | None) -> Iterator[None]:
        """Within, an optimizer's state is loaded only if it is of the same parameters."""
        if checkpoint is None:
            yield
            return
        optimizer = getattr(self.trainer.optimizer, "optimizer", self.trainer.optimizer)  # inside accelerate's
        optimizer = getattr(optimizer, "inner", optimizer)  # inside one for each task
        names = {id(parameter): name for name, parameter in self.trainer.model.named_parameters()}
        hook = optimizer.register_load_state_dict_pre_hook(
            lambda _, state: check_moments(state, optimizer, names, checkpoint)
        )
        try:
            yield
        finally:
            hook.remove()
