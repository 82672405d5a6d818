"""Recipes: one typed tree read from YAML, and what in it does not go together; checked before any work begins."""

from ..errors import RecipeError
from .inputs import check_model, check_stages, load_data, load_tokenizer
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
