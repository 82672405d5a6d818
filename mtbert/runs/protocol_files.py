"""Read the protocols of tables, YAML files: unknown keys and names are refused, with the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError, Problem, RecipeError
from ..recipe.fields import Report, read_fields, shown, some
from ..recipe.yaml_layers import parse_yaml, read_bounded, unreadable

EACH = "each"  # in place of the models of a form: one for each task
Keys = TypeVar("Keys")


@dataclass(frozen=True)
class FindingKeys:
    """The keys of a finding: a sentence, two rows of which the first is to score higher, and the compared scores."""

    finding: str
    rows: tuple[str, str]
    scores: tuple[str, ...]


@dataclass(frozen=True)
class FairKeys:
    """The keys of `fair.yaml`; see `fair.Protocol`."""

    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    compared_seeds: tuple[int, ...]
    half: tuple[str, ...] = ()
    same_rate: dict[str, Any] = field(default_factory=dict)
    findings: tuple[dict[str, Any], ...] = ()

    def problems(self) -> list[Problem]:
        """One problem for each value that is wrong."""
        problems = [*_seed_problems("seeds", self.seeds), *_seed_problems("compared_seeds", self.compared_seeds)]
        if not self.rows:
            problems.append(Problem(("rows",), "is empty; name a row"))
        for row, other in self.same_rate.items():
            if not isinstance(other, str):
                problems.append(Problem(("same_rate", row), f"is {shown(other)}, but must be the name of a row"))
        return problems


@dataclass(frozen=True)
class FormKeys:
    """The keys of a form in `wide.yaml`; see `forms.Form`."""

    recipes: tuple[str, ...]
    models: str | None = None
    seeds: tuple[int, ...] | None = None
    teachers: str | None = None
    untaught: tuple[str, ...] = ()
    what: str = ""

    def problems(self) -> list[Problem]:
        """One problem for each value that is wrong."""
        problems = [] if self.seeds is None else _seed_problems("seeds", self.seeds)
        if not self.recipes:
            problems.append(Problem(("recipes",), "is empty; name a recipe, such as wide/all"))
        if self.models not in (None, EACH):
            problems.append(Problem(("models",), f"is {shown(self.models)}, but must be {EACH}, or absent"))
        if self.models == EACH and len(self.recipes) > 1:
            names = ", ".join(self.recipes)
            problems.append(Problem(("recipes",), f"has {names}, but a model of each task needs one recipe"))
        if self.untaught and self.teachers is None:
            tasks = ", ".join(self.untaught)
            problems.append(Problem(("untaught",), f"names {tasks}, but no form teaches this one; give teachers"))
        return problems


@dataclass(frozen=True)
class FormProtocolKeys:
    """The keys of `wide.yaml`; see `forms.FormProtocol`."""

    steps: int
    joint: float
    seeds: tuple[int, ...]
    against: str
    forms: dict[str, Any]

    def problems(self) -> list[Problem]:
        """One problem for each value that is wrong."""
        problems = _seed_problems("seeds", self.seeds)
        if self.steps < 1:
            problems.append(Problem(("steps",), f"is {self.steps}, but must be 1 or more"))
        if self.joint <= 0:
            problems.append(Problem(("joint",), f"is {self.joint:g}, but must be positive"))
        if not self.forms:
            problems.append(Problem(("forms",), "is empty; give a form"))
        return problems


def _seed_problems(key: str, seeds: Sequence[int]) -> list[Problem]:
    if not seeds:
        return [Problem((key,), "is empty; give a seed")]
    if len(set(seeds)) < len(seeds):
        return [Problem((key,), f"is {list(seeds)}, but must not hold a seed twice")]
    return [Problem((key,), f"holds {seed}, but must be 0 or more") for seed in seeds if seed < 0][:1]


class ProtocolFile:
    """A protocol that is read, with the lines of its keys.

    Args:
        file: the file.
        kind: says what it must be, such as `protocol of forms`.

    Raises:
        InputError: the file cannot be read, or is no YAML.
    """

    def __init__(self, file: Path, kind: str):
        self.file, self.kind = file, kind
        try:
            self.tree, origins = parse_yaml(read_bounded(file), str(file))
        except RecipeError as error:
            raise InputError(f"{self._heading}:\n{error}") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{self._heading}: {unreadable(error)}") from error
        self.report = Report(str(file), origins)

    @property
    def _heading(self) -> str:
        return f"{self.file} is no {self.kind}"

    def read(self, keys: type[Keys], values: Any, *path: str) -> Keys | None:
        """Return the keys of a part of the file; None if it has problems, which `finish` tells."""
        before = len(self.report.lines)
        arguments = read_fields(keys, values, path, self.report)
        if len(self.report.lines) > before:
            return None
        found = keys(**arguments)
        for problem in getattr(found, "problems", list)():
            self.report.add(problem.under(*path))
        return found if len(self.report.lines) == before else None

    def check_name(self, name: str, names: Iterable[str], what: str, *path: str) -> None:
        """Note a problem unless a name is one of `names`.

        Args:
            name: the name.
            names: all that there are.
            what: what it must name, such as `row`.
            path: the key that holds it.
        """
        if name not in (names := list(names)):
            self.report.add(Problem(path, f"names the {what} {name!r}, but there is none; {nearest(name, names)}"))

    def finish(self) -> None:
        """Raise InputError with all problems that were found, if there are any."""
        if self.report.lines:
            raise InputError("\n".join([f"{self._heading}:", *self.report.lines]))


def nearest(name: str, names: Sequence[str]) -> str:
    """Return a hint: the name that is most like a wrong one, or else all of them."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"there are: {some(names)}"


def _teachers_above(name: str, forms: Mapping[str, FormKeys]) -> list[str]:
    """Return the form that teaches a form, the one that teaches that, and so on."""
    above: list[str] = []
    teacher = forms[name].teachers
    while teacher is not None and teacher in forms and teacher not in above:
        above.append(teacher)
        teacher = forms[teacher].teachers
    return above


def read_fair(file: Path) -> tuple[ProtocolFile, FairKeys, list[FindingKeys]]:
    """Read a protocol of the fair budget.

    Raises:
        InputError: lists all keys and values that are wrong.
    """
    protocol = ProtocolFile(file, "protocol of the fair budget")
    keys = protocol.read(FairKeys, protocol.tree)
    found = [
        protocol.read(FindingKeys, finding, "findings", str(number))
        for number, finding in enumerate(keys.findings if keys is not None else ())
    ]
    protocol.finish()
    if keys is None:  # then there are problems, which were raised
        raise InputError(f"{file}: no protocol can be read")
    return protocol, keys, [finding for finding in found if finding is not None]


def read_forms(file: Path, recipes: Mapping[str, Path]) -> tuple[FormProtocolKeys, dict[str, FormKeys]]:
    """Read a protocol of forms.

    Args:
        file: the file.
        recipes: name → file of the recipes that forms may name.

    Raises:
        InputError: lists all keys, values and names that are wrong.
    """
    protocol = ProtocolFile(file, "protocol of forms")
    keys = protocol.read(FormProtocolKeys, protocol.tree)
    forms: dict[str, FormKeys] = {}
    names = list(keys.forms) if keys is not None else []
    for name in names:
        values = keys.forms[name] if keys is not None else None
        form = protocol.read(FormKeys, {} if values is None else values, "forms", name)
        if form is None:
            continue
        forms[name] = form
        for recipe in form.recipes:
            protocol.check_name(recipe, recipes, "recipe", "forms", name, "recipes")
        if form.teachers is not None:
            protocol.check_name(form.teachers, names, "form", "forms", name, "teachers")
    for name in forms:
        if name in _teachers_above(name, forms):
            protocol.report.add(Problem(("forms", name, "teachers"), f"make {name!r} teach itself; name another form"))
    if keys is not None:
        protocol.check_name(keys.against, names, "form", "against")
    protocol.finish()
    if keys is None:  # then there are problems, which were raised
        raise InputError(f"{file}: no protocol can be read")
    return keys, forms
