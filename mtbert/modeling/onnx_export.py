"""Export a model to ONNX: one graph for padded inputs, with every task's head.

The graph's inputs are `input_ids`, `attention_mask` and (if the encoder has them) `token_type_ids`, int64
`(sequences, length)`, padded on the right; both dimensions are dynamic. Its outputs are the logits `(rows, num_labels)`
of each task, named `<task>`; a regression's scores are on their scale. A row of a Siamese task is two sequences, one
after the other (three for `pair: both`); a row of any other task is one sequence. A task that labels tokens has
logits `(sequences, length, num_labels)`. One call computes all tasks.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import AdapterPass
from .configuration_mtbert import TaskSpec
from .encoder_call import call_encoder
from .encoder_support import depends_on_padding, first_position, pool, position_ids
from .errors import InputError
from .forward_arguments import task_names
from .heads import to_scores
from .task_model import TaskModel
from .tokenization import has_token_types

OPSET = 18

# What PyTorch's exporter says of every model, and no user can change.
_EXPECTED_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"# The axis name: \w+ will not be used, since it shares the same shape constraints",
)
_EXPECTED_LOG = ("torch.onnx._internal.exporter._registration", "torchvision is not installed. Skipping ")

_PADDED = "a graph takes padded inputs, and this family's states change with padding"
_NOT_EXPORTED = {"longformer": "its layers look at the values of the attention mask, which a graph can not"}


@dataclass(frozen=True)
class PaddedLayout:
    """Takes the place of a PackedLayout for adapters on padded states `(sequences · length, d_m)`.

    Attributes:
        mask: `(sequences, length)`, true on real tokens.
    """

    mask: Tensor

    @property
    def starts(self) -> Tensor:
        """`(sequences,)`, index of each sequence's first token."""
        count, length = self.mask.shape
        return torch.arange(count, device=self.mask.device) * length

    def firsts(self) -> PaddedLayout:
        """The layout of the first tokens, each as a sequence of its own."""
        return PaddedLayout(self.mask[:, :1])

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Scaled dot-product attention of each sequence over itself, `(tokens, heads, size)` each."""
        q, k, v = (projection.unflatten(0, self.mask.shape).transpose(1, 2) for projection in (query, key, value))
        length = self.mask.shape[1]
        mask = self.mask[:, None, None, :].expand(-1, -1, length, -1)  # onnxruntime's attention takes whole masks only
        return nn.functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(0, 1)


class PaddedModel(nn.Module):
    """The forward pass of `MtBertForMultiTask` on padded inputs, without control flow that depends on their values.

    Args:
        model: the model; its modules are shared, not copied.
        tasks: names of the tasks; with adapters, one.
    """

    def __init__(self, model: TaskModel, tasks: Sequence[str]):
        super().__init__()
        self.model, self.tasks = model, [model.tasks[model.task_id(name)] for name in tasks]
        # first value of the encoder's table of position ids; None: it computes the ids from the tokens
        self.table_begins: int | None = 0 if first_position(model.encoder.config) else None
        if not (torch.compiler.is_exporting() or torch.jit.is_tracing()):  # a graph cannot read a table's values
            tables = [int(b.flatten()[0]) for name, b in model.encoder.named_buffers() if name.endswith("position_ids")]
            self.table_begins = max([0, *tables])  # 2 for MRA

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Logits `(rows, num_labels)` of each task."""
        model, mask = self.model, attention_mask.bool()
        name = self.tasks[0].name
        adapter = model.adapters[name] if name in model.adapters else None  # noqa: SIM401 (a ModuleDict has no get)
        layout: Any = PaddedLayout(mask)
        whole: Any = (0, None)
        adapters = None if adapter is None else AdapterPass(((adapter, whole, layout),))
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        if self.table_begins is not None and "position_ids" in signature(model.encoder.forward).parameters:
            # The encoder would slice its table, and quantisers take the end of the table for a limit of the length.
            places = torch.ones_like(input_ids).cumsum(1) - 1
            inputs["position_ids"] = position_ids(model.encoder.config, input_ids, places) + self.table_begins
        states = call_encoder(model.encoder, inputs, adapters=adapters).last_hidden_state
        if adapter is not None:
            states = adapter.on_top(states.flatten(0, 1), layout).view_as(states)
        return tuple(self._logits(task, states, mask) for task in self.tasks)

    def _logits(self, task: TaskSpec, states: Tensor, mask: Tensor) -> Tensor:
        if task.kind.units.reads_tokens:
            return to_scores(task, self.model.heads[task.name](states))
        real = mask.unsqueeze(-1)
        if task.pooling == "cls":
            pooled = states[:, 0]
        elif task.pooling == "pooler":
            pooled = pool(self.model.encoder, states[:, 0])
        elif task.pooling == "mean":
            pooled = (states * real).sum(1) / real.sum(1)
        else:
            pooled = states.masked_fill(~real, torch.finfo(states.dtype).min).amax(1)
        if task.num_sequences > 1:  # drop an incomplete row, so that the graph takes any number of sequences
            pooled = pooled[: pooled.shape[0] // task.num_sequences * task.num_sequences]
        head = self.model.heads[task.name]
        if getattr(head, "reads_states", False):
            return to_scores(task, head(pooled, states, mask))
        return to_scores(task, head(pooled))


def traced_logits(
    model: TaskModel, inputs: Mapping[str, Any], names: Sequence[str], **others: Any
) -> dict[str, Tensor]:
    """Each task's logits, computed so that `torch.export` and `torch.jit.trace` make a graph for all inputs.

    Args:
        inputs: arguments of `PaddedModel.forward`.
        names: names of the tasks.
        others: arguments of the model's `forward` that such a graph does not support; they must be None.

    Raises:
        ValueError: if one of `others` is not None; for no task, and for several tasks of a model with adapters.
    """
    if odd := [name for name, value in others.items() if value is not None]:
        raise InputError(f"a graph of the model has no place for {odd}; give input_ids, attention_mask and tasks")
    if not names:
        raise InputError("give tasks: this model has several")
    _check_adapters(model, names)
    if inputs["attention_mask"] is None:
        inputs = {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}
    return dict(zip(names, PaddedModel(model, names)(**inputs), strict=True))


def _check_adapters(model: TaskModel, names: Sequence[str]) -> None:
    if len(names) > 1 and any(name in model.adapters for name in names):
        raise InputError(
            f"tasks is {names}, but adapters give each task an encoder of its own; export one task at a time"
        )


@contextmanager
def _without_expected_messages() -> Iterator[None]:
    """Hide the warnings and log lines of PyTorch's exporter that say nothing about the model, and no others."""
    name, beginning = _EXPECTED_LOG
    logger = logging.getLogger(name)
    hide = lambda record: not record.getMessage().startswith(beginning)  # noqa: E731 (removed below)
    logger.addFilter(hide)
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.removeFilter(hide)


def refuse_family(model: TaskModel) -> None:
    """Raise InputError, with the reason, if models of this family of encoders cannot be exported."""
    kind = model.config.encoder.model_type
    reason = _NOT_EXPORTED.get(kind) or (depends_on_padding(model.config.encoder) and _PADDED)
    if reason:
        raise InputError(f"{kind!r} can not be exported: {reason}; predict with torch, or train another encoder")


def export_onnx(
    model: TaskModel,
    file: str | os.PathLike[str],
    tasks: str | Sequence[str] | None = None,
    opset: int = OPSET,
) -> list[str]:
    """Write a model as one ONNX file.

    Args:
        model: the model; with adapters, only one task can be exported at a time.
        file: the file to write; weights beyond 2 GB go into `<file>.data` beside it.
        tasks: a name, several names, or `"all"`; None: all.
        opset: version of ONNX's operators; from 23 on a graph has one operator for the whole of attention.

    Returns:
        The names of the graph's outputs, in the order of the tasks: the names of the tasks, or `NAME_logits` for a task
        that has the name of an input.

    Raises:
        ImportError: without the packages of `pip install 'mtbert[onnx]'`.
        ValueError: for several tasks of a model with adapters, and for an encoder that cannot be exported.
    """
    names = task_names("all" if tasks is None else tasks, model.tasks)
    _check_adapters(model, names)
    refuse_family(model)
    padded = PaddedModel(model, names)
    inputs = {"input_ids": torch.ones(4, 8, dtype=torch.long), "attention_mask": torch.ones(4, 8, dtype=torch.long)}
    inputs["attention_mask"][1:, 5:] = 0
    if model._accepts_types and has_token_types(model.config.encoder):
        inputs["token_type_ids"] = torch.zeros(4, 8, dtype=torch.long)
    inputs = {key: value.to(model.device) for key, value in inputs.items()}
    dynamic = {0: torch.export.Dim("sequences"), 1: torch.export.Dim("length")}
    was_training = model.training
    try:
        with _without_expected_messages():
            program: Any = torch.onnx.export(
                padded.eval(),
                (),
                kwargs=inputs,
                input_names=list(inputs),
                dynamic_shapes=dict.fromkeys(inputs, dynamic),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many types, with messages of many lines
        first_line = str(error.__cause__ or error).strip().partition("\n")[0]
        kind = model.config.encoder.model_type
        raise InputError(f"{kind!r} can not be exported: {first_line}; predict with torch") from error
    finally:
        model.train(was_training)
    outputs = [_output_name(name, names, inputs) for name in names]
    _name_outputs(program.model.graph, outputs)
    for weight in program.model.graph.initializers.values():
        # the tensor has its own; a quantiser that transposes it does not update these
        weight.shape = weight.type = None
        weight.metadata_props.clear()
    for node in program.model.graph:
        for value in node.outputs:
            if not value.is_graph_output():  # a quantiser that changes a node does not update these
                value.shape = None
    program.save(os.fspath(file), external_data=False)
    return outputs


def _output_name(task: str, tasks: Sequence[str], inputs: Collection[str]) -> str:
    """The name of a task's output: the task's name, with `_logits` if an input has that name."""
    name = task
    while name in inputs or (name != task and name in tasks):
        name += "_logits"
    return name


def _name_outputs(graph: Any, names: Sequence[str]) -> None:
    """Name a graph's outputs; rename inner values that have one of these names."""
    inside = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    used_names = {value.name for value in inside} | {*names}
    for value in inside:
        if value.name in names:
            new = next(f"{value.name}_{i}" for i in count() if f"{value.name}_{i}" not in used_names)
            used_names.add(new)
            value.name = new
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name
