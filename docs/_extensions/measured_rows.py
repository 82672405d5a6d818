"""Rows of the committed tables of results, for the pages of the methods: no figure is written twice."""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLES = ROOT / "recipes" / "README.md"
FAIR = ROOT / "recipes" / "results" / "fair" / "findings.json"


@cache
def tables() -> dict[tuple[str, str], dict[str, str]]:
    """Return the tables of recipes/README.md: (heading of the section, head of the table) → name of a row → row."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    heading, head = "", ""
    for line in TABLES.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif not line.startswith("|"):
            head = ""
        elif not head:
            head = line
        elif name := re.match(r"\| (?:`([\w-]+)`|([A-E]\d+(?:-\w+)?))\s*[:,|]", line):
            found.setdefault((heading, head), {}).setdefault(name[1] or name[2], line)
    return found


def table(*names: str) -> str:
    """Return a Markdown table of rows of recipes/README.md, and where they stand with their command.

    Raises:
        ValueError: no table has all these rows.
    """
    fitting = [(place, rows) for place, rows in tables().items() if set(names) <= rows.keys()]
    if not fitting:
        raise ValueError(f"no table of {TABLES.name} has all of the rows {', '.join(names)}")
    (heading, head), rows = fitting[0]
    rule = "|---" * (head.count("|") - 1) + "|"
    link = f"[{heading}](../../recipes/README.md#{slug(heading)})"
    parts = [head, rule, *(rows[name] for name in names), "", f"Setting and command: {link}.", *findings(names)]
    return "\n".join(parts)


def findings(names: tuple[str, ...]) -> list[str]:
    """Return a line for each finished finding of the fair budget that compares one of these rows."""
    lines = []
    for entry in json.loads(FAIR.read_text(encoding="utf-8"))["findings"]:
        if entry["verdict"] != "not run" and set(entry["rows"]) & set(names):
            lines += ["", f"Under the fair budget: {entry['finding']}: *{entry['verdict']}*."]
    return lines


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def speed() -> str:
    """Return the table of training speed of benchmarks/readme_table.py."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import readme_table
    finally:
        sys.path.pop(0)
    return readme_table.table(readme_table.ratios())
