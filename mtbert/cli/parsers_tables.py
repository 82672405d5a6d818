"""The parsers of `mtbert search` and `mtbert reproduce`. Does not import torch."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from ..runs import budget
from .parsing import POOLINGS, PRECISIONS, at_least, check_keys, make_parser

JOBS = "runs at a time; each has one GPU, or its share of cores"


def search(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of `mtbert search`; `overrides` are the recipe's keys that the command line sets."""
    parser = make_parser("search")
    parser.add_argument("recipe", type=Path, help="recipe file")
    parser.add_argument("--space", type=Path, required=True, help="YAML: key → type, low, high, log, step, choices")
    parser.add_argument("--metric", default="eval_overall", help="score of the dev splits (default: eval_overall)")
    direction = "default: minimize for losses and errors, else maximize"
    parser.add_argument("--direction", choices=("maximize", "minimize"), help=direction)
    parser.add_argument("--study", type=Path, default=Path("runs/search/study.db"), help="sqlite file of the studies")
    parser.add_argument("--name", help="name of the study, and of its folder next to the file (default: the recipe's)")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="how many trials to add (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampler of values, not of the runs")
    prune = "number of trials before pruning starts; -1: no pruning"
    parser.add_argument("--prune_after", type=int, default=5, metavar="N", help=prune)
    keep = "trials whose weights are kept; scores and logs always are"
    parser.add_argument("--keep", choices=("best", "all"), default="best", help=keep)
    folds = add_folds(parser)
    folds.add_argument("--mixed_precision", choices=PRECISIONS, help="default: no, fp32")
    folds.add_argument("--jobs", type=int, default=1, help=JOBS)
    args, more = parser.parse_known_args(argv)
    check_keys(parser, args, more)
    at_least(parser, args, 0, "trials")
    at_least(parser, args, 1, "jobs")
    check_folds(parser, args)
    args.overrides = tuple(more)
    if args.folds is None:
        for option in ("seeds", "results", "finished_only", "commit", "page"):
            if getattr(args, option):
                parser.error(f"--{option} is for --folds; give --folds K, or drop it")
        return args
    if args.keep != parser.get_default("keep") or args.prune_after != parser.get_default("prune_after"):
        parser.error("--keep and --prune_after are for searches on dev; with --folds no weights stay, --halving prunes")
    if args.direction == "minimize":
        parser.error("--direction is minimize, but --folds compares by scores that rise")
    args.score = args.metric.removeprefix("eval_")
    args.seeds = None if args.seeds is None else whole_numbers(parser, "seeds", args.seeds)
    return args


def reproduce(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of `mtbert reproduce`; `more` are keys of the recipes, such as --all_tasks.pooling mean."""
    parser = make_parser("reproduce")
    rows = "rows, folder/name, or files; also A1-A12 and commas; under a budget with a protocol also all, its rows"
    parser.set_defaults(rows=[])
    if not any(word.partition("=")[0] == "--candidates" for word in argv):  # else rows would take values of keys
        parser.add_argument("rows", nargs="+", help=rows)
    parser.add_argument("--encoder", required=True, help="folder or hub name")
    parser.add_argument("--data_dir", required=True, help="folder of the data files")
    parser.add_argument("--seeds", help="default: 1,2,3; under a budget with a protocol, those of it")
    small = f"{budget.EPOCHS} epochs of {budget.STEPS} steps of {budget.BATCH} rows, one rate"
    fair = f"{budget.EPOCHS} epochs of {budget.FAIR_STEPS} such steps, each row's rate chosen by pilots"
    wide = "the forms of its protocol, of one model or several, compared with single models"
    budgets = f"small: {small}; fair: {fair}; wide: {wide}; published: what the recipe says; "
    budgets += "default: small, with --folds published"
    parser.add_argument("--budget", choices=("small", "fair", "wide", "published"), help=budgets)
    parser.add_argument("--learning_rate", type=float, default=2e-4, help="for all rows under the small budget")
    pooler = "pooling of the rows that use the encoder's pooler, for an encoder without one"
    parser.add_argument("--instead_of_pooler", choices=POOLINGS, help=pooler)
    parser.add_argument("--mixed_precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--jobs", type=int, default=1, help=JOBS)
    parser.add_argument("--output", type=Path, default=Path("runs/reproduce"), help="folder for runs and tables")
    curves = (
        "small budget: evaluate after each epoch, not at the end alone, for dev curves (published: the recipe says)"
    )
    parser.add_argument("--curves", action="store_true", help=curves)
    parser.add_argument("--title", default="table", help="name of the table's files")
    fair_only = parser.add_argument_group("under the fair and the wide budget")
    fair_only.add_argument(
        "--protocol", type=Path, help="its rows, seeds and comparisons; default: the package's fair.yaml or wide.yaml"
    )
    folds = add_folds(parser)
    candidates = "YAML file: recipe, candidates (name → changes of its keys), and any option of this group but the last"
    folds.add_argument("--candidates", type=Path, metavar="FILE", help=candidates)
    folds.add_argument("--baseline", metavar="NAME", help="what the others are compared with; default: the first")
    folds.add_argument("--score", help="overall (the default), or a task")
    args, more = parser.parse_known_args(argv)
    check_keys(parser, args, more)
    args.more = more
    check_folds(parser, args)
    if args.budget is None:
        args.budget = "published" if uses_folds(args) else "small"
    if uses_folds(args):
        return _reproduce_folds(parser, args)
    for option in ("baseline", "score"):
        if getattr(args, option) is not None:
            parser.error(f"--{option} is for --folds; give --folds K, or drop it")
    has_protocol = args.budget in ("fair", "wide")
    if args.results is None and has_protocol:
        args.results = Path("recipes/results", args.budget)
    if args.page is not None and args.budget == "wide":
        parser.error("--page is not for the wide budget, which writes README.md into the folder of its results")
    if not has_protocol:
        for option in ("finished_only", "page"):
            if getattr(args, option):
                parser.error(f"--{option} is for --folds and budgets with a protocol; give one of them, or drop it")
        if args.commit and args.results is None:
            parser.error("--commit is given, but without --results, the folder of the result files, there are none")
    if args.seeds is None:
        args.seeds = "1,2,3"
    elif has_protocol:
        parser.error(f"--seeds is for the other budgets; the protocol of the {args.budget} budget has its own")
    at_least(parser, args, 1, "jobs")
    args.seeds = list(dict.fromkeys(whole_numbers(parser, "seeds", args.seeds)))
    return args


def _reproduce_folds(parser: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.Namespace:
    if args.budget in ("fair", "wide"):
        parser.error(
            f"--budget is {args.budget}, which has a protocol of its own; with --folds it is small or published"
        )
    if args.curves or args.protocol is not None:
        parser.error("--curves and --protocol do not go with --folds; drop them")
    args.seeds = None if args.seeds is None else whole_numbers(parser, "seeds", args.seeds)
    at_least(parser, args, 1, "jobs")
    return args


def add_folds(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options of the commands that choose by folds; those of result files are also the fair budget's."""
    group = parser.add_argument_group("choosing by folds (docs/choosing.md)")
    folds = "score by K folds of the training rows, each by models trained on the others; dev files are not opened"
    group.add_argument("--folds", type=int, metavar="K", help=folds)
    group.add_argument("--first_folds", type=int, metavar="N", help="run only the first N of the K folds; default: all")
    group.add_argument("--steps", help="optimizer steps of a fold-run; default: what the recipes say")
    halving = "steps of each round, such as 300,900: after each but the last, the baseline and the better half go on"
    group.add_argument("--halving", metavar="STEPS,...", help=halving)
    if parser.prog.endswith("search"):
        group.add_argument("--seeds", help="training seeds of each fold, such as 1,2; default: 1")
    results = (
        "folder of the result files, from which finished runs are read; default: folds in --output or the study's "
    )
    results += "folder, under a budget with a protocol recipes/results/ and its name"
    group.add_argument("--results", type=Path, help=results)
    group.add_argument("--commit", action="store_true", help="commit each new result file with git")
    finished = "run nothing: the table of the runs that have a result file"
    group.add_argument("--finished_only", action="store_true", help=finished)
    page = "markdown file in which the table replaces what is between its two comments, `folds TITLE` or `fair table`"
    group.add_argument("--page", type=Path, help=page)
    return group


def uses_folds(args: argparse.Namespace) -> bool:
    """Return whether candidates are compared by folds."""
    return args.folds is not None or getattr(args, "candidates", None) is not None


def check_folds(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Check the options of folds, and make `steps` the list of the rounds' steps, or None; exit with an error."""
    if not uses_folds(args):
        for name in ("first_folds", "steps", "halving"):
            if getattr(args, name) is not None:
                parser.error(f"--{name} is for --folds; give --folds K, or drop it")
    if args.steps is not None and args.halving is not None:
        parser.error(f"--steps is {args.steps} and --halving is {args.halving}; give one of them")
    if args.folds is not None and args.folds < 2:
        parser.error(f"--folds is {args.folds}, but must be 2 or more")
    for name in ("steps", "halving"):
        given = getattr(args, name)
        if given is not None:
            numbers = whole_numbers(parser, name, given)
            if name == "steps" and len(numbers) > 1:
                parser.error(f"--steps is {given}, but must be one number; several are for --halving")
            if sorted(set(numbers)) != numbers or not numbers[0]:
                parser.error(f"--{name} is {given}, but must be 1 or more, in ascending order")
            args.steps = numbers
    if args.first_folds is not None and args.first_folds < 1:
        parser.error(f"--first_folds is {args.first_folds}, but must be 1 or more")


def whole_numbers(parser: argparse.ArgumentParser, name: str, text: str) -> list[int]:
    """Read whole numbers, separated by commas; exit with an error if it has others."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        parser.error(f"--{name} is {text!r}, but must be whole numbers, 0 or more, separated by commas")
    return [int(number) for number in text.split(",")]
