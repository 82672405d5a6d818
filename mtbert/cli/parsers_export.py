"""The arguments of `mtbert export`; imports no torch."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from .parsing import add_imports, make_parser

ENGINES = ("onnx", "openvino")


SCALES = ("dynamic", "static")


def export(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of `mtbert export`."""
    parser = make_parser("export")
    add_imports(parser)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder that finetune wrote, or a hub name")
    parser.add_argument("--to", choices=ENGINES, required=True, help="what runs the graphs")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an exported folder")
    parser.add_argument("--int8", action="store_true", help="quantise the encoder to 8 bits")
    int8 = parser.add_argument_group("with --int8")
    lost = "most points (hundredths of the main metric) that a head may lose on dev rows (default: %(default)s)"
    int8.add_argument("--max_loss", type=float, default=0.5, help=lost)
    int8.add_argument("--rows", type=int, default=1024, help="most dev rows of a task (default: %(default)s)")
    int8.add_argument("--recipe", type=Path, help="names the data; default: recipe.json of the checkpoint")
    int8.add_argument("--data_dir", help="folder of the data files; default: the recipe's")
    scales = "scales of activations: one a batch (dynamic), or measured once, so that a text's answer never depends on "
    scales += "the texts beside it (static); default: the faster, and of equally fast ones the more exact"
    int8.add_argument("--scales", choices=SCALES, help=scales)
    args = parser.parse_args(argv)
    of_int8 = ("max_loss", "rows", "recipe", "data_dir", "scales")
    given = [name for name in of_int8 if getattr(args, name) != parser.get_default(name)]
    if given and not args.int8:
        parser.error(f"--{given[0]} is for --int8; add that, or leave it out")
    if args.scales == "dynamic" and args.to == "openvino":
        parser.error("--scales is dynamic, which openvino has not; write static, or leave it out")
    if not (math.isfinite(args.max_loss) and args.max_loss >= 0):
        parser.error(f"--max_loss is {args.max_loss}, but must be 0 or more")
    if args.rows < 1:
        parser.error(f"--rows is {args.rows}, but must be 1 or more")
    return args
