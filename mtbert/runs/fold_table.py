"""Candidates compared by K-fold over the training rows: their runs, result files and decisions.

A fold-run is a candidate trained without a fold, with a seed, for a budget of steps. Its result file holds the
predictions of the fold's rows. A table goes on from these files alone, on any machine. Dev files are never opened.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..evaluation.choosing import Cell, Comparison, HeldOut, compare
from ..recipe import Recipe
from ..recipe.schema import override_tree
from .budget_keys import as_overrides, fold_keys, load, steps_keys, total_steps
from .candidates import Candidate
from .fold_plan import FoldPlan
from .fold_rows import FoldRows, load_fold_rows, same_rows_problems, score_problem
from .result_files import Result, result_of, settings_hash
from .result_folder import ResultFolder
from .row_runs import Run, execute_all, remove_weights
from .table_plan import Budget, TablePlan, row_settings


@dataclass
class Round:
    """The candidates that were run with one budget.

    Attributes:
        steps: the budget; None: what the recipes say.
        comparison: of those with all their runs; None if the baseline lacks some.
        runs: number of runs with a result.
        incomplete: candidates that lack runs.
        dropped: those that did not go on.
    """

    steps: int | None
    comparison: Comparison | None
    runs: int
    incomplete: list[str]
    dropped: list[str] = field(default_factory=list)


class FoldTable:
    """Candidates, their fold-runs and their results.

    Args:
        plan: encoder, data, precision, folder and keys for all recipes; its `rows` and `seeds` do not matter.
        folds: how candidates are compared.
        candidates: at least one.
        results: folder of the result files.
        commit: whether each new result file is committed to the git repository that holds it.
        budget: keys that lie under those of the candidates, as for `row_settings`.

    Raises:
        InputError: lists the problems of all candidates.
    """

    def __init__(
        self,
        plan: TablePlan,
        folds: FoldPlan,
        candidates: Sequence[Candidate],
        results: Path,
        commit: bool = False,
        budget: Budget | None = None,
    ):
        self.plan, self.folds, self.budget = plan, folds, budget
        self.results, self.kept = results, ResultFolder(results, commit)
        self.candidates: dict[str, Candidate] = {}
        # candidate, steps, fold → overrides but for the seed, folder of the pre-trained encoder, hash
        self._settings: dict[tuple[str, int | None, int], tuple[list[str], Path | None, str]] = {}
        self._recipes: dict[str, Recipe] = {}
        self._rows: dict[int, dict[str, FoldRows]] | None = None
        if problems := folds.problems():
            raise InputError("\n".join(problems))
        if folds.baseline is not None and folds.baseline not in [each.name for each in candidates]:
            names = ", ".join(each.name for each in candidates)
            raise InputError(f"baseline is {folds.baseline!r}, but must be a candidate: {names}")
        self.baseline = folds.baseline or candidates[0].name
        first = next(each for each in candidates if each.name == self.baseline)
        self.add([first])
        if problem := score_problem(folds.score, self._recipes[self.baseline]):
            raise InputError(problem)
        self.add([each for each in candidates if each is not first])

    # ---- settings ----

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Check candidates and add them.

        Raises:
            InputError: lists the problems of all of them.
        """
        problems = []
        for candidate in candidates:
            if candidate.name in self.candidates:
                problems.append(f"two candidates are named {candidate.name!r}; rename one")
                continue
            try:
                of_candidate = self._check(candidate)
            except InputError as error:
                of_candidate = [f"candidate {candidate.name!r}: {line}" for line in str(error).splitlines()]
            if not of_candidate:
                self.candidates[candidate.name] = candidate
            problems += of_candidate
        if problems:
            raise InputError("\n".join(problems))

    def remove(self, name: str) -> None:
        """Remove a candidate."""
        del self.candidates[name]

    def _check(self, candidate: Candidate) -> list[str]:
        for steps in self.folds.budgets:
            keys = self._keys(candidate, steps)
            recipe = load(candidate.path, keys)
            for fold in range(self.folds.first_folds or self.folds.folds):
                given = (*keys, *as_overrides(fold_keys(recipe, self.folds.folds, fold)))
                settings, pretrained = row_settings(candidate.path, replace(self.plan, overrides=given))
                digest = settings_hash(load(candidate.path, settings))
                self._settings[candidate.name, steps, fold] = settings, pretrained, digest
        self._recipes[candidate.name] = recipe
        problems = same_rows_problems(candidate.name, recipe, self._recipes.get(self.baseline, recipe))
        where = f"candidate {candidate.name!r}"
        if any(part.distillation is not None for part in recipe.in_stages()):
            problems.append(
                f"{where}: distillation.teachers were trained on held-out rows, so that its scores would be too high; "
                "choose without distillation, and distil the chosen recipe"
            )
        if recipe.pretraining is not None and recipe.pretraining.get("output_dir") is not None:
            folder = recipe.pretraining["output_dir"]
            problems.append(
                f"{where}: pretraining.output_dir is {folder!r}, whose encoder would have seen held-out texts; drop "
                "it, and each fold is pre-trained by itself"
            )
        return problems

    def _keys(self, candidate: Candidate, steps: int | None) -> list[str]:
        """Return the overrides of a candidate under a budget: the last budget is its full length, others are shares."""
        places = ["--encoder", self.plan.encoder, "--data_dir", self.plan.data_dir]
        below = [*self.plan.overrides]
        if self.budget is not None:
            below = [*self.budget(candidate.path, [*places, *self.plan.overrides, *candidate.overrides]), *below]
        longest = self.folds.budgets[-1]
        if longest is not None:
            below += as_overrides(steps_keys(load(candidate.path, [*places, *below]), longest))
        keys = [*places, *below, *candidate.overrides]
        if steps is None or longest is None or steps == longest:
            return keys
        recipe = load(candidate.path, keys)
        if recipe.stages:
            raise InputError("has stages, which have one length; give one number of steps")
        full = total_steps(recipe)
        if full is None:
            raise InputError("schedule.steps_per_epoch is null, so that its length is not known; set it")
        return keys + as_overrides(steps_keys(recipe, max(1, round(full * steps / longest))))

    def chosen_tree(self, name: str) -> dict[str, Any]:
        """Return a candidate as a recipe file holds it, with its full length, over its recipe as `base`."""
        candidate = self.candidates[name]
        keys = self._keys(candidate, self.folds.budgets[-1])
        tree = override_tree(row_settings(candidate.path, replace(self.plan, overrides=tuple(keys)))[0])
        for place in {"encoder", "data_dir"} - candidate.changes.keys():
            tree.pop(place)
        if tree.get("pretraining"):
            tree["pretraining"].pop("output_dir", None)
        return {"base": os.path.relpath(candidate.path, self.results), **tree}

    @property
    def rows(self) -> dict[int, dict[str, FoldRows]]:
        """Fold → task of the baseline → its held-out rows; read once."""
        if self._rows is None:
            used = range(self.folds.first_folds or self.folds.folds)
            self._rows = load_fold_rows(self._recipes[self.baseline], self.folds.folds, used)
        return self._rows

    @property
    def held_out(self) -> dict[int, dict[str, HeldOut]]:
        """Fold → task of the baseline → what candidates are compared on."""
        return {fold: {task: rows.held for task, rows in by_task.items()} for fold, by_task in self.rows.items()}

    # ---- runs ----

    def _file_name(self, name: str, steps: int | None, cell: Cell) -> str:
        fold, seed = cell
        length = "" if steps is None else f"-{steps}"
        digest = self._settings[name, steps, fold][2]
        return f"{name}{length}-fold{fold}of{self.folds.folds}-seed{seed}-{digest}"

    def result(self, name: str, steps: int | None, cell: Cell) -> Result | None:
        """Return the result of a finished fold-run, or None.

        Raises:
            InputError: the file is damaged, or of other held-out rows than the data have.
        """
        fold, seed = cell
        file = self.kept.file(self._file_name(name, steps, cell), self._settings[name, steps, fold][2], seed)
        if file is None:
            return None
        result = Result.read(file, self.candidates[name].path)
        for task, rows in self.rows[fold].items():
            digest = result.fold.get("rows", {}).get(task)
            if digest != rows.digest or task not in result.logits or len(result.logits[task]) != rows.count:
                raise InputError(
                    f"{file} has other held-out rows of task {task!r} than the data in {self.plan.data_dir}; give the "
                    "data that the runs had, or another folder for results"
                )
        return result

    def _run(self, name: str, steps: int | None, cell: Cell) -> Run:
        fold, seed = cell
        keys, pretrained, digest = self._settings[name, steps, fold]
        keys = [*keys, "--training.seed", str(seed)]
        folder = self.plan.output / "folds" / f"fold{fold}of{self.folds.folds}-seed{seed}-{digest}"
        label = f"{name}{'' if steps is None else f', {steps} steps'}, fold {fold}"
        path = self.candidates[name].path
        return Run(label, path, seed, folder, keys, self.plan.mixed_precision, pretrained=pretrained)

    def execute(self, names: Sequence[str], steps: int | None, jobs: int) -> list[str]:
        """Run everything that has no result, `jobs` runs at a time; write each result at once; return what failed."""
        of_run: dict[Path, tuple[Run, str, Cell]] = {}
        for cell in self.folds.cells:
            for name in names:
                if self.result(name, steps, cell) is None:
                    run = self._run(name, steps, cell)
                    of_run.setdefault(run.folder, (run, name, cell))  # candidates with equal settings share a run

        def keep(run: Run) -> None:
            _, name, cell = of_run[run.folder]
            self._keep(run, name, steps, cell)

        for run, *_ in of_run.values():
            if run.finished():  # interrupted before its result was written
                keep(run)
        waiting = [run for run, *_ in of_run.values() if not run.finished()]
        if waiting:
            execute_all(waiting, jobs, keep)
        return [f"{run.row}, seed {run.seed}: {run.failed}" for run in waiting if run.failed]

    def _keep(self, run: Run, name: str, steps: int | None, cell: Cell) -> None:
        fold, seed = cell
        digest = self._settings[name, steps, fold][2]
        result = result_of(name, run.path, seed, digest, run.output)
        hashes = {task: rows.digest for task, rows in self.rows[fold].items()}
        result.fold = {"fold": fold, "folds": self.folds.folds, "steps": steps, "rows": hashes}
        self.kept.keep(self._file_name(name, steps, cell), result, of=run.row)
        remove_weights(run.output)

    # ---- decisions ----

    def predictions(self, name: str, steps: int | None) -> dict[Cell, dict[str, np.ndarray]] | None:
        """Return a candidate's predictions of the held-out rows; None if it lacks a run."""
        recipe, found = self._recipes[name], {}
        for cell in self.folds.cells:
            result = self.result(name, steps, cell)
            if result is None:
                return None
            rows = self.rows[cell[0]]
            specs = {task: recipe.tasks[task].spec(task) for task in rows}
            found[cell] = {task: rows[task].predictions(specs[task], result.logits[task]) for task in rows}
        return found

    def judge(self, names: Sequence[str], steps: int | None, dropped: Mapping[str, np.ndarray]) -> Round:
        """Compare the candidates that have all their runs with one budget."""
        predictions = {name: self.predictions(name, steps) for name in names}
        complete: dict[str, Any] = {name: found for name, found in predictions.items() if found is not None}
        incomplete = [name for name in names if name not in complete]
        runs = sum(self.result(name, steps, cell) is not None for name in names for cell in self.folds.cells)
        if self.baseline not in complete:
            return Round(steps, None, runs, incomplete)
        folds = self.folds
        comparison = compare(
            complete, self.held_out, self.baseline, score=folds.score, level=folds.level, dropped=dropped
        )
        return Round(steps, comparison, runs, incomplete)

    def run_all(self, jobs: int, finished_only: bool = False) -> tuple[list[Round], list[str]]:
        """Run and judge all rounds: after each but the last, the baseline and the better half of the others go on.

        Returns:
            The rounds, and what failed. A round with runs missing is the last.
        """
        names, rounds, failed = list(self.candidates), [], []
        dropped: dict[str, np.ndarray] = {}
        self.rows  # noqa: B018  # data problems come before any run
        for number, steps in enumerate(self.folds.budgets):
            if not finished_only:
                failed += self.execute(names, steps, jobs)
            this = self.judge(names, steps, dropped)
            rounds.append(this)
            last = number == len(self.folds.budgets) - 1
            if last or this.comparison is None or (finished_only and this.incomplete):
                break
            names, this.dropped = better_half(names, this.comparison, self.baseline)
            dropped |= {name: this.comparison.deviations[name] for name in this.dropped if name not in this.incomplete}
        return rounds, failed


def better_half(names: Sequence[str], comparison: Comparison, baseline: str) -> tuple[list[str], list[str]]:
    """Return the candidates that go on to the next budget, and those that do not.

    The baseline goes on, and so does the better half of the others, by their scores; a middle one goes on, one that
    lacks runs does not. Rank decides what is run, and nothing else: one that does not go on is undecided unless its
    interval says otherwise.
    """
    others = [entry for entry in comparison.entries if entry["candidate"] != baseline]
    ranked = sorted(others, key=lambda entry: -entry["score"])
    kept = {baseline, *(entry["candidate"] for entry in ranked[: (len(ranked) + 1) // 2])}
    return [name for name in names if name in kept], [name for name in names if name not in kept]
