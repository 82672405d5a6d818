"""Reference of recipe keys and commands, from the dataclasses, their help texts and the rules of what combines."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from functools import cache
from pathlib import Path
from typing import Any

from mtbert.cli.arguments import COMMANDS, PARSERS
from mtbert.recipe.combinations import COMBINATIONS
from mtbert.recipe.schema import help_groups
from mtbert.training.methods.rules import Rule

EVERY_KEY = Path(__file__).resolve().parents[2] / "tests" / "recipes" / "test_every_key.py"


def keys(*groups: str) -> str:
    """Return the reference of groups of keys, such as `tasks.NAME.data`, as Markdown with a heading for each key.

    Raises:
        KeyError: there is no such group.
    """
    return "\n\n".join(_group(name, help_groups()[name]) for name in groups)


def _group(name: str, rows: list[tuple[str, str, str, str]]) -> str:
    parts = [f"## `{name}`"]
    if general := _excluded(name):
        parts.append(general)
    return "\n\n".join([*parts, *(_key(*row) for row in rows)])


def _key(key: str, kind: str, default: str, text: str) -> str:
    default = default.replace("default: ()", "default: []")  # a list, as YAML writes it
    parts = [f"### `{key}`", f"*{escaped(kind)}; {escaped(default)}.* {sentence(text)}"]
    if beside := settings_of_the_test(key):
        parts.append("The test of this key also sets " + ", ".join(f"`{setting}`" for setting in beside) + ".")
    if excluded := _excluded(key):
        parts.append(excluded)
    return "\n\n".join(parts)


def _excluded(key: str) -> str:
    """Return a list of the settings that a key or section excludes."""
    lines = []
    for rule in COMBINATIONS:
        for this, other in ((rule.when, rule.conflict), (rule.conflict, rule.when)):
            if path_of(this) == key:
                lines.append(f"- `{named(this)}` is refused with `{named(other)}`: {escaped(rule.reason)}.")
    return "\n".join(dict.fromkeys(lines))


def path_of(setting: str) -> str:
    """Return the key of `key: value`, as a heading of this reference has it."""
    return named(setting).partition(":")[0]


def named(setting: str) -> str:
    """Return a setting of a rule with NAME in place of `*`."""
    return setting.replace("tasks.*", "tasks.NAME")


def rules_elsewhere() -> list[Rule]:
    """Return the rules neither of whose settings is a key or a section of the reference."""
    headings = {name for group, rows in help_groups().items() for name in (group, *(row[0] for row in rows))}
    return [rule for rule in COMBINATIONS if not {path_of(rule.when), path_of(rule.conflict)} & headings]


@cache
def _tested() -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return the table of the test that changes every key: key → (value, settings beside it); empty without it."""
    if not EVERY_KEY.is_file():
        return {}
    tree = ast.parse(EVERY_KEY.read_text(encoding="utf-8"))
    tables = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).isupper()]
    names: dict[str, Any] = {"fields": lambda cls: (), "CardSettings": None}
    for table in tables:
        with contextlib.suppress(NameError):  # a table of something else than values
            exec(compile(ast.Module([table], []), str(EVERY_KEY), "exec"), names)
    return names.get("KEYS", {})


def settings_of_the_test(key: str) -> list[str]:
    """Return the settings, as `key: value`, with which the test of every key makes a key matter."""
    for tested, (_, beside) in _tested().items():
        if re.sub(r"^tasks\.\w+\.", "tasks.NAME.", tested) == key:
            return [f"{name}: {_value(value)}" for name, value in beside.items() if not _incidental(name, value, key)]
    return []


def _incidental(name: str, value: Any, key: str) -> bool:
    """Whether a setting only suits the tiny model of the tests, or is another value of the key itself."""
    plain = re.sub(r"^tasks\.\w+\.", "tasks.NAME.", name)
    return plain == key or isinstance(value, dict) or name == "model.adapter.size" or "teachers" in name


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def escaped(text: str) -> str:
    """Return plain text as Markdown that shows it unchanged; spans of code in single backticks stay code."""
    text = re.sub(r"\s+", " ", text).strip().rstrip(".")
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = (re.sub(r"([\\*_<>\[\]${}#|~`])", r"\\\1", part) for part in parts[::2])
    return "".join(parts)


def sentence(text: str) -> str:
    """Return plain text as Markdown with a capital letter, unless it begins with a symbol or code, and a full stop."""
    shown = escaped(text)
    if re.match(r"(a|[a-z]{2,}) ", shown) or re.match(r"[a-z]{2,}[:,]", shown):
        shown = shown[0].upper() + shown[1:]
    return f"{shown}."


def commands() -> str:
    """Return what `--help` of every command prints, as Markdown."""
    parts = []
    for name, what in COMMANDS.items():
        parts.append(f"## mtbert {name}\n\nTo {escaped(what)}.\n\n```text\n{help_of(name)}\n```")
    return "\n\n".join(parts)


def help_of(command: str) -> str:
    """Return what `mtbert COMMAND --help` prints."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        PARSERS[command](["--help"])
    return said.getvalue().strip()
