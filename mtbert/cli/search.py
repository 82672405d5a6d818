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

With --folds K, dev files are not opened: a trial is scored by K folds of the training rows, and compared with the
recipe as it is. The table says which trials are better and which are undecided; chosen.yaml is the recipe to go on
with.
"""

from __future__ import annotations

import argparse
import sys

import optuna
from rich.console import Console

from ..runs.fold_page import CHOSEN, to_markdown, write_report
from ..runs.fold_plan import FoldPlan
from ..runs.fold_search import fold_search, run_search, search_table
from ..runs.search import Search, best_of, open_study, optimize, plan, trials_table
from . import arguments
from .main import run as run_command
from .pages import print_page


def planned(args: argparse.Namespace) -> Search:
    """Check the search that the command line asks for."""
    by_folds = args.folds is not None
    places = (args.study, args.name, args.overrides, args.keep)
    return plan(args.recipe, args.space, args.metric, args.direction, *places, by_folds)


def by_folds(args: argparse.Namespace) -> int:
    """Add trials that folds score, and write what was decided; return the exit status."""
    seeds = (1,) if args.seeds is None else tuple(args.seeds)
    folds = FoldPlan(args.folds, args.first_folds, seeds, tuple(args.steps or ()), args.score)
    search = fold_search(planned(args), folds)
    table = search_table(search, folds, args.mixed_precision or "no", args.results, args.commit)
    study = open_study(search, args.seed)
    trials = 0 if args.finished_only else args.trials
    rounds, failed = run_search(search, table, study, trials, args.seed, args.jobs, args.finished_only)
    if not rounds:
        print("\n".join(failed), file=sys.stderr)
        return 1
    values = write_report(table, rounds, failed, search.name, args.page)
    print_page(to_markdown(values))
    if values["chosen"] is not None:
        print(f"chosen recipe: {table.results / CHOSEN}")
    return 1 if failed else 0


def main(argv: list[str]) -> int:
    """Add trials to a study and print all its trials; return the exit status."""
    args = arguments.search(argv)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # each trial prints a line instead
    if args.folds is not None:
        return by_folds(args)
    search = planned(args)
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
