"""What a recipe reads before any work: its tokenizer and its data, with all that is wrong with them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from ..data.loading import LoadedTask, load_task
from ..modeling import pretrained
from .tree import RecipeError

if TYPE_CHECKING:
    from .schema import Recipe


def load_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The tokenizer of the recipe's encoder.

    Raises:
        RecipeError: if there is none that can be loaded.
    """
    try:
        return pretrained.load_tokenizer(recipe.encoder)
    except Exception as error:  # of many types: of a hub, of JSON, of the tokenizers library
        said = str(error).strip() or type(error).__name__
        remedy = "give a folder with an encoder and its tokenizer, or a name on a hub that can be reached"
        raise RecipeError(
            [f"encoder is {recipe.encoder!r}, whose tokenizer can not be loaded: {said}", remedy]
        ) from error


def load_data(recipe: Recipe) -> dict[str, LoadedTask]:
    """The checked splits of every task, by name.

    Raises:
        RecipeError: with what is wrong with the data of any task.
    """
    found, problems = {}, []
    for name, task in recipe.tasks.items():
        try:
            found[name] = load_task(task.spec(name), task.data, recipe.data_dir)
        except (OSError, ValueError) as error:
            problems += str(error).splitlines()
    if problems:
        raise RecipeError(problems)
    return found
