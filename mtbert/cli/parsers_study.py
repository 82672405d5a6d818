"""The arguments of `mtbert study`. Does not import torch."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from .parsing import at_least, check_keys, make_parser

# copies of the library's values, whose modules import torch; a test compares them
ADAPTERS = ("pal", "low_rank", "houlsby")
PRECISIONS = ("no", "bf16", "fp16")


def study(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of `mtbert study`; `overrides` are the recipe's keys that the command line sets."""
    parser = make_parser("study")
    parser.add_argument("recipe", metavar="RECIPE.yaml", type=Path, help="recipe of two or more tasks with dev rows")
    parser.add_argument("--plan", action="store_true", help="print what will be trained, and train nothing")
    steps = "steps of 32 rows of each model of one task (default: %(default)s)"
    parser.add_argument("--steps", type=int, default=300, help=steps)
    joint = "steps of each joint model (default: as many as all single models together)"
    parser.add_argument("--joint_steps", type=int, help=joint)
    parser.add_argument("--seeds", default="1,2,3", help="training seeds of every model (default: %(default)s)")
    every = "steps from one measurement of affinity to the next (default: 20 measurements)"
    parser.add_argument("--every", type=int, help=every)
    rows = "training rows of each task in a measurement (default: %(default)s)"
    parser.add_argument("--rows", type=int, default=16, help=rows)
    groups = "the largest number of models of suggested groups (default: %(default)s)"
    parser.add_argument("--groups", type=int, default=3, help=groups)
    adapter = "adapters of the third form, where the recipe has none; none: no third form (default: %(default)s)"
    parser.add_argument("--adapter", choices=(*ADAPTERS, "none"), default="low_rank", help=adapter)
    parser.add_argument("--mixed_precision", choices=PRECISIONS, default="no", help="default: %(default)s, fp32")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores (default: 1)")
    output = "folder of the runs, page and figures (default: runs/study/ and the recipe's name)"
    parser.add_argument("--output", type=Path, help=output)
    results = "folder of the result files, from which finished runs are read (default: results in --output)"
    parser.add_argument("--results", type=Path, help=results)
    parser.add_argument("--commit", action="store_true", help="commit each new result file with git")
    finished = "train nothing: page and figures of the runs that have a result file"
    parser.add_argument("--finished_only", action="store_true", help=finished)
    args, more = parser.parse_known_args(argv)
    check_keys(parser, args, more)
    args.overrides = tuple(more)
    at_least(parser, args, 1, "steps", "rows", "groups", "jobs")
    for name in ("joint_steps", "every"):
        if getattr(args, name) is not None:
            at_least(parser, args, 1, name)
    if not re.fullmatch(r"\d+(,\d+)*", args.seeds):
        parser.error(f"--seeds is {args.seeds!r}, but must be whole numbers, 0 or more, separated by commas")
    args.seeds = tuple(dict.fromkeys(int(seed) for seed in args.seeds.split(",")))
    if not args.recipe.is_file():
        parser.error(f"there is no file {str(args.recipe)[:300]!r}; `mtbert recipes` lists those that come with mtbert")
    return args
