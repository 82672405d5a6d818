"""The trainer's settings: the forms that users may write in Python are checked and converted into one."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, TypeVar, get_type_hints

import numpy as np

from ..data.balancing import BalancedRows, balanced_rows
from ..data.collation import pool_lengths
from ..data.given_splits import refuse_unknown
from ..data.pools import TASK, Sources, pool_numbers, pools_of, sources_of
from ..data.sampling import Plan, Schedule
from ..data.token_budget import TokenBudget
from ..data.token_plan import TokenPlan
from ..errors import InputError, refuse
from ..modeling.config_checks import type_problems
from ..modeling.display import brief, brief_names
from ..modeling.task_spec import TaskSpec
from .arguments import MtBertTrainingArguments
from .methods import REGISTRY, settings_class
from .methods.base import Method, TaskTrainer
from .methods.chain import Methods
from .methods.rules import refuse_combinations, trainer_run
from .objective import TaskTraining, check_losses
from .optimizers import OptimizerSettings

Settings = TypeVar("Settings")
# the training arguments that a plan depends on
PLAN_ARGUMENTS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "seed",
    "data_seed",
    "max_tokens_per_step",
)


@dataclass(frozen=True)
class MultiTaskSettings:
    """Multi-task settings of a run, besides its methods and `MtBertTrainingArguments`.

    Attributes:
        schedule: which tasks' rows a step holds.
        tasks: task name → settings that differ from the defaults of `TaskTraining`.
        optimizer: learning rates by part, layer and task.
        recipe: the recipe that the run follows, as a JSON-ready tree, for the model card; None: there is none.
    """

    schedule: Schedule = field(default_factory=Schedule)
    tasks: Mapping[str, TaskTraining] = field(default_factory=dict)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    recipe: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, tasks: Sequence[TaskSpec], given: Any) -> MultiTaskSettings:
        """Convert settings from any form that users may give into one.

        Args:
            given: settings, a mapping of their fields, or a schedule alone; None: the defaults.

        Raises:
            InputError: for an unknown field, a value of another type, or a task that the model does not have.
        """
        values: Any = {} if given is None else given
        if isinstance(given, Schedule):
            values = {"schedule": given}
        if isinstance(given, MultiTaskSettings):
            values = {entry.name: getattr(given, entry.name) for entry in fields(given)}
        if not isinstance(values, Mapping):
            raise InputError(f"settings must be MultiTaskSettings or a mapping, but is a {type(given).__name__}")
        names = [entry.name for entry in fields(cls)]
        if unknown := [name for name in values if name not in names]:
            raise InputError(f"settings has unknown fields {unknown}; known ones: {', '.join(names)}")
        by_task = as_task_training(tasks, values.get("tasks"))
        refuse_unknown(tasks, by_task, "task_training")
        return cls(
            as_settings(Schedule, values.get("schedule"), "schedule") or Schedule(),
            {task.name: by_task.get(task.name, TaskTraining()) for task in tasks},
            as_settings(OptimizerSettings, values.get("optimizer"), "optimizer") or OptimizerSettings(),
            values.get("recipe"),
        )

    def plan(
        self,
        rows: Mapping[str, int],
        args: Any,
        balanced: Mapping[int, BalancedRows] | None = None,
        budget: TokenBudget | None = None,
        sources: Sources | None = None,
    ) -> Plan:
        """The plan of a run: which pools' rows each step holds. A pool is a task, or a source with all its tasks.

        Args:
            rows: task → number of its training rows.
            args: the training arguments, or any object with `PLAN_ARGUMENTS` and `world_size`.
            balanced: index of a pool → its rows by class, for tasks whose classes are drawn equally often.
            budget: the most tokens of a step, and the tokens of all rows; None: the number of rows alone counts.
            sources: source → its tasks, which are drawn together; their settings of rows are equal.

        Raises:
            InputError: a row has more tokens than a step may have.
        """
        batch = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
        seed = args.data_seed if args.data_seed is not None else args.seed
        pools = pools_of(self.tasks, sources or {})
        names, firsts = tuple(pool.name for pool in pools), [pool.tasks[0] for pool in pools]
        batches = tuple(self.tasks[first].batch_size for first in firsts)
        sizes = tuple(self.tasks[first].examples_per_epoch for first in firsts)
        counts = tuple(rows[first] for first in firsts)
        values = (self.schedule, names, counts, batch, 1, seed, batches, sizes, balanced or {})
        plan = Plan(*values) if budget is None else TokenPlan(*values, budget=budget)
        return plan.lasting(args.num_train_epochs, args.max_steps)


def plan_of(trainer: TaskTrainer, drawing: tuple[dict[int, BalancedRows], TokenBudget | None]) -> Plan:
    """The plan of a trainer's run; `drawing` is what `read_drawing` returned."""
    train = trainer.train_dataset
    rows = {name: len(split) for name, split in train.items()}
    plan: Plan = trainer.settings.plan(rows, trainer.args, *drawing, sources_of(train))
    return plan


def read_drawing(trainer: TaskTrainer) -> Callable[[], Plan]:
    """Read what a trainer's plan needs of its encoded training rows: rows by class, and tokens, where settings say so.

    Returns:
        A function that returns the plan.

    Raises:
        InputError: a row has more tokens than a step may have.
    """
    train, args, sources = trainer.train_dataset or {}, trainer.args, sources_of(trainer.train_dataset)
    numbers = list(pool_numbers(list(trainer.task_ids), sources).values())
    balanced = balanced_rows(trainer.tasks, trainer.task_training, train)
    balanced = {numbers[task]: rows for task, rows in balanced.items()}
    if args.max_tokens_per_step is None or not train:
        return partial(plan_of, trainer, (balanced, None))
    lengths = pool_lengths(trainer.tasks, train, trainer.model.config)
    budget = TokenBudget(args.max_tokens_per_step, lengths, sources)
    plan_of(trainer, (balanced, budget))
    return partial(plan_of, trainer, (balanced, budget))


METHODS_FORM = "it must be a list of methods or of objects of their settings, or {section of a recipe: settings}"
# keyword arguments of the trainer until version 0.1 → the field of MultiTaskSettings
_FIELDS = {"schedule": "schedule", "task_training": "tasks", "optimizer": "optimizer", "recipe": "recipe"}


def read_settings(
    tasks: Sequence[TaskSpec], settings: Any, methods: Iterable[Any], keywords: dict[str, Any]
) -> tuple[MultiTaskSettings, list[Any]]:
    """The settings of a trainer and of its methods.

    Args:
        methods: settings of methods, or methods.
        keywords: keyword arguments of the trainer; those of version 0.1 that hold settings are removed from it.

    Raises:
        InputError: if something is given twice.
    """
    old = {name: keywords.pop(name) for name in [*_FIELDS, *REGISTRY] if name in keywords}
    if old:
        warnings.warn(
            f"the arguments {', '.join(old)} of MtBertTrainer will go in the next minor version; write "
            "settings=MultiTaskSettings(schedule=…, tasks=…, optimizer=…) and methods=[…]",
            FutureWarning,
            stacklevel=3,
        )
    if settings is not None and (twice := [name for name in old if name in _FIELDS and old[name] is not None]):
        raise InputError(f"settings is given, and {', '.join(twice)} as well; put these into the settings")
    fields_of = {_FIELDS[name]: value for name, value in old.items() if name in _FIELDS}
    by_section = [as_settings(settings_class(section), old[section], section) for section in REGISTRY if section in old]
    read = MultiTaskSettings.read(tasks, fields_of if settings is None else settings)
    return read, [method for method in (*list_methods(methods), *by_section) if method is not None]


def list_methods(methods: Any) -> list[Any]:
    """Methods in any form that users may give, as a list: one, several, or a mapping of sections to settings.

    Raises:
        InputError: for any other form, and for a section that no method has.
    """
    if isinstance(methods, Mapping):
        if unknown := [section for section in methods if section not in REGISTRY]:
            raise InputError(f"methods has unknown sections {brief_names(unknown)}; known ones: {', '.join(REGISTRY)}")
        return [as_settings(settings_class(section), value, section) for section, value in methods.items()]
    if isinstance(methods, str):
        raise InputError(f"methods is {brief(methods)}; {METHODS_FORM}")
    return list(methods) if isinstance(methods, Iterable) else [methods]


def build_methods(settings: MultiTaskSettings, given: Iterable[Any]) -> Methods:
    """Build the methods of a run, by section: first those of the registry, in its order.

    Args:
        given: settings of methods, which have `build()`, or methods.

    Raises:
        InputError: for anything else, and for two of one section.
    """
    built: dict[str, Method] = {}
    if settings.optimizer.per_task is not None and "optimizer.per_task" in REGISTRY:
        given = [*given, settings_class("optimizer.per_task")(settings.optimizer.per_task)]
    for given_method in given:
        if isinstance(given_method, type):
            raise InputError(f"methods has the class {given_method.__name__}; {METHODS_FORM}")
        method = given_method.build() if hasattr(given_method, "build") else given_method
        if method is None:  # switched off by its settings
            continue
        if not isinstance(method, Method):
            raise InputError(f"methods has {brief(given_method)}; {METHODS_FORM}")
        if method.section in built:
            raise InputError(f"methods has two of {method.section!r}; drop one")
        built[method.section] = method
    places = {section: place for place, section in enumerate(REGISTRY)}
    return Methods(sorted(built.items(), key=lambda item: places.get(item[0], len(places))))


def refuse_given_parts(settings: MultiTaskSettings, methods: Methods, optimizer: Any, compute_loss_func: Any) -> None:
    """Refuse an optimizer or a loss function of the user's if the settings or methods would change it.

    Raises:
        InputError: naming both.
    """
    if optimizer is not None and (settings.optimizer != OptimizerSettings() or methods.parameter_groups()):
        raise InputError("optimizers has one already made; drop it, or the settings optimizer and loss")
    changing = [name for name, method in methods.items() if method.changes_losses]
    tasks = settings.tasks.items()
    weighing = [name for name, task in tasks if task.loss or task.class_weights is not None or task.label_smoothing]
    weighing += [name for name, task in tasks if task.weight != 1]
    if compute_loss_func is not None and (changing or weighing):
        drop = [*changing, *(f"weight, class_weights, label_smoothing and loss of the task {n!r}" for n in weighing)]
        raise InputError(f"compute_loss_func takes the place of all losses; drop it, or: {', '.join(drop)}")


def refuse_settings(
    model: Any,
    settings: MultiTaskSettings,
    methods: Iterable[Any],
    args: MtBertTrainingArguments,
    sources: Sources | None = None,
) -> None:
    """Raise InputError if settings of a run are invalid, alone or in combination.

    Args:
        sources: source → its tasks, of the training rows.
    """
    refuse(problem.under("schedule") for problem in settings.schedule.problems())
    problems = []
    for task in model.tasks:
        training = settings.tasks[task.name]
        of_task = [*training.problems(), *check_losses(task, training)]
        if training.metric is not None:
            from ..evaluation.metrics import check_metric  # importing evaluate takes seconds

            of_task += check_metric(task, training.metric)
        problems += [problem.under(f"task_training[{task.name!r}]") for problem in of_task]
    refuse(problems)
    sections = {"optimizer": settings.optimizer, **with_sections(methods)}
    for section, values in sections.items():
        refuse(problem.under(section) for problem in type_problems(values) or values.problems())
    shared = {} if settings.schedule.draw == TASK else {name: of for name, of in (sources or {}).items() if len(of) > 1}
    sections |= {"schedule": settings.schedule, "sources": shared}
    refuse_combinations(trainer_run(model, args, settings.tasks, **sections))


def with_sections(methods: Iterable[Any]) -> dict[str, Any]:
    """Section of a recipe → settings of its method, for each item of `methods` that is such settings."""
    classes = {settings_class(section): section for section in REGISTRY}
    return {classes[type(settings)]: settings for settings in methods if type(settings) in classes}


def as_settings(kind: type[Settings], value: Any, argument: str) -> Settings | None:
    """Build settings of a class from an instance, a mapping of its fields, or the text of its first field.

    `schedule="annealed"`, `schedule={"name": "annealed"}` and `schedule=Schedule("annealed")` are equal.

    Raises:
        InputError: for a field that the class does not have, and for a value of another type.
    """
    if value is None:
        return None
    if isinstance(value, kind):
        refuse(problem.under(argument) for problem in type_problems(value))
        return value
    of: Any = kind
    names = [entry.name for entry in fields(of)]
    if isinstance(value, str) and get_type_hints(kind)[names[0]] is str:
        value = {names[0]: value}
    if not isinstance(value, Mapping):
        given = f"but is of the type {type(value).__name__}"
        raise InputError(f"{argument} must be a {kind.__name__} or a mapping of its fields, {given}")
    if unknown := [name for name in value if name not in names]:
        near = difflib.get_close_matches(str(unknown[0])[:100], names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"{argument} has unknown fields {brief_names(unknown)}; {hint}known ones: {', '.join(names)}")
    settings = kind(**value)
    refuse(problem.under(argument) for problem in type_problems(settings))
    return settings


def as_task_training(tasks: Sequence[TaskSpec], given: Any) -> dict[str, TaskTraining]:
    """Settings by task name; class weights as a list in the order of the task's labels.

    Args:
        given: task name → `TaskTraining`, or a mapping of its fields. Class weights may be an array, or a mapping of
            labels to numbers.

    Raises:
        InputError: for another form, and for weights that do not name the task's labels.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"task_training must map names of tasks to TaskTraining, but is a {type(given).__name__}")
    labels = {task.name: task.classes for task in tasks}
    by_task = {}
    for name, value in given.items():
        where = f"task_training[{name!r}]"
        if isinstance(value, TaskTraining):
            weights = as_class_weights(value.class_weights, labels.get(name, ()), f"{where}.class_weights")
            value = replace(value, class_weights=weights)
        elif isinstance(value, Mapping) and "class_weights" in value:
            weights = as_class_weights(value["class_weights"], labels.get(name, ()), f"{where}.class_weights")
            value = {**value, "class_weights": weights}
        by_task[name] = as_settings(TaskTraining, value, where) or TaskTraining()
    return by_task


def as_class_weights(weights: Any, labels: Sequence[str], where: str) -> Any:
    """Convert a sequence, array, tensor or mapping of labels to a tuple of numbers; return other values unchanged."""
    if isinstance(weights, Mapping):
        by_name = {str(name): weight for name, weight in weights.items()}
        if set(by_name) != set(labels):
            raise InputError(
                f"{where} is for {brief_names(by_name)}, but must have a number for each of {brief_names(labels)}"
            )
        weights = [by_name[label] for label in labels]
    if weights is None or isinstance(weights, str | tuple):
        return weights
    try:
        numbers = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError):
        return weights  # the checks of `TaskTraining` refuse it
    if numbers.ndim != 1:
        raise InputError(f"{where} has the shape {numbers.shape}, but must have a number for each label")
    return tuple(numbers.tolist())
