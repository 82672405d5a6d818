"""A Trainer whose runs may be stopped at any time: by a signal, by a killed process, or by a full disk."""

from __future__ import annotations

import math
import os
import signal
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer_utils import SaveStrategy

from ...data.sampling import Plan
from ..optimizers import MOMENTS
from .resume_record import (
    Record,
    arguments_record,
    check_moments,
    check_record,
    data_record,
    given_record,
    parameters_record,
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


class ResumableTrainer(Trainer):
    """transformers' Trainer, whose checkpoints are sealed (`checkpoints.seal`), and which leaves one on SIGTERM.

    Each checkpoint states what the run depends on (`resume_record.py`); another run does not go on from it.

    Attributes:
        record: of this run, as it began.
    """

    section = "training"  # of a recipe, which the arguments stand in
    record: Record
    held: Mapping[str, Any] = {}  # arguments that have another value while a checkpoint is written

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._given = given_record(self.optimizer, self.lr_scheduler, self.optimizer_cls_and_kwargs)
        self.on_signal = StopOnSignal()
        if self.args.save_strategy != SaveStrategy.NO:
            self.add_callback(self.on_signal)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """Train; see `transformers.Trainer.train`.

        Args:
            resume_from_checkpoint: a folder, or true: the last complete checkpoint of this run's folder.

        Raises:
            CheckpointError: if the checkpoint to go on from is damaged, or of another run, or there is none.
            SystemExit: after SIGTERM and the checkpoint that it asks for; a shell has 143 for it.
        """
        if resume_from_checkpoint is True:
            folder = self._get_output_dir(None)
            resume_from_checkpoint = last_complete(folder)
            if resume_from_checkpoint is None:
                raise CheckpointError(f"resume_from_checkpoint: no complete checkpoint in {folder}; drop the key")
        elif resume_from_checkpoint and (found := damage(resume_from_checkpoint)):
            where = f"resume_from_checkpoint: {resume_from_checkpoint}"
            raise CheckpointError(f"{where} is not complete ({found}); take an earlier one")
        if self.train_dataset is not None:
            self.record = self.resume_record()
            if resume_from_checkpoint:
                check_record(resume_from_checkpoint, self.record, self.is_world_process_zero())
        self._best = self._look_at_best(resume_from_checkpoint) if resume_from_checkpoint else None
        with only_run_in(self.args.output_dir, self.is_world_process_zero()):
            self._check_room()
            if self.args.save_strategy == SaveStrategy.NO:  # a checkpoint is not wanted: the signal ends the process
                return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)
            with self.on_signal.watching():
                result = super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)
        if self.on_signal.stopped:
            if self.is_world_process_zero():
                print(
                    f"told to end: stopped after step {self.state.global_step:,}, whose checkpoint is in "
                    f"{self._get_output_dir(None)}; go on with --training.resume_from_checkpoint true",
                    flush=True,
                )
            raise SystemExit(128 + signal.SIGTERM)
        return result

    def plan(self) -> Plan:
        """What every step of the run will hold."""
        raise NotImplementedError

    def resume_record(self, counts_steps: bool = False, without: Collection[str] = ()) -> Record:
        """What weights, moments and plan of this run depend on, by name.

        Args:
            counts_steps: whether something besides the learning rate and the plan depends on the length of the run.
            without: columns of the data that are not compared.
        """
        return {
            **arguments_record(self.args, self.plan(), self.section, counts_steps),
            **data_record(self.train_dataset, self.eval_dataset, without),
            "parameters": parameters_record(self.model, self.get_decay_parameter_names(self.model)),
            "optimizers": self._given,
        }

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load them, unless the optimizer's state is of other parameters."""
        if checkpoint is None:
            return super()._load_optimizer_and_scheduler(checkpoint)
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # inside accelerate's
        optimizer = getattr(optimizer, "inner", optimizer)  # inside one for each task
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        hook = optimizer.register_load_state_dict_pre_hook(
            lambda _, state: check_moments(state, optimizer, names, checkpoint)
        )
        super()._load_optimizer_and_scheduler(checkpoint)
        hook.remove()

    def _run_epoch(self, *args, **kwargs) -> None:
        """Train an epoch, unless the run has taken all of its steps: a checkpoint may be of the last one."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def _finalize_training(self, *args, **kwargs):
        """End the training and leave every checkpoint: transformers removes all but the best where one may stay, also
        those that a user has put there, and the last one is needed until the model is saved."""
        with self._holding(save_total_limit=None):
            return super()._finalize_training(*args, **kwargs)

    def _check_room(self) -> None:
        """Look whether there is room for what the run will write; see `check_room_for_run`."""
        args = self.args
        if not args.should_save or self.train_dataset is None:
            return
        trained = sum(p.numel() * p.element_size() for p in self.model.parameters() if p.requires_grad)
        whole = sum(p.numel() * p.element_size() for p in self.model.parameters())
        weights = trained if isinstance(self.model, PeftModel) else whole
        moments = 0 if args.save_only_model else MOMENTS * trained
        steps = self.plan().total_steps
        every = args.save_steps if args.save_steps >= 1 else math.ceil(args.save_steps * steps)
        counts = {SaveStrategy.NO: 0, SaveStrategy.STEPS: steps // every, SaveStrategy.EPOCH: self.plan().epochs}
        count = counts.get(args.save_strategy, 1)
        check_room_for_run(args.output_dir, weights, moments, count, args.save_total_limit)

    def _look_at_best(self, checkpoint: str) -> str | None:
        """The best checkpoint so far of a resumed run, if it is wanted at the end; damage is warned of.

        It is looked for where it was, and then in this run's folder, which may have moved.
        """
        best = TrainerState.load_from_json(os.path.join(checkpoint, STATE)).best_model_checkpoint
        if not self.args.load_best_model_at_end or best is None:
            return None
        if not os.path.isdir(best):
            best = os.path.join(self._get_output_dir(None), os.path.basename(best))
        if found := damage(best, needed=MODEL_FILES):
            warnings.warn(
                f"{best}, the best checkpoint so far, is damaged ({found}); unless a better one comes, the next best "
                "one is taken at the end",
                stacklevel=3,
            )
        return best

    def _init_training_state(self, *args, **kwargs):
        """As in transformers, which forgets a best checkpoint that is gone or has moved."""
        progress = super()._init_training_state(*args, **kwargs)
        if self._best is not None:
            self.state.best_model_checkpoint = self._best
        return progress

    def _load_best_model(self) -> None:
        """Load the best checkpoint that is whole; if none is, keep the last weights. Damage is warned of."""
        best = self.state.best_model_checkpoint
        forget_checked_files()  # of hours ago
        if found := damage(best, needed=MODEL_FILES):
            metric = self.args.metric_for_best_model
            metric = metric if metric.startswith("eval_") else f"eval_{metric}"
            other = next_best(self._get_output_dir(None), metric, self.args.greater_is_better)
            self.state.best_model_checkpoint = None if other is None else str(other)
            instead = "the weights of the last step" if other is None else f"{other}, the next best one,"
            verb = "are kept" if other is None else "is taken"
            warnings.warn(f"{best}, the best checkpoint, is damaged ({found}); {instead} {verb}", stacklevel=2)
        if self.state.best_model_checkpoint is not None:
            super()._load_best_model()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; its files appear when all of them are written, or in a checkpoint as they come.

        Raises:
            CheckpointError: if they cannot be written; nothing of them is left, and every checkpoint is as it was.
        """
        if _internal_call and output_dir is not None:  # a checkpoint, which is whole when it is sealed
            return super().save_model(output_dir, _internal_call)
        folder = self.args.output_dir if output_dir is None else output_dir
        with writing_model(folder, self._get_output_dir(None), self.args.should_save) as part:
            super().save_model(part, _internal_call=True)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def save_state(self) -> None:
        """Write `trainer_state.json` into the output folder."""
        if self.args.should_save:
            write_state(self.args.output_dir, self.state)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        """Save model and tokenizer; the arguments as JSON instead of a pickle."""
        super()._save(output_dir, state_dict)
        save_arguments(self.args.output_dir if output_dir is None else output_dir, self.args, self.held)

    def _save_checkpoint(self, model, trial) -> None:
        """Write a checkpoint whole, seal it, and only then push it and remove older ones."""
        args, folder = self.args, self._get_output_dir(trial)
        checkpoint = os.path.join(folder, f"checkpoint-{self.state.global_step}")
        with writing(checkpoint, args.should_save):
            if args.should_save:
                start(checkpoint)
            self.accelerator.wait_for_everyone()
            with self._holding(save_total_limit=None, push_to_hub=False):
                super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if args.should_save:
                write_record(checkpoint, self.record)
                seal(checkpoint)
        if args.push_to_hub:
            self._push_from_checkpoint(checkpoint)
        if args.should_save:
            remove_older(folder, args.save_total_limit, (checkpoint, self.state.best_model_checkpoint))

    @contextmanager
    def _holding(self, **values: Any) -> Iterator[None]:
        self.held = {name: getattr(self.args, name) for name in values}
        try:
            for name, value in values.items():
                setattr(self.args, name, value)
            yield
        finally:
            for name, value in self.held.items():
                setattr(self.args, name, value)
            self.held = {}
