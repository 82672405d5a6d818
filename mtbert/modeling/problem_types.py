"""The table of problem types: labels, losses, probabilities and decisions of each.

`TaskSpec.kind` is a task's entry. Other files use it and do not compare names of problem types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .errors import Problem
from .ordinal import log_probabilities, logits_of, ranks, row_losses
from .token_labels import REFUSES, EntityAnswers, WordUnits, token_problems, word_losses
from .units import ROWS, Units

TaskSpec: TypeAlias = Any  # of task_spec.py, which imports this table

IGNORED = -100  # a missing class label, as everywhere in transformers; a missing float label is nan


def _same(logits: Tensor) -> Tensor:
    return logits


def _no_problems(task: TaskSpec) -> list[Problem]:
    return []


@dataclass(frozen=True)
class ProblemType:
    """A problem type.

    Attributes:
        name: its name, as in `TaskSpec.problem_type`.
        losses: logits `(rows, num_labels)` in fp32, labels, and mask of labelled rows `(rows,)` → each row's loss
            `(rows,)`; the values of rows without a label are arbitrary.
        probabilities: logits `(rows, num_labels)` → each label's probability `(rows, labels)`; a regression's score
            `(rows,)`.
        decisions: logits `(rows, num_labels)` → class ids `(rows,)`, 0 and 1 `(rows, num_labels)`, or scores `(rows,)`.
        numeric: whether labels are scores, not classes.
        exclusive: whether a row has one class out of those that the logits tell apart.
        ordered: whether the classes have an order, so that a decision is a median.
        class_logits: of an exclusive type: logits `(…, num_labels)` → `(…, classes)`, whose softmax is the
            probabilities.
        logits_of: the inverse of `class_logits`, up to a constant for each row.
        several: whether a row may have several labels.
        label_dtype: type of checked labels.
        labels_are: description of a row's labels for error messages.
        units: what is labelled: the rows, or parts of them.
        problems: a task → what is wrong with it, beside what is checked for every type.
        refuses: key of a task, section of a recipe or name of a command that does not go with the type → the reason.
        answers: how predictions become answers (`labels`, `columns`, `column_types`, `served` and `shown`, each called
            with a Prediction or, for the types of columns, a task); None: a label with the probabilities of all, or a
            score.
        card: what an answer is, for a model card, with the number of labels as `{}`.
        result: an answer of the pipeline, for a model card.
        hub_task: the hub's name of such a task.
        plain: `to` of `extract_task` for a plain model of transformers.
    """

    name: str
    losses: Callable[[Tensor, Tensor, Tensor], Tensor]
    probabilities: Callable[[Tensor], Tensor]
    decisions: Callable[[Tensor], Tensor]
    numeric: bool = False
    exclusive: bool = False
    ordered: bool = False
    class_logits: Callable[[Tensor], Tensor] = _same
    logits_of: Callable[[Tensor], Tensor] = _same
    several: bool = False
    label_dtype: str = "int64"
    labels_are: str = "of 0 and 1"
    units: Units = ROWS
    problems: Callable[[TaskSpec], list[Problem]] = _no_problems
    refuses: Mapping[str, str] = field(default_factory=dict, hash=False)
    answers: Any = None
    card: str = "one of {} labels"
    result: str = '{"label": …, "score": …}'
    hub_task: str = "text-classification"
    plain: str = "sequence_classification"

    @property
    def lists_labels(self) -> bool:
        """Whether a row's labels are a list."""
        return self.several or self.units.dims > 1

    @property
    def with_article(self) -> str:
        """The name with its article, for messages."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"

    @property
    def binary(self) -> bool:
        """Whether one logit decides between two classes."""
        return not (self.numeric or self.exclusive or self.several)

    def logits(self, classes: int) -> int:
        """Number of logits of a task with this number of classes."""
        if not (self.exclusive or self.several):
            return 1
        return classes - 1 if self.ordered else classes


def _cross_entropy(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    target = torch.where(mask, labels, IGNORED).long()
    return nn.functional.cross_entropy(logits, target, ignore_index=IGNORED, reduction="none")


def _binary_cross_entropy(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    target = torch.where(mask, labels, 0).float()
    return nn.functional.binary_cross_entropy_with_logits(logits.squeeze(-1), target, reduction="none")


def known_mean(losses: Tensor, known: Tensor) -> Tensor:
    """Mean of each row's losses over its known labels: `(rows, labels)` and their mask → `(rows,)`; 0 without any."""
    count = known.sum(-1)
    of_known = torch.where(known, losses, 0.0).sum(-1) / count.clamp(min=1)
    return torch.where(count == known.shape[-1], losses.mean(-1), of_known)


def _mean_binary_cross_entropy(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    known = ~(labels.isnan() | (labels == IGNORED)) & mask[:, None]
    target = torch.where(known, labels, 0).float()
    losses = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return known_mean(losses, known)


def _squared_error(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    return nn.functional.mse_loss(logits.squeeze(-1), torch.where(mask, labels, 0).float(), reduction="none")


def _of_both_classes(logits: Tensor) -> Tensor:
    return torch.cat([-logits, logits], dim=1).sigmoid()  # more precise than 1 − p for small values


SINGLE_LABEL = ProblemType(
    "single_label_classification",
    losses=_cross_entropy,
    probabilities=lambda logits: logits.softmax(-1),
    decisions=lambda logits: logits.argmax(-1),
    exclusive=True,
    labels_are="one id a row",
)
BINARY = ProblemType(
    "binary_classification",
    losses=_binary_cross_entropy,
    probabilities=_of_both_classes,
    decisions=lambda logits: (logits[:, 0] > 0).long(),
)
REGRESSION = ProblemType(
    "regression",
    losses=_squared_error,
    probabilities=lambda logits: logits[:, 0],
    decisions=lambda logits: logits[:, 0],
    numeric=True,
    label_dtype="float32",
    labels_are="one score a row",
    card="a score",
    result='{"score": …}',
)
MULTI_LABEL = ProblemType(
    "multi_label_classification",
    losses=_mean_binary_cross_entropy,
    probabilities=torch.sigmoid,
    decisions=lambda logits: (logits > 0).long(),
    several=True,
    label_dtype="float32",
    card="any of {} labels",
)
ORDINAL = ProblemType(
    "ordinal_classification",
    losses=row_losses,
    probabilities=lambda logits: log_probabilities(logits).exp(),
    decisions=ranks,
    exclusive=True,
    ordered=True,
    class_logits=log_probabilities,
    logits_of=logits_of,
    labels_are="one id a row",
    card="one of {} labels, in their order",
)
TOKEN = ProblemType(
    "token_classification",
    losses=word_losses,
    probabilities=lambda logits: logits.softmax(-1),
    decisions=lambda logits: logits.argmax(-1),
    exclusive=True,
    labels_are="an id for each token, -100 for those that have none",
    units=WordUnits(),
    problems=token_problems,
    refuses=REFUSES,
    answers=EntityAnswers(),
    card="for each word one of {} labels",
    result='[{"entity": …, "word": …, "start": …, "end": …, "score": …}, …]',
    hub_task="token-classification",
    plain="token_classification",
)
PROBLEM_TYPES = {kind.name: kind for kind in (SINGLE_LABEL, BINARY, REGRESSION, MULTI_LABEL, ORDINAL, TOKEN)}


def refused_by_type(tasks: Iterable[TaskSpec], section: str) -> list[str]:
    """Messages on the tasks whose problem type does not go with a section of a recipe (`ProblemType.refuses`)."""
    named = [(task, task.kind.refuses[section]) for task in tasks if section in task.kind.refuses]
    return [f"would include task {task.name!r}, {task.kind.with_article}: {reason}" for task, reason in named]
