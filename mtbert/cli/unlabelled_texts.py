"""Make unlabelled texts from a task's training texts, for distillation with `data.unlabelled`.

    mtbert unlabelled_texts RECIPE.yaml --task NAME --out FILE.tsv [--data_dir DIR] [--number N]

For a task with one text, the file has the distinct sentences of its texts. If the task's texts are single sentences,
such as film reviews, choose a task with longer texts of the same kind. For a task with pairs, the file has new pairs of
similar texts that occur in none of its splits. The file has the task's columns and is tab-separated with quotes, as
`tsv` and `cs224n` read it.
"""

from __future__ import annotations

import argparse
import csv
import sys

from ..data.unlabelled import near_pairs, sentences
from ..errors import FileInTheWayError, InputError
from ..files import writing_file
from ..recipe import load_recipe, load_rows
from . import arguments
from .main import run as run_command


def main(argv: list[str]) -> None:
    """Write the file."""
    write_texts(arguments.unlabelled_texts(argv))


def write_texts(args: argparse.Namespace) -> int:
    """Write the file; return its number of rows."""
    for key, least in (("number", 1), ("shortest", 1), ("longest", args.shortest), ("nearest", 1)):
        value = getattr(args, key)
        if value is not None and value < least:
            raise InputError(f"--{key} is {value}, but must be {least} or more")
    if args.out.exists():
        raise FileInTheWayError(f"{args.out} exists; give another --out, or remove it")
    settings = {"encoder": "none", "data_dir": args.data_dir, "training.output_dir": args.out.parent}
    recipe = load_recipe(args.recipe, [f"--{key}={value}" for key, value in settings.items() if value is not None])
    if args.task not in recipe.tasks:
        raise InputError(f"--task is {args.task!r}, but the recipe's tasks are: {', '.join(recipe.tasks)}")
    task = recipe.tasks[args.task]
    splits = load_rows(recipe, [task.spec(args.task)], masked=True)[args.task].splits
    if len(task.data.text) == 2:
        pairs = {
            name: list(zip(split["text"][:], split["text_pair"][:], strict=True)) for name, split in splits.items()
        }
        train, others = pairs.pop("train"), [pair for split in pairs.values() for pair in split]
        rows = near_pairs(train, args.number or len(train), args.nearest, args.seed, others)
    else:
        rows = [(text,) for text in sentences(splits["train"]["text"][:], args.shortest, args.longest)][: args.number]
    if not rows:
        raise InputError(f"task {args.task!r} gives no text; see --shortest and --longest, or take another task")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with writing_file(args.out, overwrite=False) as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(task.data.text)
        writer.writerows(rows)
    print(f"{len(rows):,} rows in {args.out}")
    return len(rows)


if __name__ == "__main__":
    sys.exit(run_command("unlabelled_texts"))
