"""Go on with the masked-language modelling of an encoder on the texts of a recipe's tasks, and keep what comes of it.

    accelerate launch --config_file accelerate_config.yaml recipes/pretrain.py RECIPE.yaml --encoder DIR_OR_HUB_NAME

The encoders of `pretraining.keep_epochs` are folders that `--encoder` takes. finetune.py does the same by itself for a
recipe with a `pretraining` section, as far as `pretraining.use_epoch`, and finds what has been done here before. Any
key of the recipe can be set on the command line by its dotted name; `--help` lists them all.
"""

import sys

from mtbert.recipe import Recipe, load_data, load_tokenizer
from mtbert.recipe.ending import clear_errors
from mtbert.training.machine import share_cores
from mtbert.training.pretraining import pretrain
from mtbert.training.reporting import print_lines


def main(argv: list[str]) -> None:
    recipe = Recipe.from_cli(argv)
    args = recipe.pretraining_arguments()
    share_cores(args)

    tokenizer = load_tokenizer(recipe)
    with args.main_process_first(desc="loading"):
        raw = load_data(recipe)
    if args.process_index == 0:
        print_lines(line for loaded in raw.values() for report in loaded.reports for line in report.lines())

    folder = pretrain(args, recipe.encoder, {name: loaded.splits for name, loaded in raw.items()}, tokenizer)
    if args.process_index == 0:
        print_lines([f"the encoder after the last epoch: {folder}"])


if __name__ == "__main__":
    with clear_errors():
        main(sys.argv[1:])
