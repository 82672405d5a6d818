"""Fine-tune one encoder for the tasks of a recipe, and save one checkpoint with every head.

    mtbert finetune RECIPE.yaml --encoder DIR_OR_HUB_NAME --training.output_dir runs/mine
    mtbert finetune RECIPE.yaml --num_processes 2
    accelerate launch -m mtbert.cli.finetune RECIPE.yaml

Any key of the recipe can be set on the command line by its dotted name; `--help-keys` lists them all. The command
trains on one device, or with `--num_processes N` on N devices through accelerate's launcher. For other set-ups, such as
several machines, start it with `accelerate launch` or torchrun.
"""

from __future__ import annotations

import sys

from ..recipe import Recipe
from ..runs.finetuning import train
from . import arguments
from .main import run as run_command


def main(argv: list[str]) -> None:
    """Train the recipe that the command line names."""
    train(Recipe.from_cli(arguments.finetune(argv).recipe_arguments))


if __name__ == "__main__":
    sys.exit(run_command("finetune"))
