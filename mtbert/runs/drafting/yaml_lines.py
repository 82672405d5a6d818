"""YAML as a person would write it: plain scalars where they are safe, flow lists, and comments that are wrapped.

Every scalar is read back as it was, by YAML 1.1 and 1.2: `no`, `null`, `1e3`, `a: b` and `10` stand in quotes.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ...modeling.display import visible

WIDTH = 110
PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*(?: [A-Za-z0-9_./-]+)*|\d+%")
WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none", "nan", "inf"}


def scalar(value: Any) -> str:
    """A text, a number or a truth value in YAML; control and invisible characters are escaped."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    if PLAIN.fullmatch(text) and text.lower() not in WORDS:
        return text
    quoted = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf)
    return visible(quoted.removesuffix("\n"))


def flow(value: Any) -> str:
    """A value in one line."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{scalar(key)}: {flow(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow, value))}]"
    return scalar(value)


def entry(key: str, value: Any) -> list[str]:
    """The lines of a key and its value; a long list goes over several lines, a long mapping has one for each key."""
    line = f"{scalar(key)}: {flow(value)}"
    if len(line) <= WIDTH:
        return [line]
    if isinstance(value, Mapping):
        return [f"{scalar(key)}:", *indented(line for item in value.items() for line in entry(*item))]
    if isinstance(value, list | tuple):
        return [f"{scalar(key)}: [", *indented(_filled([flow(item) for item in value])), "]"]
    return [line]


def _filled(items: Sequence[str]) -> list[str]:
    """Items with commas, as many in a line as it holds."""
    lines, line = [], ""
    for item in items:
        if line and len(line) + len(item) + 2 > WIDTH - 4:
            lines.append(line)
            line = ""
        line = f"{line} {item}," if line else f"{item},"
    return [*lines, line]


def indented(lines: Any) -> list[str]:
    """Lines, two columns to the right."""
    return [f"  {line}" for line in lines]


def comment(text: str) -> list[str]:
    """Sentences as lines of comment, which begin with `##`."""
    words = visible(" ".join(text.split()))
    return [f"## {line}" for line in textwrap.wrap(words, WIDTH - 3, break_long_words=False, break_on_hyphens=False)]


def switched_off(lines: Any) -> list[str]:
    """Lines of YAML as lines of comment: each begins with one `#`, and is YAML without it."""
    return [f"#{line}" for line in lines]
