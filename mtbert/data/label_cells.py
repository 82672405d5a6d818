"""Cells of label columns: numbers, and lists and mappings that are written as text."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np

LONGEST_TEXT = 100_000  # most characters of a list or mapping that is written as text
_TEXT = r"""(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")"""
_NUMBER = r"[+-]?\d+\.?(?:e[+-]?\d+)?"
_PART = rf"(?:{_TEXT}|{_NUMBER}|True|False)"
_ARRAY = re.compile(rf"\[\s*(?:{_PART}\s+)+{_PART}\s*\]")  # as numpy prints an array of two values or more
_ITEM = re.compile(rf"{_TEXT}|[^\s\[\]]+")


def number_of(value: Any) -> float | None:
    """Return the number that a value is or spells, or None."""
    if isinstance(value, str) and "_" in value:  # float() reads 1_000
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def plain(value: Any) -> Any:
    """Convert numpy values to Python's, tuples to lists and sets to frozensets."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, set | frozenset):
        return frozenset(value)
    return value


def opened(cell: Any) -> Any:
    """Return a cell, or the list, set or mapping that its text spells in brackets."""
    if isinstance(cell, str) and cell.strip()[:1] in ("[", "{", "("):
        inside = parsed(cell.strip())
        return inside if isinstance(inside, list | dict | frozenset) else cell
    return cell


def parsed(text: str) -> Any:
    """Parse a list, mapping or set in JSON or Python syntax, or a flat array as numpy prints it; else return None."""
    if len(text) > LONGEST_TEXT:
        return None
    ways: list[Callable[[str], Any]] = [json.loads, ast.literal_eval]
    if _ARRAY.fullmatch(text):  # Python would join ['a' 'b'] to ['ab']
        ways = [lambda array: [ast.literal_eval(item) for item in _ITEM.findall(array)]]
    for read in ways:
        try:
            return plain(read(text))
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    return None
