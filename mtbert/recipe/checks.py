"""All that is checked of a recipe whose values have the right types."""

from __future__ import annotations

import difflib
from typing import Any

from ..errors import InputError, Problem
from ..files import path_problem
from ..modeling.limits import reserved_problems
from ..training.arguments import REFUSED_PRETRAINING, REFUSED_TRAINING
from ..training.distributed.feasible import range_problems
from ..training.methods.rules import Run
from ..training.objective import check_losses
from .combinations import COMBINATIONS
from .fields import Report, defaults, shown
from .parts import ReadRecipe, TaskRecipe, training_arguments_class


def check(recipe: ReadRecipe, report: Report) -> None:
    """Note everything that is wrong with values whose types are right."""
    if recipe.encoder == "":
        report.add(Problem(("encoder",), "is empty; give a folder, or a name on the hub"))
    if not recipe.tasks and not report.broken(("tasks",)):
        report.add(Problem(("tasks",), ": there are none; give at least one, as a name with its settings"))
    if recipe.leaks not in ("report", "drop") and not report.broken(("leaks",)):
        report.add(Problem(("leaks",), f"is {shown(recipe.leaks, 'leaks')}, but must be report or drop"))
    _check_training(recipe, report)
    if recipe.pretraining is not None and not report.broken(("pretraining",)):
        _check_pretraining(recipe.pretraining, report)
    _check_combinations(recipe, report)
    for section, given in (("training", recipe.training), ("pretraining", recipe.pretraining or {})):
        for problem in range_problems(given):
            report.add(problem.under(section))
    checked = {
        "model": recipe.model,
        "schedule": recipe.schedule,
        "optimizer": recipe.optimizer,
        **recipe.methods,
        "card": recipe.card,
    }
    for key, settings in checked.items():
        if not report.broken((key,)):
            report.add_all(setting_problem.under(key) for setting_problem in settings.problems())
    valid = [_check_task(name, task, report) for name, task in recipe.tasks.items()]
    if all(valid) and recipe.tasks and not report.broken(("tasks",)):
        _check_best_metric(recipe, report)


def _check_training(recipe: ReadRecipe, report: Report) -> None:
    for key, reason in REFUSED_TRAINING.items():
        if key not in recipe.training:
            continue
        value, default = recipe.training[key], recipe.training_default(key)
        if (value or None) != (default or None):  # null, false, 0 and empty all mean "off"
            report.add(Problem(("training", key), f"is {shown(value, key)}, which is refused: {reason}"))
    if not recipe.training.get("output_dir") and not report.broken(("training", "output_dir")):
        remedy = "give it in the recipe or on the command line: --training.output_dir DIR"
        report.add(Problem(("training", "output_dir"), f"is missing; {remedy}"))
    for section, given in (("training", recipe.training), ("pretraining", recipe.pretraining or {})):
        if given.get("output_dir") and (problem := path_problem(given["output_dir"])):
            report.add(Problem((section, "output_dir"), f"is {shown(given['output_dir'])}, which {problem}"))


def _check_pretraining(given: dict[str, Any], report: Report) -> None:
    from ..training.arguments import PretrainingArguments, pretraining_problems

    default_values = defaults(PretrainingArguments)
    for key, reason in REFUSED_PRETRAINING.items():
        if key in given and (given[key] or None) != (default_values.get(key) or None):
            report.add(Problem(("pretraining", key), f"is {shown(given[key], key)}, which is refused: {reason}"))
    report.add_all(problem.under("pretraining") for problem in pretraining_problems(default_values | given))


def _check_combinations(recipe: ReadRecipe, report: Report) -> None:
    run = Run(**vars(recipe) | recipe.methods | {"training": defaults(training_arguments_class()) | recipe.training})
    for rule in COMBINATIONS:
        for when, conflict, view in rule.cases(run):
            if not report.broken(when) and not report.broken(conflict) and rule.test(view):
                report.add(rule.problem(conflict, shown(view.value(rule.key))))


def _check_task(name: str, task: TaskRecipe, report: Report) -> bool:
    """Note what is wrong with a task; whether its spec could be made and its metric suits it."""
    path, before = ("tasks", name), len(report.lines)
    if not report.broken((*path, "data")):
        report.add_all(problem.under(*path, "data") for problem in task.data.problems())
    training = task.training()
    report.add_all(problem.under(*path) for problem in training.problems())
    if report.broken(path):
        return False
    try:
        spec = task.spec(name)
    except InputError as error:
        problems = error.values or [Problem((), f": {error}")]
        problems = [problem for problem in problems if problem.path != ("texts",)]  # data.text has its line already
    else:
        problems = [*check_losses(spec, training), *reserved_problems(name), *task.data.problems_with(spec)]
        if task.metric is not None:
            from ..evaluation.metrics import check_metric  # importing evaluate takes seconds

            problems = [*check_metric(spec, task.metric), *problems]
    report.add_all(problem.under(*path) for problem in problems)
    return len(report.lines) == before


def _check_best_metric(recipe: ReadRecipe, report: Report) -> None:
    name = recipe.training_value("metric_for_best_model")
    path = ("training", "metric_for_best_model")
    if not isinstance(name, str) or report.broken(path):
        return
    score_names = known_scores(recipe)
    full = name if name.startswith("eval_") else f"eval_{name}"
    if full not in score_names:
        near = difflib.get_close_matches(full, score_names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        report.add(
            Problem(path, f"is {shown(name)}, which no evaluation has; {hint}known ones: {', '.join(score_names)}")
        )


def known_scores(recipe: ReadRecipe) -> list[str]:
    """The names of the scores that an evaluation of a valid recipe has; averages and the mean loss come first."""
    from ..evaluation.metrics import default_metrics  # importing evaluate takes seconds

    score_names = ["eval_overall", "eval_raw_mean", "eval_loss"]
    for name, task in recipe.tasks.items():
        if task.data.has_dev:
            metrics = dict.fromkeys((*filter(None, [task.metric]), *default_metrics(task.spec(name)), "loss"))
            score_names += [f"eval_{name}_{metric}" for metric in metrics]
    return score_names
