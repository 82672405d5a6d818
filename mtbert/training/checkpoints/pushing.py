"""Push a trainer's model to a hub, and if asked for the files that a resume needs.

The files are first collected in a temporary folder, so that no other file of the run gets into the repository, and so
that a checkpoint may be deleted during its upload.
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
from dataclasses import asdict
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
from ..arguments import MtBertTrainingArguments, default_values
from ..methods import method_classes
from ..methods.base import TaskTrainer
from .log_sums import FILE as LOG_SUMS
from .resume_record import FILE as RESUME_RECORD
from .sealing import seal

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
RESUMED = re.compile(r"trainer_state\.json|(optimizer|scheduler|scaler)\.pt|rng_state(_\d+)?\.pth")
LINKED = (".safetensors", ".pt", ".pth")  # large files that are never changed in place


def model_files(folder: str | os.PathLike[str], inside_peft: bool = False) -> list[str]:
    """Names of the files of a saved model: its config, and its weights in one file or in the shards of its index.

    Args:
        inside_peft: whether peft saved it, which writes the trained weights only.

    Raises:
        PushError: if the index names files other than the shards that `save_pretrained` writes.
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


def collect(source: str | os.PathLike[str], names: Iterable[str]) -> tempfile.TemporaryDirectory[str]:
    """Copy the named files of a folder into a temporary folder beside it; large files are hard-linked if possible.

    Raises:
        PushError: if one of them is a link or no regular file, as it may lead to something that was not saved here.
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
    """Upload the model in the run's folder; `options` as in `hub_upload.upload`."""
    names = model_files(trainer.args.output_dir, hasattr(trainer.model, "peft_config"))
    folder = collect(trainer.args.output_dir, names)
    card = ModelCard.load(Path(trainer.args.output_dir, "README.md"))
    finish_repository(folder.name, trainer.processing_class, card)
    return upload(folder, trainer.hub_model_id, background, **options)


def make_repository(trainer: TaskTrainer, **where: Any) -> None:
    """Create the repository; raise PushError with a remedy if that fails."""
    with explained(trainer.args.hub_model_id or os.path.basename(trainer.args.output_dir)):
        trainer.init_hf_repo(**where)


def push_trained(
    trainer: TaskTrainer,
    message: str | None,
    background: bool,
    revision: str | None,
    where: dict[str, Any],
    about: dict[str, Any],
) -> CommitInfo | Future[CommitInfo] | None:
    """Save the model and upload it; see `MtBertTrainer.push_to_hub`. Collective: every process must call it.

    Args:
        where: `token` and `private` of the repository.
        about: fields of the card.
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
    """Names of the files that a resume needs besides the model and its tokenizer.

    `training_args.json` is not among them, because it names folders of this machine.
    """
    file_names = {RESUME_RECORD, LOG_SUMS, *(name for method_class in method_classes() for name in method_class.files)}
    return [name for name in sorted(os.listdir(checkpoint)) if name in file_names or RESUMED.fullmatch(name)]


def push_checkpoint(trainer: TaskTrainer, checkpoint: str) -> PushInProgress | None:
    """Start the upload of a checkpoint's model and, depending on `hub_strategy`, of the files that a resume needs.

    While another upload is running, the checkpoint is not uploaded, unless `hub_always_push` is set.

    Returns:
        The running uploads.
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
    under_way: Any = [*(running.jobs if busy else ()), *jobs]
    return PushInProgress(under_way)


def without_best_folder(state: dict[str, Any]) -> dict[str, Any]:
    """A trainer's state with the name of the best checkpoint in place of its path."""
    best = state.get("best_model_checkpoint")
    return state if best is None else {**state, "best_model_checkpoint": Path(best).name}


def report_failures(pushes: Any) -> None:
    """Warn once of each upload in the background that failed."""
    if pushes is None:
        return
    done = [job for job in pushes.jobs if job.done()]
    pushes.jobs = [job for job in pushes.jobs if not job.done()]
    for job in done:
        if (error := job.exception()) is not None:
            warnings.warn(f"a checkpoint is not on the hub: {error}", stacklevel=2)


def card_of(trainer: TaskTrainer, **about: Any) -> ModelCard:
    """The model card of a run; `about` as in `model_card`."""
    name = trainer.hub_model_id or trainer.args.hub_model_id or Path(trainer.args.output_dir).absolute().name
    recipe = trainer.settings.recipe or settings(trainer)
    facts: dict[str, Any] = {
        "results": results(trainer),
        "recipe": recipe,
        "energy": read_energy(trainer.args.output_dir),
    }
    return model_card(trainer.model, name, **(facts | about))


def write_card(trainer: TaskTrainer, about: Mapping[str, Any]) -> None:
    """Write `card_of` into the output folder."""
    write_text(os.path.join(trainer.args.output_dir, "README.md"), str(card_of(trainer, **about)))


def results(trainer: TaskTrainer) -> dict[str, float]:
    """The scores of the model's current weights; empty if they were not evaluated."""
    state, history = trainer.state, trainer.state.log_history
    ends = [i for i, entry in enumerate(history) if "train_runtime" in entry]
    step = state.global_step
    scores = [(i, entry) for i, entry in enumerate(history) if "eval_loss" in entry]
    if ends and trainer.args.load_best_model_at_end and not [i for i, _ in scores if i > ends[-1]]:
        step = state.best_global_step  # the trainer loaded its weights when training ended
    return next((entry for _, entry in reversed(scores) if entry["step"] == step), {})


def settings(trainer: TaskTrainer) -> dict[str, Any]:
    """Tasks, schedule, and the training arguments that differ from their defaults, as in a recipe."""
    values, defaults = trainer.args.to_dict(), default_values(MtBertTrainingArguments)
    training = {
        key: value
        for key, value in values.items()
        if value != defaults.get(key) and isinstance(value, (str, int, float, bool)) and not key.endswith("_token")
    }
    return {
        "tasks": {name: asdict(task_settings) for name, task_settings in trainer.task_training.items()},
        "schedule": asdict(trainer.schedule),
        "training": training,
    }
