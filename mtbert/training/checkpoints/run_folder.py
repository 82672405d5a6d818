"""The output folder of a run: it never overwrites another run's results, and keeps recipe and record with the model."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from transformers import TrainerState, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME

from ...errors import CheckpointError, InputError
from ...files import is_temporary, write_text
from ...modeling.checkpoint_loading import read_json
from ...modeling.display import masked
from ..arguments import MtBertTrainingArguments
from .run_lock import LOCK, refuse_file
from .sealing import CHECKSUMS, STATE, damage, last_complete, seal, step_of

AUTO = "auto"
LOGITS = "dev_logits.safetensors"
_RESULT = (
    *("*config.json", "*model*.safetensors*", "tokenizer*", STATE, "recipe.json", "scores.json", "record.json"),
    LOGITS,
)
PRETRAINING = "pretraining"  # subfolder of a run's further pre-training
MLFLOW = "mlflow_run.json"  # id of the run of MLflow


def choose_checkpoint(args: MtBertTrainingArguments) -> str | None:
    """The checkpoint that a run resumes from; None for a new run.

    `resume_from_checkpoint: true` (or `latest`) takes the last complete checkpoint of the output folder, a path takes
    that one. `auto` takes the last one if there is any, and else starts a new run in place of an interrupted one, so
    that one command serves the first start and every restart. Incomplete and damaged checkpoints are skipped with a
    warning.

    Raises:
        ValueError: if there is no such checkpoint, or the output folder of a new run has files in it.
        CheckpointError: if the given checkpoint is damaged.
    """
    folder, wanted = Path(args.output_dir), args.resume_from_checkpoint
    refuse_file(folder)
    if resumes_last(args):
        if checkpoint := last_complete(folder):
            return checkpoint
        if starts_anew(args, folder):
            return None
        raise InputError(f"resume_from_checkpoint: no complete checkpoint in {folder}; drop the key to start anew")
    if wanted:
        if not os.path.isdir(wanted):
            raise InputError(f"resume_from_checkpoint: there is no folder {wanted}; give a checkpoint's, or true")
        if damaged := damage(wanted):
            raise CheckpointError(f"resume_from_checkpoint: {wanted} is not complete ({damaged}); take an earlier one")
        return str(wanted)
    if folder.is_dir() and not all(map(_may_be_there, folder.iterdir())):
        raise InputError(
            f"output_dir {folder} has files in it, which would be overwritten; give another folder, remove this one, "
            "or go on with it: --training.resume_from_checkpoint true"
        )
    return None


def _may_be_there(path: Path) -> bool:
    """Whether this may be in the output folder of a new run; its first process may have begun to write already."""
    return path.name in (PRETRAINING, LOCK, MLFLOW) or is_temporary(path)


def resumes_last(args: MtBertTrainingArguments) -> bool:
    """Whether a run resumes from the last checkpoint of its folder, not from a given one or from none."""
    return args.resume_from_checkpoint in (True, "true", "True", "latest", AUTO)


def starts_anew(args: MtBertTrainingArguments, folder: Path) -> bool:
    """Whether a run that found no checkpoint starts anew (`resume_from_checkpoint: auto`).

    Raises:
        ValueError: if it would, but the folder has a finished model in it.
    """
    if args.resume_from_checkpoint != AUTO:
        return False
    if models := sorted(path.name for path in folder.glob("*model*.safetensors")):
        raise InputError(
            f"resume_from_checkpoint: auto finds no checkpoint in {folder}, but {models[0]} of a run that has ended, "
            "which would be overwritten; give another output_dir, or remove this one"
        )
    return True


def start_scores(state: TrainerState) -> dict[str, float]:
    """The scores before the first step, if `eval_on_start` was set; else empty."""
    first = next((entry for entry in state.log_history if "eval_overall" in entry), {})
    return first if first.get("step") == 0 else {}


def ended_scores(folder: str, checkpoint: str | None, before: int, steps: int) -> dict[str, float] | None:
    """The scores of a finished run in this folder; None if the run has steps left, or its results are damaged.

    Args:
        checkpoint: the last checkpoint of the last stage.
        before: number of steps of the stages before the last.
        steps: number of steps of the whole run.
    """
    names = ("record.json", "scores.json", STATE)
    if checkpoint is None or not all(Path(folder, name).is_file() for name in names):
        return None
    sealed = Path(folder, CHECKSUMS).is_file()  # earlier versions did not seal it
    damaged = damage(folder, ()) if sealed else _unreadable(Path(folder, name) for name in names)
    if damaged:
        warnings.warn(
            f"{folder} is of a run that has ended, but is damaged ({damaged}); it is written again from {checkpoint}",
            stacklevel=2,
        )
        return None
    record, scores = (read_json(Path(folder, name), "start the run again", limited=False) for name in names[:2])
    state = TrainerState.load_from_json(str(Path(folder, STATE)))
    taken = record["steps"]
    went_on = before + (step_of(checkpoint) or 0) > taken
    if taken != state.global_step or steps > max(state.max_steps, taken) or went_on:
        return None
    return scores


def _unreadable(files: Iterable[Path]) -> str:
    """The error of the first file that is no readable JSON; empty if all are readable."""
    for file in files:
        try:
            read_json(file, remedy="", limited=False)
        except InputError as error:
            return str(error)
    return ""


def save_run(folder: str, **values: Mapping[str, Any]) -> None:
    """Write recipe, record or scores of a run into its folder, each as `<name>.json`."""
    os.makedirs(folder, exist_ok=True)
    for name, value in values.items():
        text = masked(json.dumps(value, indent=2, default=str))
        write_text(Path(folder, f"{name}.json"), text + "\n")


def save_logits(folder: str, logits: Mapping[str, np.ndarray]) -> None:
    """Write the dev logits of a run: task → fp32, `(rows, num_labels)`."""
    arrays = {name: np.ascontiguousarray(rows, dtype=np.float32) for name, rows in logits.items()}
    save_file(arrays, Path(folder, LOGITS))


def seal_run(folder: str) -> None:
    """Write the checksums of a finished run's results; other files in its folder are left out."""
    seal(folder, _RESULT)


def save_arguments(folder: str, args: TrainingArguments, held: Mapping[str, Any] | None = None) -> None:
    """Write a run's arguments as training_args.json, and remove the pickle that transformers' Trainer wrote.

    Loading a pickle can run any code, and neither transformers nor mtbert reads this one.

    Args:
        held: true values of arguments that are changed for the moment.
    """
    if not args.should_save:  # another process does
        return
    Path(folder, TRAINING_ARGS_NAME).unlink(missing_ok=True)
    text = masked(json.dumps(args.to_dict() | dict(held or {}), indent=2, default=str))
    write_text(Path(folder, TRAINING_ARGS_NAME).with_suffix(".json"), text + "\n")
