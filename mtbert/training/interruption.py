"""A Trainer whose runs may be stopped at any time: by a signal, by a killed process, or by a full disk."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from ..data.sampling import Plan
from .checkpoints import CheckpointError, damage, last_complete, remove_older, seal, start, writing
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
from .runs import save_arguments

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
