"""Distillation: rows are also trained on the predictions of teachers (Hinton, Vinyals and Dean, 2015).

The loss of a row is (1 − λ) · own + λ · distilled; a text without a label has the distilled loss alone. With the
student's logits z, the logits v_k of K teachers and a temperature T, the distilled loss is

- T² · KL(q ‖ softmax(z / T)) with q = 1/K Σ_k softmax(v_k / T) for a single-label task (section 2; T² keeps the size of
  the gradient);
- the same of the distributions over the classes of an ordinal task, from z / T and v_k / T;
- the same of Bernoulli distributions for a binary task, and its mean over labels for a multi-label task;
- the squared error to the teachers' mean score for a regression.

With single-task teachers this is the distillation of Clark et al. (2019, BAM!), and with `final_weight` their teacher
annealing; with a teacher of the student's own shape, born-again training; with additional texts without labels, a
transfer set (Hinton et al., section 3).

The teachers' predictions are computed once, for the rows that the run's plan takes, and stored as a column of the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ...data.collation import TEACHER
from ...data.pools import TaskSplits, pool_numbers, sources_of
from ...errors import InputError, Problem
from ...modeling.heads import labelled
from ...modeling.ordinal import exceedances, probabilities_of
from ...modeling.problem_types import refused_by_type
from ...modeling.task_spec import TaskSpec
from ..checkpoints.resume_record import teacher_hash
from .base import Method, TaskTrainer
from .rules import Rule

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Distillation:
    """Settings of distillation.

    Attributes:
        teachers: folders of checkpoints, at least one. A task learns from every teacher that has a task of the same
            name, whose problem type, labels and range must be equal; a task without a teacher is trained on its labels
            alone.
        weight: λ, the weight of the distilled loss in a row's loss, in [0, 1].
        final_weight: λ at the end of the training, to which it moves in equal steps from `weight` at the start, in
            [0, 1]; null: λ stays. With weight 1 and final_weight 0 it is teacher annealing (Clark et al., 2019,
            section 3.2): the run begins with the teachers and ends with the labels.
        temperature: T, positive; divides the logits of a classification, the teachers' and the student's.
    """

    teachers: tuple[str, ...] = ()
    weight: float = 0.5
    temperature: float = 2.0
    final_weight: float | None = None

    @property
    def depends_on_length(self) -> bool:
        """Whether λ at a given step depends on the number of steps of the run."""
        return self.final_weight is not None

    def weight_at(self, step: int, steps: int) -> float:
        """λ in step number `step`, from 0, of a training of `steps` steps."""
        if self.final_weight is None:
            return self.weight
        return self.weight + (self.final_weight - self.weight) * step / max(1, steps - 1)

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid field."""
        problems = []
        if not self.teachers or len(set(self.teachers)) < len(self.teachers):
            problems.append(
                Problem(
                    ("teachers",),
                    f"is {list(self.teachers)}, but must be folders of checkpoints, one or more, each once",
                )
            )
        for key, value in (("weight", self.weight), ("final_weight", self.final_weight)):
            if value is not None and not 0 <= value <= 1:
                problems.append(Problem((key,), f"is {value}, but must be in [0, 1]"))
        if self.temperature <= 0:
            problems.append(Problem(("temperature",), f"is {self.temperature}, but must be positive"))
        return problems

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
        if refused := refused_by_type([spec for spec in specs if spec.name in taught], "distillation"):
            return [Problem(("distillation", "teachers"), problem) for problem in refused]
        reason = "but none of distillation.teachers has that task; give a teacher of it, or drop the texts"
        return [
            Problem(("tasks", name, "data", "unlabelled"), f"is {texts!r}, {reason}")
            for name, texts in unlabelled.items()
            if name not in taught
        ]

    def build(self) -> Distiller:
        """Build the method."""
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
    """Mean of the teachers' probabilities at the temperature, or of a regression's scores, `(rows, num_labels)`.

    Those of an ordinal task are P(y > k), `ordinal.exceedances`.

    Args:
        logits: each teacher's, `(rows, num_labels)`.
    """
    stacked = torch.stack(list(logits)).float()
    if task.kind.numeric:
        return stacked.mean(0)
    scaled = stacked / temperature
    if task.kind.ordered:
        return exceedances(scaled).mean(0)
    probabilities = scaled.softmax(-1) if task.kind.exclusive else scaled.sigmoid()
    return probabilities.mean(0)


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
        targets = probabilities_of(targets) if task.kind.ordered else targets
        student = task.kind.class_logits(scaled).log_softmax(-1)
        divergence = nn.functional.kl_div(student, targets, reduction="none").sum(-1)
    else:
        yes = nn.functional.kl_div(nn.functional.logsigmoid(scaled), targets, reduction="none")
        no = nn.functional.kl_div(nn.functional.logsigmoid(-scaled), 1 - targets, reduction="none")
        divergence = (yes + no).mean(-1)
    return temperature**2 * divergence


def add_targets(distillation: Distillation, trainer: TaskTrainer, texts: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """Add the teachers' predictions to the training data, as a column `teacher` of each task that has a teacher.

    Teachers encode the texts with their own tokenizers and compute in the run's precision. The processes share the
    rows, and predictions are cached between runs (`teacher_cache.py`). Rows that the trainer's plan does not take are
    nan.

    Args:
        texts: task → the rows of text from which `trainer.train_dataset` was encoded, in the same order.

    Returns:
        Task → encoded rows with the column.

    Raises:
        ValueError: for teachers that do not suit the tasks (`check_members`), another number of rows, texts without a
            label in a task without a teacher, and predictions that are not finite.
    """
    from datasets import List, Value

    from ...evaluation.ensemble import check_members, load_member
    from .teacher_cache import teacher_logits

    taught = check_members(distillation.teachers, trainer.tasks)
    if refused := refused_by_type([task for task in trainer.tasks if task.name in taught], "distillation"):
        raise InputError(f"distillation.teachers {refused[0]}")
    plan, args = trainer.plan(), trainer.args
    sources = sources_of(trainer.train_dataset)
    numbers, shared = pool_numbers(list(trainer.task_ids), sources), {task for of in sources.values() for task in of}
    used = {name: plan.taken(numbers[name]) for name in taught}
    for name in taught:
        rows, encoded = len(texts[name]), len(trainer.train_dataset[name])
        if rows != encoded:
            raise InputError(f"task {name!r}: there are {rows} rows of text, but {encoded} to be trained on")
    for name in trainer.train_dataset.keys() - taught.keys() - shared:  # a text of a source may lack a label
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
    data = TaskSplits(trainer.train_dataset, sources)
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

    A row with a label and a teacher's prediction has the loss (1 − λ) · own + λ · distilled; a row with only one of
    them has that loss; a row with neither has 0.

    Args:
        settings: λ, T and the teachers.
    """

    section = "distillation"
    later: ClassVar[Mapping[str, Any]] = {"final_weight": None}
    changes_losses = True

    def attach(self, trainer: TaskTrainer) -> None:
        self._trainer, self.tasks = trainer, trainer.tasks
        self.teachers = [teacher_hash(folder) for folder in self.settings.teachers]

    def record(self) -> dict[str, Any]:
        return asdict(self.settings) | {"teachers": self.teachers}

    def columns_not_compared(self) -> Sequence[str]:
        """The teachers' predictions: their rounding depends on batches and processes, so their weights are compared."""
        return (TEACHER,) if None not in self.teachers else ()

    def prepare_data(self, trainer: TaskTrainer, texts: Mapping[str, Dataset]) -> None:
        """Ask the teachers about the training texts; see `add_targets`."""
        trainer.train_dataset = add_targets(self.settings, trainer, texts)

    def check_data(self, splits: Mapping[str, Dataset]) -> None:
        if not any(TEACHER in split.column_names for split in splits.values()):
            raise InputError(f"distillation: no task's rows have the column {TEACHER!r}; see distillation.add_targets")

    def change_rows(self, inputs: Mapping[str, Any], outputs: Any) -> None:
        targets = inputs.get(TEACHER, {})
        weight_now = self.settings.weight
        if self.settings.final_weight is not None:
            weight_now = self.settings.weight_at(self._trainer.state.global_step, self._trainer.state.max_steps)
        for task in self.tasks:
            if task.name not in outputs.row_losses or task.name not in targets:
                continue
            has_label, target = outputs.labelled[task.name], targets[task.name]
            has_target = target.isfinite().all(dim=-1)
            logits, target = outputs.task_logits[task.name], target.where(has_target[:, None], 0.5)
            distilled = distilled_losses(task, logits, target, self.settings.temperature)
            weight = torch.where(has_label, weight_now, 1.0).where(has_target, 0.0)
            outputs.row_losses[task.name] = (1 - weight) * outputs.row_losses[task.name] + weight * distilled
            outputs.labelled[task.name] = has_label | has_target
