"""Search for the values of a recipe's keys with the best dev score, and write them to a recipe, best.yaml.

    mtbert search RECIPE.yaml --space space.yaml --metric eval_overall --trials 20 [--key value]...

A space is a YAML file with one dotted key of the recipe per line:

    training.learning_rate: {type: float, low: 1e-5, high: 5e-4, log: true}
    tasks.sst.weight: {type: float, low: 0.5, high: 2, step: 0.5}
    model.adapter.size: {type: int, low: 12, high: 204, step: 12}
    schedule.name: {type: categorical, choices: [annealed, proportional]}

Further --key value arguments set keys of the recipe, as with `mtbert finetune`. A study is kept in a file: repeating
the command adds trials to it, and several commands at a time (one GPU each) share the work. After N trials, a trial is
pruned if its score at an evaluation is below the median of the others at the same evaluation.

Each trial is a recipe file and a separate run, as by `mtbert finetune`, because a key of a recipe may change tasks,
data, encoding, schedule and adapters. (transformers' `Trainer.hyperparameter_search` changes only the training
arguments of one trainer, and callbacks such as early stopping keep their state.) Data is encoded again only if a key
changes the encoding.
"""

from __future__ import annotations

import argparse
import sys

import optuna
from rich.console import Console

from ..runs.search import Search, best_of, open_study, optimize, plan, trials_table
from . import arguments
from .main import run as run_command


def planned(args: argparse.Namespace) -> Search:
    """Check the search that the command line asks for."""
    return plan(args.recipe, args.space, args.metric, args.direction, args.study, args.name, args.overrides, args.keep)


def main(argv: list[str]) -> int:
    """Add trials to a study and print all its trials; return the exit status."""
    args = arguments.search(argv)
    search = planned(args)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # each trial prints a line instead
    pruner = optuna.pruners.NopPruner() if args.prune_after < 0 else optuna.pruners.MedianPruner(args.prune_after)
    study = open_study(search, args.seed, pruner)
    ended = optimize(search, study, args.trials)
    Console().print(trials_table(search, study))
    if not ended:
        print(f"interrupted; the same command goes on with study {search.name}", file=sys.stderr)
        return 130
    if best_of(study) is None:
        print(f"no trial ended well; see the .error.txt files in {search.folder}", file=sys.stderr)
        return 1
    print(f"best recipe: {search.folder / 'best.yaml'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command("search"))
