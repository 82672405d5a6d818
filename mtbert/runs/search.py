"""Search for the values of a recipe's keys: a study of optuna, each trial a recipe file and a run of its own."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import shutil
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from accelerate.utils.memory import clear_device_cache
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import TrainerCallback

from ..errors import InputError
from ..files import refuse_path, write_text
from ..modeling.display import display, masked
from ..recipe import Recipe, RecipeError, load_recipe
from ..recipe.checks import known_scores
from ..recipe.schema import override_tree
from ..recipe.search_space import Dimension, check_space, read_space
from ..training.checkpoints.run_folder import save_run
from .finetuning import train

HEARTBEAT = 60  # seconds; a trial without a heartbeat for twice as long was killed and counts as failed
FALLING = ("loss", "_mse", "_rmse", "_mae")


@dataclass(frozen=True)
class Search:
    """A search: recipe, overrides, space and metric.

    Attributes:
        recipe: the recipe file.
        overrides: keys set on the command line, for every trial.
        space: key → possible values.
        metric: the score to optimise.
        direction: `maximize` or `minimize`.
        database: the file of the studies.
        name: name of the study, and of its folder next to the database.
        keep: the trials whose weights are kept: `best` (the best of the study) or `all`.
    """

    recipe: Path
    overrides: tuple[str, ...]
    space: Mapping[str, Dimension]
    metric: str
    direction: str
    database: Path
    name: str
    keep: str = "best"

    @property
    def folder(self) -> Path:
        """Folder of the trials and of best.yaml."""
        return self.database.parent / self.name

    def digest(self) -> str:
        """Return a hash of the recipe with the overrides."""
        tree = load_recipe(self.recipe, [*self.overrides, "--training.output_dir", "unused"]).to_dict()
        return hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()


class Pruning(TrainerCallback):
    """Reports each evaluation of a run, with its number, to the trial, and ends the run if optuna prunes the trial.

    An evaluation before the first step is the same for all trials and is not reported.
    """

    def __init__(self, trial: Trial, metric: str):
        self.trial, self.metric, self.evaluations, self.training = trial, metric, 0, True
        self.scores: dict[str, float] = {}

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.training = False

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.scores = dict(metrics)
        if not self.training or state.global_step == 0 or not math.isfinite(metrics[self.metric]):
            return
        self.evaluations += 1
        self.trial.report(metrics[self.metric], self.evaluations)
        if state.global_step < state.max_steps and self.trial.should_prune():
            raise optuna.TrialPruned(f"after {self.evaluations} evaluations")


# ---- the search and its checks ----


def plan(
    recipe: Path,
    space: Path,
    metric: str,
    direction: str | None,
    study: Path,
    name: str | None,
    overrides: Sequence[str],
    keep: str,
    by_folds: bool = False,
) -> Search:
    """Read and check what a search needs.

    Args:
        recipe: the recipe file.
        space: YAML file of the space: key → `type`, `low`, `high`, `log`, `step`, `choices`.
        metric: the score to optimise, with or without `eval_`.
        direction: `maximize` or `minimize`; None: `minimize` for losses and errors, else `maximize`.
        study: the database file of the studies.
        name: name of the study; None: the recipe's.
        overrides: keys of the recipe, as on the command line, for every trial.
        keep: the trials whose weights are kept: `best` or `all`.
        by_folds: whether folds score the trials, so that the metric is none of the dev splits.

    Raises:
        RecipeError: lists all problems of recipe, space and metric.
    """
    name = name or recipe.stem
    dimensions, problems, origins = read_space(space)
    fixed = [*overrides, "--training.output_dir", str(study.parent / name)]
    metric = metric if metric.startswith("eval_") else f"eval_{metric}"
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        problems.append("a search is one process; start several with the same --study and --name instead, a GPU each")
    try:
        checked = load_recipe(recipe, fixed)
    except RecipeError as error:
        raise RecipeError([*problems, *error.problems]) from error
    problems += check_space(dimensions, origins, lambda values: load_recipe(recipe, [*fixed, *values]))
    problems += [] if by_folds else metric_problems(metric, checked)
    if problems:
        raise RecipeError(problems)
    direction = direction or ("minimize" if metric.endswith(FALLING) else "maximize")
    return Search(recipe, tuple(overrides), dimensions, metric, direction, study, name, keep)


def metric_problems(metric: str, recipe: Recipe) -> list[str]:
    """Return the reasons why a score can not be the metric of a search; empty if it can."""
    score_names = known_scores(recipe)
    if not any(task.data.has_dev for task in recipe.tasks.values()):
        return ["there are no dev splits to search by; give a task data.dev"]
    if metric in score_names:
        return []
    near = difflib.get_close_matches(metric, score_names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return [f"--metric is {metric!r}, which no evaluation has; {hint}known ones: {', '.join(score_names)}"]


# ---- the study ----


def open_study(search: Search, seed: int = 0, pruner: optuna.pruners.BasePruner | None = None) -> optuna.Study:
    """Create the study, or open it if it exists.

    Raises:
        ValueError: the study has another recipe, metric, direction or choices, or its folder belongs to another study.
    """
    refuse_path(search.folder, "the study's folder")
    search.folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # about the heartbeat
        storage = optuna.storages.RDBStorage(f"sqlite:///{search.database}", heartbeat_interval=HEARTBEAT)
    new = search.name not in optuna.get_all_study_names(storage)
    if new and any(search.folder.glob("trial-*")):
        raise InputError(f"{search.folder} has trials of another study; give another --name, or remove it")
    direction: Any = search.direction
    study = optuna.create_study(
        storage=storage, study_name=search.name, direction=direction, load_if_exists=True, pruner=pruner
    )
    about = {"metric": search.metric, "direction": search.direction, "recipe": search.digest()}
    if new:
        for key, value in about.items():
            study.set_user_attr(key, value)
    else:
        problems = study_problems(search, study, about)
        if problems:
            raise InputError("\n".join([*problems, f"give another --name than {search.name} for another search"]))
    # With the same seed, a continued study would draw its first values again.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    return study


def study_problems(search: Search, study: optuna.Study, about: Mapping[str, str]) -> list[str]:
    """Return the differences between an existing study and the requested search."""
    where = f"study {search.name} in {search.database}"
    problems = []
    for key in ("metric", "direction"):
        if study.user_attrs.get(key) != about[key]:
            problems.append(f"{where} has the {key} {study.user_attrs.get(key)}, not {about[key]}")
    if study.user_attrs.get("recipe") != about["recipe"]:
        problems.append(f"{where} was begun with another recipe, or with other keys set on the command line")
    stored: dict[str, BaseDistribution] = {}
    for trial in study.trials:
        stored |= trial.distributions
    for key, dimension in search.space.items():
        old = stored.get(key)
        labels = tuple(dimension.labels()) if dimension.type == "categorical" else None
        old_labels = old.choices if isinstance(old, CategoricalDistribution) else None
        if old is not None and labels != old_labels:
            was = list(old_labels) if old_labels is not None else "a range"
            problems.append(f"{where} has other values for {key}: {was}")
    return problems


def write_recipe(search: Search, values: Mapping[str, Any], name: str, about: str) -> Path:
    """Write a recipe to the study's folder: the searched recipe as its base, with the overrides and `values`."""
    path = search.folder / f"{name}.yaml"
    tree = {"base": os.path.relpath(search.recipe, search.folder), **override_tree(search.overrides)}
    values = {**values, "training.output_dir": str(search.folder / name)}
    for key, value in values.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node[parent] = dict(node.get(parent) or {})
            node = node[parent]
        node[last] = value
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    write_text(path, f"# mtbert finetune {path}\n# {about}\n{text}")
    return path


def objective(search: Search, trial: Trial) -> float:
    """Run one trial: write its recipe, train, and return its score; store an error with the trial."""
    name, pruning = f"trial-{trial.number:04d}", Pruning(trial, search.metric)
    try:
        values = {key: dimension.suggest(trial, key) for key, dimension in search.space.items()}
        path = write_recipe(search, values, name, f"trial {trial.number} of {search.name}")
        scores = train(path, callbacks=[pruning]).scores
        trial.set_user_attr("scores", scores)
        if not math.isfinite(scores[search.metric]):
            raise InputError(f"{search.metric} is {scores[search.metric]}, but must be finite to be searched by")
        return scores[search.metric]
    except optuna.TrialPruned as error:
        trial.set_user_attr("scores", pruning.scores)
        trial.set_user_attr("note", str(error))
        save_run(str(search.folder / name), scores=pruning.scores)
        raise
    except (Exception, KeyboardInterrupt) as error:
        trial.set_user_attr("note", masked(str(error) if isinstance(error, RecipeError) else f"{error!r}"))
        write_text(search.folder / f"{name}.error.txt", masked(traceback.format_exc()))
        raise


def best_of(study: optuna.Study) -> FrozenTrial | None:
    """Return the best completed trial, or None."""
    return study.best_trial if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) else None


def after_trial(search: Search, study: optuna.Study, trial: FrozenTrial) -> None:
    """Print a trial's outcome, free its memory, update best.yaml, and remove weights that are not kept."""
    clear_device_cache(garbage_collection=True)
    outcome = f"{search.metric} {trial.value:.4f}" if trial.state is TrialState.COMPLETE else trial.state.name.lower()
    note = trial.user_attrs.get("note", "")
    Console().print(
        display(f"trial {trial.number}: {outcome} {note}".rstrip(), lines=True), markup=False, highlight=False
    )
    best = best_of(study)
    if best is not None:
        values = {key: stored_value(search.space, key, value) for key, value in best.params.items()}
        about = f"The best of {len(study.trials)} trials of {search.name}: {search.metric} {best.value:.4f}"
        write_recipe(search, values, "best", about)
    if search.keep == "best":
        for other in study.trials:
            if other.state.is_finished() and (best is None or other.number != best.number):
                remove_weights(search.folder / f"trial-{other.number:04d}")


def stored_value(space: Mapping[str, Dimension], key: str, stored: Any) -> Any:
    """Convert a stored parameter of a study to the recipe's value."""
    dimension = space.get(key)
    if dimension is None or dimension.type != "categorical":
        return stored
    return (dimension.choices or [])[dimension.labels().index(stored)]


def remove_weights(folder: Path) -> None:
    """Remove a run's checkpoints and final weights; recipe, record, scores and logs stay."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    for pattern in ("*.safetensors", "*.safetensors.index.json"):
        for weights in folder.glob(pattern):
            weights.unlink()


def trials_table(search: Search, study: optuna.Study) -> Table:
    """Create a table of all trials of a study: values, score and outcome."""
    table = Table(title=f"{search.name}: {search.metric}, {search.direction}")
    for heading in ("trial", "state", search.metric, *search.space, "seconds", "note"):
        table.add_column(heading, justify="left" if heading in ("state", "note") else "right")
    best = best_of(study)
    for trial in study.trials:
        values = [trial.params.get(key, "") for key in search.space]
        cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        seconds = f"{trial.duration.total_seconds():.0f}" if trial.duration else ""
        score = f"{trial.value:.4f}" if trial.state is TrialState.COMPLETE else ""
        state = "best" if best is not None and trial.number == best.number else trial.state.name.lower()
        note = trial.user_attrs.get("note", "killed" if trial.state is TrialState.FAIL else "")
        cells = [Text(display(cell)) for cell in (*cells, seconds, note.splitlines()[0] if note else "")]
        table.add_row(str(trial.number), state, score, *cells)
    return table


def optimize(search: Search, study: optuna.Study, trials: int) -> bool:
    """Add trials to a study; a failed trial does not end the search. Return False if the user interrupted it."""
    try:
        study.optimize(
            lambda trial: objective(search, trial),
            n_trials=trials,
            catch=(Exception,),
            callbacks=[lambda study, trial: after_trial(search, study, trial)],
        )
    except KeyboardInterrupt:
        return False
    return True
