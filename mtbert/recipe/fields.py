"""Mappings → typed trees: every value against its field's type hint, every problem noted, and the fields' help."""

from __future__ import annotations

import difflib
import inspect
import math
import re
import sys
import textwrap
import types
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from decimal import Decimal
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..errors import MOST_PROBLEMS, InputError, Problem
from ..modeling.display import MASK, visible

KeyPath = tuple[str, ...]
NAMES = 30  # keys that a message lists
LONGEST = 300  # characters of a value that a message shows
SECRET_KEYS = re.compile(r"(?i)(^|[_.])(token|secret|password|passwd|api_?key|credentials?)$")
FLOAT_MAX = sys.float_info.max


@dataclass
class Report:
    """Collects the problems of one recipe.

    Attributes:
        source: where keys come from whose origin is not known.
        origins: key path → `file:line`, or `command line`.
        elsewhere: name of a key → its full dotted path, to help those who put it one level too high.
        lines: the problems.
        bad: key paths with a value of a wrong type, which the tree therefore does not hold.
        told: key paths that have a line.
    """

    source: str
    origins: dict[KeyPath, str] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    bad: set[KeyPath] = field(default_factory=set)
    told: set[KeyPath] = field(default_factory=set)

    def add(self, problem: Problem, bad: bool = False) -> None:
        """Note a problem; one with a task's key that `all_tasks` sets is shown as that of `all_tasks`.

        Args:
            bad: whether the value has a wrong type, so that the tree lacks it.
        """
        path = problem.path
        self.told.add(path)
        if bad:
            self.bad.add(path)
        for end in range(len(path), -1, -1):
            common = ("all_tasks", *path[2:end])
            if path[:end] in self.origins:
                source = self.origins[path[:end]]
                break
            if path[:1] == ("tasks",) and end > 2 and common in self.origins:
                source = self.origins[common]
                path = (*common, *path[end:])
                break
        else:
            source = self.source
        keys = tuple(visible(str(key)[:LONGEST]) for key in path)
        self.lines.append(f"{source}: {replace(problem, path=keys)}")

    def add_all(self, problems: Iterable[Problem]) -> None:
        """Note problems of single values, the first of each key; and all of those that concern a section as a whole."""
        for problem in problems:
            if problem.path not in self.told or problem.message.startswith(":"):
                self.add(problem)

    def unknown(self, path: KeyPath, value: Any, known: Iterable[str]) -> None:
        """Note a key that does not exist, and the nearest one that does."""
        key = path[-1]
        if len(self.lines) > MOST_PROBLEMS:
            return self.add(Problem(path, ": there is no such key"))
        near = difflib.get_close_matches(str(key)[:LONGEST], list(known), n=1, cutoff=0.6)
        if key in self.elsewhere and self.elsewhere[key] != ".".join(path):
            near = [self.elsewhere[key]]
        hint = f"did you mean {near[0]}?" if near else f"known ones: {some(list(known))}"
        self.add(Problem(path, f"= {shown(value, near[0] if near else key)}: there is no such key; {hint}"))

    def broken(self, path: KeyPath) -> bool:
        """Whether a value at, under or above `path` has a wrong type."""
        return any(path[: len(bad)] == bad or bad[: len(path)] == path for bad in self.bad)


def shown(value: Any, key: str = "") -> str:
    """A value as a message has it; tokens stay secret."""
    if isinstance(value, str):
        return f"text {MASK!r}" if SECRET_KEYS.search(str(key)) else f"text {_short(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _short(value)


def some(names: Sequence[str]) -> str:
    """Names as a message lists them, the first of many."""
    more = "" if len(names) <= NAMES else f", and {len(names) - NAMES} more (--help lists them)"
    return (", ".join(names[:NAMES]) or "none") + more


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python does not write numbers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def options(hint: Any) -> tuple[Any, ...]:
    """The types of a union; of `Enum | str` the enum only, for its values are the texts that count."""
    if get_origin(hint) not in (Union, types.UnionType):
        return (hint,)
    members = get_args(hint)
    return tuple(member for member in members if not (member is str and any(map(_is_enum, members))))


def fits(hint: Any, value: Any) -> tuple[bool, Any]:
    """Whether a value is of a hinted type; and the value, lists as tuples where the hint has tuples."""
    for option in options(hint):
        ok, converted = _fits_one(option, value)
        if ok:
            return True, converted
    return False, value


def _fits_one(hint: Any, value: Any) -> tuple[bool, Any]:
    origin = get_origin(hint) or hint
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is Any:
        return True, value
    if hint is float:
        return number and abs(value) <= FLOAT_MAX, value  # false for nan, and for integers that no float holds
    if hint is int:
        return number and isinstance(value, int), value
    if _is_enum(hint):
        enum_values = [member.value for member in hint if member.value == value]
        return bool(enum_values), enum_values[0] if enum_values else value
    if origin is tuple:
        hints = get_args(hint)
        if not isinstance(value, list | tuple):
            return False, value
        if hints[-1] is ...:
            hints = (hints[0],) * len(value)
        items = [fits(*pair) for pair in zip(hints, value, strict=False)]
        return len(hints) == len(value) and all(ok for ok, _ in items), tuple(item for _, item in items)
    return (isinstance(value, origin) if isinstance(origin, type) else True), value


def describe(hint: Any) -> str:
    """A hinted type in words."""
    return " or ".join(dict.fromkeys(map(_describe_one, options(hint))))


def _describe_one(hint: Any) -> str:
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if _is_enum(hint):
        return f"one of {', '.join(str(member.value) for member in hint)}"
    if origin is tuple:
        number = "" if inner[-1] is ... else f"{len(inner)} "
        return f"a list of {number}{ {str: 'texts', float: 'numbers'}.get(inner[0], 'values') }"
    if origin is dict or is_dataclass(origin):
        return "a mapping"
    words = {
        str: "text",
        int: "an integer",
        float: "a number",
        bool: "true or false",
        type(None): "null",
        list: "a list",
    }
    return words.get(origin, "any value")


def _remedy(hint: Any, value: Any) -> str:
    """How a value of a wrong type may have been meant."""
    if isinstance(value, float) and not math.isfinite(value):
        return "; it must be finite"
    if isinstance(value, int) and abs(value) > FLOAT_MAX:
        return f"; it must be at most {FLOAT_MAX:g}"
    if isinstance(value, str):
        kinds = options(hint)
        if bool in kinds and value.lower() in ("yes", "on", "true", "no", "off", "false"):
            return f"; write {'true' if value.lower() in ('yes', 'on', 'true') else 'false'} without quotes"
        if (float in kinds or int in kinds) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", value):
            number = Decimal(value)
            written = f"{number:f}" if abs(number.adjusted()) < 20 else f"{number:e}"  # no million zeros
            return f"; write {written} without quotes"
    if isinstance(value, list) and fits(hint, [str(item) for item in value])[0]:
        return "; put its items in quotes"
    return ""


NO_KEY = {"no key": True}  # metadata of a field that users do not set


def known_fields(cls: type) -> dict[str, Any]:
    """Name → type hint of the fields that a user may set."""
    hints = get_type_hints(cls)
    names = [entry.name for entry in fields(cls) if entry.init and "no key" not in entry.metadata]
    return {name: hints[name] for name in names if not name.startswith("_")}


def defaults(cls: type) -> dict[str, Any]:
    """Name → default of the fields that a user may set; required ones are MISSING."""
    values = {
        entry.name: entry.default if entry.default_factory is MISSING else entry.default_factory()
        for entry in fields(cls)
    }
    return {name: values[name] for name in known_fields(cls)}


def read_fields(cls: type, values: Any, path: KeyPath, report: Report, elsewhere: Iterable[str] = ()) -> dict[str, Any]:
    """The arguments of a dataclass out of a mapping; what does not fit is noted in the report and left out.

    Args:
        elsewhere: keys that are read elsewhere, and may be meant by one that is unknown.
    """
    hints = known_fields(cls)
    if values is None:
        values = {}  # `key: null` sets a mapping back to its defaults
    if not isinstance(values, dict):
        message = f"is {shown(values)}, but must be a mapping with the keys {', '.join(hints)}"
        report.add(Problem(path, message), bad=True)
        return {}
    arguments = {}
    for key, value in values.items():
        here = (*path, key)
        if key not in hints:
            report.unknown(here, value, (*hints, *elsewhere))
            continue
        value = _read_value(hints[key], value, here, report)
        if value is not MISSING:
            arguments[key] = value
    for key, default in defaults(cls).items():
        if default is MISSING and key not in arguments:
            arguments[key] = None
            if key not in values:
                report.add(Problem((*path, key), "is missing"), bad=True)
    return arguments


def _read_value(hint: Any, value: Any, path: KeyPath, report: Report) -> Any:
    trees = [option for option in options(hint) if is_dataclass(option) and option.__module__.startswith("mtbert.")]
    if trees:  # dataclasses of other packages are values, not parts of the tree
        nested: Any = trees[0]
        if value is None and type(None) in options(hint):
            return None
        values = read_fields(nested, value, path, report)
        try:
            return nested(**values)
        except InputError as error:
            report.add_all(problem.under(*path) for problem in error.values or [Problem((), f": {error}")])
            return MISSING
    inner = get_args(hint)
    if get_origin(hint) is dict and is_dataclass(inner[1]):
        if isinstance(value, dict) and all(isinstance(name, str) for name in value):
            return {name: _read_value(inner[1], item, (*path, name), report) for name, item in value.items()}
    elif get_origin(hint) is dict and value is None:
        return MISSING
    else:
        ok, converted = fits(hint, value)
        if ok:
            return converted
    message = f"is {shown(value, path[-1])}, but must be {describe(hint)}{_remedy(hint, value)}"
    report.add(Problem(path, message), bad=True)
    return MISSING


def documentation(cls: type) -> dict[str, str]:
    """Name → text of the fields that the "Attributes:" section of a dataclass's docstring documents."""
    section = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def help_group(title: str, rows: Iterable[tuple[str, str, str, str]]) -> str:
    """Lines of `--help`: (key, type, default, text) rows under a title."""
    lines = [f"{title}:"]
    for key, kind, default, text in rows:
        lines.append(f"  --{key}  ({', '.join(part for part in (kind, default) if part)})")
        lines += textwrap.wrap(text, 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def help_rows(
    cls: type, prefix: str, docs: dict[str, str], leave_out: Iterable[str] = ()
) -> list[tuple[str, str, str, str]]:
    """The rows of a dataclass's fields."""
    rows = []
    for name, default in defaults(cls).items():
        if name not in leave_out:
            kind = "" if default is MISSING else f"default: {shown(default).removeprefix('text ')}"
            rows.append((f"{prefix}{name}", describe(known_fields(cls)[name]), kind or "required", docs.get(name, "")))
    return rows
