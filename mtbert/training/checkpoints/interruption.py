"""Resumable runs: checkpoints that survive a signal, a killed process or a full disk."""

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

from ...errors import CheckpointError
from .._compat import holding
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
ASKED = 10  # processes ask each other for signals every so many steps


class StopOnSignal(TrainerCallback):
    """On SIGTERM, saves a checkpoint after the current step and ends the run.

    If one of several processes receives the signal, all end after the same step: the next one divisible by 10.

    Attributes:
        received: the signal, or None.
        stopped: whether the run was ended by a signal.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.stopped = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within, SIGTERM is noted and does not end the process; outside the main thread this has no effect."""
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

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        must_stop = self.received is not None
        if args.world_size > 1:  # not at every step, because the reduction waits for the device
            if state.global_step % ASKED:
                return
            flag = torch.tensor(float(must_stop), device=args.device)
            torch.distributed.all_reduce(flag)
            must_stop = bool(flag)
        if must_stop:
            self.stopped = control.should_save = control.should_training_stop = True


class ResumableRun(TrainerCallback):
    """Makes a trainer's run resumable: it seals checkpoints (`sealing.seal`) and saves one on SIGTERM.

    Each checkpoint has a record of everything that the run depends on (`resume_record.py`); a run with another record
    cannot resume from it. The trainer passes its own methods of saving and loading as `save` and `load`.

    Args:
        trainer: has `plan()` and `resume_record()`.

    Attributes:
        record: the record of this run.
        given: record of the optimizer and scheduler that the user gave to the trainer.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.given = given_record(trainer.optimizer, trainer.lr_scheduler, trainer.optimizer_cls_and_kwargs)
        self.record: Record = {}
        self._held: Mapping[str, Any] = {}  # true values of arguments that are changed while a checkpoint is written
        self._best: str | None = None
        self._limit: int | None = None
        self.on_signal = StopOnSignal()
        trainer.add_callback(self)
        if trainer.args.save_strategy != SaveStrategy.NO:
            trainer.add_callback(self.on_signal)

    # ---- training ----

    @contextmanager
    def running(self, resume_from_checkpoint: str | bool | None) -> Iterator[str | None]:
        """Context of the training; yields the checkpoint to resume from, or None.

        Args:
            resume_from_checkpoint: a folder, or true: the last complete checkpoint of this run's folder.

        Raises:
            CheckpointError: if the checkpoint is damaged, missing, or of another run.
            SystemExit: with exit code 143, after SIGTERM, when the checkpoint is saved.
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
            if trainer.args.save_strategy == SaveStrategy.NO:  # without checkpoints the signal ends the process
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
        """Folder of the run's checkpoints."""
        return self.trainer._get_output_dir(None)

    def _complete(self, checkpoint: str | bool | None) -> str | None:
        """The folder of the checkpoint to resume from, or None; raise CheckpointError if it is not complete."""
        if checkpoint is True:
            last = last_complete(self.folder)
            if last is None:
                raise CheckpointError(f"resume_from_checkpoint: no complete checkpoint in {self.folder}; drop the key")
            return last
        if not checkpoint:
            return None
        damaged = damage(checkpoint)
        if damaged:
            where = f"resume_from_checkpoint: {checkpoint}"
            raise CheckpointError(f"{where} is not complete ({damaged}); take an earlier one")
        return checkpoint

    def _check_room(self) -> None:
        """Check that the disk has room for the run's output; see `check_room_for_run`."""
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

    def steps_before(self, checkpoint: str | None) -> int:
        """Number of steps that were taken before a checkpoint; 0 without one."""
        return TrainerState.load_from_json(os.path.join(checkpoint, STATE)).global_step if checkpoint else 0

    def is_over(self) -> bool:
        """Whether the run has taken all its steps, as when it resumes from its last checkpoint."""
        return self.trainer.state.global_step >= self.trainer.state.max_steps

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep every checkpoint when training ends.

        With `save_total_limit: 1` transformers would then remove all checkpoints but the best, also those that a user
        has put there; the last one is needed until the model is saved.
        """
        if "train_runtime" in (logs or {}):
            self._limit, args.save_total_limit = args.save_total_limit, None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        args.save_total_limit = self._limit

    # ---- the best checkpoint ----

    def _look_at_best(self, checkpoint: str) -> str | None:
        """The best checkpoint so far of a resumed run, if the run loads it at its end; warn if it is damaged.

        If its recorded folder is gone, it is looked for in this run's folder, which may have moved.
        """
        best = TrainerState.load_from_json(os.path.join(checkpoint, STATE)).best_model_checkpoint
        if not self.trainer.args.load_best_model_at_end or best is None:
            return None
        if not os.path.isdir(best):
            best = os.path.join(self.folder, os.path.basename(best))
        if damaged := damage(best, needed=MODEL_FILES):
            warnings.warn(
                f"{best}, the best checkpoint so far, is damaged ({damaged}); unless a better one comes, the next best "
                "one is taken at the end",
                stacklevel=4,
            )
        return best

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restore the best checkpoint so far, which transformers drops if it is gone or has moved."""
        if self._best is not None:
            state.best_model_checkpoint = self._best

    def load_best(self, load: Callable[[], None]) -> None:
        """Load the best undamaged checkpoint; if there is none, keep the last weights. Warn of damage."""
        state, args = self.trainer.state, self.trainer.args
        best = state.best_model_checkpoint
        forget_checked_files()  # the files may have changed since they were checked
        if damaged := damage(best, needed=MODEL_FILES):
            metric = args.metric_for_best_model
            metric = metric if metric.startswith("eval_") else f"eval_{metric}"
            other = next_best(self.folder, metric, args.greater_is_better)
            if other is None:
                state.best_model_checkpoint = None
                instead = "the weights of the last step are kept"
            else:
                state.best_model_checkpoint = str(other)
                instead = f"{other}, the next best one, is taken"
            warnings.warn(f"{best}, the best checkpoint, is damaged ({damaged}); {instead}", stacklevel=3)
        if state.best_model_checkpoint is not None:
            load()

    # ---- checkpoints and the final model ----

    def save_model(self, save: Callable[[str], None], output_dir: str | None, internal: bool) -> None:
        """Save the model; outside of checkpoints its files appear together, when all of them are written.

        Raises:
            CheckpointError: if they cannot be written; no partial file is left, and no checkpoint is changed.
        """
        args = self.trainer.args
        if internal and output_dir is not None:  # a checkpoint, which `save_checkpoint` seals
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
        """Write and seal a checkpoint; return its folder."""
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
        """Remove the oldest checkpoints beyond `save_total_limit`, but never the last and the best one."""
        args = self.trainer.args
        if args.should_save:
            kept = (checkpoint, self.trainer.state.best_model_checkpoint)
            remove_older(self.folder, args.save_total_limit, kept)

    @contextmanager
    def checking_moments(self, checkpoint: str | None) -> Iterator[None]:
        """Within, loading an optimizer's state raises CheckpointError if it is of other parameters."""
        if checkpoint is None:
            yield
            return
        optimizer = getattr(self.trainer.optimizer, "optimizer", self.trainer.optimizer)  # unwrap accelerate's
        optimizer = getattr(optimizer, "inner", optimizer)  # unwrap PerTaskOptimizer
        names = {id(parameter): name for name, parameter in self.trainer.model.named_parameters()}
        hook = optimizer.register_load_state_dict_pre_hook(
            lambda _, state: check_moments(state, optimizer, names, checkpoint)
        )
        try:
            yield
        finally:
            hook.remove()
