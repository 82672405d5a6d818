"""A search whose trials are scored by folds of the training rows: optuna proposes values, folds judge them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from ..errors import InputError
from ..evaluation.choosing import mean_score
from ..modeling.display import masked
from ..recipe import load_recipe
from .candidates import Candidate
from .fold_plan import FoldPlan
from .fold_table import FoldTable, Round
from .search import Search, stored_value
from .table_plan import TablePlan

RECIPE = "recipe"  # the candidate without changes, the baseline


def fold_search(search: Search, folds: FoldPlan) -> Search:
    """Return the search as its study is stored: one of other folds, seeds or steps is another study."""
    used = f"{folds.first_folds or folds.folds} of {folds.folds} folds"
    length = f", {folds.steps[0]} steps" if folds.steps else ""
    seeds = ",".join(map(str, folds.seeds))
    return replace(search, metric=f"{folds.score} by {used}, seeds {seeds}{length}", direction="maximize")


def search_table(
    search: Search, folds: FoldPlan, precision: str, results: Path | None, commit: bool = False
) -> FoldTable:
    """Return the table of a search, with the recipe as it is as its only candidate.

    Args:
        search: recipe, keys and space.
        folds: how candidates are compared.
        precision: `no`, `bf16` or `fp16`.
        results: folder of the result files; None: `results` in the study's folder.
        commit: whether each new result file is committed.
    """
    recipe = load_recipe(search.recipe, [*search.overrides, "--training.output_dir", "unused"])
    plan = TablePlan(
        rows=(),
        encoder=recipe.encoder,
        data_dir=str(recipe.data_dir or "."),
        seeds=(),
        budget="published",
        learning_rate=0.0,
        instead_of_pooler=None,
        mixed_precision=precision,
        output=search.folder,
        overrides=tuple(search.overrides),
    )
    baseline = Candidate(RECIPE, search.recipe, {})
    return FoldTable(plan, replace(folds, baseline=RECIPE), [baseline], results or search.folder / "results", commit)


def run_search(
    search: Search,
    table: FoldTable,
    study: optuna.Study,
    trials: int,
    seed: int,
    jobs: int,
    finished_only: bool = False,
) -> tuple[list[Round], list[str]]:
    """Add trials to a study, each run with the steps of the first round; then run and judge all rounds.

    A trial's values follow from the seed, its number and the trials before it, so that a search that is begun anew
    beside the result files of another machine proposes the same and runs nothing twice.

    Returns:
        As `FoldTable.run_all` does.
    """
    table.rows  # noqa: B018  # data problems come before any run
    failed = [] if finished_only else table.execute([RECIPE], table.folds.budgets[0], jobs)
    if failed:
        return [], failed
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        table.add([_candidate(search, trial.number, _values(search, trial))])

    def objective(trial: Trial) -> float:
        try:
            return _objective(search, table, trial, jobs)
        except Exception as error:
            trial.set_user_attr("note", masked(str(error)))
            raise

    for _ in range(trials):
        study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
        study.optimize(objective, n_trials=1, catch=(Exception,))
        last = study.trials[-1]
        outcome = f"{last.value:.4f}" if last.state is TrialState.COMPLETE else last.user_attrs.get("note", "failed")
        print(f"trial {last.number}: {outcome}", flush=True)
    return table.run_all(jobs, finished_only)


def _objective(search: Search, table: FoldTable, trial: Trial, jobs: int) -> float:
    values = {key: dimension.suggest(trial, key) for key, dimension in search.space.items()}
    candidate = _candidate(search, trial.number, values)
    table.add([candidate])
    steps = table.folds.budgets[0]
    failed = table.execute([candidate.name], steps, jobs)
    predictions = table.predictions(candidate.name, steps)
    if failed or predictions is None:
        table.remove(candidate.name)
        raise InputError("\n".join(failed))
    return mean_score(predictions, table.held_out, table.folds.score)


def _candidate(search: Search, number: int, values: Mapping[str, Any]) -> Candidate:
    return Candidate(f"trial-{number:04d}", search.recipe, dict(values))


def _values(search: Search, trial: FrozenTrial) -> dict[str, Any]:
    return {key: stored_value(search.space, key, value) for key, value in trial.params.items()}
