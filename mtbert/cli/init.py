"""Look at data, and write a commented recipe for it: a draft for a person.

    mtbert init tickets.csv --output mine.yaml
    mtbert init cola-train.csv cola-dev.csv rte-train.csv rte-dev.csv --output mine.yaml
    mtbert init data/ --output mine.yaml --encoder "$(mtbert encoder)"
    mtbert init stanfordnlp/sst2 --output mine.yaml
    mtbert finetune mine.yaml

DATA are files (csv, tsv, json lines, parquet, compressed or not), folders of such files or of data sets that
`save_to_disk` wrote, or the name of one data set on a hub. Files whose names differ in train, dev (valid, validation,
val, eval) or test alone are the splits of one table; a table without a dev file gives a share of its train rows.

The recipe has a task for each column of labels: classification, binary, ordinal (a short run of whole numbers),
regression, multi_label, tokens. What is unsure stands in it as comments, with the other choice ready to switch on; so
do uneven, missing and contradicting labels, repeated texts, leaks between splits, and a length that cuts at most 1 % of
the texts.
"""

from __future__ import annotations

import sys

from ..errors import FileInTheWayError
from ..files import refuse_path, writing_file
from ..modeling.display import display
from ..runs.drafting.run import draft
from ..runs.drafting.wishes import Wishes, parse_tasks
from . import arguments
from .encoder import find_encoder
from .main import run as run_command

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


def main(argv: list[str]) -> None:
    """Write the recipe; print what was found, and the command that trains it."""
    args = arguments.PARSERS["init"](argv)
    refuse_path(args.output, "--output")
    if args.output.exists() and not args.overwrite:
        raise FileInTheWayError(f"{args.output} exists; give another name, or --overwrite to replace it")
    tasks = {} if args.tasks is None else parse_tasks(args.tasks)
    wishes = Wishes(tuple(args.text), tuple(args.label), args.id, tasks)
    encoder = args.encoder or default_encoder()
    drafted = draft(args.data, args.output, encoder, wishes, args.subset, args.encoder is not None)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with writing_file(args.output, overwrite=args.overwrite) as file:
        file.write(drafted.text)
    for line in drafted.found:
        print(display(line))
    print(f"written: {args.output}\nnext: {drafted.command}")


def default_encoder() -> str:
    """The folder of the quickstart's encoder if its package is installed, else its name on the hub."""
    try:
        return str(find_encoder())
    except FileNotFoundError:
        return ENCODER


if __name__ == "__main__":
    sys.exit(run_command("init"))
