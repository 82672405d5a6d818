"""Entry point of `mtbert COMMAND …`: check the arguments first, then import torch and run the command."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from . import processes
from .arguments import COMMANDS, PARSERS

# Commands that read files which mtbert did not write. Errors that libraries raise about these are shown as one message.
READS_FILES_OF_OTHERS = ("calibrate", "ensemble", "evaluate", "export", "predict", "serve", "unlabelled_texts")
# command → packages of the extra of the same name that it needs
EXTRAS = {"search": ("optuna",), "serve": ("starlette", "uvicorn", "prometheus_client", "pydantic")}
LIGHT = ("encoder", "recipes")  # commands that do not need torch


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; return the exit status.

    Raises:
        SystemExit: with status 2 for wrong arguments, and with a message (status 1) if the command cannot go on.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv[0] if argv else "--help"
    if name in COMMANDS:
        return run(name, argv[1:])
    parser = _overview()
    if name in ("-h", "--help"):
        parser.print_help()
        return 0
    if name == "--version":
        from .. import __version__

        print(__version__)
        return 0
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    parser.error(f"there is no command {name!r}; {hint}the commands are: {', '.join(COMMANDS)}")


def run(command: str, argv: Sequence[str] | None = None) -> int:
    """Run one command with the given arguments (None: those of this process); return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = PARSERS[command](argv)
    if command in LIGHT:
        return import_module(f".{command}", __package__).main(argv) or 0
    absent = [package for package in EXTRAS.get(command, ()) if find_spec(package) is None]
    if absent:
        sys.exit(f"mtbert {command} needs {', '.join(absent)}; install it with: pip install 'mtbert[{command}]'")
    processes.set_precision(args)
    from ..hub import register
    from ..modeling.display import display
    from .errors import clear_errors, is_for_the_user, is_ours
    from .quiet import silence_libraries

    register()
    silence_libraries()
    with clear_errors():
        if getattr(args, "imports", None):
            from ..recipe.imports import import_all

            import_all(args.imports, Path.cwd(), "--imports")
        if processes.number(args) > 1:
            return processes.launch(command, args)
        processes.use_one_device(command)
        try:
            status = import_module(f".{command}", __package__).main(argv)
        except (OSError, ValueError) as error:
            bug = is_ours(error) and not is_for_the_user(error)
            if bug or command not in READS_FILES_OF_OTHERS:
                raise
            sys.exit(display(f"{command}: {error}", lines=True))
    return status if type(status) is int else 0


def _overview() -> argparse.ArgumentParser:
    """Create the parser of `mtbert` itself, which prints the list of commands."""
    lines = "\n".join(f"  {name:<18}{what}" for name, what in COMMANDS.items())
    return argparse.ArgumentParser(
        prog="mtbert",
        usage="mtbert COMMAND …",
        description="Fine-tune one BERT-like encoder for many sentence tasks.\n\ncommands:\n" + lines,
        epilog="`mtbert COMMAND --help` says more of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
