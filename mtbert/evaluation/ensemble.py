"""Ensembles of checkpoints: mean probabilities for classification, mean scores for regression.

The probabilities of calibrated members are calibrated. Thresholds, sets and abstention are not used: each was fitted
for one member's probabilities, and would be wrong for their mean.

Each member encodes the texts with its own tokenizer. Members may differ in everything except a task's problem type,
number of texts, labels and range, which define the meaning of its logits.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from datasets import Dataset
from scipy.special import log_softmax, logsumexp
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..data.collation import LengthSortedSteps, MultiTaskDataset, label_array, unit_shape
from ..data.tokenize import encode_dataset
from ..errors import InputError
from ..modeling.configuration_mtbert import MtBertConfig
from ..modeling.decoding import scaled
from ..modeling.encoder_loading import load_config, load_tokenizer
from ..modeling.modeling_mtbert import MtBertForMultiTask
from ..modeling.packed_batches import collect_logits
from ..modeling.task_spec import TaskSpec
from ..modeling.tokenization import has_token_types
from .metrics import score_tasks

MEANING = ("problem_type", "texts", "labels", "range")


def member_config(folder: str) -> MtBertConfig:
    """Load the config of a checkpoint (or name on the hub) without its weights.

    Raises:
        ValueError: there is no checkpoint, or it is not a whole model of mtbert.
    """
    try:
        config = load_config(folder)
    except (OSError, ValueError) as error:
        remedy = "give a folder that `mtbert finetune` wrote, or a name on a hub that can be reached"
        reason = ("" if os.path.isdir(folder) else "there is no such folder; ") + str(error).splitlines()[0]
        raise InputError(f"{folder}: no checkpoint can be read there: {reason.rstrip('.')}; {remedy}") from error
    if not isinstance(config, MtBertConfig):
        raise InputError(f"{folder}: is a checkpoint of {config.model_type!r}, but must be one of mtbert")
    if os.path.exists(os.path.join(folder, "adapter_config.json")):
        raise InputError(f"{folder}: holds what peft trained, not a whole model; merge it (merge_and_unload) first")
    return config


def check_members(folders: Iterable[str], tasks: Sequence[TaskSpec]) -> dict[str, list[str]]:
    """Find the checkpoints that have each task, by the task's name; only their configs are read.

    Args:
        folders: checkpoints (or names on the hub).
        tasks: the requested tasks; a checkpoint may have further ones.

    Returns:
        Task name → the checkpoints that have the task, for tasks of at least one checkpoint.

    Raises:
        ValueError: lists every checkpoint that cannot be read, has none of the tasks, or defines a task differently.
    """
    members: dict[str, list[str]] = {}
    problems = []
    for folder in folders:
        try:
            config = member_config(folder)
        except InputError as error:
            problems.append(str(error))
            continue
        specs = {spec.name: spec for spec in config.task_specs}
        if not any(task.name in specs for task in tasks):
            asked = ", ".join(task.name for task in tasks)
            problems.append(f"{folder}: has the tasks {', '.join(specs)}, but none of: {asked}")
        for task in tasks:
            if task.name in specs:
                members.setdefault(task.name, []).append(folder)
                for key in MEANING:
                    value, expected = getattr(specs[task.name], key), getattr(task, key)
                    if value != expected:
                        problems.append(f"{folder}: task {task.name!r}: {key} is {value!r}, but must be {expected!r}")
    if problems:
        raise InputError("\n".join(problems))
    return members


def load_member(folder: str, device: torch.device | str) -> tuple[MtBertForMultiTask, PreTrainedTokenizerBase]:
    """Load a checkpoint's model, frozen and in evaluation mode, and its tokenizer."""
    model = MtBertForMultiTask.from_pretrained(folder).to(device).eval()
    return model.requires_grad_(False), load_tokenizer(folder)


@torch.inference_mode()
def task_logits(
    model: MtBertForMultiTask,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    rows: Dataset,
    batch_size: int = 32,
    processes: int = 1,
    process: int = 0,
) -> Tensor:
    """Compute the logits of one task for rows of text, in the rows' order.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        name: the task's name.
        rows: columns `text` (and `text_pair`), as `check_rows` returns them; other columns are not read.
        batch_size: largest number of rows per batch.
        processes: number of processes that share the rows; the rows of other processes are 0, so that the sum over
            processes is complete.
        process: index of this process, from 0.

    Returns:
        `(rows, num_labels)`, fp32, on the model's device; scores of a regression are on its scale.
    """
    task_id = model.task_id(name)
    texts = rows.select_columns([column for column in ("text", "text_pair") if column in rows.column_names])
    encoded, _ = encode_dataset(model.tasks[task_id], texts, tokenizer, model.config.encoder, "predicted")
    batches = MultiTaskDataset(model.tasks, {name: encoded}, has_token_types(model.config.encoder))
    steps = LengthSortedSteps(task_id, encoded, batch_size, processes, process)
    shapes = {name: unit_shape(model.tasks[task_id], encoded)}
    return collect_logits(model, (batches.__getitems__(step) for step in steps), shapes)[name]


def combine(task: TaskSpec, members: Sequence[np.ndarray]) -> np.ndarray:
    """Average the members' predictions, and return the mean as logits, so that it is scored like one model's.

    Args:
        task: the task.
        members: logits of each member, `(rows, num_labels)`.

    Returns:
        `(rows, num_labels)` float64: log of the mean softmax; the logits whose probabilities are the mean of an ordinal
        task; log p / (1 − p) of the mean sigmoid p of a binary or multi-label classification; the mean score of a
        regression.
    """
    stacked = np.stack(members).astype(np.float64)
    if task.kind.numeric:
        return stacked.mean(axis=0)
    if task.kind.exclusive:
        of_classes = task.kind.class_logits(torch.from_numpy(stacked)).numpy()
        mean = logsumexp(log_softmax(of_classes, axis=-1), axis=0) - np.log(len(stacked))
        return task.kind.logits_of(torch.from_numpy(mean)).numpy()
    yes, no = -np.logaddexp(0, -stacked), -np.logaddexp(0, stacked)
    return logsumexp(yes, axis=0) - logsumexp(no, axis=0)


def predict_members(
    folders: Sequence[str],
    tasks: Sequence[TaskSpec],
    splits: Mapping[str, Dataset],
    device: torch.device | str = "cpu",
    batch_size: int = 32,
) -> dict[str, dict[str, np.ndarray]]:
    """Compute the logits of every member; one member at a time is in memory.

    Args:
        folders: the members' checkpoints.
        tasks: the tasks that the members must agree with; see `check_members`.
        splits: task name → rows of text.
        device: the device to compute on.
        batch_size: largest number of rows per batch.

    Returns:
        Member → task name → logits `(rows, num_labels)`, divided by the member's fitted temperature, for the tasks that
        the member has and `splits` contains.

    Raises:
        ValueError: see `check_members`.
    """
    members = check_members(folders, tasks)
    logits: dict[str, dict[str, np.ndarray]] = {}
    for folder in folders:
        model, tokenizer = load_member(folder, device)
        names = [name for name in splits if folder in members.get(name, ())]
        logits[folder] = {}
        for name in names:
            of_task = task_logits(model, tokenizer, name, splits[name], batch_size).cpu().numpy()
            logits[folder][name] = scaled(model.tasks[model.task_id(name)], of_task)
    return logits


def score_logits(
    tasks: Sequence[TaskSpec],
    metrics: Mapping[str, str | None],
    splits: Mapping[str, Dataset],
    logits: Mapping[str, np.ndarray],
) -> dict[str, float]:
    """Score every task that has logits.

    Args:
        tasks: the tasks.
        metrics: task name → its main metric; None: the default for its problem type.
        splits: task name → rows with a `label`, in the order of the logits.
        logits: task name → logits, `(rows, num_labels)`.

    Returns:
        `<task>_<metric>` → score, and the averages over tasks (`averages`).
    """
    labels = {name: label_array(splits[name]) for name in logits}
    scores, means = score_tasks(tasks, metrics, logits, labels)
    named = {f"{name}_{key}": value for name, values in scores.items() for key, value in values.items()}
    return named | means
