"""Check the arguments of `forward`, and pack padded inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError, InputTypeError
from .packing import PackedLayout
from .task_spec import TaskSpec

# Arguments of transformers' encoders that are not supported here, with the reason.
_REASONS = {
    "position_ids": "positions are counted within each sequence; drop it",
    "head_mask": "no attention head can be masked; drop it",
    "output_router_logits": "the encoders have no router; drop it",
    **dict.fromkeys(("past_key_values", "use_cache", "cache_position"), "an encoder has no cache; drop it"),
    **dict.fromkeys(
        ("special_tokens_mask", "offset_mapping", "overflow_to_sample_mapping", "length"),
        "it is of the tokenizer's alone; drop it",
    ),
    "label": "give the labels as labels",
}


def refuse_unknown(given: Mapping[str, Any], function: Callable[..., Any]) -> None:
    """Raise InputTypeError for keyword arguments that a function does not have, unless they are None.

    Raises:
        InputTypeError: with the argument's name, and the reason or the nearest argument.
    """
    parameters = [name for name in inspect.signature(function).parameters if name not in ("self", "kwargs")]
    for name in (name for name, value in given.items() if value is not None):
        near = get_close_matches(name, parameters, n=1, cutoff=0)[0]
        raise InputTypeError(f"forward has no argument {name!r}: {_REASONS.get(name, f'the nearest one is {near!r}')}")


def given_tasks(tasks: Any, task: Any) -> Any:
    """The value of the argument `tasks`, or of its alias `task`.

    Raises:
        TypeError: if both are given.
    """
    if tasks is not None and task is not None:
        raise InputTypeError(f"tasks is {tasks!r} and task is {task!r}, but they are one argument; give tasks alone")
    return task if tasks is None else tasks


def task_names(tasks: str | Sequence[str], known: Sequence[TaskSpec]) -> list[str]:
    """Names of tasks, without repetition.

    Args:
        tasks: `all`, one name, or several names.
        known: the tasks that `all` stands for.

    Raises:
        ValueError: for a value of another type.
    """
    if not isinstance(tasks, Iterable) or isinstance(tasks, Mapping):
        raise InputError(f"tasks is {tasks!r}, but must be 'all', a name, or a list of names")
    if tasks == "all":
        return [task.name for task in known]
    return [tasks] if isinstance(tasks, str) else list(dict.fromkeys(tasks))


def as_tensor(name: str, values: Any, device: torch.device) -> Any:
    """Convert an array or nested lists to a tensor on a device; return a tensor or None unchanged.

    Raises:
        ValueError: for values that are no numbers.
    """
    if values is None or isinstance(values, Tensor):
        return values
    try:
        array = np.asarray([value.tolist() if isinstance(value, Tensor) else value for value in values])
        return torch.from_numpy(array).to(device)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} can not be read as numbers ({error}); give a tensor") from error


def check_tokens(
    input_ids: Tensor | None, token_type_ids: Tensor | None, inputs_embeds: Tensor | None, layout: PackedLayout | None
) -> None:
    """Check the tokens' shapes.

    Raises:
        ValueError: unless there are either ids or embeddings, in the shape of a batch or of its layout.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise InputError("give either input_ids or inputs_embeds")
    tokens: Any = input_ids
    name, wanted = "input_ids", "(sequences, length)"
    if tokens is None:
        name, tokens, wanted = "inputs_embeds", inputs_embeds, "(sequences, length, hidden)"
    elif tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise InputError(f"input_ids are {tokens.dtype}, but must be integers")
    if tokens.dim() != wanted.count(",") + 1:
        raise InputError(f"{name} has shape {tuple(tokens.shape)}, but must have {wanted}, or a layout's")
    if layout is not None and tuple(tokens.shape[:2]) != (1, sum(layout.lengths)):
        expected = f"its layout has {sum(layout.lengths):,} tokens in one row"
        raise InputError(f"{name} has shape {tuple(tokens.shape)}, but {expected}")
    if token_type_ids is not None and token_type_ids.shape != tokens.shape[:2]:
        raise InputError(
            f"token_type_ids has shape {tuple(token_type_ids.shape)}, but {name} has {tuple(tokens.shape[:2])}"
        )


def check_mask(mask: Tensor, tokens: Tensor) -> Tensor:
    """Check an attention mask; return it as booleans `(sequences, length)`, true on real tokens.

    Raises:
        ValueError: for another shape, for values other than 0 and 1, for a sequence without real tokens, and for
            padding between real tokens.
    """
    if mask.shape != tokens.shape[:2]:
        raise InputError(
            f"attention_mask has shape {tuple(mask.shape)}, but must have {tuple(tokens.shape[:2])}, 1 on real tokens"
        )
    real = mask.bool()
    if not torch.equal(real.to(mask.dtype), mask):
        values = sorted(set(mask.unique().tolist()) - {0, 1})
        raise InputError(f"attention_mask has values such as {values[0]}, but must be 1 on real tokens, 0 on padding")
    runs = torch.cat([real[:, :1], real[:, 1:] & ~real[:, :-1]], dim=1).sum(-1)  # number of runs of real tokens
    for odd in (runs != 1).nonzero().flatten().tolist():
        mistake = "padding between real tokens" if runs[odd] > 1 else "no real token"
        raise InputError(
            f"attention_mask: sequence {odd} has {mistake}, but must have real tokens, one after the other, and "
            "padding before or behind them"
        )
    return real


def task_runs(tasks: Sequence[TaskSpec], task_ids: Any) -> list[tuple[int, int]]:
    """(task id, number of rows) for each task of a batch, in the order of its rows.

    Raises:
        ValueError: for values that are no ids of tasks, and for rows that are not grouped by task.
    """
    ids = as_tensor("task_ids", task_ids, torch.device("cpu"))
    ids = ids.squeeze(-1) if ids.dim() == 2 else ids
    if ids.dim() != 1 or (len(ids) and (ids.is_floating_point() or ids.dtype == torch.bool)):
        raise InputError(f"task_ids is {ids.dtype} of shape {tuple(ids.shape)}, but must be integers, one a row")
    unique, counts = torch.unique_consecutive(ids, return_counts=True)
    runs = list(zip(unique.tolist(), counts.tolist(), strict=True))
    if len({task_id for task_id, _ in runs}) < len(runs):
        raise InputError("task_ids: the rows must be grouped by task; sort them first")
    if out := [task_id for task_id, _ in runs if not 0 <= task_id < len(tasks)]:
        raise InputError(f"task_ids has {out}, but this model's tasks are 0 to {len(tasks) - 1}")
    return runs


def pack(
    tasks: Sequence[TaskSpec], values: Sequence[Tensor | None], attention_mask: Any, task_ids: Any, task: int | None
) -> tuple[list[Tensor | None], PackedLayout, Tensor]:
    """Pack padded tensors.

    Args:
        values: `input_ids`, `token_type_ids` and `inputs_embeds`, padded; each may be None.
        task: id of the task of all rows, if `task_ids` is None.

    Returns:
        The packed tensors, their layout, and the mask `(sequences, length)` of real tokens in the padded inputs.
    """
    first = next(value for value in values if value is not None)
    mask = as_tensor("attention_mask", attention_mask, first.device)
    if mask is None:
        mask = torch.ones(first.shape[:2], dtype=torch.bool, device=first.device)
    mask = check_mask(mask, first)
    if task_ids is not None:
        runs = task_runs(tasks, task_ids)
    elif task is not None:
        runs = [(task, len(first) // tasks[task].num_sequences)]
    else:
        raise InputError("give tasks or task_ids: this model has several tasks")
    plan = [(task_id, rows, tasks[task_id].num_sequences) for task_id, rows in runs]
    layout = PackedLayout.build(mask.sum(-1).tolist(), plan).to(first.device)
    return [None if value is None else value[mask].unsqueeze(0) for value in values], layout, mask
