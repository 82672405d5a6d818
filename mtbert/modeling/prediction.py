"""Texts in, answers out: encoding, batches by tokens, and as few passes of the encoder as the tasks allow."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from .configuration_mtbert import TaskSpec
from .decoding import answer_columns, decisions, label_names, probabilities
from .encoder_loading import load_tokenizer
from .errors import InputError, MissingTokenizer, UnknownTaskError, deprecated
from .forward_arguments import task_names
from .packed_batches import TaskPart, collect_logits, pack_parts
from .task_model import TaskModel
from .text_rows import Row, as_rows
from .tokenization import LENGTHS, encode_texts, has_token_types, length_limit

BATCH_TOKENS = 8192
SHOWN = 5  # answers that a Prediction's repr has


@dataclass(frozen=True, repr=False)
class Prediction:
    """What one task says of some rows.

    Attributes:
        task: the task.
        logits: `(rows, num_labels)` fp32, as the model gives them.
        scores: probabilities `(rows, labels)`, which sum to 1 except for a multi-label task; of a regression `(rows,)`,
            on its scale.
        truncated: `(rows,)`, how many tokens of each row were cut off; None if that is not known.
    """

    task: TaskSpec
    logits: np.ndarray
    scores: np.ndarray
    truncated: np.ndarray | None = None

    @classmethod
    def of(cls, task: TaskSpec, logits: np.ndarray, truncated: np.ndarray | None = None) -> Prediction:
        """Logits `(rows, num_labels)` → scores."""
        return cls(task, logits, probabilities(task, logits), truncated)

    @property
    def labels(self) -> list:
        """For each row the most probable label's name, those above ½ of a multi-label task, or a regression's score."""
        if self.task.kind.numeric:
            return self.scores.tolist()
        return label_names(self.task, decisions(self.task, self.logits))

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, name: str) -> Prediction:
        """Itself, by its task's name: `predict(rows, tasks="NAME")` used to give a mapping."""
        if name != self.task.name:
            raise UnknownTaskError(f"no task {name!r}: this is the Prediction of {self.task.name!r}")
        deprecated('predict(..., tasks="NAME")["NAME"]', 'predict(..., tasks="NAME") or tasks=["NAME"]', since="0.2")
        return self

    def __repr__(self) -> str:
        if not np.isfinite(self.logits).all():
            return f"Prediction of {self.task.name!r} for {len(self):,} rows, some of which are not finite"
        first = ", ".join(f"{each:.4g}" if isinstance(each, float) else repr(each) for each in self.labels[:SHOWN])
        more = ", …" if len(self) > SHOWN else ""
        return f"Prediction of {self.task.name!r} for {len(self):,} rows: {first}{more}"

    def to_dict(self) -> dict[str, list]:
        """Columns of one value a row, as in the files that `mtbert predict` writes.

        Returns:
            `<task>`: the label's name, a list of those that are true for a multi-label task, or a regression's score;
            `<task>:<label>`: the probability of each label.
        """
        table = answer_columns(self.task, self.labels, self.scores)
        return {name: values if isinstance(values, list) else values.tolist() for name, values in table.items()}

    def to_pandas(self) -> Any:
        """`to_dict` as a `pandas.DataFrame` with a row for each input."""
        return import_module("pandas").DataFrame(self.to_dict())  # which a checkpoint's own code does not need


def source_of(model: TaskModel) -> dict[str, Any]:
    """Where a model is from, as `load_tokenizer` takes it: its checkpoint, else its encoder; empty if it is new."""
    return model._source or ({"encoder": model.name_or_path} if model.name_or_path else {})


def find_tokenizer(model: TaskModel) -> PreTrainedTokenizerBase:
    """The tokenizer that lies beside a model's checkpoint, or beside the encoder that it was made from.

    Raises:
        MissingTokenizer: if the model was not loaded from anywhere, or there is no tokenizer beside it.
    """
    source = source_of(model)
    if not source:
        raise MissingTokenizer(
            "tokenizer is missing; this model was not loaded from a checkpoint, so give its tokenizer"
        )
    try:
        config = model.config if model.name_or_path else None  # one of an encoder is read anew
        return load_tokenizer(**source, config=config)
    except Exception as error:  # tokenizers raises what has no type of its own
        raise MissingTokenizer(
            f"tokenizer is missing; {source['encoder']} has none that can be loaded ({error}), so give it"
        ) from error


def save_tokenizer(model: TaskModel, folder: str | os.PathLike) -> None:
    """Put a model's tokenizer beside its weights, if it has one; see `MtBertForMultiTask.save_pretrained`."""
    unused = model._tokenizer is None and not model.name_or_path  # it is the encoder's, which another may stand for
    if unused and Path(folder, "tokenizer_config.json").is_file():
        return
    try:
        tokenizer = model.tokenizer
    except MissingTokenizer:
        return
    tokenizer.save_pretrained(folder)


def predict(
    model: TaskModel,
    inputs: Iterable,
    tasks: str | Sequence[str] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Prediction | dict[str, Prediction]:
    """One task's answers, or several tasks' by name; see `MtBertForMultiTask.predict`."""
    check_batch_tokens(batch_tokens)
    rows = as_rows(inputs)
    found = predict_rows(model, rows, tasks, tokenizer, batch_tokens)
    warn_of_cuts(cut_rows(found), len(rows))
    return next(iter(found.values())) if is_one(tasks) else found


def is_one(tasks: str | Sequence[str] | None) -> bool:
    """Whether one answer is asked for, rather than answers by task."""
    return tasks is None or (isinstance(tasks, str) and tasks != "all")


def predict_rows(
    model: TaskModel,
    rows: list[Row],
    tasks: str | Sequence[str] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> dict[str, Prediction]:
    """Each task's answers for rows, by name, without a warning of those that were cut."""
    specs = _specs(model, tasks, rows)
    for spec in specs:
        _check_rows(spec, rows)
    tokenizer = model.tokenizer if tokenizer is None else tokenizer
    texts, pairs = [text for text, _ in rows], [pair for _, pair in rows]
    logits, truncated = text_logits(model, specs, tokenizer, texts, pairs, batch_tokens=batch_tokens)
    return {spec.name: Prediction.of(spec, logits[spec.name], truncated[spec.name]) for spec in specs}


@torch.inference_mode()
def text_logits(
    model: TaskModel,
    specs: Sequence[TaskSpec],
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    batch_tokens: int | None = None,
    batch_rows: int | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Several tasks' logits for the same rows; tasks that encode a row alike share one pass of the encoder.

    Args:
        texts: first (or only) texts, one a row.
        pairs: second texts, which tasks with one text do not read; None if no task takes two.
        batch_tokens: tokens in one pass, at most; with adapters a pass holds a copy of each row for every task.
        batch_rows: instead of that, rows in one pass, at most; adapters' copies that are encoded otherwise have their
            own passes.

    Returns:
        By task name logits `(rows, num_labels)` in fp32, and how many tokens of each row were cut off, `(rows,)`.
    """
    logits, truncated, evaluated = {}, {}, in_evaluation(model)
    for parts in _passes(model, specs, tokenizer, together=batch_rows is None):
        encoded = []
        for part in parts:
            second = pairs if part[0].texts == 2 else None
            encoded.append(encode_texts(part[0], tokenizer, model.config.encoder, texts, second))
            truncated |= {spec.name: np.array(encoded[-1]["truncated"], dtype=np.int64) for spec in part}
        batches = _batches(model, parts, encoded, batch_tokens, batch_rows)
        logits |= collect_logits(evaluated, batches, {spec.name: len(texts) for part in parts for spec in part})
    return {spec.name: logits[spec.name].cpu().numpy() for spec in specs}, truncated


def embed(
    model: TaskModel,
    texts: str | Sequence[str],
    task: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    normalize: bool = False,
    batch_tokens: int = BATCH_TOKENS,
) -> np.ndarray:
    """Sentence embeddings `(texts, hidden)`; see `MtBertForMultiTask.embed`."""
    check_batch_tokens(batch_tokens)
    spec = _embedding_task(model, task)
    rows = as_rows(texts)
    if any(pair is not None for _, pair in rows):
        raise InputError("texts has pairs, but an embedding is of one text; give each text by itself")
    single = TaskSpec(spec.name, max_length=spec.max_length)  # one text; what its head is does not matter here
    encoded = encode_texts(single, tokenizer or model.tokenizer, model.config.encoder, [text for text, _ in rows])
    found = np.zeros((len(rows), model.config.hidden_size), dtype=np.float32)
    warn_of_cuts({spec.name: np.count_nonzero(encoded["truncated"])}, len(rows))
    evaluated = in_evaluation(model)
    with torch.inference_mode():
        for batch in _batches(model, [[spec]], [encoded], batch_tokens, inputs=1):
            inputs = {key: batch[key].to(model.device) for key in batch.keys() - {"rows", "tasks"}}
            pooled = evaluated.pool(spec.name, **inputs).float()
            own = batch["rows"][spec.name]
            found[own] = (nn.functional.normalize(pooled, dim=-1) if normalize else pooled).cpu().numpy()
    return found


def check_batch_tokens(value: Any) -> None:
    """ValueError unless `value` is a number of tokens."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"batch_tokens is {value!r}, but must be 1 or more, a whole number")


def cut_rows(found: Mapping[str, Prediction]) -> dict[str, int]:
    """How many rows were cut, by task."""
    return {name: np.count_nonzero(prediction.truncated) for name, prediction in found.items()}


def warn_of_cuts(cut: Mapping[str, int], rows: int) -> None:
    """Warn, in one line, of rows that were cut; `cut`: how many of the `rows`, by task."""
    counts = ", ".join(f"{count:,} for task {name!r}" for name, count in cut.items() if count)
    if counts:
        line = f"of {rows:,} rows, some were cut to the max_length of their task or encoder: {counts}"
        warnings.warn(line, stacklevel=4)


def in_evaluation(model: nn.Module) -> nn.Module:
    """A model in evaluation mode with the weights of `model`, whose own mode stays as it is.

    A mode is state that all threads share: setting it back after one prediction would give others dropout. Where
    `model` has modules in training mode, this makes new modules of the same tensors instead.

    Raises:
        ValueError: if the `forward` of a module in training mode was replaced by a function, such as a compiled one,
            which may refer to the module itself.
    """
    modules = list(model.modules())
    if not any(module.training for module in modules):
        return model
    views = {module: object.__new__(type(module)) for module in modules}
    for module, view in views.items():
        attributes = {name: _with_views(value, views) for name, value in vars(module).items()}
        if not isinstance(attributes.get("forward"), (MethodType, partial, type(None))):
            name = type(module).__name__
            raise InputError(f"the model is in training mode, and the forward of its {name} was replaced; call eval()")
        vars(view).update(attributes, training=False, _compiled_call_impl=None)
    return views[model]


def _with_views(value: Any, views: Mapping[nn.Module, nn.Module]) -> Any:
    """An attribute of a module, with every module in it exchanged for its view."""
    if isinstance(value, nn.Module):
        return views.get(value, value)
    if isinstance(value, MethodType):
        return MethodType(value.__func__, _with_views(value.__self__, views))
    if isinstance(value, partial):
        arguments = [_with_views(each, views) for each in value.args]
        keywords = {name: _with_views(each, views) for name, each in value.keywords.items()}
        return partial(_with_views(value.func, views), *arguments, **keywords)
    if type(value) in (list, tuple):
        return type(value)(_with_views(each, views) for each in value)
    if type(value) is dict:
        return {name: _with_views(each, views) for name, each in value.items()}
    return value


def _specs(model, tasks, rows: list[Row]) -> list[TaskSpec]:
    """The tasks that are asked for; `all`: those that take as many texts as the rows have."""
    if tasks == "all":
        count = 1 if all(pair is None for _, pair in rows) else 2
        if found := [spec for spec in model.tasks if spec.texts == count]:
            return found
        raise InputError(f"no task of this model takes {count} text(s) a row")
    if tasks is None and len(model.tasks) > 1:
        names = ", ".join(spec.name for spec in model.tasks)
        raise InputError(f"give tasks: 'all', or one or more of: {names}")
    names = [model.tasks[0].name] if tasks is None else task_names(tasks, model.tasks)
    return [model.tasks[model.task_id(name)] for name in names]


def _check_rows(spec: TaskSpec, rows: list[Row]) -> None:
    """Refuse rows that have another number of texts than the task takes."""
    wrong = [number for number, (_, pair) in enumerate(rows) if (pair is None) != (spec.texts == 1)]
    if wrong:
        text = f"{rows[wrong[0]][0][:40]!r}"
        got = 1 if spec.texts == 2 else 2
        raise InputError(f"task {spec.name!r} takes {spec.texts} text(s) a row, but row {wrong[0]} ({text}) has {got}")


def _passes(model, specs: Sequence[TaskSpec], tokenizer, together: bool) -> list[list[list[TaskSpec]]]:
    """The passes of the encoder; each is a list of copies of the rows, each copy the tasks that read it.

    Tasks that encode a row alike share one copy of it. Adapters tell the tasks apart: each has a copy; all are in one
    pass if they go `together`, else those of one encoding are.
    """
    apart = any(spec.name in model.adapters for spec in specs)
    if apart and together:
        return [[[spec] for spec in specs]]
    groups: dict[tuple, list[TaskSpec]] = {}
    for spec in specs:
        two = (spec.num_sequences, spec.separator, spec.token_types) if spec.texts == 2 else ()
        groups.setdefault((length_limit(spec, tokenizer, model.config.encoder), *two), []).append(spec)
    return [[[spec] for spec in group] if apart else [group] for group in groups.values()]


def _batches(
    model,
    parts: Sequence[Sequence[TaskSpec]],
    encoded: Sequence[Mapping[str, list]],
    batch_tokens: int | None,
    batch_rows: int | None = None,
    inputs: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Batches of one pass for `collect_logits`, longest rows first.

    Args:
        parts: the tasks that read each copy of the rows.
        encoded: each copy's columns, as `encode_texts` returns them.
        inputs: the encoder's inputs a row; None: as many as the task has.
    """
    sizes = sum(np.array([len(ids) for ids in columns["input_ids"]], dtype=np.int64) for columns in encoded)
    order = np.argsort(-sizes, kind="stable")
    names = [spec.name for part in parts for spec in part]
    known = model.config.encoder.vocab_size
    for own in _cut(order, sizes, batch_tokens, batch_rows):
        packed = [
            _part(model.task_id(part[0].name), columns, own, inputs or part[0].num_sequences)
            for part, columns in zip(parts, encoded, strict=True)
        ]
        if (top := max(part.tokens.max(initial=0) for part in packed)) >= known:
            has = f"the encoder has embeddings for {known:,} tokens"
            raise InputError(f"tokenizer gives token {top:,}, but {has}; give the checkpoint's own tokenizer")
        batch = pack_parts(packed, has_token_types(model.config.encoder))
        yield {**batch, "rows": dict.fromkeys(names, own), "tasks": names if len(parts) == 1 else None}


def _part(task_id: int, columns: Mapping[str, list], own: np.ndarray, inputs: int) -> TaskPart:
    """Some rows of encoded columns."""
    tokens = [columns["input_ids"][row] for row in own]
    cuts = [np.array([columns[name][row] for row in own], dtype=np.int64) for name in LENGTHS[: inputs - 1]]
    types = None
    if "token_type_ids" in columns:
        types = _joined([columns["token_type_ids"][row] for row in own])
    return TaskPart(task_id, _joined(tokens), np.array([len(ids) for ids in tokens], dtype=np.int64), cuts, types)


def _joined(lists: list[list[int]]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(lists), dtype=np.int64)


def _cut(order: np.ndarray, sizes: np.ndarray, tokens: int | None, rows: int | None) -> Iterator[np.ndarray]:
    """The rows in batches of at most `tokens` tokens, or of one row, and of at most `rows` rows."""
    first, total = 0, 0
    for place, row in enumerate(order):
        full = tokens is not None and total + sizes[row] > tokens
        if place > first and (full or place - first == rows):
            yield order[first:place]
            first, total = place, 0
        total += sizes[row]
    if len(order):
        yield order[first:]


def _embedding_task(model, task: str | None) -> TaskSpec:
    fitting = [spec for spec in model.tasks if spec.texts == 1 or spec.apart]
    if task is None:
        apart = [spec for spec in fitting if spec.apart]
        if len(apart) != 1:
            names = ", ".join(spec.name for spec in fitting) or "none"
            raise InputError(f"give the task whose embeddings are meant; those that read one text alone: {names}")
        return apart[0]
    spec = model.tasks[model.task_id(task)]
    if spec not in fitting:
        raise InputError(f"task {task!r} reads a pair as one input, so that no text has an embedding of its own")
    return spec
