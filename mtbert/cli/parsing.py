"""Parts of the parsers of several commands. Does not import torch."""

from __future__ import annotations

import argparse
import ast
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import RecipeError
from ..recipe.yaml_layers import split_argv
from ..training.methods import sections

PRECISIONS = ("no", "bf16", "fp16")
POOLINGS = ("cls", "mean", "max")  # poolings that do not need the encoder's pooler

# top-level keys of a recipe
SECTIONS = (
    *("encoder", "data_dir", "sources", "tasks", "all_tasks", "leaks", "schedule", "model", "peft", "optimizer"),
    *("training", "stages", "card", "pretraining", "base", "imports"),
    *sections(),
)


def make_parser(command: str, file: str | None = None, **options: Any) -> argparse.ArgumentParser:
    """Create a parser whose description is the docstring of the command's file; the file is read, not imported."""
    source = Path(__file__).with_name(f"{file or command}.py").read_text(encoding="utf-8")
    return argparse.ArgumentParser(
        prog=f"mtbert {command}",
        description=ast.get_docstring(ast.parse(source)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **options,
    )


def at_least(parser: argparse.ArgumentParser, args: argparse.Namespace, least: int, *names: str) -> None:
    """Exit with an error if an argument is smaller than `least`."""
    for name in names:
        value = getattr(args, name)
        if value < least:
            parser.error(f"--{name} is {value}, but must be {least} or more")


def add_imports(parser: argparse.ArgumentParser) -> None:
    """The option of commands that read what a run has saved, which names modules and never imports them."""
    what = "modules or .py files that register parts of your own, such as heads; imported first"
    parser.add_argument("--imports", nargs="+", default=[], metavar="MODULE", help=what)


def check_keys(parser: argparse.ArgumentParser, args: argparse.Namespace, more: Sequence[str]) -> None:
    """Exit with an error if an argument is neither an option of the command nor a recipe's key with its value."""
    try:
        positional, keys = split_argv(more)
    except RecipeError as error:
        parser.error(str(error).removeprefix("command line: "))
    if positional:
        parser.error(f"{positional[0][:100]!r} belongs to no option; write --KEY VALUE for a key of the recipe")
    for name in (path[0] for path, _ in keys):
        if name not in SECTIONS:
            near = difflib.get_close_matches(name, (*SECTIONS, *vars(args)), n=1)
            hint = f"did you mean --{near[0]}? " if near else ""
            parser.error(
                f"there is no option --{name[:100]}; {hint}`mtbert finetune --help-keys` lists a recipe's keys"
            )
