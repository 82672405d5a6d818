"""Registries of users' own heads and adapters, by their names in a config."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from .errors import InputError

HEADS: dict[str, Callable[..., Any]] = {}
ADAPTERS: dict[str, Callable[..., Any]] = {}


def put(table: dict[str, Any], name: str, value: Any, what: str, taken: Container[str] = ()) -> None:
    """Register `value` under a new name; registering it again has no effect.

    Args:
        what: the kind of entry, for error messages, such as `head`.
        taken: names of built-in entries.

    Raises:
        InputError: if the name is taken, or is no text.
    """
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"the name of a {what} is {name!r}, but must be a text")
    before = table.get(name)
    again = before is not None and _place(before) == _place(value)  # also if its module was reloaded
    if name in taken or (before is not None and not again):
        raise InputError(f"there is a {what} {name!r} already; give another name")
    table[name] = value


def _place(value: Any) -> tuple[str, str]:
    return getattr(value, "__module__", ""), getattr(value, "__qualname__", repr(value))
