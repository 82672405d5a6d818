"""Evaluation and prediction of `MtBertTrainer`: each row of every task once, over any number of processes."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, denumpify_detensorize, speed_metrics

from ..data.collation import LengthSortedSteps, MultiTaskDataset, label_array, unit_shape
from ..data.sampling import Step
from ..data.step_loader import step_loader
from ..errors import InputError
from ..modeling.packed_batches import collect_logits
from .methods.base import TaskTrainer

TIMES = ("runtime", "samples_per_second", "steps_per_second")  # `speed_metrics` adds these to the scores


class EvaluationSteps(Sampler[Step]):
    """Batches of every task's rows, one pool after the other; the processes share the rows of each.

    A pool is a task, or the tasks of a source that share an encoding.
    """

    drop_last = False

    def __init__(self, data: MultiTaskDataset, batch_size: int, processes: int, process: int):
        self.batch_size = batch_size
        self.steps = [
            step
            for pool, split in enumerate(data.rows_of_pools())
            if split is not None
            for step in LengthSortedSteps(pool, split, batch_size, processes, process)
        ]

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)


def eval_splits(trainer: TaskTrainer, given: Mapping[str, Dataset] | str | None) -> dict[str, Dataset]:
    """Encoded rows to evaluate, by task name; `given` as in `MtBertTrainer.evaluate`.

    Raises:
        InputError: if there are none, or none of the named task.
    """
    if isinstance(given, str):
        names = list(trainer.eval_dataset or ())
        if given not in names:
            has = f"has rows of: {', '.join(names)}" if names else "is missing"
            raise InputError(
                f"eval_dataset is {given!r}, which must be the name of a task with rows to evaluate; the trainer's "
                f"eval_dataset {has}; other rows are given as evaluate({{task: rows}})"
            )
        return {given: trainer.eval_dataset[given]}
    splits = trainer.eval_dataset if given is None else trainer.encoded("eval", given)
    if not splits:
        raise InputError("eval_dataset is missing; evaluation needs labelled rows of at least one task")
    return splits


def make_loader(trainer: TaskTrainer, splits: Mapping[str, Dataset]) -> DataLoader[Any]:
    """A loader of all rows of encoded splits, in batches of one pool, longest rows first."""
    args = trainer.args
    data = trainer.batches(splits)
    steps = EvaluationSteps(data, args.per_device_eval_batch_size, args.world_size, args.process_index)
    return step_loader(args, data, steps)


def evaluate(trainer: TaskTrainer, eval_dataset: Any, prefix: str) -> dict[str, float]:
    """Score, log and report every task of an evaluation data set; see `MtBertTrainer.evaluate`."""
    trainer._memory_tracker.start()
    start = time.time()
    loader = trainer.get_eval_dataloader(eval_dataset)
    _require_labels(loader, prefix)
    output = trainer.evaluation_loop(loader, "Evaluation", metric_key_prefix=prefix)
    trainer.last_logits = output.predictions
    metrics = output.metrics
    if trainer.args.eval_train and eval_dataset is None and trainer.train_dataset is not None:
        train_loader = make_loader(trainer, trainer.train_dataset)
        _require_labels(train_loader, "train")
        metrics |= trainer.evaluation_loop(train_loader, "Evaluation", metric_key_prefix="train").metrics
    metrics |= speed_metrics(prefix, start, num_samples=output.num_samples)
    trainer.log(metrics)
    trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)
    trainer._memory_tracker.stop_and_update_metrics(metrics)
    return metrics


def run_loop(trainer: TaskTrainer, loader: DataLoader[Any], prefix: str) -> EvalLoopOutput:
    """Predict all rows of a loader from `make_loader`, and score the tasks that have labels.

    Returns:
        `predictions` `{task: logits (rows, num_labels)}`, `label_ids` `{task: labels or None}`, both in the rows' order
        on every process, and `metrics`, all names with the prefix.
    """
    splits = _splits(loader)
    logits: Any
    logits, losses = _predict(trainer, loader, splits)
    labels: Any = {name: _labels(split) for name, split in splits.items()}
    labelled = {name: logits[name] for name in splits if labels[name] is not None}
    metrics = _scores(trainer, labelled, labels, losses, prefix) if labelled else {}
    if labelled and trainer.compute_metrics is not None:
        metrics |= _own_scores(trainer, labelled, {name: labels[name] for name in labelled}, prefix, metrics)
    rows: Any = loader.dataset  # the texts of a source count once
    return EvalLoopOutput(logits, labels, metrics, len(rows))


def _splits(loader: DataLoader[Any]) -> dict[str, Dataset]:
    """The encoded splits of a loader, by task name."""
    if not isinstance(getattr(loader, "batch_sampler", None), EvaluationSteps):
        raise InputError(
            "evaluation_loop reads every row of every task once, in packed batches, which only the loaders of "
            "get_eval_dataloader and get_test_dataloader give; call it with one of these, or call evaluate or predict"
        )
    data: Any = loader.dataset
    named = zip(data.tasks, data.splits, strict=True)
    return {task.name: split for task, split in named if split is not None}


def _require_labels(loader: DataLoader[Any], prefix: str) -> None:
    for name, split in _splits(loader).items():
        if "label" not in split.column_names:
            raise InputError(f"{prefix} rows of task {name!r} have no labels; use predict for them")


def _labels(split: Dataset) -> np.ndarray | None:
    return label_array(split) if "label" in split.column_names else None


def _predict(
    trainer: TaskTrainer, loader: DataLoader[Any], splits: Mapping[str, Dataset]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Each task's logits `(rows, num_labels)` and the mean loss of its labelled rows (nan without any)."""
    args, model = trainer.args, trainer.model
    losses = {name: torch.zeros(2, device=args.device) for name in splits}

    def note(batch: Mapping[str, Any], output: Any) -> None:
        for name, row_losses in (output.row_losses or {}).items():
            losses[name][0] += row_losses.sum()
            losses[name][1] += output.labelled[name].sum()
        trainer.control = trainer.callback_handler.on_prediction_step(args, trainer.state, trainer.control)

    was_training = model.training
    model.eval()
    with trainer.evaluation_weights(), torch.inference_mode():
        shapes = {task.name: unit_shape(task, splits[task.name]) for task in trainer.tasks if task.name in splits}
        logits = collect_logits(model, loader, shapes, note)
    model.train(was_training)
    if args.world_size > 1:  # rows of other processes are 0 here, so that a sum gathers them
        logits, losses = trainer.accelerator.reduce((logits, losses), reduction="sum")
    sums = {name: pair.tolist() for name, pair in losses.items()}
    means = {name: total / count if count else float("nan") for name, (total, count) in sums.items()}
    return {name: values.cpu().numpy() for name, values in logits.items()}, means


def _scores(
    trainer: TaskTrainer,
    logits: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    losses: Mapping[str, float],
    prefix: str,
) -> dict[str, float]:
    """Scores and loss of every task that has logits, and their averages."""
    from ..evaluation.metrics import score_tasks  # importing evaluate takes seconds

    main = {name: settings.metric for name, settings in trainer.task_training.items()}
    scores, means = score_tasks(trainer.tasks, main, logits, labels)
    metrics = {}
    for task, task_scores in scores.items():
        metrics[f"{prefix}_{task}_loss"] = losses[task]
        metrics |= {f"{prefix}_{task}_{name}": value for name, value in task_scores.items()}
    metrics |= {f"{prefix}_{name}": value for name, value in means.items()}
    metrics[f"{prefix}_loss"] = float(np.mean([losses[name] for name in scores]))
    return metrics


def _own_scores(
    trainer: TaskTrainer,
    logits: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    prefix: str,
    ours: Collection[str],
) -> dict[str, Any]:
    """The scores of the user's `compute_metrics`, all names with the prefix.

    Raises:
        InputError: if it returns no mapping, or a name that the trainer's own scores have.
    """
    predictions: Any = dict(logits)
    label_ids: Any = dict(labels)
    returned = trainer.compute_metrics(EvalPrediction(predictions=predictions, label_ids=label_ids))
    if not isinstance(returned, Mapping):
        raise InputError(f"compute_metrics returned a {type(returned).__name__}, but must return {{name: number}}")
    scores = denumpify_detensorize(dict(returned))
    scores = {key if key.startswith(f"{prefix}_") else f"{prefix}_{key}": value for key, value in scores.items()}
    taken = {*ours, *(f"{prefix}_{name}" for name in TIMES)}
    if both := sorted(taken & scores.keys()):
        raise InputError(f"compute_metrics returned {both}, which the trainer computes itself; give other names")
    return scores
