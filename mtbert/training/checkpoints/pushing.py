"""What a trainer pushes to a hub: the repository that anyone can load, and what a resume needs where that is asked for.

Files are collected in a folder of their own, so that nothing else of a run's folder can get into a repository, and so
that a checkpoint may be deleted while it is uploaded.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, ModelCard
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ...errors import PushError
from ...evaluation.energy import read_energy
from ...files import write_text
from ...model_card import model_card
from ...modeling.checkpoint_loading import INDEX, read_json
from ...modeling.hub_upload import edit_json, explained, finish_repository, upload
from ..arguments import MtBertTrainingArguments
from ..methods import method_classes
from ..methods.base import TaskTrainer
from .log_sums import FILE as LOG_SUMS
from .resume_record import FILE as RESUME_RECORD
from .sealing import seal

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
RESUMED = re.compile(r"trainer_state\.json|(optimizer|scheduler|scaler)\.pt|rng_state(_\d+)?\.pth")
LINKED = (".safetensors", ".pt", ".pth")  # what is large, and never written to


def model_files(folder: str | os.PathLike, inside_peft: bool = False) -> list[str]:
    """Names of the files of a saved model: its config, and its weights, as their index names them.

    Args:
        inside_peft: whether it was saved by peft, which writes only what it has trained.

    Raises:
        PushError: if the index names anything but weights that `save_pretrained` writes.
    """
    folder = Path(folder)
    if inside_peft:
        return [CONFIG, *ADAPTER_FILES]
    if (folder / WEIGHTS).exists():
        return [CONFIG, WEIGHTS]
    shards = sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))
    if not shards or not all(SHARD.fullmatch(name) for name in shards):
        raise PushError(f"{folder / INDEX} names {shards}, but must name shards of this model; save it again")
    return [CONFIG, INDEX, *shards]


def collect(source: str | os.PathLike, names: Iterable[str]) -> tempfile.TemporaryDirectory:
    """A temporary folder beside `source` with the named files of it; large ones as links where there are links.

    Raises:
        PushError: if one is a link, or anything but a regular file: what it leads to is not what was saved.
    """
    folder = tempfile.TemporaryDirectory(prefix="_push-", dir=Path(source).absolute().parent)
    for name in names:
        file, target = Path(source, name), Path(folder.name, name)
        if not stat.S_ISREG(file.lstat().st_mode):
            folder.cleanup()
            raise PushError(f"{file} is no regular file, which is not pushed; remove it, and save the model again")
        try:
            if file.suffix in LINKED:
                os.link(file, target, follow_symlinks=False)
                continue
        except OSError:  # another file system, or one without links
            pass
        shutil.copyfile(file, target, follow_symlinks=False)
    return folder


def push_run(trainer: TaskTrainer, background: bool, **options: Any) -> CommitInfo | Future[CommitInfo]:
    """Upload the model in the run's folder; `options` as in `sharing.upload`."""
    names = model_files(trainer.args.output_dir, hasattr(trainer.model, "peft_config"))
    folder = collect(trainer.args.output_dir, names)
    card = ModelCard.load(Path(trainer.args.output_dir, "README.md"))
    finish_repository(folder.name, trainer.processing_class, card)
    return upload(folder, trainer.hub_model_id, background, **options)


def make_repository(trainer: TaskTrainer, **where: Any) -> None:
    """Make the repository; PushError says what to do where that fails."""
    with explained(trainer.args.hub_model_id or os.path.basename(trainer.args.output_dir)):
        trainer.init_hf_repo(**where)


def push_trained(
    trainer: TaskTrainer, message: str, background: bool, revision: str | None, where: dict[str, Any], about: dict
) -> CommitInfo | Future[CommitInfo] | None:
    """Save the model and upload it; see `MtBertTrainer.push_to_hub`. Every process has to call it.

    Args:
        where: `token` and `private`, for the repository.
        about: for the card.
    """
    trainer.control = trainer.callback_handler.on_push_begin(trainer.args, trainer.state, trainer.control)
    if trainer.hub_model_id is None:
        make_repository(trainer, **where)
    trainer.save_model(_internal_call=True)
    if not trainer.is_world_process_zero():
        return None
    trainer._finish_current_push()
    report_failures(getattr(trainer, "push_in_progress", None))
    trainer.create_model_card(**about)
    return push_run(trainer, background, commit_message=message, token=where["token"], revision=revision)


def resume_files(checkpoint: str) -> list[str]:
    """Names of what a resume needs besides the model and its tokenizer.

    `training_args.json`, which names folders of this machine, is not among them.
    """
    known = {RESUME_RECORD, LOG_SUMS, *(name for each in method_classes() for name in each.files)}
    return [name for name in sorted(os.listdir(checkpoint)) if name in known or RESUMED.fullmatch(name)]


def push_checkpoint(trainer: TaskTrainer, checkpoint: str) -> PushInProgress | None:
    """Begin to upload a checkpoint's model, and what a resume needs where `hub_strategy` says so.

    Returns:
        The pushes that are under way. A checkpoint is passed over while one is, unless `hub_always_push` is set.
    """
    args, running = trainer.args, trainer.push_in_progress
    if args.hub_strategy == HubStrategy.END:
        return running
    report_failures(running)
    busy = running is not None and not running.is_done()
    if busy and not args.hub_always_push:
        return running
    trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
    message = f"Training in progress, step {trainer.state.global_step}"
    where = {"token": args.hub_token, "revision": args.hub_revision}
    names = model_files(checkpoint, hasattr(trainer.model, "peft_config"))
    folder = collect(checkpoint, names)
    finish_repository(folder.name, trainer.processing_class, card_of(trainer))
    jobs = [upload(folder, trainer.hub_model_id, True, commit_message=message, **where)]
    if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        state = resume_files(checkpoint)
        folder = collect(checkpoint, [*names, *state])
        if trainer.processing_class is not None:
            trainer.processing_class.save_pretrained(folder.name)
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


def card_of(trainer: TaskTrainer, **about: Any) -> ModelCard:
    """The model card of a run as it stands; `about` as in `model_card`."""
    name = trainer.hub_model_id or trainer.args.hub_model_id or Path(trainer.args.output_dir).absolute().name
    recipe = trainer.settings.recipe or settings(trainer)
    known = {"results": results(trainer), "recipe": recipe, "energy": read_energy(trainer.args.output_dir)}
    return model_card(trainer.model, name, **{**known, **about})


def write_card(trainer: TaskTrainer, about: Mapping[str, Any]) -> None:
    """Write `card_of` into the output folder."""
    write_text(os.path.join(trainer.args.output_dir, "README.md"), str(card_of(trainer, **about)))


def results(trainer: TaskTrainer) -> dict[str, float]:
    """The scores of the weights that the trainer holds now; empty if they were not evaluated."""
    state, history = trainer.state, trainer.state.log_history
    ends = [i for i, entry in enumerate(history) if "train_runtime" in entry]
    step = state.global_step
    found = [(i, entry) for i, entry in enumerate(history) if "eval_loss" in entry]
    if ends and trainer.args.load_best_model_at_end and not [i for i, _ in found if i > ends[-1]]:
        step = state.best_global_step  # its weights were loaded when training ended
    return next((entry for _, entry in reversed(found) if entry["step"] == step), {})


def settings(trainer: TaskTrainer) -> dict[str, Any]:
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
