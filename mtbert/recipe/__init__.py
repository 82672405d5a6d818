"""Recipes: one typed tree read from YAML, and what in it does not go together; checked before any work begins."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..errors import RecipeError
    from ..training.arguments import REFUSED_PRETRAINING, REFUSED_TRAINING
    from ..training.methods.rules import Rule
    from .combinations import COMBINATIONS
    from .parts import ModelRecipe, TaskRecipe, pretraining_arguments_class, training_arguments_class
    from .preflight import check_model, check_stages, load_data, load_rows, load_tokenizer
    from .schema import Recipe, help_text, load_recipe

# imported when asked for: the command line splits its arguments without torch
_MODULES = {
    "COMBINATIONS": ".combinations",
    "REFUSED_PRETRAINING": "..training.arguments",
    "REFUSED_TRAINING": "..training.arguments",
    "ModelRecipe": ".parts",
    "Recipe": ".schema",
    "RecipeError": "..errors",
    "Rule": "..training.rules",
    "TaskRecipe": ".parts",
    "check_model": ".preflight",
    "check_stages": ".preflight",
    "help_text": ".schema",
    "load_data": ".preflight",
    "load_rows": ".preflight",
    "load_recipe": ".schema",
    "load_tokenizer": ".preflight",
    "pretraining_arguments_class": ".parts",
    "training_arguments_class": ".parts",
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
    "load_rows",
    "load_recipe",
    "load_tokenizer",
    "pretraining_arguments_class",
    "training_arguments_class",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
