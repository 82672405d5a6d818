"""Distillation: a task's rows are also trained on what teachers predict for them (Hinton, Vinyals and Dean, 2015).

A row's loss is (1 − λ) · own + λ · distilled, and that of a text without a label the distilled one alone. With logits
z of the student and v_k of K teachers, and temperature T, the distilled loss is T² · KL(q ‖ softmax(z / T)),
q = 1/K Σ_k softmax(v_k / T) (section 2: T² keeps the gradient's size), the same of Bernoulli distributions for binary
and multi-label tasks (there the mean over labels), and the squared error to the teachers' mean score for a regression.
Teachers that are single-task models make this the distillation of Clark et al. (2019, BAM!); one that has the student's
own shape, born-again training; further texts without labels, a transfer set (section 3 of the former).

What teachers predict is computed once, for the rows that the run's plan takes, and is a column of the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...data.collation import TEACHER
from ...errors import InputError, Problem
from ...modeling.configuration_mtbert import TaskSpec
from ...modeling.heads import labelled
from ..checkpoints.resume_record import teacher_hash
from .base import Method, TaskTrainer
from .rules import Rule

if TYPE_CHECKING:
    from datasets import Dataset

    from ...modeling.modeling_mtbert import MtBertOutput


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

    def problems(self) -> list[Problem]:
        """One problem for each value that is wrong."""
        found = []
        if not self.teachers or len(set(self.teachers)) < len(self.teachers):
            found.append(
                Problem(
                    ("teachers",),
                    f"is {list(self.teachers)}, but must be folders of checkpoints, one or more, each once",
                )
            )
        if not 0 <= self.weight <= 1:
            found.append(Problem(("weight",), f"is {self.weight}, but must be in [0, 1]"))
        if self.temperature <= 0:
            found.append(Problem(("temperature",), f"is {self.temperature}, but must be positive"))
        return found

    def preflight(self, specs: Sequence[TaskSpec], unlabelled: Mapping[str, Any]) -> list[Problem]:
        """What is wrong with the teachers, whose configs are read, before any work.

        Args:
            specs: the tasks of a recipe.
            unlabelled: task → its `data.unlabelled`, of those that have texts without labels.
        """
        from ...evaluation.ensemble import check_members

        try:
            taught = check_members(self.teachers, specs)
        except InputError as error:
            return [Problem(("distillation", "teachers"), f": {line}") for line in str(error).splitlines()]
        reason = "but none of distillation.teachers has that task; give a teacher of it, or drop the texts"
        return [
            Problem(("tasks", name, "data", "unlabelled"), f"is {texts!r}, {reason}")
            for name, texts in unlabelled.items()
            if name not in taught
        ]

    def build(self) -> Distiller:
        """What the trainer calls."""
        return Distiller(self)


RULES = (
    Rule(
        "tasks.*.data.unlabelled: texts",
        "distillation: null",
        lambda run: not run.has("distillation") and run.value("tasks.*.data.unlabelled"),
        "only a teacher says what is to be learned from texts without labels; set distillation, or drop them",
    ),
)


def soft_targets(task: TaskSpec, logits: Sequence[Tensor], temperature: float) -> Tensor:
    """What teachers with these logits, each `(rows, num_labels)`, say together, `(rows, num_labels)`.

    Mean probabilities at the temperature, or a regression's mean score.
    """
    stacked = torch.stack(list(logits)).float()
    if task.kind.numeric:
        return stacked.mean(0)
    scaled = stacked / temperature
    single = task.kind.exclusive
    return (scaled.softmax(-1) if single else scaled.sigmoid()).mean(0)


def distilled_losses(task: TaskSpec, logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Each row's distilled loss in fp32, `(rows,)`.

    Args:
        logits: the student's, `(rows, num_labels)`; a regression's are on its scale.
        targets: `soft_targets`, `(rows, num_labels)`.
    """
    logits = logits.float()
    if task.kind.numeric:
        return nn.functional.mse_loss(logits, targets, reduction="none").squeeze(-1)
    scaled = logits / temperature
    if task.kind.exclusive:
        divergence = nn.functional.kl_div(scaled.log_softmax(-1), targets, reduction="none").sum(-1)
    else:
        yes = nn.functional.kl_div(nn.functional.logsigmoid(scaled), targets, reduction="none")
        no = nn.functional.kl_div(nn.functional.logsigmoid(-scaled), 1 - targets, reduction="none")
        divergence = (yes + no).mean(-1)
    return temperature**2 * divergence


def add_targets(distillation: Distillation, trainer: TaskTrainer, texts: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """The trainer's training data with what the teachers say about it, in a column `teacher` of the taught tasks.

    Teachers read the texts with their own tokenizers and encodings, in the run's precision; the rows are shared out
    among the processes, and what is said of them is kept between runs (`teaching.py`). Rows that the trainer's plan
    does not take hold nan.

    Args:
        texts: task → the rows of text that `trainer.train_dataset` was encoded from, in the same order.

    Raises:
        ValueError: with everything that is wrong with the teachers (`check_members`); for rows in another number, for
            texts without a label that nobody teaches, for predictions that are not finite.
    """
    from datasets import List, Value

    from ...evaluation.ensemble import check_members, load_member
    from .teacher_cache import teacher_logits

    taught = check_members(distillation.teachers, trainer.tasks)
    plan, args = trainer.plan(), trainer.args
    used = {name: plan.taken(trainer.task_ids[name]) for name in taught}
    for name in taught:
        rows, encoded = len(texts[name]), len(trainer.train_dataset[name])
        if rows != encoded:
            raise InputError(f"task {name!r}: there are {rows} rows of text, but {encoded} to be trained on")
    for name in trainer.train_dataset.keys() - taught.keys():
        labels = torch.as_tensor(np.asarray(trainer.train_dataset[name].with_format(None)["label"][:]))
        if missing := int((~labelled(trainer.tasks[trainer.task_ids[name]], labels)).sum()):
            raise InputError(
                f"task {name!r}: {missing:,} texts have no label, and none of the teachers has the task; "
                "drop data.unlabelled, or give a teacher of it"
            )
    logits: dict[str, list[Tensor]] = {name: [] for name in taught}
    for folder in distillation.teachers:
        model, tokenizer = load_member(folder, args.device)
        for name in (name for name, folders in taught.items() if folder in folders):
            rows, batch_size = texts[name].select(used[name]), args.per_device_eval_batch_size
            logits[name].append(teacher_logits(model, tokenizer, name, rows, batch_size, trainer.accelerator))
    data = dict(trainer.train_dataset)
    for name in taught:
        task = trainer.tasks[trainer.task_ids[name]]
        column = np.full((len(data[name]), task.num_labels), np.nan, dtype=np.float32)
        column[used[name]] = soft_targets(task, logits[name], distillation.temperature).cpu().numpy()
        if not np.isfinite(column[used[name]]).all():
            raise InputError(f"task {name!r}: a teacher's predictions are not finite; teachers: {taught[name]}")
        data[name] = data[name].add_column(TEACHER, list(column), feature=List(Value("float32")))
    return data


class Distiller(Method):
    """Mixes the loss of each row with its distilled loss.

    (1 − λ) · own + λ · distilled of rows with a label and a teacher's prediction; own, or distilled, of rows with one
    of the two; 0 of rows with neither.

    Args:
        settings: λ, T and the teachers.
    """

    section = "distillation"
    changes_losses = True

    def attach(self, trainer: TaskTrainer) -> None:
        self.tasks = trainer.tasks
        self.teachers = [teacher_hash(folder) for folder in self.settings.teachers]

    def record(self) -> dict[str, Any]:
        return asdict(self.settings) | {"teachers": self.teachers}

    def columns_not_compared(self) -> Sequence[str]:
        """Teachers are compared themselves, not what they say, which other processes and batches round otherwise."""
        return (TEACHER,) if None not in self.teachers else ()

    def prepare_data(self, trainer: TaskTrainer, texts: Mapping[str, Dataset]) -> None:
        """Ask the teachers about the training texts; see `add_targets`."""
        trainer.train_dataset = add_targets(self.settings, trainer, texts)

    def check_data(self, splits: Mapping[str, Dataset]) -> None:
        if not any(TEACHER in split.column_names for split in splits.values()):
            raise InputError(f"distillation: no task's rows have the column {TEACHER!r}; see distillation.add_targets")

    def change_rows(self, inputs: Mapping[str, Any], outputs: MtBertOutput) -> None:
        targets = inputs.get(TEACHER, {})
        for task in self.tasks:
            if task.name not in outputs.row_losses or task.name not in targets:
                continue
            known, target = outputs.labelled[task.name], targets[task.name]
            taught = target.isfinite().all(dim=-1)
            logits, target = outputs.task_logits[task.name], target.where(taught[:, None], 0.5)
            distilled = distilled_losses(task, logits, target, self.settings.temperature)
            share = torch.where(known, self.settings.weight, 1.0).where(taught, 0.0)
            outputs.row_losses[task.name] = (1 - share) * outputs.row_losses[task.name] + share * distilled
            outputs.labelled[task.name] = known | taught
