"""Published figures of rows, as tables of runs show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NO_SCORES = ("what", "rows", "test")
Published = Mapping[str, Mapping[str, Any]]


def published_dev(published: Published, row: str) -> dict[str, Any]:
    """Return score → published figure of a row's dev sets; empty if there are none.

    Args:
        published: the entries of `published.yaml`.
        row: a row's name.
    """
    return {name: value for name, value in published.get(row, {}).items() if name not in _NO_SCORES}


def published_test(published: Published, row: str) -> dict[str, Any]:
    """Return the published figures of the test sets; empty if there are none.

    An entry with `rows` has the figures of one of several rows, which is not known; `of` then says so.

    Returns:
        `scores`: score → figure; `of`: whose figures these are, or an empty text if they are the row's.
    """
    own = published.get(row, {}).get("test")
    if own:
        return {"scores": dict(own), "of": ""}
    for entry in published.values():
        if row in entry.get("rows", ()):
            return {"scores": dict(entry["test"]), "of": entry["what"]}
    return {}


def published_cell(dev: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    """Format the figures as one cell, such as `overall 0.78 sst 0.518 (test: overall 0.784 sst 0.531)`."""
    parts = [f"{name} {value}" for name, value in dev.items()]
    if test:
        label = f"test, {test['of']}" if test["of"] else "test"
        scores = " ".join(f"{name} {value}" for name, value in test["scores"].items())
        parts.append(f"({label}: {scores})")
    return " ".join(parts)
