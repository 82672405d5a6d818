"""Export a checkpoint to a folder that answers without torch: graphs, tokenizer, decision rules and an example.

    mtbert export runs/quickstart --to onnx --output exported
    mtbert export runs/quickstart --to onnx --int8 --output exported-int8
    python exported/example.py "A lovely day."

The folder has one graph with every head (with adapters, one for each task), and answers as the checkpoint does. It
needs onnxruntime or openvino, tokenizers and numpy. `mtbert predict` and `mtbert serve` take it in place of a
checkpoint.

`--int8` quantises the encoder, and scores every head on dev rows of the run's recipe.json against fp32. A part whose
quantisation costs a head more than `--max_loss` points stays in fp32, the most sensitive first.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from ..errors import InputError
from ..evaluation.ensemble import load_member, member_config
from ..export import extras
from ..export.folder import check_output, write_model
from ..files import refuse_path, writing_folder
from ..modeling.display import display
from ..training.progress.phases import phase
from . import arguments
from .main import run as run_command


def main(argv: list[str]) -> None:
    """Write the folder, and print what is in it."""
    export(arguments.PARSERS["export"](argv))


def export(args: argparse.Namespace) -> None:
    """Export a checkpoint as the arguments say."""
    extras.require(args.to, extras.PACKAGES[args.to])
    refuse_path(args.output, "--output")
    check_output(args.output, Path(args.checkpoint), args.overwrite)
    config = member_config(args.checkpoint)
    quantise = None
    if args.int8:
        from ..export.int8 import quantise_graphs
        from ..export.scored_rows import read_rows

        rows = read_rows(args.checkpoint, args.recipe, args.data_dir, config.task_specs, args.rows)
        quantise = partial(quantise_graphs, rows=rows, max_loss=args.max_loss, say=_say, scales=args.scales)
    model, _ = load_member(args.checkpoint, "cpu")
    try:
        tokenizer = model.tokenizer
    except ValueError as error:
        raise InputError(f"{args.checkpoint} has no tokenizer that can be loaded; save it there: {error}") from error
    with writing_folder(args.output, args.overwrite) as part:
        with phase("writing graphs" + (", and choosing the layers for int8" if args.int8 else "")):
            write_model(model, tokenizer, part, args.to, Path(args.checkpoint).resolve().name, quantise)
        size = sum(file.stat().st_size for file in part.iterdir()) / 2**20
    print(f"{args.output} answers {len(model.tasks)} tasks in {size:,.1f} MiB; try: python {args.output}/example.py")


def _say(line: str) -> None:
    print(display(line))


if __name__ == "__main__":
    sys.exit(run_command("export"))
