"""The mean of several checkpoints' weights as one model (Wortsman et al., 2022, "Model soups").

It costs as much as one member, where an ensemble costs as much as all. The paper averages runs that began at the same
weights; here that is the same encoder, and the same seed for the heads. Nothing says beforehand what a mean is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..modeling.modeling_mtbert import MtBertForMultiTask
from .ensemble import load_member, member_config

OWN = ("_name_or_path", "transformers_version", "dtype")  # keys of a config that may differ


def mean_of(folders: Sequence[str]) -> tuple[MtBertForMultiTask, PreTrainedTokenizerBase, dict[str, float]]:
    """The model whose every weight is the mean of the members', fp32, with its tokenizer.

    Args:
        folders: checkpoints of the same encoder, adapters and tasks, two or more; beside the mean, one at a time is in
            memory.

    Returns:
        Model, tokenizer, and for each member the distance of its weights from the mean, as a share of the mean's norm.

    Raises:
        ValueError: for fewer than two members or the same twice; for one that cannot be read, or differs from the first
            in config or tokenizer; for weights that are not finite.
    """
    mean, tokenizer = _mean(folders)
    weights = mean.state_dict()
    norm = _norm(weights)
    distances = {}
    for folder in folders:
        held = load_member(folder, "cpu")[0].state_dict()
        distances[folder] = _norm({name: held[name].float() - weights[name].float() for name in weights}) / norm
    return mean, tokenizer, distances


def greedy_soup(
    folders: Sequence[str], score: Callable[[MtBertForMultiTask, PreTrainedTokenizerBase], float]
) -> tuple[list[str], list[tuple[list[str], float]]]:
    """The members whose mean is taken, chosen one after the other (the paper's Recipe 1, "GreedySoup").

    From the best by itself to the worst, a member stays if the mean with it scores no lower than the mean without. The
    score is thereby one that was chosen by: what the mean is worth, other data say.

    Args:
        folders: as in `mean_of`.
        score: what a model and its tokenizer are worth; higher is better, and nan (an undefined score) worst.

    Returns:
        The members that stay, the best first, and all that was tried with its score, in that order.

    Raises:
        ValueError: as in `mean_of`, which is asked before anything is scored.
    """
    _mean(folders)  # whatever can not be averaged is told here
    tried = [([folder], score(*load_member(folder, "cpu"))) for folder in folders]
    (kept, best), *others = sorted(tried, key=lambda each: math.inf if math.isnan(each[1]) else -each[1])
    for (folder,), _ in others:
        found = score(*_mean([*kept, folder]))
        tried.append(([*kept, folder], found))
        if found >= best or math.isnan(best):
            kept, best = [*kept, folder], found
    return kept, tried


def _mean(folders: Sequence[str]) -> tuple[MtBertForMultiTask, PreTrainedTokenizerBase]:
    """`mean_of` without the distances, for which every member is read once more."""
    if len(set(folders)) < max(2, len(folders)):
        raise InputError(f"two checkpoints or more are averaged, each once, but there are: {', '.join(folders)}")
    configs = [member_config(folder) for folder in folders]
    for folder, config in zip(folders[1:], configs[1:], strict=True):
        _check_alike(folders[0], configs[0].to_dict(), folder, config.to_dict())
    mean, tokenizer = load_member(folders[0], "cpu")
    mean.float()
    weights = mean.state_dict()
    for number, folder in enumerate(folders[1:], 2):
        member, own = load_member(folder, "cpu")
        if own.backend_tokenizer.to_str() != tokenizer.backend_tokenizer.to_str():
            raise InputError(
                f"{folder}: its tokenizer is another than that of {folders[0]}; see `mtbert ensemble` instead"
            )
        for name, value in member.state_dict().items():
            if value.is_floating_point():
                weights[name] += (value.float() - weights[name]) / number
    if bad := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise InputError(f"{bad[0]} and {len(bad) - 1} other weights of the mean are not finite: a member's are not")
    return mean, tokenizer


def _norm(weights: dict[str, torch.Tensor]) -> float:
    return sum(float(value.double().pow(2).sum()) for value in weights.values()) ** 0.5


def _check_alike(first: str, ours: dict, folder: str, theirs: dict) -> None:
    for key in sorted((ours.keys() | theirs.keys()) - set(OWN)):
        if (found := _difference(key, theirs.get(key), ours.get(key))) is not None:
            where, value, wanted = found
            raise InputError(
                f"{folder}: {where} is {value!r}, but {wanted!r} in {first}; weights are averaged of checkpoints "
                "of the same encoder, adapters and tasks; `mtbert ensemble` lets others predict together"
            )


def _difference(where: str, value, wanted):
    """Path and both values of the first difference between two configs, or None if they are equal.

    Of lists of different lengths whose items have names, the names.
    """
    if value == wanted:
        return None
    if isinstance(value, dict) and isinstance(wanted, dict):
        pairs = [(key, value.get(key), wanted.get(key)) for key in sorted(value.keys() | wanted.keys(), key=str)]
    elif isinstance(value, list | tuple) and isinstance(wanted, list | tuple) and len(value) == len(wanted):
        pairs = [(number, *both) for number, both in enumerate(zip(value, wanted, strict=True))]
    else:
        return where, _names(value), _names(wanted)
    found = (_difference(f"{where}.{key}", mine, theirs) for key, mine, theirs in pairs if key not in OWN)
    return next(filter(None, found), None)


def _names(value):
    named = isinstance(value, list | tuple) and all(isinstance(each, dict) and "name" in each for each in value)
    return [each["name"] for each in value] if named else value
