"""Task heads: logits from pooled encoder outputs, and each row's loss from its logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .errors import InputError
from .own_parts import HEADS as own_heads, put
from .problem_types import IGNORED
from .task_spec import HEADS, HeadSpec, TaskSpec

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "identity": nn.Identity}


def _hidden_layers(spec: HeadSpec, input_size: int, hidden_size: int) -> tuple[list[nn.Module], int]:
    layers: list[nn.Module] = []
    for _ in range(spec.layers):
        layers += [nn.Linear(input_size, hidden_size), _ACTIVATIONS[spec.activation]()]
        input_size = hidden_size
    if spec.dropout:
        layers.append(nn.Dropout(spec.dropout))
    return layers, input_size


def pair_features(u: Tensor, v: Tensor, features: str) -> Tensor:
    """Join the pooled outputs `(rows, hidden)` of two texts to `(rows, parts · hidden)`, by `HeadSpec.features`."""
    parts = {"u": u, "v": v, "|u-v|": (u - v).abs(), "u*v": u * v}
    return torch.cat([parts[name] for name in features.split(";")], dim=-1)


class ClassificationHead(nn.Module):
    """Head: dropout, concatenation of a pair's pooled outputs, hidden layers (none for `linear`), an output layer.

    Input: pooled outputs `(sequences, hidden)`; those of a row follow each other: first text, second text, both texts
    in one input. Output: `(rows, num_labels)`.
    """

    def __init__(self, task: TaskSpec, hidden_size: int):
        super().__init__()
        self.sequences, self.features = task.num_sequences, task.head.features
        self.dropout = nn.Dropout(task.dropout)
        parts = task.head.features.count(";") + task.num_sequences - 1 if task.apart else 1
        input_size = hidden_size * parts
        layers, last = _hidden_layers(task.head, input_size, task.head.hidden_size or hidden_size)
        self.layers = nn.Sequential(*layers)
        self.out_proj = nn.Linear(last, task.num_labels)

    def forward(self, pooled: Tensor) -> Tensor:
        pooled = self.dropout(pooled)
        if self.sequences > 1:
            u, v, *in_one = pooled.unflatten(0, (-1, self.sequences)).unbind(1)
            pooled = torch.cat([pair_features(u, v, self.features), *in_one], dim=-1)
        return self.out_proj(self.layers(pooled))


class CosineHead(nn.Module):
    """Head: cosine of a Siamese pair after `layers` shared linear layers on each side (report C).

    Input: `(2 · rows, hidden)`; the two outputs of a pair follow each other. Output: `(rows, 1)`, in [-1, 1], or in
    [0, 1] with the output `relu`.
    """

    def __init__(self, task: TaskSpec, hidden_size: int):
        super().__init__()
        self.dropout = nn.Dropout(task.dropout)
        layers, _ = _hidden_layers(task.head, hidden_size, task.head.hidden_size or hidden_size)
        self.layers = nn.Sequential(*layers)
        self.relu = task.head.output == "relu"

    def forward(self, pooled: Tensor) -> Tensor:
        u, v = self.layers(self.dropout(pooled)).unflatten(0, (-1, 2)).unbind(1)
        cosine = nn.functional.cosine_similarity(u, v, dim=-1).unsqueeze(-1)
        return cosine.relu() if self.relu else cosine


class AttentionHead(nn.Module):
    """Head: the pooled output attends over the row's own hidden states, then a `ClassificationHead` (report D).

    Inputs: pooled `(rows, hidden)`, states `(rows, length, hidden)`, mask `(rows, length)`, true on real tokens.
    Output: `(rows, num_labels)`.
    """

    reads_states = True

    def __init__(self, task: TaskSpec, hidden_size: int):
        super().__init__()
        if hidden_size % task.head.attention_heads:
            fitting = [n for n in range(1, hidden_size + 1) if hidden_size % n == 0]
            nearest = sorted(fitting, key=lambda n: abs(n - task.head.attention_heads))[:2]
            raise InputError(
                f"task {task.name!r}: head.attention_heads is {task.head.attention_heads}, which does not divide the "
                f"encoder's width {hidden_size}; the nearest that do: {sorted(nearest)}"
            )
        self.attention = nn.MultiheadAttention(hidden_size, task.head.attention_heads, batch_first=True)
        self.classifier = ClassificationHead(task, hidden_size)

    def forward(self, pooled: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        context, _ = self.attention(pooled.unsqueeze(1), states, states, key_padding_mask=~mask, need_weights=False)
        return self.classifier(context.squeeze(1))


_TYPES = {"linear": ClassificationHead, "mlp": ClassificationHead, "attention": AttentionHead, "cosine": CosineHead}


def make_head(task: TaskSpec, hidden_size: int) -> nn.Module:
    """Make the head of a task for an encoder of this width."""
    return {**_TYPES, **own_heads}[task.head.type](task, hidden_size)


def register_head(name: str, head: Callable[[TaskSpec, int], nn.Module]) -> None:
    """Register a head of your own as `head.type: name`, for Python, recipes and checkpoints.

    To load a checkpoint with such a head, register the name first.

    Args:
        head: a module class, called with (task, width of the encoder). Its forward takes the pooled outputs
            `(sequences, width)`, and returns logits `(rows, num_labels)`. If the class has the attribute
            `reads_states = True`, forward also takes the hidden states `(rows, length, width)` and their mask
            `(rows, length)`, true on real tokens.

    Raises:
        InputError: if the name is taken.
    """
    put(own_heads, name, head, "head", HEADS)


def to_scores(task: TaskSpec, logits: Tensor) -> Tensor:
    """Scale a regression's logits, after a sigmoid or a cosine, to its range; return other logits unchanged."""
    if not task.kind.numeric or task.range is None:
        return logits
    low, high = task.range
    if task.head.output == "sigmoid":
        return low + (high - low) * logits.sigmoid()
    if task.head.type == "cosine":
        return low + (high - low) * logits
    return logits


def as_labels(task: TaskSpec, labels: Tensor, rows: int | tuple[int, ...], check_values: bool = True) -> Tensor:
    """Check labels of a task and convert them to the form that `row_losses` takes.

    Args:
        labels: ids, 0 and 1, or scores: `(rows,)` or `(rows, 1)`; `(rows, num_labels)` for a multi-label task. Ids may
            be floats. A missing label is -100 or nan; but the float -100 is a score if the task's range includes it, or
            if the task has no range.
        rows: number of rows; for a task that labels parts of rows the shape of these units, such as `(tokens,)`, which
            is then the labels' shape.
        check_values: False: check the shape only, which does not wait for a device.

    Returns:
        Ids int64 `(rows,)`, missing ones -100; else floats `(rows,)` or `(rows, num_labels)`, missing ones nan.

    Raises:
        ValueError: for another shape, and for values that are no labels of the task.
    """
    where, kind = f"labels of task {task.name!r}", task.kind
    units = rows if isinstance(rows, tuple) else (rows,)
    shape = (*units, task.num_labels) if kind.several else units
    accepted = {shape}
    if kind.several and task.num_labels == 1:
        accepted.add(units)
    elif not kind.several and kind.units.dims == 1:
        accepted.add((*units, 1))
    if tuple(labels.shape) not in accepted:
        raise InputError(f"{where} have shape {tuple(labels.shape)}, but must have {shape}, {kind.labels_are}")
    if labels.is_complex():
        raise InputError(f"{where} are {labels.dtype}, but must be real numbers")
    labels = labels.reshape(shape)
    low, high = task.range or (-math.inf, math.inf)
    values = labels if labels.is_floating_point() else labels.float()
    if not kind.numeric or not labels.is_floating_point() or not low <= IGNORED <= high:
        values = torch.where(values == IGNORED, math.nan, values)
    if check_values:
        allowed = "be finite"
        if kind.numeric:  # scores beyond the range are allowed
            wrong = values.isinf()
        elif kind.exclusive:
            allowed = f"be whole numbers from 0 to {len(task.classes) - 1}"
            wrong = (values < 0) | (values >= len(task.classes)) | (values != values.floor())
        else:
            allowed, wrong = "be 0 or 1", (values != 0) & (values != 1)
        wrong &= ~values.isnan()
        if wrong.any():
            first = f"{labels[wrong][0].item():g} in row {wrong.nonzero()[0, 0].item()}"
            raise InputError(f"{where} have {first}, but must {allowed}; a missing one is {IGNORED} or nan")
    if kind.exclusive:
        return torch.where(values.isnan(), IGNORED, values).long()
    return values


def known_labels(task: TaskSpec, labels: Tensor) -> Tensor:
    """Mask of the labels that are not missing, in their shape. A missing one is -100, or nan if labels are floats."""
    missing = labels.isnan() if labels.is_floating_point() else labels == IGNORED
    if labels.is_floating_point() and not task.kind.numeric:
        missing = missing | (labels == IGNORED)
    return ~missing


def labelled(task: TaskSpec, labels: Tensor) -> Tensor:
    """Mask of the rows that have a label, `(rows,)` bool; of a multi-label task at least one."""
    known = known_labels(task, labels)
    return known.any(dim=-1) if task.kind.several else known


def row_losses(task: TaskSpec, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's loss in fp32, 0 where the label is missing, and the mask of labelled rows; both `(rows,)`.

    The loss is cross-entropy, binary cross-entropy on one logit, its mean over the labels that are known, the squared
    error, or that of `ordinal.row_losses`, by problem type.

    Args:
        logits: `(rows, num_labels)`; a regression's are on its scale already (`to_scores`).
        labels: `(rows,)`, or `(rows, num_labels)` of 0 and 1 for a multi-label task.
    """
    mask = labelled(task, labels)
    return torch.where(mask, task.kind.losses(logits.float(), labels, mask), 0.0), mask
