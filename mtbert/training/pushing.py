"""What a trainer pushes to a hub: the repository that anyone can load, and what a resume needs where that is asked for.

Files are collected in a folder of their own, so that nothing else of a run's folder can get into a repository, and so
that a checkpoint may be deleted while it is uploaded.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitInfo, ModelCard
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ..card import model_card
from ..evaluation.energy import read_energy
from ..modeling.sharing import edit_json, finish_repository, upload
from .arguments import MtBertTrainingArguments
from .checkpoints import seal

if TYPE_CHECKING:
    from .trainer import MtBertTrainer

MODEL_FILES = (
    "config.json",
    "model*.safetensors",
    "model*.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
)
NOT_RESUMED = ("training_args.json", "README.md")  # the one names folders of this machine, the other is made anew
LINKED = (".safetensors", ".pt", ".pth")  # what is large, and never written to


def collect(source: str | os.PathLike, patterns: Iterable[str] = ("*",)) -> tempfile.TemporaryDirectory:
    """A temporary folder beside `source` with those of its files; large ones as links where there are links."""
    folder = tempfile.TemporaryDirectory(prefix="_push-", dir=Path(source).absolute().parent)
    for file in {file for pattern in patterns for file in Path(source).glob(pattern) if file.is_file()}:
        target = Path(folder.name, file.name)
        try:
            if file.suffix in LINKED:
                os.link(file, target)
                continue
        except OSError:  # another file system, or one without links
            pass
        shutil.copyfile(file, target)
    return folder


def push_run(trainer: MtBertTrainer, background: bool, **options: Any) -> CommitInfo | Future[CommitInfo]:
    """Upload the model in the run's folder; `options` as in `sharing.upload`."""
    folder = collect(trainer.args.output_dir, MODEL_FILES)
    card = ModelCard.load(Path(trainer.args.output_dir, "README.md"))
    finish_repository(folder.name, trainer.processing_class, card)
    return upload(folder, trainer.hub_model_id, background, **options)


def push_checkpoint(trainer: MtBertTrainer, checkpoint: str) -> PushInProgress:
    """Begin to upload a checkpoint's model, and what a resume needs where `hub_strategy` says so.

    Returns:
        The pushes that are under way. A checkpoint is passed over while one is, unless `hub_always_push` is set.
    """
    args = trainer.args
    report_failures(trainer.push_in_progress)
    running = trainer.push_in_progress
    busy = running is not None and not running.is_done()
    if busy and not args.hub_always_push:
        return running
    trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
    message = f"Training in progress, step {trainer.state.global_step}"
    where = {"token": args.hub_token, "revision": args.hub_revision}
    folder = collect(checkpoint, MODEL_FILES)
    finish_repository(folder.name, trainer.processing_class, card_of(trainer))
    jobs = [upload(folder, trainer.hub_model_id, True, commit_message=message, **where)]
    if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        folder = collect(checkpoint)
        for name in NOT_RESUMED:
            Path(folder.name, name).unlink(missing_ok=True)
        edit_json(Path(folder.name, "trainer_state.json"), without_best_folder)
        seal(folder.name)
        last = args.hub_strategy == HubStrategy.CHECKPOINT
        path = "last-checkpoint" if last else Path(checkpoint).name
        message += ", checkpoint"
        jobs.append(upload(folder, trainer.hub_model_id, True, commit_message=message, path_in_repo=path, **where))
    return PushInProgress([*(running.jobs if busy else ()), *jobs])


def without_best_folder(state: dict[str, Any]) -> dict[str, Any]:
    """A trainer's state that names the best checkpoint, and not where it lies on this machine."""
    best = state.get("best_model_checkpoint")
    return state if best is None else {**state, "best_model_checkpoint": Path(best).name}


def report_failures(pushes: PushInProgress | None) -> None:
    """Warn of pushes in the background that did not succeed, once each."""
    if pushes is None:
        return
    done = [job for job in pushes.jobs if job.done()]
    pushes.jobs = [job for job in pushes.jobs if not job.done()]
    for job in done:
        if (error := job.exception()) is not None:
            warnings.warn(f"a checkpoint is not on the hub: {error}", stacklevel=2)


def card_of(trainer: MtBertTrainer, **about: Any) -> ModelCard:
    """The model card of a run as it stands; `about` as in `model_card`."""
    name = trainer.hub_model_id or trainer.args.hub_model_id or Path(trainer.args.output_dir).absolute().name
    recipe = trainer.recipe or settings(trainer)
    known = {"results": results(trainer), "recipe": recipe, "energy": read_energy(trainer.args.output_dir)}
    return model_card(trainer.model, name, **{**known, **about})


def results(trainer: MtBertTrainer) -> dict[str, float]:
    """The scores of the weights that the trainer holds now; empty if they were not evaluated."""
    state, history = trainer.state, trainer.state.log_history
    ends = [i for i, entry in enumerate(history) if "train_runtime" in entry]
    step = state.global_step
    found = [(i, entry) for i, entry in enumerate(history) if "eval_loss" in entry]
    if ends and trainer.args.load_best_model_at_end and not [i for i, _ in found if i > ends[-1]]:
        step = state.best_global_step  # its weights were loaded when training ended
    return next((entry for _, entry in reversed(found) if entry["step"] == step), {})


def settings(trainer: MtBertTrainer) -> dict[str, Any]:
    """What a trainer was given, as far as it is not the default: schedule, tasks and training arguments."""
    values, defaults = trainer.args.to_dict(), {}
    for each in fields(MtBertTrainingArguments):
        defaults[each.name] = each.default if each.default_factory is MISSING else each.default_factory()
    training = {
        key: value
        for key, value in values.items()
        if value != defaults.get(key) and isinstance(value, (str, int, float, bool)) and not key.endswith("_token")
    }
    return {
        "tasks": {name: asdict(each) for name, each in trainer.task_training.items()},
        "schedule": asdict(trainer.schedule),
        "training": training,
    }
