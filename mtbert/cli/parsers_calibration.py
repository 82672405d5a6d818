"""The arguments of `mtbert calibrate`. Does not import torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .parsing import add_imports, at_least, check_keys, make_parser


def calibrate(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of `mtbert calibrate`; `changes` are the recipe's keys that the command line sets."""
    parser = make_parser("calibrate")
    add_imports(parser)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="folder of a run, or of a checkpoint")
    parser.add_argument("--split", choices=("dev", "test"), default="dev", help="default: %(default)s")
    parser.add_argument("--tasks", type=lambda names: names.split(","), help="names, separated by commas; default: all")
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument("--precision", type=float, help="thresholds with the highest recall at this precision")
    goal.add_argument("--recall", type=float, help="thresholds with the highest precision at this recall")
    coverage = "share of sets and intervals that hold the truth; 0: none; default: %(default)s"
    parser.add_argument("--coverage", type=float, default=0.9, help=coverage)
    accuracy = "accuracy of the rows that are not abstained from; 0: no abstention; default: %(default)s"
    parser.add_argument("--accuracy", type=float, default=0.9, help=accuracy)
    parser.add_argument("--folds", type=int, default=5, help="folds of the cross-fitted figures; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="seed of the folds; default: %(default)s")
    parser.add_argument("--recipe", type=Path, help="the run's recipe, where it has no recipe.json")
    parser.add_argument("--output", type=Path, help="new folder for the result; default: the checkpoint itself")
    parser.add_argument("--overwrite", action="store_true", help="replace the calibration that the tasks have")
    parser.add_argument("--remove", action="store_true", help="drop the calibration instead")
    args, args_changes = parser.parse_known_args(argv)
    check_keys(parser, args, args_changes)
    args.changes = args_changes
    at_least(parser, args, 2, "folds")
    at_least(parser, args, 0, "seed")
    for name, most in {"precision": 1, "recall": 1, "coverage": 1 - 1e-9, "accuracy": 1}.items():
        value = getattr(args, name)
        if value is not None and not (0 < value <= most or (value == 0 and name in ("coverage", "accuracy"))):
            parser.error(
                f"--{name} is {value}, but must be above 0 and {'below' if name == 'coverage' else 'at most'} 1"
            )
    return args
