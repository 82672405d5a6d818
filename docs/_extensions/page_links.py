"""Links of Markdown pages: from one folder to another, and from files of the repository to pages of the site."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

# files outside docs/ → the pages of the site that show them
SHOWN = {
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security.md",
    "README.md": "index.md",
    "recipes/README.md": "methods/tables.md",
    "docs/tickets.ipynb": "guides/notebook.md",
}
CODE = re.compile(r"(^ *```.*?^ *```\s*?$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Return a page with `change` applied to all of it but blocks and spans of code."""
    parts = CODE.split(text)
    parts[::2] = map(change, parts[::2])
    return "".join(parts)


def rebased(text: str, before: Path, after: Path) -> str:
    """Return a page that lay in the folder `before` with the links that it needs in the folder `after`."""

    def move(match: re.Match[str]) -> str:
        target, mark, anchor = match[1].partition("#")
        if not target or ":" in target:
            return match[1]
        return os.path.relpath(before / target, after).replace(os.sep, "/") + mark + anchor

    return _links(text, move)


def site_links(text: str, page: Path, docs: Path) -> str:
    """Return a page of docs/ whose links to files elsewhere lead to the page that shows the file, or to a copy of it.

    A link to a folder is removed, and its text stays: the site has no listing of folders.
    """
    root = docs.parent

    def target_on_site(match: re.Match[str]) -> str:
        target, mark, anchor = match[1].partition("#")
        if not target or ":" in target:
            return match[1]
        file = (page.parent / target).resolve()
        name = file.relative_to(root).as_posix() if file.is_relative_to(root) else ""
        if name in SHOWN:
            return os.path.relpath(docs / SHOWN[name], page.parent).replace(os.sep, "/") + mark + anchor
        if file.is_file() and not file.is_relative_to(docs):
            return f"path:{target}"
        return match[1]

    def without_folders(part: str) -> str:
        return re.sub(
            r"\[([^\]]+)\]\(([^)\s#:]+)\)",
            lambda match: match[1] if (page.parent / match[2]).is_dir() else match[0],
            part,
        )

    return outside_code(_links(text, target_on_site), without_folders)


def _links(text: str, change: Callable[[re.Match[str]], str]) -> str:
    return outside_code(text, lambda part: LINK.sub(change, part))
