"""Check the values of configs: their types, the sizes of an encoder, and whether transformers knows the encoder."""

from __future__ import annotations

import re
import sys
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from typing import Any, get_args, get_origin, get_type_hints

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .display import brief
from .errors import InputError, Problem
from .limits import beyond

DEEPEST = 10  # largest depth of nested mappings in a config of transformers
WORDS = {str: "text", int: "an integer", float: "a finite number", bool: "true or false", type(None): "null"}


def plain(value: Any) -> Any:
    """Convert numbers and arrays of numpy, pandas and torch, also inside of lists, to Python's own, for JSON."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else value
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def make_plain(spec: Any) -> None:
    """Apply `plain` to every field of a frozen dataclass."""
    for field in fields(spec):
        object.__setattr__(spec, field.name, plain(getattr(spec, field.name)))


def type_problems(spec: Any) -> list[Problem]:
    """Return a `Problem` for each field of a dataclass whose value has another type than declared."""
    problems, hints = [], get_type_hints(type(spec))
    for field in fields(spec):
        value, hint = plain(getattr(spec, field.name)), hints[field.name]
        if not _fits(hint, value):
            problems.append(Problem((field.name,), f"is {brief(value)}, but must be {_describe(hint)}"))
    return problems


def _fits(hint: Any, value: Any) -> bool:
    kinds = get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, list | tuple) and all(_fits(kinds[0], item) for item in value)  # of any length
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(_fits(kinds[1], item) for item in value.values())
    if kinds:
        return any(_fits(kind, value) for kind in kinds)
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    if hint is int:
        return isinstance(value, Integral)
    number: Any = value
    return isinstance(value, Real) and abs(number) <= sys.float_info.max if hint is float else isinstance(value, hint)


def _describe(hint: Any) -> str:
    kinds = get_args(hint)
    if get_origin(hint) is tuple:
        return "a list of " + {str: "texts", int: "integers", float: "numbers"}.get(kinds[0], "values")
    if get_origin(hint) is dict:
        return "a mapping to " + {str: "texts", int: "integers", float: "numbers"}.get(kinds[1], "values")
    if kinds:
        return " or ".join(map(_describe, kinds))
    return "a mapping" if is_dataclass(hint) else WORDS.get(hint, str(hint))


def refuse_sizes(values: dict[str, Any], where: str, depth: int = 0) -> None:
    """Raise InputError for numbers in an encoder's config from which transformers would build huge lists.

    Args:
        values: the config, or a mapping inside of it.
        where: prefix of the keys in error messages.
        depth: depth of `values` in the config.

    Raises:
        InputError: with the field and the limit.
    """
    if depth > DEEPEST:
        raise InputError(f"{where[:100]}… lies {DEEPEST} levels deep, but a config has fewer")
    for key, value in values.items():
        if not isinstance(key, str) or key == "label2id":
            continue
        if isinstance(value, dict):
            refuse_sizes(value, f"{where}{key}.", depth + 1)
        if not isinstance(value, Integral) or isinstance(value, bool):
            continue
        counts = {"num_labels": "labels", "vocab_size": "tokens", "max_position_embeddings": "tokens"}
        name = counts.get(key, "encoder_layers" if re.search("layer", key) else None)
        if name is not None and (sentences := beyond(name, int(value), f"{where}{key} is")):
            raise InputError(sentences[0])


def encoder_config(values: dict[str, Any]) -> PreTrainedConfig:
    """Make the config of an encoder from its fields.

    Raises:
        ValueError: if transformers has no such encoder, or a field is invalid.
    """
    fields_of_encoder = dict(values)
    refuse_sizes(fields_of_encoder, "encoder.")
    kind = fields_of_encoder.pop("model_type", None)
    if kind not in CONFIG_MAPPING or kind == "mtbert":
        raise InputError(f"encoder.model_type is {kind!r}, which this version of transformers does not know")
    try:
        return AutoConfig.for_model(kind, **fields_of_encoder)
    except Exception as error:  # each family checks its own fields, with errors of many types
        raise InputError(f"encoder: the fields of {kind!r} are wrong: {error}") from error
