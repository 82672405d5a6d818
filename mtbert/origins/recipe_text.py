"""The keys of a saved recipe that say something: those whose values are not the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HEAD = {
    "layers": 0,
    "activation": "relu",
    "dropout": 0.0,
    "attention_heads": 1,
    "features": "u;v;|u-v|",
    "output": "identity",
}
_DATA = {"symmetric": False, "sample_seed": 0}
_TASK = {
    "data": _DATA,
    "head": {"type": "linear", **_HEAD},
    "ordinal": False,
    "pair": "cross",
    "pooling": "cls",
    "dropout": 0.1,
    "token_types": True,  # nosec B105
    "adapter": True,
    "weight": 1.0,
    "label_smoothing": 0.0,
    "balanced": False,
    "focal_gamma": 2.0,
    "smooth_l1_beta": 1.0,
}
# Defaults that are not null or empty. A test compares them with the classes of the settings. The schedule's name is no
# part of them: a reader wants to know it.
DEFAULTS: Mapping[str, Any] = {
    "tasks": {"*": _TASK},
    "sources": {"*": _DATA},
    "leaks": "report",
    "schedule": {"mixed": False, "resample": False, "draw": "source"},
    "model": {"freeze_encoder": False, "train_layer_norms": False, "packed": True, "reinitialized_layers": 0},
    "loss": {"weighting": "fixed"},
}
_KEPT = ("training", "peft", "stages", "pretraining")  # sections that hold only what was set


def set_keys(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's tree without keys that are null, empty or the default.

    Args:
        recipe: the tree of a recipe.json.
    """
    return {key: value for key, value in _pruned(recipe, DEFAULTS, 0).items() if value not in ({}, [], ())}


def _pruned(tree: Mapping[str, Any], defaults: Mapping[str, Any], depth: int) -> dict[str, Any]:
    kept = {}
    for key, value in tree.items():
        default = defaults.get(key, defaults.get("*"))
        if depth == 0 and key in _KEPT:
            kept[key] = value
        elif isinstance(value, Mapping):
            below = _pruned(value, default if isinstance(default, Mapping) else {}, depth + 1)
            if below or "*" in defaults:  # a task stays, though all of it may be the default
                kept[key] = below
        elif value is not None and value not in ([], ()) and (type(value), value) != (type(default), default):
            kept[key] = value
    return {key: value for key, value in kept.items() if value is not None}
