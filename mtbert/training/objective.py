"""Per-task training losses of a micro-batch: the tasks' settings, the methods' changes, logged means.

Evaluation does not use them: its losses are plain means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

from ..data.collation import NOT_INPUTS, label_array
from ..data.sampling import Schedule
from ..errors import Problem
from ..modeling.display import brief
from ..modeling.heads import known_labels, labelled
from ..modeling.limits import limit_problems
from ..modeling.modeling_mtbert import MtBertForMultiTask, MtBertOutput
from ..modeling.problem_types import IGNORED, known_mean
from ..modeling.task_spec import TaskSpec
from .methods import task_losses
from .methods.base import Method
from .methods.task_losses import COSINE, FOCAL, LOSSES, SMOOTH_L1, loss_problems

BALANCED = "balanced"


@dataclass(frozen=True)
class TaskTraining:
    """How one task is trained; the checkpoint does not depend on these settings.

    Attributes:
        weight: w_t, the factor on the task's loss, positive.
        batch_size: rows of this task in each step that holds it; None: the run's.
        examples_per_epoch: N_t, the number of rows that an epoch takes at random from this task; None: all.
        metric: the main metric, which enters the averages; None: accuracy, f1_micro, qwk or pearson, by type.
        learning_rate: learning rate in steps of this task, positive; the rates of all parts of the model are multiplied
            by its ratio to the run's. Needs `optimizer.per_task`. None: the run's.
        weight_decay: weight decay in steps of this task, 0 or more; needs `optimizer.per_task`. None: the run's.
        class_weights: a number for each class, the factor on the losses of its rows (for a multi-label task on each
            label's positives); only the ratios matter, because they are scaled to a mean of 1 over the training labels.
            `balanced`: inverse to the classes' frequencies. Evaluations and the logged `loss_<task>` are without them.
        label_smoothing: s in [0, 1), the share of the target that is spread over all classes; evaluations and the
            logged `loss_<task>` are without it.
        balanced: draw every class of the task equally often.
        loss: loss in training; evaluations and the logged `loss_<task>` keep that of the problem type. `focal` for
            classifications (Lin et al., 2017; `class_weights` are its α). For regressions `smooth_l1`; `cosine`, for
            cosine heads: the squared error of the cosine to the score scaled to [0, 1], CosineSimilarityLoss of
            sentence-transformers; `correlation`: 1 − Pearson's correlation over the task's rows of a step. None: the
            problem type's own.
        focal_gamma: γ of `focal`, 0 or more; rows of which the model is sure count the less, the larger it is.
        smooth_l1_beta: β of `smooth_l1`, 0 or more, in units of the scores: smaller errors are squared, larger ones
            not; 0 is the absolute error.
    """

    weight: float = 1.0
    batch_size: int | None = None
    examples_per_epoch: int | None = None
    metric: str | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    class_weights: tuple[float, ...] | str | None = None
    label_smoothing: float = 0.0
    balanced: bool = False
    loss: str | None = None
    focal_gamma: float = 2.0
    smooth_l1_beta: float = 1.0

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid field."""
        problems = []
        if self.weight <= 0:
            problems.append(
                Problem(("weight",), f"is {self.weight}, but must be positive; to leave a task out, drop it")
            )
        for key in ("batch_size", "examples_per_epoch"):
            value = getattr(self, key)
            if value is not None and value < 1:
                problems.append(Problem((key,), f"is {value}, but must be 1 or more"))
            problems += limit_problems((key,), "batch_rows" if key == "batch_size" else "epoch_rows", value or 0)
        if self.learning_rate is not None and self.learning_rate <= 0:
            problems.append(Problem(("learning_rate",), f"is {self.learning_rate}, but must be positive"))
        if self.weight_decay is not None and self.weight_decay < 0:
            problems.append(Problem(("weight_decay",), f"is {self.weight_decay}, but must be 0 or more"))
        weights = self.class_weights
        if isinstance(weights, str) and weights != "balanced":
            problems.append(
                Problem(("class_weights",), f"is {brief(weights)}, but must be a list of numbers or balanced")
            )
        if isinstance(weights, tuple | list) and min(weights, default=0) <= 0:
            shown = brief(list(weights))
            problems.append(Problem(("class_weights",), f"is {shown}, but must have positive numbers only"))
        if not 0 <= self.label_smoothing < 1:
            problems.append(
                Problem(("label_smoothing",), f"is {self.label_smoothing}, but must be 0 or more and below 1")
            )
        return [*problems, *self._loss_problems()]

    def _loss_problems(self) -> list[Problem]:
        problems = []
        if self.loss is not None and self.loss not in LOSSES:
            problems.append(Problem(("loss",), f"is {brief(self.loss)}, but must be one of: {', '.join(LOSSES)}"))
        if self.loss == FOCAL and self.label_smoothing:
            reason = f"is {self.label_smoothing}, but loss is focal, which takes one label a row; drop one of them"
            problems.append(Problem(("label_smoothing",), reason))
        for key, loss, default in (("focal_gamma", FOCAL, 2.0), ("smooth_l1_beta", SMOOTH_L1, 1.0)):
            value = getattr(self, key)
            if not value >= 0:
                problems.append(Problem((key,), f"is {value}, but must be 0 or more"))
            elif value != default and self.loss != loss:
                problems.append(Problem((key,), f"is {value}, but is for loss: {loss}; set that, or drop it"))
        return problems


def check_losses(task: TaskSpec, settings: TaskTraining) -> list[Problem]:
    """Return a `Problem` for each setting that does not suit the task's problem type."""
    problems, weights = loss_problems(task, settings.loss), settings.class_weights
    for entry in fields(TaskTraining):
        value, reason = getattr(settings, entry.name), task.kind.refuses.get(entry.name)
        if reason and value != entry.default:
            problems.append(Problem((entry.name,), f"is {brief(value)}, but {reason}"))
    if task.kind.numeric:
        for key, is_set in (
            ("class_weights", weights is not None),
            ("label_smoothing", settings.label_smoothing > 0),
            ("balanced", settings.balanced),
        ):
            if is_set:
                problems.append(Problem((key,), f"is {getattr(settings, key)}, but a regression has no classes"))
        return problems
    if isinstance(weights, tuple | list):
        expected = len(task.classes)
        if len(weights) != expected:
            problems.append(Problem(("class_weights",), f"has {len(weights)} numbers, but must have {expected}"))
    if settings.balanced and task.kind.several:
        problems.append(Problem(("balanced",), "is true, but a row of a multi-label task is in no single class"))
    return problems


def class_weights(task: TaskSpec, given: tuple[float, ...] | str, labels: np.ndarray) -> np.ndarray:
    """Class weights, scaled to a mean of 1 over the training labels, so that the loss keeps its scale.

    Args:
        given: a number for each class; for a multi-label task a factor on the positives of each label (torch's
            `pos_weight`); or `balanced`: n / (K n_c), K the number of classes that occur, as in scikit-learn.
        labels: the training labels, `(rows,)`, or `(rows, num_labels)` of 0 and 1; missing ones are left out.

    Returns:
        `(classes,)`; for a multi-label task `(num_labels, 2)`: each label's weight of 0 and of 1.
    """
    present = labels[labelled(task, torch.from_numpy(labels)).numpy()]
    if task.kind.several:
        known = known_labels(task, torch.from_numpy(present)).numpy()
        pairs = np.ones((task.num_labels, 2))
        if given != BALANCED:
            pairs[:, 1] = given
        else:
            for label, column in enumerate(present.T):
                weights = _balanced(column[known[:, label]].astype(np.int64), 2)
                pairs[label, 1] = weights[1] / weights[0]
        chosen = pairs[np.arange(task.num_labels), np.where(known, present, 0).astype(np.int64)]
        return pairs / chosen[known].mean() if present.size else pairs
    present = present.astype(np.int64)
    count = len(task.classes)
    weights = _balanced(present, count) if given == BALANCED else np.asarray(given, dtype=np.float64)
    return weights / weights[present].mean() if present.size else weights


def _balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """scikit-learn's balanced weights `(count,)`; 1 for classes that do not occur."""
    weights, occurring = np.ones(count), np.unique(labels)
    if occurring.size:
        weights[occurring] = compute_class_weight(BALANCED, classes=occurring, y=labels)
    return weights


def row_losses(task: TaskSpec, logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    """Each row's cross-entropy in fp32 with weighted classes and smoothed labels, 0 where the label is missing.

    As in `torch.nn.functional.cross_entropy`: −Σ_c w_c t_c log p_c with t_c = (1 − s) [c = y] + s / K. A binary task
    with one logit z has the class logits 0 and z; the loss of a multi-label row is the mean of that over its labels; an
    ordinal task has the probabilities p_c of its K classes.

    Args:
        logits: `(rows, num_labels)`.
        labels: `(rows,)`, or `(rows, num_labels)` for a multi-label task.
        weights: the result of `class_weights`; None: 1.
        smoothing: s, in [0, 1).
    """
    mask, logits = labelled(task, labels), logits.float()
    weights = None if weights is None else weights.to(logits)
    if task.kind.exclusive:
        target = torch.where(mask, labels, IGNORED).long()
        return nn.functional.cross_entropy(
            task.kind.class_logits(logits),
            target,
            weights,
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=smoothing,
        )
    several = task.kind.several
    known = known_labels(task, labels)
    hard = torch.where(known, labels, 0).float()
    soft = hard * (1 - smoothing) + smoothing / 2
    z = logits if several else logits.squeeze(-1)
    of_zero, of_one = (1.0, 1.0) if weights is None else weights.unbind(-1)
    losses = -of_one * soft * nn.functional.logsigmoid(z) - of_zero * (1 - soft) * nn.functional.logsigmoid(-z)
    return torch.where(mask, known_mean(losses, known) if several else losses, 0.0)


def training_losses(
    task: TaskSpec, logits: Tensor, labels: Tensor, weights: Tensor | None, settings: TaskTraining
) -> Tensor:
    """Each row's loss in training in fp32, by the settings; 0 where the label is missing: `(rows,)`.

    Args:
        logits: `(rows, num_labels)`; a regression's are on its scale.
        labels: `(rows,)`, or `(rows, num_labels)` for a multi-label task.
        weights: the result of `class_weights`; None: 1.
    """
    if settings.loss is None:
        return row_losses(task, logits, labels, weights, settings.label_smoothing)
    mask, logits = labelled(task, labels), logits.float()
    known = known_labels(task, labels)
    filled = torch.where(known, labels, 0).float()
    scores = logits.squeeze(-1)
    if settings.loss == FOCAL:
        weights = None if weights is None else weights.to(logits)
        losses = task_losses.focal(task, logits, filled, weights, settings.focal_gamma, known)
    elif settings.loss == SMOOTH_L1:
        losses = task_losses.smooth_l1(scores, filled, settings.smooth_l1_beta)
    elif settings.loss == COSINE:
        losses = task_losses.cosine(scores, filled, *(task.range or (0.0, 1.0)))
    else:
        losses = task_losses.correlation(scores, filled, mask)
    return torch.where(mask, losses, 0.0)


def counted(inputs: Mapping[str, Any]) -> Tensor:
    """The tasks' rows in a micro-batch that count, `(tasks,)`; rows and labels `(2, tasks)` if a task labels parts."""
    return torch.stack([inputs["labelled"], inputs["units"]]) if "units" in inputs else inputs["labelled"]


class StepLosses:
    """Each task's part of a step's loss in a micro-batch, with the sums that are logged.

    Args:
        model: the trained model, unwrapped.
        settings: task name → training settings.
        schedule: with `simultaneous`, a task's loss is divided by the step's rows of that task; otherwise by all rows
            of the step.
        methods: the training methods, which change the losses in their order.
        device: the model's.

    Attributes:
        class_weights: task → class weights, for tasks that have some.
        steps: number of steps begun since `forget`; the same on every process.
    """

    def __init__(
        self,
        model: MtBertForMultiTask,
        settings: Mapping[str, TaskTraining],
        schedule: Schedule,
        methods: Iterable[Method],
        device: torch.device,
    ):
        self.model, self.tasks, self.settings = model, model.tasks, settings
        self.own_means, self.methods = schedule.name == "simultaneous", tuple(methods)
        self.weights = torch.tensor([settings[task.name].weight for task in self.tasks], device=device)
        self.class_weights: dict[str, Tensor] = {}
        self._numbers = {task.name: number for number, task in enumerate(self.tasks)}
        self.forget()

    def weigh_classes(self, splits: Mapping[str, Dataset]) -> None:
        """Set the class weights from the settings and the labels of the training data."""
        for task in self.tasks:
            given = self.settings[task.name].class_weights
            if given is not None and task.name in splits:
                weights = class_weights(task, given, label_array(splits[task.name]))
                tensor = torch.tensor(weights, dtype=torch.float32, device=self.weights.device)
                self.class_weights[task.name] = tensor

    def __call__(
        self, model: nn.Module, inputs: Mapping[str, Any], counts: Tensor
    ) -> tuple[dict[str, Tensor], MtBertOutput]:
        """w_t c_t mean_t of each task in a micro-batch, by name, and the model's outputs.

        mean_t is over the task's rows of the whole step that have a label or a teacher's prediction, or over their
        labelled parts; c_t = n_t / n in rows, or 1 with the schedule `simultaneous`. The methods change the loss of
        each row, or part, and of each task.

        Args:
            model: the model, wrapped for several processes if there are any.
            counts: `(tasks,)`, the rows of the whole step that count; or `(2, tasks)`, their labels, too (`counted`).
        """
        for method in self.methods:
            method.before_forward(inputs)
        outputs, changed = self.forward(model, inputs)
        for method in self.methods:
            method.change_rows(inputs, changed)
        scales = self._scales(counts)
        units = inputs.get("units", inputs["labelled"])
        losses = {}
        for name, row_loss in changed.row_losses.items():
            number, total = self._numbers[name], row_loss.sum()
            for method in self.methods:
                total = method.task_loss(name, total, units[number])
            losses[name] = scales[number] * total
        return losses, outputs

    def _scales(self, counts: Tensor) -> Tensor:
        """w_t c_t / number of labels of each task in the step, `(tasks,)`."""
        if counts.dim() == 1:  # a row has one label
            rows = counts if self.own_means else counts.sum()
            return self.weights / rows.clamp(min=1).expand_as(self.weights)
        rows, units = counts
        shares = torch.ones_like(rows) if self.own_means else rows / rows.sum().clamp(min=1)
        return self.weights * shares / units.clamp(min=1)

    def forward(self, model: nn.Module, inputs: Mapping[str, Any]) -> tuple[MtBertOutput, Any]:
        """The outputs of one pass, and a copy of them whose row losses are those of the tasks' settings."""
        passed = {key: value for key, value in inputs.items() if key not in NOT_INPUTS}
        outputs = model(**passed, return_dict=True)
        losses = dict(outputs.row_losses or {})
        for name, settings in self.settings.items():
            weights = self.class_weights.get(name)
            if name in losses and (settings.loss or settings.label_smoothing or weights is not None):
                task, logits = self.tasks[self._numbers[name]], outputs.task_logits[name]
                losses[name] = training_losses(task, logits, inputs["labels"][name], weights, settings)
        return outputs, replace(outputs, row_losses=losses, labelled=dict(outputs.labelled or {}))

    # ---- the log ----

    def note(self, inputs: Mapping[str, Any], outputs: Any) -> None:
        """Add a micro-batch's rows and losses to the sums that are logged next."""
        for name, rows in outputs.row_losses.items():
            self._sums[self._numbers[name]] += rows.detach().sum()
            self._labelled[self._numbers[name]] += outputs.labelled[name].sum()
        self._counts += inputs["labelled"]

    def forget(self) -> None:
        """Set the sums and the number of steps to 0."""
        self.steps = 0
        self._sums = torch.zeros(len(self.tasks), device=self.weights.device)
        self._counts = torch.zeros(len(self.tasks), device=self.weights.device)
        self._labelled = torch.zeros(len(self.tasks), device=self.weights.device)

    def sums(self) -> dict[str, Tensor]:
        """The sums since `forget`, from which `logs` computes its means."""
        return {"losses": self._sums, "labelled": self._labelled, "rows": self._counts}

    def add_sums(self, sums: Mapping[str, Tensor]) -> None:
        """Add the sums of a checkpoint."""
        for name, total in self.sums().items():
            total += sums[name].to(total.device)

    def logs(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Each task's rows (`examples_<task>`) and mean loss (`loss_<task>`) since `forget`.

        The loss is the mean over labelled rows, before any method changes it.

        Args:
            reduce: sums a tensor over all processes.
        """
        logs: dict[str, float] = {}
        sums = reduce(torch.stack([self._sums, self._labelled, self._counts])).tolist()
        for task, loss, labelled_rows, count in zip(self.tasks, *sums, strict=True):
            logs[f"examples_{task.name}"] = int(count)
            if labelled_rows:
                logs[f"loss_{task.name}"] = loss / labelled_rows
        return logs
