"""Make text safe to show: escape control and invisible characters, and mask tokens and passwords."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sized
from typing import Any

MASK = "***"
LONGEST_LINE = 1_000  # longer lines are shortened
SHORT, MOST_ITEMS = 100, 10  # characters, and items of a list, of a value that a message shows
# Characters that move, hide or reorder the text around them. Joiners are not among them: some languages need them.
_DECEIVING = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f]"
)
# Patterns of tokens and passwords: the group `keep` stays, the rest is masked.
_SECRETS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<keep>(?<![A-Za-z0-9])(?:hf|api_org)_)(?:(?=[A-Za-z]*\d)[A-Za-z0-9]{10,}|[A-Za-z0-9]{16,})",
        r"(?P<keep>(?<![A-Za-z0-9])(?:gh[oprsu]_|github_pat_|glpat-|npm_|pypi-|xox[abeoprs]-|dop_v1_|wandb_v\d_))[\w-]{10,500}",
        r"(?P<keep>(?<![A-Za-z0-9])[sr]k-)(?:(?=[A-Za-z_-]{0,40}\d)[\w-]{16,200}|[A-Za-z0-9]{20,200})",
        r"(?P<keep>(?<![A-Za-z0-9])[prs]k_(?:live|test)_)\w{8,}",
        r"(?P<keep>(?<![A-Za-z0-9])A(?:KI|SI)A)[0-9A-Z]{12,}",
        r"(?P<keep>(?<![A-Za-z0-9])AIza)[\w-]{30,}",
        r"(?P<keep>(?<![A-Za-z0-9])eyJ)[\w-]{6,500}\.[\w-]{6,2000}(?:\.[\w-]*)?",
        r"(?P<keep>-----BEGIN [A-Z ]*PRIVATE KEY-----)[A-Za-z0-9+/=\s\\]+",
        r"(?P<keep>(?<![A-Za-z0-9])(?:git\+)?https?://)[^\s/@'\"]{1,500}(?=@)",
        r"(?P<keep>(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+-]{1,20}://[^\s/:@'\"]{0,100}:)[^\s/@'\"]{1,500}(?=@)",
        r"(?P<keep>(?i:\b(?:bearer|basic)\s+))[\w.~+/-]{12,}=*",
        r"(?P<keep>(?i:[?&](?:access_token|api_?key|auth|key|password|sig|signature|token)=))[^&\s'\"]+",
    )
)
_WANDB = re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{40}(?![0-9A-Za-z])")
_COMMIT = re.compile(r"(?i)(?:revision|commit|sha1?|oid|snapshots)\W*(?:is|=|text)?\W*$")


def visible(text: Any, lines: bool = False) -> str:
    """Escape every control, bidi and invisible character of a text.

    Args:
        lines: whether to keep line breaks.
    """

    def escape(match: re.Match[str]) -> str:
        return match[0] if lines and match[0] == "\n" else match[0].encode("unicode_escape").decode("ascii")

    return _DECEIVING.sub(escape, str(text))


def masked(text: Any) -> str:
    """Mask everything in a text that looks like a token, a key, or a password in a URL.

    40 hexadecimal digits may be a key of wandb or a commit; they are kept if the text before them names a commit.
    """
    text = str(text)
    for secret in _SECRETS:
        text = secret.sub(rf"\g<keep>{MASK}", text)
    return _WANDB.sub(lambda match: match[0] if _COMMIT.search(text[: match.start()][-40:]) else MASK, text)


def shortened(text: str) -> str:
    """Shorten lines to about a thousand characters.

    In a longer line, words of 300 characters or more are cut in their middle; if that is not enough, so is the line.
    Tokens near the cut are masked first, because half a token would not be recognised.
    """
    if len(text) <= LONGEST_LINE:
        return text
    return "\n".join(_shorter_line(line) for line in text.split("\n"))


def _shorter_line(line: str) -> str:
    if len(line) > LONGEST_LINE:
        line = re.sub(r"\S{300,}", lambda word: _cut(word[0], 200), line)
    return line if len(line) <= LONGEST_LINE else _cut(line, 3 * LONGEST_LINE // 4)


def _cut(text: str, most: int) -> str:
    """The first `most` characters and the last third as many, with the length of the text between them."""
    begin, end = masked(text[: most + 2000])[:most], masked(text[-most // 3 - 2000 :])[-most // 3 :]
    return f"{begin} … ({len(text):,} characters) … {end}"


def brief(value: Any) -> str:
    """A wrong value as a message shows it: at most about a hundred characters.

    Tables, arrays and longer or nested collections, which may be rows of data, are shown as their type and size.
    """
    if isinstance(value, Sized) and not isinstance(value, str | bytes):
        kinds = (list, tuple, set, frozenset, dict)
        items: Any = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        nested = type(value) not in kinds or any(
            isinstance(item, Sized) and not isinstance(item, str) for item in items
        )
        if nested or len(value) > MOST_ITEMS:
            return f"of the type {type(value).__name__} with {len(value):,} items"
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python does not write numbers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= SHORT else f"{text[:SHORT]}…"


def brief_names(names: Collection[Any]) -> str:
    """The first names of many, as a list that a message shows."""
    first = ", ".join(brief(name) for name in list(names)[:MOST_ITEMS])
    return f"[{first}]" if len(names) <= MOST_ITEMS else f"[{first}, …] ({len(names):,} in all)"


def display(text: Any, lines: bool = False) -> str:
    """A text as shown in messages, tables, cards and reports: `visible` and `masked`."""
    return visible(masked(text), lines)


def each_text(change: Any, value: Any, key: str = "") -> Any:
    """Apply `change` to every key and every text in nested mappings and lists.

    A text is changed together with its key, so that `password: …` is recognised.
    """
    if isinstance(value, str):
        return change(f"{key}: {value}").removeprefix(change(f"{key}: ")) if key else change(value)
    if isinstance(value, Mapping):
        return {change(k) if isinstance(k, str) else k: each_text(change, entry, str(k)) for k, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(each_text(change, item, key) for item in value)
    return value
