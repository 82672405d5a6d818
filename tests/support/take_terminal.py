"""Train a recipe, and write what a terminal shows of it as an SVG picture for the documentation:

    python tests/support/take_terminal.py docs/images/training.svg recipes/configs/quickstart.yaml \\
      --encoder "$(mtbert encoder)" --training.output_dir runs/quickstart

The live table is in the picture as it stands at the end.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console
from transformers import TrainerCallback
from transformers.utils import logging

import mtbert
from mtbert.recipe import Recipe
from mtbert.training import console as printed
from mtbert.training.progress.callbacks import LiveTable

WIDTH = 88


class LastTable(TrainerCallback):
    """Prints the live table of a trainer once, when its training ends.

    Args:
        console: where to print it.
    """

    def __init__(self, console: Console):
        self.console = console
        self.tables: list[LiveTable] = []

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for shown in self.tables:
            shown.close()
            self.console.print(shown.table())
            self.console.print(shown.bar.get_renderable())
        self.tables = []


def picture(console: Console, title: str) -> str:
    """Return what a console has recorded as SVG, without the fonts that it would load from elsewhere."""
    return re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title=title), flags=re.DOTALL)


def main(file: Path, arguments: list[str]) -> None:
    """Train, and write the picture."""
    logging.disable_progress_bar()
    recorded = Console(record=True, width=WIDTH, force_terminal=True, file=sys.stdout)
    last, made = LastTable(recorded), LiveTable.__init__

    def make(self: LiveTable, trainer: Any, console: Console | None = None) -> None:
        made(self, trainer, Console(file=io.StringIO(), force_terminal=True, width=WIDTH, height=40))
        last.tables.append(self)

    recipe = Recipe.from_cli([*arguments, "--training.console", "table"])
    with mock.patch.object(printed, "Console", lambda: recorded), mock.patch.object(LiveTable, "__init__", make):
        mtbert.train(recipe, callbacks=[last])
    file.write_text(picture(recorded, f"mtbert finetune {Path(arguments[0]).name}"), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
