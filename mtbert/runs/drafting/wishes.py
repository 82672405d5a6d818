"""What a person has chosen of a recipe before it is drafted, and whether there is such a thing."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass, field

from ...errors import InputError
from .readings import KINDS


@dataclass(frozen=True)
class Wishes:
    """What a person has chosen.

    Attributes:
        text: columns of the texts.
        label: columns of labels.
        id: the column of ids.
        tasks: names of the tasks to draft → their kind, or None for the likeliest; empty: all that are found.
    """

    text: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    id: str | None = None
    tasks: dict[str, str | None] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """All columns that are named."""
        return [*self.text, *self.label, *([] if self.id is None else [self.id])]

    def check_columns(self, names: Collection[str]) -> None:
        """Raise InputError if a named column is none of `names`, those of all tables."""
        options = {"--text": self.text, "--label": self.label, "--id": () if self.id is None else (self.id,)}
        for option, wanted in options.items():
            for name in wanted:
                if name not in names:
                    hint = _near(name, names)
                    shown = ", ".join(map(repr, list(names)[:30]))
                    raise InputError(f"{option} names {name!r}, which no table has; {hint}the columns are: {shown}")

    def check_tasks(self, names: Collection[str]) -> None:
        """Raise InputError if a named task is none of `names`, those that the tables make."""
        for name in self.tasks:
            if name not in names:
                shown = ", ".join(names) or "none"
                raise InputError(f"--tasks names {name!r}, but {_near(name, names)}the tasks are: {shown}")


def _near(name: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(name, names, 3, 0.5)
    return f"did you mean {' or '.join(map(repr, near))}? " if near else ""


def parse_tasks(text: str) -> dict[str, str | None]:
    """Read `--tasks`: names, each with `=KIND` if a kind is chosen, separated by commas.

    Raises:
        InputError: there is no such kind, or a name is given twice.
    """
    wanted: dict[str, str | None] = {}
    for part in text.split(","):
        name, equals, kind = part.strip().partition("=")
        if equals and kind not in KINDS:
            raise InputError(f"--tasks gives {name} the kind {kind!r}, but must be one of: {', '.join(KINDS)}")
        if not name or name in wanted:
            raise InputError(f"--tasks is {text!r}, but must be different names, such as a,b=regression")
        wanted[name] = kind if equals else None
    return wanted
