"""The schema of a recipe: one typed tree, and what in it does not go together. Checked before any work begins."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..data.pools import Sources
from ..data.sampling import Schedule
from ..data.spec import DataSpec
from ..errors import Problem, RecipeError
from ..model_card import CardSettings
from ..modeling.limits import beyond
from ..modeling.task_spec import AdapterSpec, HeadSpec
from ..training.arguments import PROCESS_KEYS, REFUSED_PRETRAINING, REFUSED_TRAINING
from ..training.methods import REGISTRY, sections, settings_class
from ..training.optimizers import OptimizerSettings
from .checks import check
from .fields import NO_KEY, KeyPath, Report, defaults, documentation, help_group, help_rows, known_fields, read_fields
from .found_labels import with_labels
from .imports import honour_imports
from .parts import ModelRecipe, TaskRecipe, pretraining_arguments_class, training_arguments_class
from .sources import drawn_sources, read_sources, with_source, without_sources
from .stage_keys import split_stages
from .yaml_layers import COMMAND_LINE, Layer, as_layer, merge, override_all, split_argv

if TYPE_CHECKING:
    from ..training.arguments import MtBertTrainingArguments, PretrainingArguments
    from ..training.settings import MultiTaskSettings


@dataclass(frozen=True)
class Recipe:
    """A run: one encoder, its tasks, how steps are shared out, and the training arguments.

    `load_recipe`, `from_cli` and `from_dict` check a recipe; the constructor does not.

    Attributes:
        encoder: the pretrained encoder: a folder, or a name on the hub.
        data_dir: the folder that relative names of data files begin at; None: the current one.
        tasks: name → TaskRecipe, at least one. `null` drops a task of the base, and a list of names in place of the
            mapping keeps these tasks of the base alone.
        sources: name → where texts are that several tasks read: the keys of a task's `data`, but for `label`. A task
            with `data: {source: NAME, label: COLUMN}` reads them; each text is encoded once for all such tasks.
        leaks: train rows that give away a dev or test row of any task, by the same text or pair, or a phrase of three
            words or more: `report` (count them, with several tasks) or `drop` (train without them).
        schedule: how steps are shared out among the tasks.
        model: what is done with the encoder.
        peft: a method of peft on the encoder: `type` (lora if absent) and its config's fields; null: none.
        optimizer: learning rates by part, layer and task, and one state for each task (fields of OptimizerSettings).
        training: fields of MtBertTrainingArguments; `output_dir` is required.
        stages: what each stage of the run sets, laid over the rest; they train the same model in turn, each with an
            optimizer and a schedule of the rate of its own. Empty: one stage, the rest itself.
        card: what the model card says besides (fields of CardSettings).
        pretraining: further pre-training of the encoder on the tasks' texts, by masked-language modelling, before
            anything else: fields of PretrainingArguments. Of the machine it is as `training` says. null: none, and
            `mtbert pretrain` takes its defaults.
        imports: modules, or Python files beside the recipe, that are imported before anything is checked. They are
            never imported from a run's folder, a checkpoint or a hub.
        methods: section → the settings of a training method, of the sections that are set.
    """

    encoder: str
    data_dir: str | None = None
    tasks: dict[str, TaskRecipe] = field(default_factory=dict)
    sources: dict[str, DataSpec] = field(default_factory=dict)
    leaks: str = "report"
    schedule: Schedule = field(default_factory=Schedule)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    peft: dict[str, Any] | None = None
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    training: dict[str, Any] = field(default_factory=dict)
    stages: tuple[dict[str, Any], ...] = ()
    card: CardSettings = field(default_factory=CardSettings)
    pretraining: dict[str, Any] | None = None
    imports: tuple[str, ...] = ()
    methods: dict[str, Any] = field(default_factory=dict, metadata=NO_KEY)

    def __getattr__(self, name: str) -> Any:
        """A method's settings by the name of their section; None where it is not set."""
        if name in REGISTRY and name != "methods":
            return self.methods.get(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @classmethod
    def from_cli(cls, argv: Sequence[str] | None = None) -> Recipe:
        """The recipe that a command line names: `RECIPE.yaml [--key value | --key=value]...`; `--help` lists the keys.

        Raises:
            RecipeError: with everything that is wrong.
        """
        argv = sys.argv[1:] if argv is None else list(argv)
        if "-h" in argv or "--help" in argv:
            print(help_text())
            raise SystemExit(0)
        positional, overrides = split_argv(argv)
        if len(positional) != 1:
            usage = "write RECIPE.yaml [--key value]..., or --help for the keys"
            raise RecipeError([f"{COMMAND_LINE}: one recipe is needed, but there are {positional or 'none'}; {usage}"])
        return load_recipe(positional[0], [f"--{'.'.join(path)}={text}" for path, text in overrides])

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """The inverse of `to_dict`, checked like a file without `base`.

        Raises:
            RecipeError: with everything that is wrong.
        """
        return _resolve(Layer(values), "recipe")

    def to_dict(self) -> dict[str, Any]:
        """The whole tree, defaults included, as JSON-ready values; a task of a source names it, as in a file."""
        tree = without_sources(asdict(self))
        methods = tree.pop("methods")
        unset = {section: None for section in sections() if isinstance(REGISTRY[section], str)}
        return _lists(tree | unset | methods)

    @property
    def drawn_sources(self) -> Sources:
        """The sources whose tasks are drawn together: source → its tasks."""
        return drawn_sources(self.tasks, self.schedule.draw)

    def in_stages(self) -> tuple[Recipe, ...]:
        """The whole recipe of each stage, in their order; without stages this recipe alone. They are made once."""
        return self._own_stages or (self,)

    @cached_property
    def _own_stages(self) -> tuple[Recipe, ...]:
        layers = split_stages(Layer(self.to_dict()), Report("recipe"))
        return tuple(_resolve(layer, "recipe") for layer in layers)

    def settings(self) -> MultiTaskSettings:
        """What the trainer is given besides the methods and the training arguments."""
        from ..training.settings import MultiTaskSettings

        tasks = {name: task.training() for name, task in self.tasks.items()}
        return MultiTaskSettings(self.schedule, tasks, self.optimizer)

    def training_default(self, key: str) -> Any:
        """What a training argument is where the recipe does not say."""
        return defaults(training_arguments_class()).get(key)  # some came with later versions of transformers

    def training_value(self, key: str) -> Any:
        """A training argument, or its default."""
        return self.training[key] if key in self.training else self.training_default(key)

    def value(self, path: KeyPath) -> Any:
        """What stands at a key path, such as `("tasks", "sst", "weight")`."""
        if path[0] == "training":
            return self.training_value(path[1])
        node: Any = vars(self) | dict.fromkeys(REGISTRY) | self.methods
        for key in path:
            node = node[key] if isinstance(node, dict) else getattr(node, key)
        return node

    def training_arguments(self, **extra: Any) -> MtBertTrainingArguments:
        """The training arguments, `extra` ones on top.

        Raises:
            RecipeError: if they do not go together, or not with this machine.
        """
        from ..training.distributed.feasible import argument_problems

        try:
            arguments = training_arguments_class()(**{**self.training, "console": self._console(), **extra})
        except Exception as error:  # transformers refuses values with errors of many types
            raise RecipeError([f"training: {error}"]) from error
        if problems := argument_problems(arguments):
            raise RecipeError([str(problem.under("training")) for problem in problems])
        return arguments

    def _console(self) -> str:
        """How the run shows its progress: `training.console`, by default `auto`."""
        return self.training.get("console") or "auto"

    def pretraining_arguments(self, **extra: Any) -> PretrainingArguments:
        """The arguments of pre-training, `extra` ones on top; what `REFUSED_PRETRAINING` names is as in `training`.

        Raises:
            RecipeError: if they do not go together, or not with this machine.
        """
        pretraining: dict[str, Any] = dict(self.pretraining or {})
        pretraining.setdefault("output_dir", str(Path(self.training["output_dir"], "pretraining")))
        shared = {key: self.training[key] for key in PROCESS_KEYS if key in self.training}
        report: dict[str, Any] = {
            key: self.training[key] for key in ("report_to", "disable_tqdm") if key in self.training
        }
        pretraining["console"] = pretraining.get("console") or self._console()
        from ..training.distributed.feasible import argument_problems

        try:
            arguments = pretraining_arguments_class()(**{**report, **pretraining, **shared, **extra})
        except Exception as error:  # as above
            where = "" if str(error).startswith("pretraining") else "pretraining: "
            raise RecipeError([f"{where}{error}"]) from error
        if problems := argument_problems(arguments):
            raise RecipeError([str(problem.under("pretraining")) for problem in problems])
        return arguments


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def load_recipe(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Recipe:
    """Read a recipe, its bases below it and the overrides on top, and check the result.

    Args:
        recipe: a YAML file, a mapping of the same form (its `base` begins at the current folder), or a Recipe.
        overrides: as on a command line: `("--training.max_steps", "50", "--tasks.sst.weight=2")`, or keys → values:
            `{"training.max_steps": 50, "tasks.sst.weight": 2}`.

    Raises:
        RecipeError: with everything that is wrong.
    """
    source = str(recipe) if isinstance(recipe, str | os.PathLike) else "recipe"
    layer = as_layer(recipe.to_dict() if isinstance(recipe, Recipe) else recipe)
    layer = override_all(layer, overrides, _hint)
    honour_imports(layer, source)
    return _resolve(layer, source)


def override_tree(overrides: Sequence[str]) -> dict[str, Any]:
    """The tree of settings that `--key value` overrides make, as a recipe file holds it; only their form is checked.

    Raises:
        RecipeError: for an argument that is no `--key value`, or a value that is no valid YAML.
    """
    return override_all(Layer({}), overrides, _hint).tree


def _hint(path: KeyPath) -> Any:
    """The type of a key; Any where there is no such key."""
    hint: Any = Recipe
    if path[0] == "stages" and len(path) > 2:
        return _hint(path[2:])
    for i, key in enumerate(path):
        if i == 0 and key in ("all_tasks", "training", "pretraining"):
            classes = {"training": training_arguments_class, "pretraining": pretraining_arguments_class}
            hint = TaskRecipe if key == "all_tasks" else classes[key]() if path[1:] else Any
        elif i == 0 and key in sections():
            hint = settings_class(key) if path[1:] else Any
        elif isinstance(hint, type) and hasattr(hint, "__dataclass_fields__"):
            hint = known_fields(hint).get(key, Any)
        else:
            inner = get_args(hint)
            hint = inner[1] if len(inner) == 2 and inner[0] is str else Any
    return hint


def _resolve(layer: Layer, source: str) -> Recipe:
    report = Report(source, layer.origins, _elsewhere())
    for path, message in layer.problems:
        report.add(Problem(path, message), bad=True)
    stages = split_stages(layer, report)
    tree = dict(layer.tree)
    if tree.pop("base", None) is not None:
        report.add(Problem(("base",), "is for recipe files only; name it in the file"))
    common, tasks = tree.pop("all_tasks", None), tree.get("tasks")
    read_fields(TaskRecipe, common, ("all_tasks",), report)
    if isinstance(tasks, dict):
        put_under = common if isinstance(common, dict) else {}
        kept = {name: task for name, task in tasks.items() if task is not None}
        if problems := beyond("tasks", len(kept), f"{source}: tasks has", " tasks"):
            raise RecipeError([*report.lines, *problems])
        tree["tasks"] = {n: merge(put_under, task) if isinstance(task, dict) else task for n, task in kept.items()}
    sources = read_sources(tree.pop("sources", None), report)
    if isinstance(tasks, dict):
        tree["tasks"] = {name: with_source(name, task, sources, report) for name, task in tree["tasks"].items()}
    methods = _read_methods(tree, report)
    recipe = Recipe(**read_fields(Recipe, tree, (), report, sections()), sources=sources, methods=methods)
    training = read_fields(training_arguments_class(), recipe.training, ("training",), report)
    recipe = replace(recipe, training=training)
    if recipe.pretraining is not None:
        values = read_fields(pretraining_arguments_class(), recipe.pretraining, ("pretraining",), report)
        recipe = replace(recipe, pretraining=values)
    recipe = replace(recipe, tasks=with_labels(recipe.tasks, recipe.data_dir, report))
    check(recipe, report)
    for stage in stages:
        try:
            _resolve(stage, source)
        except RecipeError as error:
            report.lines += error.problems
    if report.lines:
        raise RecipeError(report.lines)
    return recipe


def _read_methods(tree: dict[str, Any], report: Report) -> dict[str, Any]:
    """Take the sections of methods out of a tree: section → settings, of those that are set."""
    methods = {}
    for section in sections():
        kind, value = settings_class(section), tree.pop(section, None)
        if value is not None or getattr(kind, "always_set", False):
            methods[section] = kind(**read_fields(kind, value, (section,), report))
    return methods


def _elsewhere() -> dict[str, str]:
    """Name of a key → its full dotted path; of keys in several sections, that in the first of these."""
    groups = {"training": training_arguments_class(), "schedule": Schedule, "model": ModelRecipe, "data": DataSpec}
    groups |= {"head": HeadSpec, **{section: settings_class(section) for section in sections()}}
    groups |= {"optimizer": OptimizerSettings, "pretraining": pretraining_arguments_class(), "card": CardSettings}
    paths = {name: f"{section}.{name}" for section, cls in reversed(groups.items()) for name in known_fields(cls)}
    return {name: path for name, path in paths.items() if name != "weight"}  # tasks have one, too


def _method_rows(section: str) -> list[tuple[str, str, str, str]]:
    kind = settings_class(section)
    return help_rows(kind, f"{section}.", documentation(kind))


def help_groups() -> dict[str, list[tuple[str, str, str, str]]]:
    """Return every group of keys: its title → a row (key, type, default, what it does) for each key."""
    training = training_arguments_class()
    helps = {entry.name: " ".join(entry.metadata.get("help", "").split()) for entry in fields(training)}
    docs = documentation(training) | {name: text.replace("%%", "%") for name, text in helps.items() if text}
    docs |= {name: f"Refused: {reason}." for name, reason in REFUSED_TRAINING.items()}
    docs["output_dir"] = f"Required. {docs['output_dir']}"
    pretraining = pretraining_arguments_class()
    masked = {entry.name: " ".join(entry.metadata.get("help", "").split()) for entry in fields(pretraining)}
    masked |= documentation(pretraining) | {name: f"Refused: {why}." for name, why in REFUSED_PRETRAINING.items()}
    plain = ("encoder", "data_dir", "leaks", "stages", "imports")
    nested = [entry.name for entry in fields(Recipe) if entry.name not in plain]
    base = ("base", "text", "in files only", "Another recipe, relative to this file, whose settings lie under these.")
    common = ("all_tasks.KEY", "as tasks.NAME.KEY", "", "Put under every task; a task's own value wins.")
    groups: dict[str, list[tuple[str, str, str, str]]] = {
        "recipe": [base, *help_rows(Recipe, "", documentation(Recipe), nested), common],
        "sources.NAME": [("sources.NAME.KEY", "as tasks.NAME.data.KEY", "", "Any of them but source and label.")],
        "tasks.NAME": help_rows(TaskRecipe, "tasks.NAME.", TaskRecipe.documentation(), ("data", "head")),
        "tasks.NAME.data": help_rows(DataSpec, "tasks.NAME.data.", documentation(DataSpec)),
        "tasks.NAME.head": help_rows(HeadSpec, "tasks.NAME.head.", documentation(HeadSpec)),
        "schedule": help_rows(Schedule, "schedule.", documentation(Schedule)),
        "model": help_rows(ModelRecipe, "model.", documentation(ModelRecipe), ("adapter",)),
        "model.adapter": help_rows(AdapterSpec, "model.adapter.", documentation(AdapterSpec)),
        "optimizer": help_rows(OptimizerSettings, "optimizer.", documentation(OptimizerSettings)),
        **{section: _method_rows(section) for section in sections()},
        "card": help_rows(CardSettings, "card.", documentation(CardSettings)),
        "training": help_rows(training, "training.", docs),
        "pretraining": help_rows(pretraining, "pretraining.", masked),
    }
    return groups


def help_text() -> str:
    """Return what `--help-keys` prints: every key of a recipe, its type, its default and what it does."""
    usage = "usage: RECIPE.yaml [--key value | --key=value]...\nValues are read as YAML: 1e-5, true, null, [a, b]."
    return "\n\n".join([usage, *(help_group(title, rows) for title, rows in help_groups().items())])
