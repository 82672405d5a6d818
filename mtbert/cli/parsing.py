"""Parts of the parsers of several commands. Does not import torch."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from typing import Any


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
