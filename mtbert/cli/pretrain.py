"""Pre-train an encoder further by masked-language modelling on the texts of a recipe's tasks, and save it.

    mtbert pretrain RECIPE.yaml --encoder DIR_OR_HUB_NAME --training.output_dir runs/mine
    accelerate launch -m mtbert.cli.pretrain RECIPE.yaml

The encoder is saved after each epoch of `pretraining.keep_epochs`, in a folder that `--encoder` takes. If a recipe has
a `pretraining` section, `mtbert finetune` does the same up to `pretraining.use_epoch`, and reuses the epochs that this
command has saved. Any key of the recipe can be set on the command line by its dotted name; `--help-keys` lists them
all. `losses.png` and `losses.json` in the output folder show the train and dev loss.
"""

from __future__ import annotations

import sys

from ..data.pools import pools_of
from ..recipe import Recipe, load_data, load_tokenizer
from ..training.console import print_lines
from ..training.distributed.machine import share_cores
from ..training.pretraining import pretrain
from ..training.progress.phases import phase
from . import arguments
from .main import run as run_command


def main(argv: list[str]) -> None:
    """Pre-train, and print the encoder's folder."""
    recipe = Recipe.from_cli(arguments.pretrain(argv).recipe_arguments)
    args = recipe.pretraining_arguments()
    share_cores(args)

    tokenizer = load_tokenizer(recipe)
    is_main = args.process_index == 0
    with args.main_process_first(desc="loading"), phase("reading and checking the rows", is_main):
        raw = load_data(recipe)
    if args.process_index == 0:
        print_lines(line for loaded in raw.values() for report in loaded.reports for line in report.lines())

    firsts = [pool.tasks[0] for pool in pools_of(raw, recipe.drawn_sources)]  # the texts of a source once
    folder = pretrain(args, recipe.encoder, {name: raw[name].splits for name in firsts}, tokenizer)
    if args.process_index == 0:
        from ..evaluation.report import write_pretraining_losses  # importing it takes seconds

        write_pretraining_losses(str(args.output_dir))
        print_lines([f"the encoder after the last epoch: {folder}", f"next: mtbert finetune … --encoder {folder}"])


if __name__ == "__main__":
    sys.exit(run_command("pretrain"))
