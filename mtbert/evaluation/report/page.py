"""Arrange the numbers of a report into chapters with notes, tables and figures. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .parts import Picture as Picture, Section, Table as Table, as_table, shown as shown
from .task_page import task_sections, undefined_notes
from .training_page import comparison_sections, training_sections


def sections(numbers: Mapping[str, Any]) -> list[Section]:
    """Return the sections of the page below its first screen; those of level 2 begin a chapter.

    Args:
        numbers: the result of `analyse_run`, with two more keys: `comparison`, the result of `compare_runs`, if two
            runs are compared; and `run`: `name`, `against` (None, or the other run's name), `split`, `notes`
            (sentences), `examples` (number of rows in a table of examples), `seed` and `resamples` of the bootstrap.
    """
    parts = []
    for name, task in numbers["tasks"].items():
        parts += task_sections(name, task, numbers, numbers["data"].get(name, {}))
    if numbers.get("comparison"):
        parts += comparison_sections(numbers["comparison"], numbers["run"])
    return [*parts, *training_sections(numbers), _data(numbers)]


def overview_notes(numbers: Mapping[str, Any]) -> list[str]:
    """Return the notes below the table of scores."""
    run, notes = numbers["run"], list(numbers["run"]["notes"])
    for name, task in numbers["tasks"].items():
        notes += undefined_notes(name, task["scores"])
        if not task["rows"]:
            notes.append(f"{name}: the {run['split']} split has no labelled row, so that nothing can be scored.")
    return notes


def _data(numbers: Mapping[str, Any]) -> Section:
    """Return the chapter of cautions and of the data's sizes."""
    found, facts = numbers["cautions"], numbers["data"]
    cautions = [
        {"": "serious" if caution["serious"] else "to know", "caution": caution["title"], "where": caution["text"]}
        for caution in found
    ]
    rows = []
    for name, of_task in facts.items():
        row: dict[str, Any] = {"task": name}
        row |= {f"{split} rows": count for split, count in of_task["rows"].items()}
        repeated, leaks, cut = (of_task.get(key, {}) for key in ("repeated", "leaks", "cut"))
        row["repeated training texts"] = repeated.get("rows")
        row["with different labels"] = repeated.get("contradictory")
        row["rows with a training text"] = of_task.get("shared", 0)
        row["training rows that share a phrase"] = leaks.get("phrases", 0)
        row["cut inputs"] = cut.get("rows")
        rows.append(row)
    items = [as_table("All cautions, the weightiest first", cautions)]
    if rows:
        items.append(as_table("Labelled rows of each task, and what was found in them", rows))
    serious = sum(caution["serious"] for caution in found)
    aside = f"{len(found)} caution{'' if len(found) == 1 else 's'}" + (f", {serious} serious" if serious else "")
    notes = () if facts else ("The data of the run were not examined.",)
    return Section("Data and cautions", notes=notes, items=tuple(items), aside=aside)
