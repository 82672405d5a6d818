"""How recipes are read: YAML with line numbers, inheritance and command-line overrides."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecipeError
from ..modeling.display import brief
from ..modeling.limits import beyond, limit
from .fields import LONGEST, KeyPath, fits, options, shown

COMMAND_LINE = "command line"
OVERRIDES = "overrides"
TOO_DEEP = "its values lie too deep in each other; write fewer levels"


class _Loader(yaml.SafeLoader):
    """Plain scalars as in YAML 1.2: 1e-5 is a number, and yes, no, on, off and dates are text."""

    yaml_implicit_resolvers: dict[str, Any] = {}
    # Without dates, sets, bytes and ordered mappings: no key takes one, and a saved recipe is JSON.
    yaml_constructors = {
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError) as error:
            kind = node.tag.rpartition(":")[2]
            problem = f"{shown(node.value)} can not be read as {kind}; write another value, or put it in quotes"
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark) from error


for _tag, _pattern in (
    ("merge", r"<<"),
    ("null", r"~|null|Null|NULL|"),
    ("bool", r"true|True|TRUE|false|False|FALSE"),
    ("int", r"[-+]?(0|[1-9][0-9]*)"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.inf|\.nan"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), None)


@dataclass
class Layer:
    """A tree of settings, and where each of its keys was set.

    Attributes:
        tree: the settings.
        origins: key path → `file:line`, or `command line`.
        problems: what went wrong while layers were put together: (key path, message).
    """

    tree: dict[str, Any]
    origins: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[tuple[KeyPath, str]] = field(default_factory=list)


def _refuse_size(text: str, source: str) -> None:
    """Refuse a text that would take long to parse, for its length, its number of values, or their depth."""
    separators = text.count("\n") + text.count(",")
    problems = beyond("recipe_bytes", len(text), f"{source}: the recipe has", " characters")
    problems += beyond("recipe_values", separators, f"{source}: the recipe has", " lines and commas")
    if problems:
        raise RecipeError(problems)
    depth, most = 0, limit("depth")
    for bracket in re.finditer(r"[\[\]{}]", text):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > most:
            raise RecipeError([f"{source}: no valid YAML: {TOO_DEEP}"])


def parse_yaml(text: str, source: str) -> tuple[Any, dict[KeyPath, str]]:
    """The value that `text` holds and the origin of its keys; repeated keys and keys that are not text are refused.

    So are explicit tags but for those of plain values, and aliases that unfold into more than `recipe_values` values.
    """
    _refuse_size(text, source)
    most = limit("recipe_values")
    problems: list[str] = []
    origins: dict[KeyPath, str] = {}
    nodes = 0

    def walk(node: yaml.Node, path: KeyPath, above: tuple[yaml.Node, ...]) -> None:
        nonlocal nodes
        nodes += 1
        if nodes > most:
            too_many = f"its aliases stand for more than {most:,} values, here in {'.'.join(path)}; write less"
            raise RecipeError([f"{source}:{node.start_mark.line + 1}: no valid YAML: {too_many}"])
        if any(node is outer for outer in above):
            problems.append(f"{source}:{node.start_mark.line + 1}: {'.'.join(path)} is an alias of what it stands in")
        elif isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                walk(item, (*path, str(i)), (*above, node))
        elif isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, value in node.value:
                line, tag = key.start_mark.line + 1, key.tag.rpartition(":")[2]
                if tag == "merge":
                    walk(value, (*path, "<<"), (*above, node))
                    continue
                if tag != "str":
                    name = f"the key {key.value}" if isinstance(key, yaml.ScalarNode) else "a key"
                    problems.append(f"{source}:{line}: {name} is read as {tag}, but must be text; quote it")
                    continue
                here = (*path, key.value)
                if key.value in seen:
                    problems.append(
                        f"{source}:{line}: {'.'.join(here)} is given twice, first in line {seen[key.value]}"
                    )
                seen.setdefault(key.value, line)
                origins[here] = f"{source}:{line}"
                walk(value, here, (*above, node))

    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        walk(node, (), ())
        if problems:
            raise RecipeError(problems)
        return loader.construct_document(node), origins
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        details = (getattr(error, "context", None), getattr(error, "problem", None))
        what = ", ".join(part for part in details if part) or str(error).splitlines()[0]
        if what.startswith("while scanning an alias"):
            what += "; put a text that begins with * in quotes, such as '*.csv'"
        raise RecipeError([f"{source}{f':{mark.line + 1}' if mark else ''}: no valid YAML: {what}"]) from error
    except RecursionError as error:
        raise RecipeError([f"{source}: no valid YAML: {TOO_DEEP}"]) from error


def unreadable(error: Exception) -> str:
    """Why a text file cannot be read."""
    if isinstance(error, OSError):
        return str(error.strerror)
    return "no UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"no name of a file: {error}"


def read_bounded(path: Path) -> str:
    """The text of a recipe's file, of which no more is read than a recipe may have."""
    most = limit("recipe_bytes")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if problems := beyond("recipe_bytes", len(data), f"{path}: the recipe has at least", " bytes"):
        raise RecipeError(problems)
    return data.decode("utf-8")


def read_chain(path: Path, above: tuple[Path, ...] = ()) -> Layer:
    """The file's settings over those of its `base`, over those of that one's base, and so on."""
    if problems := beyond("recipe_bases", len(above), f"{path}: the chain of bases has", " files above it"):
        raise RecipeError(problems)
    try:
        tree, origins = parse_yaml(read_bounded(path), str(path))
    except RecipeError:
        raise
    except (OSError, ValueError) as error:
        raise RecipeError([f"{path}: cannot be read: {unreadable(error)}"]) from error
    if not isinstance(tree, dict | None):
        raise RecipeError([f"{path}: a recipe must be a mapping of keys to values, but this is {shown(tree)}"])
    layer = Layer(tree or {}, origins)
    base, where = layer.tree.pop("base", None), layer.origins.pop(("base",), str(path))
    if base is None:
        return merge_layers(Layer({}), layer)
    if not isinstance(base, str):
        raise RecipeError([f"{where}: base is {shown(base)}, but must be the path of a recipe"])
    below, chain = Path(os.path.normpath(path.parent / base)), (*above, path)
    if not os.path.isfile(below):
        raise RecipeError([f"{where}: base is {base!r}, but there is no file {below}"])
    if below.resolve() in [file.resolve() for file in chain]:
        raise RecipeError([f"{where}: base goes round in a circle: {' → '.join(map(str, (*chain, below)))}"])
    return merge_layers(read_chain(below, chain), layer)


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` upon `under`: mappings are merged at every depth, everything else is replaced."""
    both = {key for key in over if isinstance(over[key], dict) and isinstance(under.get(key), dict)}
    return under | {key: merge(under[key], value) if key in both else value for key, value in over.items()}


def _keep_tasks(under: Layer, over: Layer) -> Layer:
    """`over` with its list of tasks, which keeps those of the base, as a mapping whose nulls drop the others."""
    kept, tasks = over.tree["tasks"], under.tree.get("tasks")
    known = [name for name, task in tasks.items() if task is not None] if isinstance(tasks, dict) else []
    problems = list(over.problems)
    if not known:
        problems.append(
            (("tasks",), "is a list of names, which keeps tasks of the base, but there is no base; map them")
        )
    elif not kept:
        problems.append((("tasks",), f"is an empty list, which keeps none of: {', '.join(known)}; name one or more"))
    elif unknown := [brief(name) for name in kept if name not in known]:
        message = f"keeps {', '.join(unknown)}, but the base has: {', '.join(known)}; name some of these"
        problems.append((("tasks",), message))
    dropped = {name: None for name in known if name not in kept} if kept else {}
    return Layer({**over.tree, "tasks": dropped}, over.origins, problems)


def _without_files(under: Layer, over: Layer) -> Layer:
    """`under` without the files of tasks that `over` gives a source: only their keys of labels are left."""
    from ..data.spec import OF_TASKS  # with torch, which the command line's help does not need

    tree = under.tree
    for name, task in over.tree["tasks"].items():
        below = _inside(_inside(_inside(tree, "tasks"), name), "data")
        if isinstance(below, dict) and isinstance(_inside(_inside(task, "data"), "source"), str):
            kept = {key: value for key, value in below.items() if key in OF_TASKS}
            tree = tree | {"tasks": tree["tasks"] | {name: tree["tasks"][name] | {"data": kept}}}
    return Layer(tree, under.origins, under.problems)


def merge_layers(under: Layer, over: Layer) -> Layer:
    """`merge` of two layers.

    A `null` task drops one that is there, a list of names keeps these alone, and a task that is given a source has no
    files of the base.
    """
    if isinstance(over.tree.get("tasks"), list):
        over = _keep_tasks(under, over)
    if isinstance(over.tree.get("tasks"), dict):
        under = _without_files(under, over)

    def replaced(path: KeyPath) -> bool:
        node = over.tree
        for key in path:
            if key not in node:
                return False
            node = node[key]
            if not isinstance(node, dict):
                return True
        return False

    origins = {path: origin for path, origin in under.origins.items() if not replaced(path)} | over.origins
    merged = Layer(merge(under.tree, over.tree), origins, under.problems + over.problems)
    tasks, base_tasks = over.tree.get("tasks"), under.tree.get("tasks")
    for name in [key for key, value in tasks.items() if value is None] if isinstance(tasks, dict) else ():
        if not isinstance(base_tasks, dict) or base_tasks.get(name) is None:
            message = "is null, which drops a task of the base, but the base has none of that name"
            merged.problems.append((("tasks", name), message))
    return merged


def split_argv(argv: Sequence[str]) -> tuple[list[str], list[tuple[KeyPath, str]]]:
    """Positional arguments and (key path, text) overrides of `--key value` or `--key=value` arguments."""
    positional, overrides, problems = [], [], []
    arguments = list(argv)
    while arguments:
        argument = arguments.pop(0)
        if not argument.startswith("--"):
            positional.append(argument)
            continue
        key, equals, text = argument[2:].partition("=")
        if not equals and (not arguments or arguments[0].startswith("--")):
            name = key if len(key) <= LONGEST else f"{key[:LONGEST]}…"
            problems.append(f"{COMMAND_LINE}: --{name} has no value; write --{name} VALUE or --{name}=VALUE")
            continue
        overrides.append((tuple(key.split(".")), text if equals else arguments.pop(0)))
    if problems:
        raise RecipeError(problems)
    return positional, overrides


def _inside(node: Any, key: str) -> Any:
    """What a mapping or a list holds at a key or number; the node itself for no key; None if there is nothing."""
    if not key:
        return node
    if isinstance(node, list):
        return node[int(key)] if key.isdecimal() and int(key) < len(node) else None
    return node.get(key) if isinstance(node, dict) else None


def override(layer: Layer, path: KeyPath, text: str, hint: Any) -> Layer:
    """`layer` with one value of the command line on top, read as YAML unless `hint` wants text.

    An item of a list is named by its number: `stages.0.training.learning_rate`.
    """
    wants_text = str in options(hint)
    try:
        value, below = parse_yaml(text, COMMAND_LINE)
    except RecipeError as error:
        value, below = text, {}
        if not wants_text:
            message = f"is {text[:LONGEST]!r}, which is {error.problems[0].partition(': ')[2]}"
            return Layer(layer.tree, layer.origins | {path: COMMAND_LINE}, [*layer.problems, (path, message)])
    no_value = value is None and text.strip().lower() not in ("", "~", "null")  # YAML takes '#' for a comment
    if wants_text and (isinstance(value, str) or no_value or not fits(hint, value)[0]):
        value, below = text, {}
    return _put(layer, path, value, below, COMMAND_LINE)


def _put(layer: Layer, path: KeyPath, value: Any, below: Iterable[KeyPath], origin: str) -> Layer:
    """`layer` with one value on top; `below`: the key paths inside of it."""
    origins = {(*path, *rest): origin for rest in ((), *below)}
    tree: Any = value
    node = layer.tree
    around = [node := _inside(node, key) for key in ("", *path[:-1])]
    for end in range(len(path) - 1, -1, -1):
        items, key = around[end], path[end]
        if isinstance(items, list) and key.isdecimal() and int(key) < len(items):
            tree = [merge({"": item}, {"": tree})[""] if i == int(key) else item for i, item in enumerate(items)]
            origins = {p: o for p, o in layer.origins.items() if p[:end] == path[:end]} | origins
        else:
            tree = {key: tree}
    node = layer.tree
    for i, key in enumerate(path[:-1], start=1):  # mappings that are made for this value come from it too
        node = _inside(node, key)
        if not isinstance(node, dict | list):
            origins[path[:i]] = origin
    return merge_layers(layer, Layer(tree, origins))


def override_all(layer: Layer, overrides: Sequence[str] | Mapping[str, Any], hint: Callable[[KeyPath], Any]) -> Layer:
    """`layer` with overrides on top, each over those before it.

    Args:
        overrides: `--key value` arguments, or dotted keys → values.
        hint: key path → the type of its values.

    Raises:
        RecipeError: for an argument that belongs to no key, and for overrides of another form.
    """
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            layer = _put(layer, tuple(str(key).split(".")), plain(value), (), OVERRIDES)
        return layer
    if isinstance(overrides, str) or not all(isinstance(argument, str) for argument in overrides):
        form = "write {'training.max_steps': 50} or ['--training.max_steps', '50']"
        raise RecipeError([f"overrides is {shown(overrides)}, but must map keys to values, or list arguments; {form}"])
    positional, pairs = split_argv(overrides)
    if positional:
        raise RecipeError(
            [f"{COMMAND_LINE}: {argument!r} belongs to no --key; write --key VALUE" for argument in positional]
        )
    for path, text in pairs:
        layer = override(layer, path, text, hint(path))
    return layer


def as_layer(recipe: Any) -> Layer:
    """The settings of a YAML file and its bases, or of a mapping of the same form, whose `base` is a file.

    Raises:
        RecipeError: for anything else.
    """
    if isinstance(recipe, str | os.PathLike):
        return read_chain(Path(recipe))
    if not isinstance(recipe, Mapping):
        given = f"but is of the type {type(recipe).__name__}"
        raise RecipeError([f"a recipe must be a YAML file's path, a mapping of keys to values or a Recipe, {given}"])
    tree = plain(recipe)
    base = tree.get("base")
    if not isinstance(base, str):
        return Layer(tree)
    return merge_layers(read_chain(Path(base)), Layer({key: value for key, value in tree.items() if key != "base"}))


def plain(value: Any) -> Any:
    """A value of Python as a recipe file has it: settings and mappings as mappings, tuples as lists, paths as text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value
