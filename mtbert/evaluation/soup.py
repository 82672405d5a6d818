"""The mean of several checkpoints' weights as one model (Wortsman et al., 2022, "Model soups": the uniform soup).

It costs as much as one member, where an ensemble costs as much as all. It works where the members began as the same
encoder and their heads as the same numbers (the same seed), so that they ended in the same valley of the loss; runs of
other seeds begin with other heads, and their mean is good for nothing. Its scores tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from ..modeling.modeling_mtbert import MtBertForMultiTask
from .ensemble import load_member

OWN = ("_name_or_path", "transformers_version", "dtype")  # keys of a config that may differ


def mean_of(folders: Sequence[str]) -> tuple[MtBertForMultiTask, PreTrainedTokenizerBase, dict[str, float]]:
    """The model whose every weight is the mean of the members', fp32, with its tokenizer.

    Args:
        folders: checkpoints of the same encoder, adapters and tasks, two or more. They are loaded one after the other:
            memory for three models.

    Returns:
        Model, tokenizer, and for each member the distance of its weights from the mean, as a share of the mean's norm.

    Raises:
        ValueError: for fewer than two members or the same twice; for one that differs from the first in config or
            tokenizer; for weights that are not finite.
    """
    if len(set(folders)) < max(2, len(folders)):
        raise ValueError(f"two checkpoints or more are averaged, each once, but there are: {', '.join(folders)}")
    mean, tokenizer = load_member(folders[0], "cpu")
    mean.float()
    weights = mean.state_dict()
    for number, folder in enumerate(folders[1:], 2):
        member, own = load_member(folder, "cpu")
        _check_alike(folders[0], (mean, tokenizer), folder, (member, own))
        for name, value in member.state_dict().items():
            if value.is_floating_point():
                weights[name] += (value.float() - weights[name]) / number
    if bad := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise ValueError(f"{bad[0]} and {len(bad) - 1} other weights of the mean are not finite: a member's are not")
    norm = _norm(weights)
    distances = {}
    for folder in folders:
        held = load_member(folder, "cpu")[0].state_dict()
        distances[folder] = _norm({name: held[name].float() - weights[name].float() for name in weights}) / norm
    return mean, tokenizer, distances


def _norm(weights: dict[str, torch.Tensor]) -> float:
    return sum(float(value.double().pow(2).sum()) for value in weights.values()) ** 0.5


def _check_alike(first: str, one: tuple, folder: str, other: tuple) -> None:
    (model, tokenizer), (member, own) = one, other
    ours, theirs = model.config.to_dict(), member.config.to_dict()
    for key in sorted((ours.keys() | theirs.keys()) - set(OWN)):
        if (found := _difference(key, theirs.get(key), ours.get(key))) is not None:
            where, value, wanted = found
            raise ValueError(
                f"{folder}: {where} is {value!r}, but {wanted!r} in {first}; weights are averaged of checkpoints "
                "of the same encoder, adapters and tasks; recipes/ensemble.py lets others predict together"
            )
    if own.backend_tokenizer.to_str() != tokenizer.backend_tokenizer.to_str():
        raise ValueError(f"{folder}: its tokenizer is another than that of {first}; see recipes/ensemble.py instead")


def _difference(where: str, value, wanted):
    """The first place in which two parts of a config differ, and what stands there; None: nowhere."""
    if value == wanted:
        return None
    if isinstance(value, dict) and isinstance(wanted, dict):
        pairs = [(key, value.get(key), wanted.get(key)) for key in sorted(value.keys() | wanted.keys(), key=str)]
    elif isinstance(value, list | tuple) and isinstance(wanted, list | tuple) and len(value) == len(wanted):
        pairs = [(number, *both) for number, both in enumerate(zip(value, wanted, strict=True))]
    else:
        return where, value, wanted
    found = (_difference(f"{where}.{key}", mine, theirs) for key, mine, theirs in pairs if key not in OWN)
    return next(filter(None, found), None)
