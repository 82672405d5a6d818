"""Notebooks: run their cells, and show them as a page. Neither needs Jupyter.

python docs/_extensions/notebook_page.py docs/tickets.ipynb   # run it in a new folder, and store what it prints
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def read(file: Path) -> dict[str, Any]:
    """Read a notebook of format 4."""
    return json.loads(file.read_text(encoding="utf-8"))


def text_of(cell: dict[str, Any]) -> str:
    """Return the source of a cell."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def run(notebook: dict[str, Any], replaced: dict[str, str] | None = None) -> dict[str, Any]:
    """Run the code cells in their order in one namespace, in the current folder, and store their outputs.

    Args:
        notebook: the notebook, whose outputs are changed.
        replaced: texts of the code that are replaced, for this run only.

    Returns:
        The namespace.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    number = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        number += 1
        source = text_of(cell)
        for old, new in (replaced or {}).items():
            source = source.replace(old, new)
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            value = _execute(source, f"cell {number}", names)
        cell["execution_count"] = number
        cell["outputs"] = []
        if said.getvalue():
            cell["outputs"].append({"output_type": "stream", "name": "stdout", "text": said.getvalue()})
        if value is not None:
            shown = {"text/plain": str(value) if hasattr(value, "to_string") else repr(value)}
            result = {"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": shown}
            cell["outputs"].append(result)
    return names


def _execute(source: str, name: str, names: dict[str, Any]) -> Any:
    """Run the statements of a cell; return the value of its last line if that is an expression."""
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), name, "eval"), names)


def markdown(file: Path) -> str:
    """Return a notebook without its title as Markdown: texts, code and what the code printed."""
    parts = []
    for cell in read(file)["cells"]:
        if cell["cell_type"] == "markdown":
            if not text_of(cell).startswith("# "):
                parts.append(text_of(cell))
            continue
        parts.append(f"```python\n{text_of(cell)}\n```")
        parts += [f"```text\n{_printed(output)}\n```" for output in cell["outputs"]]
    return "\n\n".join(parts)


def _printed(output: dict[str, Any]) -> str:
    text = output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
    return (text if isinstance(text, str) else "".join(text)).rstrip()


def main(file: Path, replaced: dict[str, str]) -> None:
    """Run a notebook in a new folder, and write it with its outputs."""
    notebook = read(file)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        run(notebook, replaced)
    file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    folder = os.environ.get("ENCODER")  # a folder in place of the encoder's name, for a machine without a network
    given = {"sentence-transformers/all-MiniLM-L6-v2": folder} if folder else {}
    main(Path(sys.argv[1]).resolve(), given)
