"""Forms of serving the same tasks (single models, joint ones, …) under one budget: their runs and result files.

A form is a set of models that together answer all tasks. Finished runs are result files, as those of the fair budget;
a table or study goes on from them, on any machine.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..modeling.display import masked
from ..recipe import Recipe, RecipeError
from . import bundled
from .budget import EPOCHS
from .budget_keys import as_overrides, length_keys, load, quiet_keys, stage_keys
from .protocol_files import EACH, FormKeys, nearest, read_forms
from .result_files import Result, result_of, settings_hash
from .result_folder import ResultFolder
from .row_runs import Run, execute, remove_weights, run_threads
from .run_queue import work_in_turns
from .table_plan import TablePlan, row_settings


@dataclass(frozen=True)
class Budget:
    """Steps of 32 rows: `steps` for a model of one task, n · `steps` · `joint` for one of n tasks."""

    steps: int
    joint: float = 1.0

    def of(self, tasks: int) -> int:
        """Steps of a model of so many tasks."""
        return self.steps if tasks == 1 else max(1, round(self.steps * tasks * self.joint))


@dataclass(frozen=True)
class Model:
    """One model of a form.

    Attributes:
        name: names its runs.
        path: its recipe file.
        keys: overrides of the recipe, which choose the tasks.
    """

    name: str
    path: Path
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Form:
    """A way to answer all tasks.

    Attributes:
        name: its name in the table.
        models: the models, which answer different tasks.
        seeds: training seeds.
        teachers: name of the form whose models teach these, by distillation; None: none.
        untaught: tasks that learn from their labels alone, although there are teachers.
        what: describes it; empty: the comment of its recipe does.
    """

    name: str
    models: tuple[Model, ...]
    seeds: tuple[int, ...]
    teachers: str | None = None
    untaught: tuple[str, ...] = ()
    what: str = ""


@dataclass(frozen=True)
class FormProtocol:
    """What `wide.yaml` says: the budget, the forms, and the one that all others are compared with."""

    budget: Budget
    forms: tuple[Form, ...]
    against: str

    @classmethod
    def read(cls, file: Path, tasks_of: Any) -> FormProtocol:
        """Read a protocol.

        Args:
            file: the file.
            tasks_of: recipe file → names of its tasks.

        Raises:
            InputError: lists all keys, values and names that are wrong.
        """
        recipes = bundled.recipes()
        keys, forms = read_forms(file, recipes)
        budget = Budget(keys.steps, float(keys.joint))
        return cls(
            budget,
            tuple(_form(name, form, keys.seeds, recipes, tasks_of) for name, form in forms.items()),
            keys.against,
        )


def _form(name: str, keys: FormKeys, seeds: tuple[int, ...], recipes: Mapping[str, Path], tasks_of: Any) -> Form:
    paths = [recipes[recipe] for recipe in keys.recipes]
    if keys.models == EACH:
        models = each_task(name, paths[0], tasks_of(paths[0]))
    elif len(paths) == 1:
        models = (Model(name, paths[0]),)
    else:
        models = tuple(Model(f"{name}-{path.stem}", path) for path in paths)
    return Form(name, models, seeds if keys.seeds is None else keys.seeds, keys.teachers, keys.untaught, keys.what)


def each_task(form: str, path: Path, tasks: Sequence[str], keys: Sequence[str] = ()) -> tuple[Model, ...]:
    """A model for each task of a recipe."""
    return tuple(Model(f"{form}-{task}", path, (*keys, "--tasks", f"[{task}]")) for task in tasks)


@dataclass
class ModelRuns:
    """A model under a budget."""

    form: Form
    model: Model
    plan: TablePlan
    budget: Budget

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Names of its tasks."""
        base = ("--encoder", self.plan.encoder, "--data_dir", self.plan.data_dir)
        return tuple(load(self.model.path, [*base, *self.plan.overrides, *self.model.keys]).tasks)

    @property
    def steps(self) -> int:
        """Steps of a run."""
        return self.budget.of(len(self.tasks))

    @cached_property
    def overrides(self) -> tuple[list[str], Path | None]:
        """The keys of a run, and the folder of its pre-trained encoder, or None."""
        plan = replace(self.plan, overrides=(*self.plan.overrides, *self.model.keys))  # the choice of tasks comes last
        return row_settings(self.model.path, plan, partial(form_budget, steps=self.steps))

    def recipe(self, more: Sequence[str] = ()) -> Recipe:
        """The recipe of a run, with further keys."""
        return load(self.model.path, [*self.overrides[0], *more])


def optimizer_steps(recipe: Recipe, steps: int) -> int:
    """The optimizer steps with the rows of `steps` steps of 32; a step with rows of every task counts as several."""
    per_step = len(recipe.tasks) if recipe.schedule.name == "simultaneous" else 1
    return max(1, round(steps / per_step))


def form_budget(path: Path, more: list[str], steps: int) -> list[str]:
    """The overrides of a run of so many steps of 32 rows, with the recipe's own learning rates and shares of the tasks.

    It has ten epochs, for schedules that change with the epoch; the last is shorter if they do not divide the steps.
    """
    recipe = load(path, more)
    count = optimizer_steps(recipe, steps)
    epochs = min(EPOCHS, count)
    keys = length_keys(recipe, steps) | quiet_keys() | {"training.save_logits": True}
    keys |= {"training.num_train_epochs": epochs, "schedule.steps_per_epoch": -(-count // epochs)}
    keys["training.max_steps"] = -1 if count % epochs == 0 or recipe.stages else count
    return as_overrides(keys | stage_keys(recipe, keys))


def _untaught_problems(form: Form, tasks: Sequence[str], teachers: Sequence[ModelRuns]) -> list[str]:
    where, untaught = f"{form.name}: untaught names", set(form.untaught)
    problems = [
        f"{where} the task {task!r}, but there is none; {nearest(task, tasks)}"
        for task in form.untaught
        if task not in tasks
    ]
    for teacher in teachers:
        both = untaught & set(teacher.tasks)
        if both and set(teacher.tasks) - untaught:
            problems.append(f"{where} {', '.join(sorted(both))}, but {teacher.model.name} teaches other tasks, too")
    if untaught >= set(tasks):
        problems.append(f"{where} all tasks; drop teachers, and distillation from the recipe")
    return problems


class FormTable:
    """The forms of a table or study, with their runs and result files.

    Args:
        plan: encoder, data and folder of the runs; its rows, seeds and learning rate do not matter.
        forms: the forms; each after the one that teaches it.
        budget: the budget.
        results: folder of the result files.
        commit: whether each new result file is committed to the git repository that holds it.

    Raises:
        InputError: lists the problems of all recipes, and forms that do not answer the same tasks.
    """

    def __init__(self, plan: TablePlan, forms: Sequence[Form], budget: Budget, results: Path, commit: bool = False):
        self.plan, self.forms = plan, {form.name: form for form in forms}
        self.results, self.kept = results, ResultFolder(results, commit)
        self.models = {form.name: [ModelRuns(form, model, plan, budget) for model in form.models] for form in forms}
        self._teaching = threading.Lock()
        self._hashes: dict[tuple[str, int], str] = {}
        self._check()

    def _check(self) -> None:
        problems: list[str] = []
        answered: dict[str, list[str]] = {}
        for name, models in self.models.items():
            try:
                answered[name] = [task for model in models for task in model.tasks]
                form = models[0].form
                teachers = [] if form.teachers is None else self.models[form.teachers]
                problems += _untaught_problems(form, answered[name], teachers)
                for model in models:
                    model.recipe(self._labels_of_teachers(model, model.form.seeds[0]))
            except RecipeError as error:
                problems.append(f"{name}: {error}")
        if not problems:
            first = next(iter(answered))
            for name, tasks in answered.items():
                if sorted(tasks) != sorted(answered[first]):
                    problems.append(
                        f"{name} answers {', '.join(tasks)}, but {first} answers {', '.join(answered[first])}; forms "
                        "answer the same tasks, each by one model"
                    )
        if problems:
            raise InputError("\n".join(problems))

    @property
    def tasks(self) -> list[str]:
        """Names of all tasks, in the order of the first form."""
        return [task for model in next(iter(self.models.values())) for task in model.tasks]

    def recipe_of_all(self) -> Recipe:
        """A recipe with all tasks: of a form of one model, or the first model's recipe with every task."""
        for models in self.models.values():
            if len(models) == 1:
                return models[0].recipe(self._labels_of_teachers(models[0], models[0].form.seeds[0]))
        model = next(iter(self.models.values()))[0].model
        base = ["--encoder", self.plan.encoder, "--data_dir", self.plan.data_dir, *self.plan.overrides]
        return load(model.path, base)

    # ---- teachers ----

    def _teachers_of(self, model: ModelRuns, seed: int) -> list[tuple[ModelRuns, int]]:
        """The models that teach a model, and their seed: the same one if they have it, else their first."""
        if model.form.teachers is None:
            return []
        teachers = self.models[model.form.teachers]
        return [
            (teacher, seed if seed in teacher.form.seeds else teacher.form.seeds[0])
            for teacher in teachers
            if set(teacher.tasks) & (set(model.tasks) - set(model.form.untaught))
        ]

    def _labels_of_teachers(self, model: ModelRuns, seed: int) -> list[str]:
        """The key that names the teachers by their settings, wherever they lie; empty without teachers."""
        labels = [
            f"{teacher.model.name}-{of}-{self.settings(teacher, of)}" for teacher, of in self._teachers_of(model, seed)
        ]
        return ["--distillation.teachers", str(labels)] if labels else []

    def _folders_of_teachers(self, model: ModelRuns, seed: int, threads: int) -> list[str]:
        """The key that names the teachers' folders; a teacher whose weights are gone is trained again."""
        folders = []
        for teacher, of in self._teachers_of(model, seed):
            run = self._run_of(teacher, of)
            with self._teaching:
                if not any(run.output.glob("*model*.safetensors")):
                    shutil.rmtree(run.output, ignore_errors=True)
                execute(run, threads)
            folders.append(str(run.output))
        return ["--distillation.teachers", str(folders)] if folders else []

    # ---- runs ----

    def settings(self, model: ModelRuns, seed: int) -> str:
        """The hash of a run's settings; of its seed the teachers alone depend."""
        key = (model.model.name, 0 if model.form.teachers is None else seed)
        if key not in self._hashes:
            self._hashes[key] = settings_hash(model.recipe(self._labels_of_teachers(model, seed)))
        return self._hashes[key]

    def order(self, names: Sequence[str] = ()) -> Iterator[tuple[ModelRuns, int]]:
        """Yield all runs of some forms (default: all): those with the first seed, then with the second, and so on."""
        forms = [form for form in self.forms.values() if not names or form.name in names]
        for seed in sorted({seed for form in forms for seed in form.seeds}):
            for form in forms:
                if seed in form.seeds:
                    yield from ((model, seed) for model in self.models[form.name])

    def result(self, model: ModelRuns, seed: int) -> Result | None:
        """The result of a finished run, by whatever name its file has; None if no file is of its settings and seed."""
        name = model.model.name
        found = self.kept.find(f"{name}-{seed}", self.settings(model, seed), seed, model.model.path)
        return None if found is None else replace(found, row=name)

    def results_of(self, name: str) -> dict[int, list[Result]]:
        """Seed → the results of a form's models, of the seeds with which all of them have ended."""
        by_seed = {}
        for seed in self.forms[name].seeds:
            found = [self.result(model, seed) for model in self.models[name]]
            done = [result for result in found if result is not None]
            if len(done) == len(found):
                by_seed[seed] = done
        return by_seed

    def run_all(self, jobs: int, names: Sequence[str] = ()) -> list[str]:
        """Run what has no result file, `jobs` runs at a time, teachers before their students; return what failed."""
        failed: list[str] = []

        def work(item: tuple[ModelRuns, int]) -> None:
            model, seed = item
            try:
                if self.result(model, seed) is None:
                    self._run(model, seed, run_threads(jobs))
            except Exception as error:
                failed.append(masked(f"{model.model.name}, seed {seed}: {error!r}"))
                print(failed[-1], flush=True)

        for taught in (False, True):
            waiting = [item for item in self.order(names) if (item[0].form.teachers is not None) == taught]
            work_in_turns(waiting, jobs, work, lambda item: item[0].overrides[1])
        return failed

    def _run_of(self, model: ModelRuns, seed: int, keys: Sequence[str] = ()) -> Run:
        folder = self.plan.output / model.model.name / f"seed-{seed}-{self.settings(model, seed)}"
        fixed, pretrained = model.overrides
        overrides = [*fixed, *keys, "--training.seed", str(seed)]
        precision = self.plan.mixed_precision
        return Run(model.model.name, model.model.path, seed, folder, overrides, precision, pretrained=pretrained)

    def _run(self, model: ModelRuns, seed: int, threads: int) -> None:
        name = model.model.name
        run = self._run_of(model, seed, self._folders_of_teachers(model, seed, threads))
        execute(run, threads)
        result = result_of(name, model.model.path, seed, self.settings(model, seed), run.output)
        if result.recipe.get("distillation"):
            result.recipe["distillation"]["teachers"] = [  # not the paths of this machine
                f"{teacher.model.name}-{of}" for teacher, of in self._teachers_of(model, seed)
            ]
        self.kept.keep(f"{name}-{seed}", result)
        if not self._teaches(model):
            remove_weights(run.output)

    def _teaches(self, model: ModelRuns) -> bool:
        return any(form.teachers == model.form.name for form in self.forms.values())
