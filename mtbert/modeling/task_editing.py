"""Add, remove or extract tasks of a trained model; export its encoder."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, PreTrainedModel

from .adapters import make_adapter
from .configuration_mtbert import MtBertConfig
from .encoder_loading import make_encoder
from .encoder_support import drop_pooler, has_pooler
from .errors import InputError
from .heads import make_head
from .limits import refuse_reserved
from .own_tokenizer import source_of
from .precision import copy_tensors
from .task_model import TaskModel
from .task_spec import TaskSpec

_PLAIN = {
    "sequence_classification": AutoModelForSequenceClassification,
    "token_classification": AutoModelForTokenClassification,
}


def add_task(model: TaskModel, spec: TaskSpec | Mapping[str, Any]) -> None:
    """Add a task to a model, with a new head and, if the model has adapters, a new adapter.

    The outputs of the other tasks do not change.

    Raises:
        ValueError: if there is a task of this name, or if the task needs a pooler that the model has dropped.
    """
    spec = TaskSpec.from_dict(spec)
    refuse_reserved([spec.name])
    if spec.calibration is not None:
        warnings.warn(f"task {spec.name!r}: its calibration is dropped, because its head is new", stacklevel=3)
        spec = replace(spec, calibration=None)
    if spec.name in model.heads:
        raise InputError(f"task {spec.name!r} exists already; remove_task it first, or choose another name")
    if spec.pooling == "pooler" and not has_pooler(model.encoder):
        raise InputError(f"task {spec.name!r}: pooling is 'pooler', but this model has none; use cls, mean or max")
    weight = next(model.encoder.parameters())
    parts: list[tuple[nn.ModuleDict, nn.Module]] = [(model.heads, make_head(spec, model.config.hidden_size))]
    if (adapter := model.config.adapter_spec) is not None and spec.adapter:
        parts.append((model.adapters, make_adapter(adapter, model.config.encoder)))
    _set_tasks(model, [*model.config.tasks, spec.to_dict()])
    for parent, module in parts:
        module.apply(model._init_weights)
        parent[spec.name] = module.to(device=weight.device, dtype=weight.dtype).train(model.training)


def remove_task(model: TaskModel, name: str) -> None:
    """Remove a task with its head and adapter; the ids of later tasks decrease by 1.

    Raises:
        KeyError: if there is no such task.
        ValueError: if it is the only one.
    """
    number = model.task_id(name)
    if len(model.tasks) == 1:
        raise InputError(f"task {name!r} is the only one; a model needs at least one task")
    _set_tasks(model, [task for i, task in enumerate(model.config.tasks) if i != number])
    del model.heads[name]
    if name in model.adapters:
        del model.adapters[name]


def _set_tasks(model: Any, tasks: list[dict[str, Any]]) -> None:
    model.config.tasks = tasks
    model.tasks = model.config.task_specs


def drop_calibration(model: Any) -> list[str]:
    """Remove the calibration of every task, which is that of these weights only; return the tasks that had one."""
    names = [task.name for task in model.tasks if task.calibration is not None]
    if names:
        _set_tasks(model, [replace(task, calibration=None).to_dict() for task in model.tasks])
    return names


def extract_task(model: TaskModel, name: str, to: str | None = None) -> PreTrainedModel:
    """A copy of the model with one task only.

    Args:
        to: None: a model of mtbert; `sequence_classification` or `token_classification`, as the task labels texts or
            words: the plain transformers model of the encoder's family, which cannot have an adapter or any but a
            linear head.

    Raises:
        KeyError: if there is no such task.
        ValueError: if the plain model cannot compute the task; with the reason.
    """
    spec = model.tasks[model.task_id(name)]
    if to in _PLAIN:
        return _plain_model(model, spec, str(to))
    if to is not None:
        raise InputError(f"to is {to!r}, but must be None or {' or '.join(map(repr, _PLAIN))}")
    has_adapter = name in model.adapters
    config = MtBertConfig(
        encoder=copy.deepcopy(model.config.encoder),
        tasks=[spec],
        adapter=model.config.adapter if has_adapter else None,
        packed=model.config.packed,
    )
    kind: Any = type(model)
    single = kind(config)
    copy_tensors(single, model)
    single._tokenizer = model._tokenizer
    single._source = source_of(model)
    return single.train(model.training)


def _plain_model(model: TaskModel, spec: TaskSpec, to: str) -> PreTrainedModel:
    family, where = model.config.encoder.model_type, f"task {spec.name!r}"
    if spec.name in model.adapters:
        raise InputError(f"{where}: it has an adapter, for which plain transformers models have no place")
    if family != "bert" or spec.head.type != "linear" or spec.apart or spec.head.output != "identity":
        raise InputError(
            f"{where}: a plain {family} model cannot compute a {spec.head.type} head with output {spec.head.output} "
            f"on {'several inputs' if spec.apart else 'one input'}; linear heads on one input of BERT can be taken out"
        )
    if spec.kind.ordered:
        raise InputError(f"{where}: a plain {family} model has no decoding of an ordinal task's logits")
    if spec.kind.plain != to:
        raise InputError(f"{where}: to is {to!r}, but {spec.kind.with_article} is a model of {spec.kind.plain!r}")
    if not spec.kind.units.reads_tokens and spec.pooling != "pooler":
        raise InputError(
            f"{where}: a plain {family} model's head reads another pooling than {spec.pooling!r}; train it with "
            "pooling: pooler on a BERT encoder to take it out"
        )
    config = copy.deepcopy(model.config.encoder)
    config.num_labels = spec.num_labels
    config.classifier_dropout = spec.dropout
    if not (spec.kind.binary or spec.kind.units.reads_tokens):
        config.problem_type = spec.problem_type
    if spec.classes and spec.num_labels == len(spec.classes):
        config.id2label = dict(enumerate(spec.classes))
        config.label2id = {label: i for i, label in enumerate(spec.classes)}
    config._attn_implementation = "sdpa"
    plain_model: Any = make_encoder(config, _PLAIN[to])
    copy_tensors(plain_model.base_model, model.encoder)
    copy_tensors(plain_model.classifier, model.heads[spec.name].out_proj)
    return plain_model.train(model.training)


def export_encoder(model: TaskModel) -> PreTrainedModel:
    """A copy of the shared encoder as a plain transformers model, without a pooler if no task reads it."""
    config = copy.deepcopy(model.config.encoder)
    config._attn_implementation = "sdpa" if model.encoder._supports_sdpa else "eager"
    plain = make_encoder(config)
    if not has_pooler(model.encoder):
        drop_pooler(plain)
    copy_tensors(plain, model.encoder)
    return plain.train(model.training)
