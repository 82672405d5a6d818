"""A study of sharing: each task alone, all together, and together with adapters, under one budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..errors import InputError
from ..modeling.task_spec import AdapterSpec
from ..recipe import Recipe, RecipeError, check_model, check_stages, load_data, load_tokenizer
from ..training.methods import method_classes
from .budget import BATCH
from .budget_keys import as_overrides, load
from .dev_rows import check_metric_of_words
from .forms import Budget, Form, FormTable, Model, ModelRuns, each_task, optimizer_steps
from .study_time import seconds_per_step
from .table_plan import TablePlan

ALONE, TOGETHER, ADAPTERS = "alone", "together", "adapters"
NO_ADAPTER = "none"
MEASUREMENTS = 20  # of affinity in a joint run, unless the study says how often


@dataclass(frozen=True)
class StudyPlan:
    """What a study trains and measures.

    Attributes:
        recipe: the recipe file.
        overrides: keys of the recipe, as on the command line.
        steps: steps of 32 rows of each model of one task.
        joint_steps: steps of each joint model; None: as many as all single models together.
        seeds: training seeds of every model.
        every: steps from one measurement of affinity to the next; None: so many that a joint run has `MEASUREMENTS`.
        rows: training rows of each task in a measurement.
        groups: the largest number of models of suggested groups.
        adapter: type of the adapters of the third form where the recipe has none; `none`: no third form.
        mixed_precision: `no`, `bf16` or `fp16`.
        output: folder of the runs, page and figures.
        results: folder of the result files.
        commit: whether each new result file is committed.
    """

    recipe: Path
    overrides: tuple[str, ...]
    steps: int
    joint_steps: int | None
    seeds: tuple[int, ...]
    every: int | None
    rows: int
    groups: int
    adapter: str
    mixed_precision: str
    output: Path
    results: Path
    commit: bool = False


def plan_study(plan: StudyPlan) -> FormTable:
    """Check the recipe of every model, and return the forms with their runs.

    Raises:
        InputError: the tasks share nothing, or a task has no dev rows to compare on.
        RecipeError: a recipe is invalid; the message lists all problems.
    """
    recipe = load(plan.recipe, list(plan.overrides))
    _refuse(recipe)
    count = len(recipe.tasks)
    joint = 1.0 if plan.joint_steps is None else plan.joint_steps / (plan.steps * count)
    rows = TablePlan(
        rows=(),
        encoder=recipe.encoder,
        data_dir=recipe.data_dir or ".",
        seeds=plan.seeds,
        budget="study",
        learning_rate=0.0,
        instead_of_pooler=None,
        mixed_precision=plan.mixed_precision,
        output=plan.output / "runs",
        overrides=plan.overrides,
    )
    budget = Budget(plan.steps, joint)
    every = plan.every or max(1, optimizer_steps(recipe, budget.of(count)) // MEASUREMENTS)
    table = FormTable(rows, _forms(plan, recipe, every), budget, plan.results, plan.commit)
    for models in table.models.values():
        for model in models:
            try:
                check_stages(model.recipe())
            except RecipeError as error:
                raise RecipeError([f"{model.model.name}: {line}" for line in error.problems]) from error
    return table


def _refuse(recipe: Recipe) -> None:
    """Raise InputError if a recipe gives nothing to study."""
    names = list(recipe.tasks)
    if len(names) < 2:
        raise InputError(f"the recipe has the task {', '.join(names)} alone, which shares nothing; give two or more")
    for name, task in recipe.tasks.items():
        check_metric_of_words(task.spec(name), task.metric)
    frozen = [stage.model.freeze_encoder and not stage.model.train_layer_norms for stage in recipe.in_stages()]
    if all(frozen):
        raise InputError(
            "model.freeze_encoder is true, so that the tasks train nothing that they share: alone and together they "
            "are the same; set it to false"
        )
    if blind := [name for name, task in recipe.tasks.items() if not task.data.has_dev]:
        raise InputError(f"the tasks {', '.join(blind)} have no dev rows to be compared on; give data.dev or dev_share")


def _forms(plan: StudyPlan, recipe: Recipe, every: int) -> list[Form]:
    adapter = recipe.model.adapter
    measured = as_overrides({"affinity.every": every, "affinity.rows": plan.rows})
    plain = without_adapter(recipe)
    schedule = {"schedule.name": "proportional", "schedule.mixed": "false", "schedule.temperature": None}
    alone = as_overrides({**schedule, **{kind.section: None for kind in method_classes() if kind.of_several_tasks}})
    single = each_task(ALONE, plan.recipe, list(recipe.tasks), [*plain, *alone])
    forms = [
        Form(ALONE, single, plan.seeds, what="a model of each task"),
        Form(TOGETHER, (Model(TOGETHER, plan.recipe, (*plain, *measured)),), plan.seeds, what="one model of all tasks"),
    ]
    if plan.adapter != NO_ADAPTER:
        given = [] if adapter is not None else ["--model.adapter.type", plan.adapter]
        kind = adapter or AdapterSpec(plan.adapter)
        what = f"one model with an adapter for each task ({kind.type}, {kind.size})"
        model = Model(ADAPTERS, plan.recipe, (*given, *as_overrides({"affinity": None})))
        forms.append(Form(ADAPTERS, (model,), plan.seeds, what=what))
    return forms


def without_adapter(recipe: Recipe) -> list[str]:
    """The overrides that drop the adapters of a recipe, and what needs them; none if it has no adapters."""
    if recipe.model.adapter is None:
        return []
    keys: dict[str, object] = {"model.adapter": None}
    if recipe.peft is None:
        keys["optimizer.adapter_learning_rate"] = None
    keys |= {f"tasks.{name}.adapter": "true" for name, task in recipe.tasks.items() if not task.adapter}
    return as_overrides(keys)


def check_data(table: FormTable) -> dict[str, float]:
    """Read the data of all tasks and check every model against the encoder, before the first run.

    Returns:
        Task → about how many seconds a step of its rows takes.

    Raises:
        RecipeError: with what is wrong with the data of any task, or with a model.
    """
    recipe = table.recipe_of_all()
    tokenizer = load_tokenizer(recipe)
    for models in table.models.values():
        for model in models:
            check_model(model.recipe(), tokenizer)
    return seconds_per_step(recipe, load_data(recipe), tokenizer)


def plan_lines(table: FormTable, seconds: Mapping[str, float] = MappingProxyType({})) -> list[str]:
    """What a study trains, what of it is done, and about how long the rest takes, as lines of text.

    Args:
        table: the forms.
        seconds: task → about how many seconds a step of its rows takes; used until a run has ended.
    """
    lines: list[str] = []
    left: list[tuple[str, ModelRuns]] = []
    rates: dict[str, list[float]] = {}
    for form, models in table.models.items():
        runs = [(model, seed) for model in models for seed in table.forms[form].seeds]
        done = 0
        for model, seed in runs:
            result = table.result(model, seed)
            if result is None:
                left.append((form, model))
                continue
            done += 1
            if result.record.get("seconds"):
                rates.setdefault(form, []).append(result.record["seconds"] / model.steps)
        steps = sum(model.steps for model, _ in runs)
        lines.append(
            f"{form}: {table.forms[form].what}; {len(runs)} runs, {done} of them done; {_steps(models)} each; "
            f"{steps:,} steps of {BATCH} rows in all"
        )
    steps = sum(model.steps for _, model in left)
    lines.append(f"left: {len(left)} runs, {steps:,} steps, {steps * BATCH:,} rows")
    return [*lines, _time_left(left, rates, seconds)]


def _steps(models: Sequence[ModelRuns]) -> str:
    counts = sorted({model.steps for model in models})
    return " to ".join(f"{count:,} steps" for count in counts[:: max(1, len(counts) - 1)])


def _time_left(
    left: Sequence[tuple[str, ModelRuns]], rates: Mapping[str, list[float]], by_task: Mapping[str, float]
) -> str:
    """Say how long the rest takes: from the runs that have ended, or else from the seconds of each task's step."""
    if not left:
        return "nothing is left to train"
    known = [rate for found in rates.values() for rate in found]
    if known:
        mean = {form: sum(found) / len(found) for form, found in rates.items()}
        seconds = sum(model.steps * mean.get(form, sum(known) / len(known)) for form, model in left)
        return f"time left: about {_in_words(seconds)} for one run at a time, from the runs that have ended"
    if not by_task:
        return "time left: known once the first run has ended"
    seconds = sum(model.steps * sum(by_task[task] for task in model.tasks) / len(model.tasks) for _, model in left)
    how = "by the sizes of encoder and texts on this machine; the first run tells more"
    return f"time left: very roughly {_in_words(seconds)} for one run at a time, {how}"


def _in_words(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def study_name(recipe: Path) -> str:
    """The name of a recipe's study: `wide-all` for `configs/wide/all.yaml` of the package, else the file's name."""
    parent = recipe.resolve().parent
    return f"{parent.name}-{recipe.stem}" if parent.parent.name == "configs" else recipe.stem


def settings_in_words(plan: StudyPlan, table: FormTable, keys: Sequence[str]) -> dict[str, object]:
    """The budget of a study, for its page and numbers.

    Args:
        keys: the recipe's keys that the command line set, without the folders of this machine.
    """
    model = table.models[TOGETHER][0]
    joint, affinity = model.steps, model.recipe().methods["affinity"]
    return {
        "rows of a step": BATCH,
        "steps of each task alone": plan.steps,
        "steps of a joint model": joint,
        "seeds": list(plan.seeds),
        "steps from one measurement of affinity to the next": affinity.every,
        "rows of each task in a measurement": plan.rows,
        "keys": " ".join(keys),
    }
