"""What a recipe reads before any work: tokenizer, data, configs; with all that is wrong with them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedTokenizerBase

from ..data.folds import without_held_out
from ..data.pools import pools_of
from ..data.sources import load_source, with_leaks_of_pools, without_blanks
from ..data.splits import LoadedTask, load_task
from ..errors import InputError, RecipeError
from ..modeling import encoder_loading
from ..modeling.configuration_mtbert import MtBertConfig
from ..modeling.encoder_loading import top_layers
from ..modeling.encoder_support import attention_dropout
from ..modeling.modeling_mtbert import MtBertForMultiTask
from ..modeling.task_spec import TaskSpec
from ..modeling.tokenization import length_limit, separator_ids
from ..training.peft import wrap

if TYPE_CHECKING:
    from .schema import Recipe


def load_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The tokenizer of the recipe's encoder.

    Raises:
        RecipeError: if there is none that can be loaded.
    """
    try:
        return encoder_loading.load_tokenizer(recipe.encoder)
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
    loaded: dict[str, LoadedTask] = {}
    problems = []
    specs = {name: task.spec(name) for name, task in recipe.tasks.items()}
    for pool in pools_of(specs, recipe.drawn_sources):
        try:
            loaded |= load_rows(recipe, [specs[name] for name in pool.tasks], masked=True)
        except (OSError, ValueError) as error:
            problems += str(error).splitlines()
    if problems:
        raise RecipeError(problems)
    try:
        folded = [name for name, task in recipe.tasks.items() if task.data.folds is not None]
        kept = without_held_out({name: loaded[name] for name in specs}, folded)
        return with_leaks_of_pools(kept, recipe.drawn_sources, recipe.leaks == "drop")
    except InputError as error:
        raise RecipeError([str(error)]) from error


def load_rows(recipe: Recipe, tasks: Iterable[TaskSpec], masked: bool = False) -> dict[str, LoadedTask]:
    """The checked splits of some of a recipe's tasks, by name.

    Args:
        masked: whether the tasks of a source have all of its rows, with missing labels; otherwise train and dev rows
            without a label of a task are left out of that task.

    Raises:
        FileNotFoundError, OSError, ValueError: as `load_task` and `load_source` do.
    """
    specs = {task.name: task for task in tasks}
    loaded: dict[str, LoadedTask] = {}
    for pool in pools_of(recipe.tasks, recipe.drawn_sources):
        if not any(name in specs for name in pool.tasks):
            continue
        given = {name: specs.get(name) or recipe.tasks[name].spec(name) for name in pool.tasks}
        if not pool.is_shared:
            (name,) = pool.tasks
            loaded[name] = load_task(given[name], recipe.tasks[name].data, recipe.data_dir)
            continue
        data = {name: (spec, recipe.tasks[name].data) for name, spec in given.items()}
        for name, of_task in load_source(pool.name, data, recipe.data_dir).items():
            loaded[name] = of_task if masked else without_blanks(of_task)
    return {name: loaded[name] for name in specs}


def check_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> None:
    """Whether the encoder takes the recipe's tasks, adapter and peft method; of the encoder its config alone is read.

    Raises:
        RecipeError: with what it does not take.
    """
    specs, problems = [task.spec(name) for name, task in recipe.tasks.items()], []

    def note(check: Callable[..., object], *given: object) -> None:
        try:
            check(*given)
        except (OSError, ValueError) as error:
            problems.extend(str(error).splitlines())

    def build() -> None:
        with torch.device("meta"):  # modules without memory for their weights
            model = MtBertForMultiTask(MtBertConfig(encoder=config, tasks=specs, adapter=recipe.model.adapter))
            top_layers(model.encoder, recipe.model.reinitialized_layers)
            if recipe.peft is not None:
                wrap(model, recipe.peft)

    try:
        config = encoder_loading.encoder_config(recipe.encoder)
    except (OSError, ValueError) as error:
        raise RecipeError([f"encoder is {recipe.encoder!r}, which can not be taken: {error}"]) from error
    for spec in specs:
        note(length_limit, spec, tokenizer, config)
        note(separator_ids, spec, tokenizer)
    if recipe.model.attention_dropout is not None:
        note(attention_dropout, config, recipe.model.attention_dropout)
    note(build)
    if problems:
        raise RecipeError(problems)


def check_stages(recipe: Recipe) -> None:
    """Whether pre-training and every stage can be run on this machine, and with what its methods need.

    Raises:
        RecipeError: with what can not be, of all stages.
    """
    stages = recipe.in_stages()
    problems: list[str] = []
    first = [] if recipe.pretraining is None else [recipe.pretraining_arguments]
    for make_arguments in (*first, *(stage.training_arguments for stage in stages)):
        try:
            make_arguments()
        except RecipeError as error:
            problems += error.problems
    for stage in stages:
        specs = [task.spec(name) for name, task in stage.tasks.items()]
        unlabelled = {name: task.data.unlabelled for name, task in stage.tasks.items() if task.data.unlabelled}
        for settings in stage.methods.values():
            if hasattr(settings, "preflight"):
                problems += [str(problem) for problem in settings.preflight(specs, unlabelled)]
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))
