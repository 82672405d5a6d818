"""Candidates that folds compare: rows of a table, or a YAML file of changes to one recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, Problem, RecipeError
from ..recipe.fields import Report, read_fields, shown
from ..recipe.search_space import as_overrides
from ..recipe.yaml_layers import parse_yaml, read_bounded, unreadable
from .table_plan import find_rows

NAME = re.compile(r"\w[\w.+-]{0,99}")
TAKEN = ("training.output_dir", "training.resume_from_checkpoint", "training.seed", "data_dir", "base", "imports")
TAKEN_OF_DATA = ("dev", "dev_share", "test", "folds", "fold")


@dataclass(frozen=True)
class Candidate:
    """A recipe file with changes.

    Attributes:
        name: its name in tables and files.
        path: the recipe file.
        changes: dotted key → value.
    """

    name: str
    path: Path
    changes: Mapping[str, Any]

    @property
    def overrides(self) -> tuple[str, ...]:
        """The changes as arguments of a command line."""
        return tuple(as_overrides(self.changes))


@dataclass(frozen=True)
class CandidateFile:
    """The keys of a file of candidates.

    Attributes:
        recipe: the recipe that all candidates change; relative to the file.
        candidates: name → its changes, dotted key → value; `{}`: the recipe as it is.
        baseline: the candidate that the others are compared with; default: the first.
        folds: number of folds.
        first_folds: how many of them are run; default: all.
        seeds: training seeds of each fold.
        steps: optimizer steps of a run; several, in ascending order: successive halving.
        score: `overall`, or a task.
    """

    recipe: str
    candidates: dict[str, Any]
    baseline: str | None = None
    folds: int | None = None
    first_folds: int | None = None
    seeds: tuple[int, ...] | None = None
    steps: tuple[int, ...] | None = None
    score: str | None = None


def read_candidates(file: Path) -> tuple[list[Candidate], CandidateFile]:
    """Read a file of candidates.

    Raises:
        RecipeError: lists all problems of the file.
    """
    try:
        tree, origins = parse_yaml(read_bounded(file), str(file))
    except (OSError, ValueError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError([f"{file}: cannot be read: {unreadable(error)}"]) from error
    report = Report(str(file), origins)
    values = read_fields(CandidateFile, tree, (), report)
    if report.lines:
        raise RecipeError(report.lines)
    content = CandidateFile(**values)
    path = file.parent / content.recipe
    if not path.is_file():
        report.add(Problem(("recipe",), f"is {content.recipe!r}, but there is no file {path}"))
    if not content.candidates:
        report.add(Problem(("candidates",), "is empty; give at least two, the recipe as it is and a change"))
    for name, changes in content.candidates.items():
        _check_candidate(name, changes, report)
    if content.baseline is not None and content.baseline not in content.candidates:
        names = ", ".join(content.candidates)
        report.add(Problem(("baseline",), f"is {content.baseline!r}, but must be a candidate: {names}"))
    if report.lines:
        raise RecipeError(report.lines)
    return [Candidate(name, path, changes or {}) for name, changes in content.candidates.items()], content


def _check_candidate(name: str, changes: Any, report: Report) -> None:
    path = ("candidates", name)
    if not NAME.fullmatch(name):
        rule = "begin with a letter or digit, and have only these, _, -, + and dots, at most 100"
        report.add(Problem(path, f": the name must {rule}"))
    if changes is not None and not isinstance(changes, dict):
        form = "a mapping of dotted keys to values, such as {training.learning_rate: 3e-5}"
        report.add(Problem(path, f"is {shown(changes)}, but must be {form}"))
        return
    for key in changes or ():
        parts = key.split(".")
        of_data = {"all_tasks": parts[2:], "tasks": parts[3:], "sources": parts[2:]}.get(parts[0], [])
        if key in TAKEN or ".".join(of_data) in TAKEN_OF_DATA:
            report.add(Problem((*path, key), "is set by the command itself; drop it"))
        for other in changes or ():
            if key.startswith(f"{other}."):
                report.add(Problem((*path, key), f"lies within {other}, which is set as a whole; drop one of them"))


def rows_as_candidates(names: Sequence[str]) -> list[Candidate]:
    """Return rows of a table as candidates.

    Raises:
        InputError: there is no such row, or none is named.
    """
    rows = find_rows(names)
    if not rows:
        raise InputError("there are no candidates; name rows, or give --candidates FILE")
    return [Candidate(row, path, {}) for row, path in rows.items()]
