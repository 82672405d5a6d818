"""Average the weights of several checkpoints into one model (Wortsman et al., 2022, "Model soups").

Inference costs as much as with one member, while an ensemble costs as much as all of them. The paper averages runs that
start from the same weights: here, the same encoder and the same seed for the heads. The mean may score lower than its
members, so evaluate it. It has no calibration: those of the members were fitted for their weights.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..modeling.configuration_mtbert import MtBertConfig
from ..modeling.modeling_mtbert import MtBertForMultiTask
from ..modeling.task_editing import drop_calibration
from .ensemble import load_member, member_config

OWN = ("_name_or_path", "transformers_version", "dtype", "calibration")  # keys of a config that may differ


def mean_of(folders: Sequence[str]) -> tuple[MtBertForMultiTask, PreTrainedTokenizerBase, dict[str, float]]:
    """Average the weights of checkpoints, in fp32.

    Args:
        folders: two or more checkpoints with the same encoder, adapters and tasks. The mean and one member at a time
            are in memory.

    Returns:
        The mean model, its tokenizer, and for each member the distance of its weights from the mean, divided by the
        norm of the mean.

    Raises:
        ValueError: there are fewer than two members, or one is listed twice; a member cannot be read, or differs from
            the first in config or tokenizer; weights are not finite.
    """
    mean, tokenizer = _mean(folders)
    weights = mean.state_dict()
    norm = _norm(weights)
    distances = {}
    for folder in folders:
        member_weights = load_member(folder, "cpu")[0].state_dict()
        differences = {name: member_weights[name].float() - weights[name].float() for name in weights}
        distances[folder] = _norm(differences) / norm
    return mean, tokenizer, distances


def greedy_soup(
    folders: Sequence[str], score: Callable[[MtBertForMultiTask, PreTrainedTokenizerBase], float]
) -> tuple[list[str], list[tuple[list[str], float]]]:
    """Choose the members of a mean one after the other (the paper's Recipe 1, "GreedySoup").

    Members are tried from the best to the worst. A member is added if the mean with it scores no lower than the mean
    without it. The final score is optimistic, because it chose the members: evaluate the mean on other data.

    Args:
        folders: as in `mean_of`.
        score: scores a model with its tokenizer; higher is better, and nan (an undefined score) is worst.

    Returns:
        The chosen members, the best first, and all sets of members tried, with their scores, in order.

    Raises:
        ValueError: as in `mean_of`, before any model is scored.
    """
    _mean(folders)  # raises now if the members can not be averaged
    tried = [([folder], score(*load_member(folder, "cpu"))) for folder in folders]
    (kept, best), *others = sorted(tried, key=lambda item: math.inf if math.isnan(item[1]) else -item[1])
    for (folder,), _ in others:
        candidate = [*kept, folder]
        candidate_score = score(*_mean(candidate))
        tried.append((candidate, candidate_score))
        if candidate_score >= best or math.isnan(best):
            kept, best = candidate, candidate_score
    return kept, tried


def _mean(folders: Sequence[str]) -> tuple[MtBertForMultiTask, PreTrainedTokenizerBase]:
    """Average the weights; `mean_of` without the distances, for which each member is loaded a second time."""
    if len(set(folders)) < max(2, len(folders)):
        raise InputError(f"two checkpoints or more are averaged, each once, but there are: {', '.join(folders)}")
    configs = [member_config(folder) for folder in folders]
    for folder, config in zip(folders[1:], configs[1:], strict=True):
        _check_alike(folders[0], configs[0].to_dict(), folder, config.to_dict())
    calibrated = [folder for folder, config in zip(folders, configs, strict=True) if _is_calibrated(config)]
    if calibrated:
        names = ", ".join(calibrated)
        warnings.warn(
            f"the mean has no calibration; that of {names} is dropped: mtbert calibrate the mean", stacklevel=2
        )
    mean, tokenizer = load_member(folders[0], "cpu")
    drop_calibration(mean)
    mean.float()
    weights = mean.state_dict()
    for number, folder in enumerate(folders[1:], 2):
        member, member_tokenizer = load_member(folder, "cpu")
        if member_tokenizer.backend_tokenizer.to_str() != tokenizer.backend_tokenizer.to_str():
            raise InputError(
                f"{folder}: its tokenizer is another than that of {folders[0]}; see `mtbert ensemble` instead"
            )
        for name, value in member.state_dict().items():
            if value.is_floating_point():
                weights[name] += (value.float() - weights[name]) / number
    if bad := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise InputError(f"{bad[0]} and {len(bad) - 1} other weights of the mean are not finite: a member's are not")
    return mean, tokenizer


def _is_calibrated(config: MtBertConfig) -> bool:
    return any(task.calibration is not None for task in config.task_specs)


def _norm(weights: dict[str, torch.Tensor]) -> float:
    return sum(float(value.double().pow(2).sum()) for value in weights.values()) ** 0.5


def _check_alike(first: str, ours: dict[str, Any], folder: str, theirs: dict[str, Any]) -> None:
    for key in sorted((ours.keys() | theirs.keys()) - set(OWN)):
        difference = _difference(key, theirs.get(key), ours.get(key))
        if difference is not None:
            where, value, wanted = difference
            raise InputError(
                f"{folder}: {where} is {value!r}, but {wanted!r} in {first}; weights are averaged of checkpoints "
                "of the same encoder, adapters and tasks; `mtbert ensemble` lets others predict together"
            )


def _difference(where: str, value: Any, wanted: Any) -> tuple[str, Any, Any] | None:
    """Return the path and both values of the first difference between two configs, or None if they are equal.

    For lists of different lengths whose items have names, the values are these names.
    """
    if value == wanted:
        return None
    if isinstance(value, dict) and isinstance(wanted, dict):
        pairs = [(key, value.get(key), wanted.get(key)) for key in sorted(value.keys() | wanted.keys(), key=str)]
    elif isinstance(value, list | tuple) and isinstance(wanted, list | tuple) and len(value) == len(wanted):
        pairs = [(number, *items) for number, items in enumerate(zip(value, wanted, strict=True))]
    else:
        return where, _names(value), _names(wanted)
    differences = (_difference(f"{where}.{key}", mine, theirs) for key, mine, theirs in pairs if key not in OWN)
    return next(filter(None, differences), None)


def _names(value: Any) -> Any:
    named = isinstance(value, list | tuple) and all(isinstance(item, dict) and "name" in item for item in value)
    return [item["name"] for item in value] if named else value
