"""Several checkpoints predict together: mean probabilities of a classification, mean scores of a regression.

Each member reads the texts with its own tokenizer and encoding, so that members may differ in all but what a task's
logits mean: its problem type, its labels, its range.
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

from ..data.collation import LengthSortedSteps, MultiTaskDataset
from ..data.tokenize import encode_dataset
from ..errors import InputError
from ..modeling.configuration_mtbert import MtBertConfig, TaskSpec
from ..modeling.encoder_loading import load_config, load_tokenizer
from ..modeling.modeling_mtbert import MtBertForMultiTask
from ..modeling.packed_batches import collect_logits
from ..modeling.tokenization import has_token_types
from .metrics import score_tasks

MEANING = ("problem_type", "texts", "labels", "range")


def member_config(folder: str) -> MtBertConfig:
    """The config of a checkpoint (or name on the hub); no weights are read.

    Raises:
        ValueError: if there is none, or it is not of a whole model of mtbert.
    """
    try:
        config = load_config(folder)
    except (OSError, ValueError) as error:
        remedy = "give a folder that `mtbert finetune` wrote, or a name on a hub that can be reached"
        said = ("" if os.path.isdir(folder) else "there is no such folder; ") + str(error).splitlines()[0]
        raise InputError(f"{folder}: no checkpoint can be read there: {said.rstrip('.')}; {remedy}") from error
    if not isinstance(config, MtBertConfig):
        raise InputError(f"{folder}: is a checkpoint of {config.model_type!r}, but must be one of mtbert")
    if os.path.exists(os.path.join(folder, "adapter_config.json")):
        raise InputError(f"{folder}: holds what peft trained, not a whole model; merge it (merge_and_unload) first")
    return config


def check_members(folders: Iterable[str], tasks: Sequence[TaskSpec]) -> dict[str, list[str]]:
    """Which checkpoints have which tasks, by name; their configs alone are read.

    Args:
        folders: checkpoints (or names on the hub).
        tasks: the tasks that are asked for; further ones of a checkpoint do not matter.

    Returns:
        Task → the checkpoints that have it, for tasks that at least one has.

    Raises:
        ValueError: with every checkpoint that cannot be read, has none of the tasks, or means something else by one.
    """
    found, problems = {}, []
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
                found.setdefault(task.name, []).append(folder)
                for key in MEANING:
                    theirs, ours = getattr(specs[task.name], key), getattr(task, key)
                    if theirs != ours:
                        problems.append(f"{folder}: task {task.name!r}: {key} is {theirs!r}, but must be {ours!r}")
    if problems:
        raise InputError("\n".join(problems))
    return found


def load_member(folder: str, device: torch.device | str) -> tuple[MtBertForMultiTask, PreTrainedTokenizerBase]:
    """A checkpoint's model, frozen and in evaluation mode, and its tokenizer."""
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
    """Logits of one task for rows of text, in the rows' order.

    Args:
        rows: columns `text` (and `text_pair`), as `check_rows` leaves them; others are not read.
        batch_size: rows at a time, at most.
        processes: among how many the rows are shared out; rows of others are 0, so that a sum gathers them.
        process: which one this is.

    Returns:
        `(rows, num_labels)`, fp32, on the model's device; a regression's are on its scale.
    """
    number = model.task_id(name)
    texts = rows.select_columns([column for column in ("text", "text_pair") if column in rows.column_names])
    encoded, _ = encode_dataset(model.tasks[number], texts, tokenizer, model.config.encoder, "predicted")
    batches = MultiTaskDataset(model.tasks, {name: encoded}, has_token_types(model.config.encoder))
    steps = LengthSortedSteps(number, encoded, batch_size, processes, process)
    return collect_logits(model, (batches.__getitems__(step) for step in steps), {name: len(rows)})[name]


def combine(task: TaskSpec, members: Sequence[np.ndarray]) -> np.ndarray:
    """The members' mean prediction as logits again, so that it is scored like one model's.

    Args:
        members: each member's logits `(rows, num_labels)`.

    Returns:
        `(rows, num_labels)` float64: log of the mean softmax; log p / (1 − p) of the mean sigmoid p of a binary or
        multi-label classification; the mean score of a regression.
    """
    stacked = np.stack(members).astype(np.float64)
    if task.kind.numeric:
        return stacked.mean(axis=0)
    if task.kind.exclusive:
        return logsumexp(log_softmax(stacked, axis=-1), axis=0) - np.log(len(stacked))
    yes, no = -np.logaddexp(0, -stacked), -np.logaddexp(0, stacked)
    return logsumexp(yes, axis=0) - logsumexp(no, axis=0)


def predict_members(
    folders: Sequence[str],
    tasks: Sequence[TaskSpec],
    splits: Mapping[str, Dataset],
    device: torch.device | str = "cpu",
    batch_size: int = 32,
) -> dict[str, dict[str, np.ndarray]]:
    """Logits of every member, loaded one after the other.

    Args:
        folders: the members.
        tasks: what the labels of `splits` mean; see `check_members`.
        splits: task → rows of text.

    Returns:
        Member → task → logits `(rows, num_labels)`, for the tasks that the member and `splits` have.

    Raises:
        ValueError: see `check_members`.
    """
    having = check_members(folders, tasks)
    found = {}
    for folder in folders:
        model, tokenizer = load_member(folder, device)
        own = [name for name in splits if folder in having.get(name, ())]
        found[folder] = {n: task_logits(model, tokenizer, n, splits[n], batch_size).cpu().numpy() for n in own}
    return found


def score_logits(
    tasks: Sequence[TaskSpec],
    metrics: Mapping[str, str | None],
    splits: Mapping[str, Dataset],
    logits: Mapping[str, np.ndarray],
) -> dict[str, float]:
    """Scores of every task that has logits, `<task>_<metric>`, and their averages.

    Args:
        metrics: task → its main metric; None: the default of its kind.
        splits: task → rows with a `label`, in the order of the logits.
    """
    labels = {name: splits[name].with_format("numpy")["label"][:] for name in logits}
    scores, means = score_tasks(tasks, metrics, logits, labels)
    return {f"{name}_{key}": value for name, own in scores.items() for key, value in own.items()} | means
