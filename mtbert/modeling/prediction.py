"""Prediction of texts: encoding, batches of a limited number of tokens, and few passes of the encoder."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from .answers import Prediction as Prediction  # also imported from here
from .errors import InputError
from .forward_arguments import task_names
from .packed_batches import PLACES, TaskPart, UnitPlaces, collect_logits, pack_parts
from .task_model import TaskModel
from .task_spec import TaskSpec
from .text_rows import Row, as_rows
from .tokenization import LENGTHS, encode_texts, has_token_types, length_limit

BATCH_TOKENS = 8192


def predict(
    model: TaskModel,
    inputs: Iterable[Any],
    tasks: str | Sequence[str] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Prediction | dict[str, Prediction]:
    """Predict rows for one task or several; see `MtBertForMultiTask.predict`."""
    check_batch_tokens(batch_tokens)
    rows = as_rows(inputs)
    predictions = predict_rows(model, rows, tasks, tokenizer, batch_tokens)
    warn_of_cuts(cut_rows(predictions), len(rows))
    return next(iter(predictions.values())) if is_one(tasks) else predictions


def is_one(tasks: str | Sequence[str] | None) -> bool:
    """Whether `predict` returns one Prediction for these `tasks`, and not a dict."""
    return tasks is None or (isinstance(tasks, str) and tasks != "all")


def predict_rows(
    model: TaskModel,
    rows: list[Row],
    tasks: str | Sequence[str] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> dict[str, Prediction]:
    """Task name → its Prediction for the rows; does not warn of truncated rows."""
    specs = fitting_tasks(model, tasks, rows)
    for spec in specs:
        check_rows(spec, rows)
    tokenizer = model.tokenizer if tokenizer is None else tokenizer
    texts = [text for text, _ in rows]
    pairs: list[Any] = [pair for _, pair in rows]
    logits, truncated = text_logits(model, specs, tokenizer, texts, pairs, batch_tokens=batch_tokens)
    return {spec.name: Prediction.of(spec, logits[spec.name], truncated[spec.name], texts) for spec in specs}


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
    """Logits of several tasks for the same rows; tasks that encode a row alike share one pass of the encoder.

    Args:
        texts: first (or only) texts, one for each row.
        pairs: second texts, ignored by tasks with one text; None if no task takes two.
        batch_tokens: largest number of tokens in a pass; with adapters a pass has a copy of each row for every task.
        batch_rows: largest number of rows in a pass, in place of `batch_tokens`; then tasks with adapters share a pass
            only if they encode rows alike.

    Returns:
        Task name → logits `(rows, num_labels)` in fp32 (`(rows, most parts, num_labels)` of a task that labels parts of
        rows, 0 where a row has fewer, or a part no token); and task name → number of tokens cut off each row,
        `(rows,)`.
    """
    logits: dict[str, torch.Tensor] = {}
    truncated: dict[str, np.ndarray] = {}
    evaluated = in_evaluation(model)
    for parts in _passes(model, specs, tokenizer, together=batch_rows is None):
        encoded = []
        for part in parts:
            second = pairs if part[0].texts == 2 else None
            widest = max(part, key=lambda spec: spec.kind.units.dims)  # whose encoding has all columns
            encoded.append(encode_texts(widest, tokenizer, model.config.encoder, texts, second))
            truncated |= {spec.name: np.array(encoded[-1]["truncated"], dtype=np.int64) for spec in part}
        batches = _batches(model, parts, encoded, batch_tokens, batch_rows)
        shapes = {spec.name: spec.kind.units.shape(texts) for part in parts for spec in part}
        logits |= collect_logits(evaluated, batches, shapes)
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
    single = TaskSpec(spec.name, max_length=spec.max_length)  # one text; the head does not matter here
    encoded = encode_texts(single, tokenizer or model.tokenizer, model.config.encoder, [text for text, _ in rows])
    embeddings = np.zeros((len(rows), model.config.hidden_size), dtype=np.float32)
    warn_of_cuts({spec.name: int(np.count_nonzero(encoded["truncated"]))}, len(rows))
    evaluated = in_evaluation(model)
    with torch.inference_mode():
        for batch in _batches(model, [[spec]], [encoded], batch_tokens, inputs=1):
            inputs = {key: batch[key].to(model.device) for key in batch.keys() - {"rows", "tasks"}}
            pooled = evaluated.pool(spec.name, **inputs).float()
            if normalize:
                pooled = nn.functional.normalize(pooled, dim=-1)
            embeddings[batch["rows"][spec.name]] = pooled.cpu().numpy()
    return embeddings


def check_batch_tokens(value: Any) -> None:
    """Raise InputError unless `value` is a positive whole number."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"batch_tokens is {value!r}, but must be 1 or more, a whole number")


def cut_rows(found: Mapping[str, Prediction]) -> dict[str, int]:
    """Task name → number of truncated rows."""
    return {
        name: 0 if prediction.truncated is None else int(np.count_nonzero(prediction.truncated))
        for name, prediction in found.items()
    }


def warn_of_cuts(cut: Mapping[str, int], rows: int) -> None:
    """Warn of truncated rows, if there are any.

    Args:
        cut: task name → number of truncated rows.
        rows: number of all rows.
    """
    counts = ", ".join(f"{count:,} for task {name!r}" for name, count in cut.items() if count)
    if counts:
        line = f"of {rows:,} rows, some were cut to the max_length of their task or encoder: {counts}"
        warnings.warn(line, stacklevel=4)


def in_evaluation(model: Any) -> Any:
    """A view of a model in evaluation mode, with the same tensors; the mode of `model` does not change.

    All threads share a module's mode: if one thread set it back to training, another's prediction would have dropout.
    A model that is in evaluation mode already is returned itself.

    Raises:
        ValueError: if the `forward` of a module was replaced by a function, such as a compiled one, which may refer to
            the module itself.
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
    """An attribute of a module, in which every module is replaced by its view."""
    if isinstance(value, nn.Module):
        return views.get(value, value)
    if isinstance(value, MethodType):
        return MethodType(value.__func__, _with_views(value.__self__, views))
    if isinstance(value, partial):
        arguments = [_with_views(argument, views) for argument in value.args]
        keywords = {name: _with_views(argument, views) for name, argument in value.keywords.items()}
        return partial(_with_views(value.func, views), *arguments, **keywords)
    if type(value) in (list, tuple):
        return type(value)(_with_views(item, views) for item in value)
    if type(value) is dict:
        return {name: _with_views(entry, views) for name, entry in value.items()}
    return value


def fitting_tasks(model: Any, tasks: str | Sequence[str] | None, rows: list[Row]) -> list[TaskSpec]:
    """The requested tasks; `all`: the tasks that take as many texts as the rows have."""
    if tasks == "all":
        count = 1 if all(pair is None for _, pair in rows) else 2
        if fitting := [spec for spec in model.tasks if spec.texts == count]:
            return fitting
        raise InputError(f"no task of this model takes {count} text(s) a row")
    if tasks is None and len(model.tasks) > 1:
        names = ", ".join(spec.name for spec in model.tasks)
        raise InputError(f"give tasks: 'all', or one or more of: {names}")
    names = [model.tasks[0].name] if tasks is None else task_names(tasks, model.tasks)
    return [model.tasks[model.task_id(name)] for name in names]


def check_rows(spec: TaskSpec, rows: list[Row]) -> None:
    """Raise InputError if rows have another number of texts than the task takes."""
    wrong = [number for number, (_, pair) in enumerate(rows) if (pair is None) != (spec.texts == 1)]
    if wrong:
        text = f"{rows[wrong[0]][0][:40]!r}"
        got = 1 if spec.texts == 2 else 2
        raise InputError(f"task {spec.name!r} takes {spec.texts} text(s) a row, but row {wrong[0]} ({text}) has {got}")


def _passes(
    model: TaskModel, specs: Sequence[TaskSpec], tokenizer: PreTrainedTokenizerBase, together: bool
) -> list[list[list[TaskSpec]]]:
    """Plan the passes of the encoder.

    Tasks that encode a row alike share one copy of the rows, if they have no adapters. With adapters each task has its
    own copy; a pass then holds all copies if `together`, and else those of tasks that encode a row alike.

    Returns:
        Passes; a pass is a list of copies of the rows, and a copy is the list of tasks that read it.
    """
    apart = any(spec.name in model.adapters for spec in specs)
    if apart and together:
        return [[[spec] for spec in specs]]
    groups: dict[tuple[Any, ...], list[TaskSpec]] = {}
    for spec in specs:
        of_pair = (spec.num_sequences, spec.separator, spec.token_types) if spec.texts == 2 else ()
        groups.setdefault((length_limit(spec, tokenizer, model.config.encoder), *of_pair), []).append(spec)
    return [[[spec] for spec in group] if apart else [group] for group in groups.values()]


def _batches(
    model: Any,
    parts: Sequence[Sequence[TaskSpec]],
    encoded: Sequence[Mapping[str, list[Any]]],
    batch_tokens: int | None,
    batch_rows: int | None = None,
    inputs: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Batches of one pass for `collect_logits`, longest rows first.

    Args:
        parts: for each copy of the rows, the tasks that read it.
        encoded: for each copy of the rows, its columns, as returned by `encode_texts`.
        inputs: number of encoder inputs for each row; None: the task's.
    """
    sizes: Any = sum(np.array([len(ids) for ids in columns["input_ids"]], dtype=np.int64) for columns in encoded)
    order = np.argsort(-sizes, kind="stable")
    names = [spec.name for part in parts for spec in part]
    vocabulary = model.config.encoder.vocab_size
    for chosen in _cut(order, sizes, batch_tokens, batch_rows):
        packed = [
            _part(model.task_id(part[0].name), columns, chosen, inputs or part[0].num_sequences)
            for part, columns in zip(parts, encoded, strict=True)
        ]
        largest = max(part.tokens.max(initial=0) for part in packed)
        if largest >= vocabulary:
            has = f"the encoder has embeddings for {vocabulary:,} tokens"
            raise InputError(f"tokenizer gives token {largest:,}, but {has}; give the checkpoint's own tokenizer")
        batch = pack_parts(packed, has_token_types(model.config.encoder))
        places = {
            spec.name: _places(columns[str(spec.kind.units.column)], columns["input_ids"], chosen)
            for part, columns in zip(parts, encoded, strict=True)
            for spec in part
            if spec.kind.units.column in columns
        }
        batch |= {PLACES: places} if places else {}
        yield {**batch, "rows": dict.fromkeys(names, chosen), "tasks": names if len(parts) == 1 else None}


def _part(task_id: int, columns: Mapping[str, list[Any]], own: np.ndarray, inputs: int) -> TaskPart:
    """The rows `own` of encoded columns, as a part of a batch."""
    tokens = [columns["input_ids"][row] for row in own]
    cuts = [np.array([columns[name][row] for row in own], dtype=np.int64) for name in LENGTHS[: inputs - 1]]
    types = None
    if "token_type_ids" in columns:
        types = _joined([columns["token_type_ids"][row] for row in own])
    return TaskPart(task_id, _joined(tokens), np.array([len(ids) for ids in tokens], dtype=np.int64), cuts, types)


def _places(units: list[list[int]], tokens: list[list[int]], own: np.ndarray) -> UnitPlaces:
    """Where the parts of the rows `own` are among the tokens of these rows."""
    firsts = [units[row] for row in own]
    counts, lengths = ([len(lists[row]) for row in own] for lists in (units, tokens))
    return UnitPlaces.find(_joined(firsts), np.array(counts, dtype=np.int64), np.array(lengths, dtype=np.int64))


def _joined(lists: list[list[int]]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(lists), dtype=np.int64)


def _cut(order: np.ndarray, sizes: np.ndarray, tokens: int | None, rows: int | None) -> Iterator[np.ndarray]:
    """Cut rows into batches of at most `rows` rows and at most `tokens` tokens; a longer row is a batch by itself."""
    first, total = 0, 0
    for place, row in enumerate(order):
        full = tokens is not None and total + sizes[row] > tokens
        if place > first and (full or place - first == rows):
            yield order[first:place]
            first, total = place, 0
        total += sizes[row]
    if len(order):
        yield order[first:]


def _embedding_task(model: Any, task: str | None) -> TaskSpec:
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
