"""The arguments of `mtbert init`. Does not import torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .parsing import make_parser


def init(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of `mtbert init`."""
    parser = make_parser("init")
    parser.add_argument("data", metavar="DATA", nargs="+", help="files, folders, or the name of one data set on a hub")
    parser.add_argument("--output", type=Path, required=True, metavar="RECIPE.yaml", help="the recipe to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    encoder = "folder or hub name (default: that of `mtbert encoder` if it is installed, else all-MiniLM-L6-v2)"
    parser.add_argument("--encoder", help=encoder)
    text = "column of the texts, or the two columns of pairs (default: they are looked for)"
    parser.add_argument("--text", nargs="+", default=[], metavar="COLUMN", help=text)
    label = "columns of labels, one task each (default: they are looked for)"
    parser.add_argument("--label", nargs="+", action="extend", default=[], metavar="COLUMN", help=label)
    parser.add_argument("--id", metavar="COLUMN", help="column that names the rows (default: it is looked for)")
    tasks = "tasks to keep, separated by commas; NAME=KIND reads a task's labels so, such as age=regression"
    parser.add_argument("--tasks", metavar="NAME[=KIND]", help=tasks)
    parser.add_argument("--subset", help="subset of a data set on a hub, such as sst2 of glue")
    args = parser.parse_args(argv)
    if len(args.text) > 2:
        parser.error(f"--text names {len(args.text)} columns, but must name 1, or 2 for pairs")
    return args
