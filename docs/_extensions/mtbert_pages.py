"""Sphinx extension of this site: pages that are made from the code, links out of docs/, equations without a network.

A page holds `<!-- insert: NAME ARGUMENT … -->` where the site shows something that is made when it is built:

| insert | shows |
|---|---|
| `recipe-keys GROUP …` | the keys of groups of a recipe (`recipe_keys.py`) |
| `commands` | the `--help` of every command |
| `measured ROW …` | rows of the committed tables of results (`measured_rows.py`) |
| `speed` | the table of speed that the README has, too |
| `notebook FILE` | a notebook (`notebook_page.py`) |
| `file FILE` | a page of the repository outside docs/ |
| `pages` | within a toctree: the pages of docs/ that the page does not name itself |
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measured_rows
import notebook_page
import recipe_keys
from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from page_links import rebased, site_links
from sphinx.util import logging

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
LOG = logging.getLogger(__name__)
INSERT = re.compile(r"^(?:<!-- insert: (.+?) -->)$", re.MULTILINE)


def other_pages(text: str) -> str:
    """Return the pages directly in docs/ that `text` does not name, one on each line: new topics find their place."""
    names = sorted(path.stem for path in DOCS.glob("*.md"))
    return "\n".join(name for name in names if name != "index" and not re.search(rf"^{name}$", text, re.MULTILINE))


def repository_page(file: str, page: Path) -> str:
    """Return the text of a page outside docs/, with its links as they are read from `page`."""
    source = ROOT / file
    return rebased(source.read_text(encoding="utf-8"), source.parent, page.parent)


def expand(text: str, page: Path) -> str:
    """Return a page with everything that its `insert` comments name.

    Raises:
        ValueError: there is no such insert.
    """

    def made(match: re.Match[str]) -> str:
        name, *arguments = match[1].split()
        makers: dict[str, Callable[..., str]] = {
            "recipe-keys": recipe_keys.keys,
            "commands": recipe_keys.commands,
            "measured": lambda *rows: rebased(measured_rows.table(*rows), DOCS / "methods", page.parent),
            "speed": measured_rows.speed,
            "notebook": lambda file: rebased(notebook_page.markdown(DOCS / file), DOCS, page.parent),
            "file": lambda file: repository_page(file, page),
            "pages": lambda: other_pages(text),
        }
        if name not in makers:
            raise ValueError(f"{page}: there is no insert {name!r}; they are: {', '.join(makers)}")
        return makers[name](*arguments)

    return INSERT.sub(made, text)


def read_source(app: Any, docname: str, source: list[str]) -> None:
    """Expand a page, and point its links out of docs/ to the pages of the site that show those files."""
    page = Path(app.env.doc2path(docname))
    source[0] = site_links(expand(source[0], page), page, DOCS)


def plain_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn our docstrings, whose code stands in single backticks, into reStructuredText."""
    lines[:] = "\n".join(map(restructured, lines)).split("\n")


def restructured(line: str) -> str:
    """Double the backticks of code, and escape what reStructuredText would read as markup elsewhere."""
    parts = re.split(r"(`+[^`]+`+)", line)
    for place, part in enumerate(parts):
        if place % 2:
            code = part.strip("`")
            after = parts[place + 1][:1]
            parts[place] = f"``{code}``" + ("\\ " if after.isalnum() else "")
        else:
            parts[place] = re.sub(r"(\w)_(?=\W|$)", r"\1\\_", re.sub(r"([*|])", r"\\\1", part))
    return "".join(parts)


def show_math(translator: Any, node: Any) -> None:
    """Write an equation as MathML, which browsers show themselves."""
    block = isinstance(node, nodes.math_block)
    try:
        mathml = latex2mathml.tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        LOG.warning("the equation %s cannot be shown: %s", node.astext(), error, location=node)
        raise nodes.SkipNode from error
    translator.body.append(f'<div class="equation">{mathml}</div>' if block else mathml)
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (show_math, None), (show_math, None))
    app.connect("source-read", read_source)
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
