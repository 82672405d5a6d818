"""Recipes: one typed tree read from YAML, and what in it does not go together; checked before any work begins."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..errors import RecipeError
    from .preflight import check_model, check_stages, load_data, load_tokenizer
    from .rules import COMBINATIONS, REFUSED_PRETRAINING, REFUSED_TRAINING, Rule
    from .schema import (
        ModelRecipe,
        Recipe,
        TaskRecipe,
        help_text,
        load_recipe,
        pretraining_arguments_class,
        training_arguments_class,
    )

# imported when asked for: the command line splits its arguments without torch
_MODULES = {
    "COMBINATIONS": ".rules",
    "REFUSED_PRETRAINING": ".rules",
    "REFUSED_TRAINING": ".rules",
    "ModelRecipe": ".schema",
    "Recipe": ".schema",
    "RecipeError": "..errors",
    "Rule": ".rules",
    "TaskRecipe": ".schema",
    "check_model": ".preflight",
    "check_stages": ".preflight",
    "help_text": ".schema",
    "load_data": ".preflight",
    "load_recipe": ".schema",
    "load_tokenizer": ".preflight",
    "pretraining_arguments_class": ".schema",
    "training_arguments_class": ".schema",
}

__all__ = [
    "COMBINATIONS",
    "REFUSED_PRETRAINING",
    "REFUSED_TRAINING",
    "ModelRecipe",
    "Recipe",
    "RecipeError",
    "Rule",
    "TaskRecipe",
    "check_model",
    "check_stages",
    "help_text",
    "load_data",
    "load_recipe",
    "load_tokenizer",
    "pretraining_arguments_class",
    "training_arguments_class",
]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
