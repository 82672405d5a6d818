"""Distillation: a task's rows are also trained on what teachers predict for them (Hinton, Vinyals and Dean, 2015).

A row's loss is (1 − λ) · own + λ · distilled. With logits z of the student and v_k of K teachers, and temperature T,
the distilled loss is T² · KL(q ‖ softmax(z / T)), q = 1/K Σ_k softmax(v_k / T) (section 2: T² keeps the gradient's
size), the same of Bernoulli distributions for binary and multi-label tasks (there the mean over labels), and the
squared error to the teachers' mean score for a regression. Teachers that are single-task models make this the
distillation of Clark et al. (2019, BAM!); one that has the student's own shape, born-again training.

What teachers predict is computed once, for the rows that the run's plan takes, and kept as a column of the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ..modeling.configuration_mtbert import TaskSpec

if TYPE_CHECKING:
    from datasets import Dataset

    from ..modeling.modeling_mtbert import MtBertOutput
    from .trainer import MtBertTrainer

COLUMN = "teacher"


@dataclass(frozen=True)
class Distillation:
    """What a run learns from teachers.

    Attributes:
        teachers: folders of checkpoints, at least one. A task learns from all that have a task of its name, which must
            have its problem type, labels and range; a task without a teacher is trained on its labels alone.
        weight: λ, the share of the teachers in a row's loss, in [0, 1].
        temperature: T, positive; by it the logits of a classification are divided, teachers' and student's.
    """

    teachers: tuple[str, ...] = ()
    weight: float = 0.5
    temperature: float = 2.0

    def problems(self, where: str) -> list[str]:
        """Everything that is wrong with these values, as sentences that begin with `where`."""
        found = []
        if not self.teachers or len(set(self.teachers)) < len(self.teachers):
            found.append(
                f"{where}.teachers is {list(self.teachers)}, but must be folders of checkpoints, one or more, each once"
            )
        if not 0 <= self.weight <= 1:
            found.append(f"{where}.weight is {self.weight}, but must be in [0, 1]")
        if self.temperature <= 0:
            found.append(f"{where}.temperature is {self.temperature}, but must be positive")
        return found


def soft_targets(task: TaskSpec, logits: Sequence[Tensor], temperature: float) -> Tensor:
    """What teachers with these logits, each `(rows, num_labels)`, say together, `(rows, num_labels)`.

    Mean probabilities at the temperature, or a regression's mean score.
    """
    stacked = torch.stack(list(logits)).float()
    if task.problem_type == "regression":
        return stacked.mean(0)
    scaled = stacked / temperature
    single = task.problem_type == "single_label_classification"
    return (scaled.softmax(-1) if single else scaled.sigmoid()).mean(0)


def distilled_losses(task: TaskSpec, logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Each row's distilled loss in fp32, `(rows,)`.

    Args:
        logits: the student's, `(rows, num_labels)`; a regression's are on its scale.
        targets: `soft_targets`, `(rows, num_labels)`.
    """
    logits = logits.float()
    if task.problem_type == "regression":
        return nn.functional.mse_loss(logits, targets, reduction="none").squeeze(-1)
    scaled = logits / temperature
    if task.problem_type == "single_label_classification":
        divergence = nn.functional.kl_div(scaled.log_softmax(-1), targets, reduction="none").sum(-1)
    else:
        yes = nn.functional.kl_div(nn.functional.logsigmoid(scaled), targets, reduction="none")
        no = nn.functional.kl_div(nn.functional.logsigmoid(-scaled), 1 - targets, reduction="none")
        divergence = (yes + no).mean(-1)
    return temperature**2 * divergence


def mixed_losses(
    distillation: Distillation, tasks: Sequence[TaskSpec], outputs: MtBertOutput, targets: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """(1 − λ) · own + λ · distilled of every row, by task; 0 for rows without a label, own where nobody teaches."""
    mixed, share = dict(outputs.row_losses), distillation.weight
    for task in tasks:
        if task.name in mixed and task.name in targets:
            logits = outputs.task_logits[task.name]
            distilled = distilled_losses(task, logits, targets[task.name], distillation.temperature)
            both = (1 - share) * mixed[task.name] + share * distilled
            mixed[task.name] = torch.where(outputs.labelled[task.name], both, 0.0)
    return mixed


def add_targets(distillation: Distillation, trainer: MtBertTrainer, texts: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """The trainer's training data with what the teachers say about it, in a column `teacher` of the taught tasks.

    Teachers read the texts with their own tokenizers and encodings, in fp32, and the rows are shared out among the
    processes. Rows that the trainer's plan does not take hold nan.

    Args:
        texts: task → the rows of text that `trainer.train_dataset` was encoded from, in the same order.

    Raises:
        ValueError: with everything that is wrong with the teachers (`check_members`), or for rows in another number.
    """
    from accelerate.utils import reduce
    from datasets import List, Value

    from ..evaluation.ensemble import check_members, load_member, task_logits

    taught = check_members(distillation.teachers, trainer.tasks)
    plan, args = trainer.plan(), trainer.args
    used = {name: plan.taken(trainer.task_ids[name]) for name in taught}
    for name in taught:
        rows, encoded = len(texts[name]), len(trainer.train_dataset[name])
        if rows != encoded:
            raise ValueError(f"task {name!r}: there are {rows} rows of text, but {encoded} to be trained on")
    logits: dict[str, list[Tensor]] = {name: [] for name in taught}
    for folder in distillation.teachers:
        model, tokenizer = load_member(folder, args.device)
        for name in (name for name, folders in taught.items() if folder in folders):
            share = (args.per_device_eval_batch_size, args.world_size, args.process_index)
            own = task_logits(model, tokenizer, name, texts[name].select(used[name]), *share)
            logits[name].append(reduce(own, "sum") if args.world_size > 1 else own)
    data = dict(trainer.train_dataset)
    for name in taught:
        task = trainer.tasks[trainer.task_ids[name]]
        column = np.full((len(data[name]), task.num_labels), np.nan, dtype=np.float32)
        column[used[name]] = soft_targets(task, logits[name], distillation.temperature).cpu().numpy()
        data[name] = data[name].add_column(COLUMN, list(column), feature=List(Value("float32")))
    return data
