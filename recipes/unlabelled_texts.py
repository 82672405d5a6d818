"""Make texts without labels of a task's training texts, for `data.unlabelled` and a teacher.

    python recipes/unlabelled_texts.py RECIPE.yaml --task NAME --out FILE.tsv [--data_dir DIR] [--number N]

Of a task with one text: its sentences, each once (for a task whose own texts are sentences, say of films, take one
with long texts of the same kind). Of a task with pairs: new pairs of similar texts, none of which stands in one of its
splits. The columns are those of the task; the file is tab-separated, with quotes, as `tsv` and `cs224n` read it.
"""

import argparse
import csv
import sys
from pathlib import Path

from mtbert.data.loading import load_task
from mtbert.data.unlabelled import near_pairs, sentences
from mtbert.errors import FileInTheWayError, InputError
from mtbert.files import writing_file
from mtbert.modeling.display import display
from mtbert.recipe import load_recipe


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="names the task and its data")
    parser.add_argument("--task", required=True, help="whose training texts are taken")
    parser.add_argument("--out", type=Path, required=True, help="the file to write; one that is there is kept")
    parser.add_argument("--data_dir", help="folder of the data files; default: the recipe's")
    parser.add_argument(
        "--number", type=int, help="how many, at most; default: every sentence, or a pair for each pair"
    )
    parser.add_argument("--shortest", type=int, default=4, help="words of a sentence, at least")
    parser.add_argument("--longest", type=int, default=40, help="words of a sentence, at most")
    parser.add_argument("--nearest", type=int, default=12, help="among how many similar texts a pair's other is chosen")
    parser.add_argument("--seed", type=int, default=0, help="of what is chosen")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> int:
    """Write the file; returns how many rows it has."""
    for key, least in (("number", 1), ("shortest", 1), ("longest", args.shortest), ("nearest", 1)):
        if (value := getattr(args, key)) is not None and value < least:
            raise InputError(f"--{key} is {value}, but must be {least} or more")
    if args.out.exists():
        raise FileInTheWayError(f"{args.out} exists; give another --out, or remove it")
    given = {"encoder": "none", "data_dir": args.data_dir, "training.output_dir": args.out.parent}
    recipe = load_recipe(args.recipe, [f"--{key}={value}" for key, value in given.items() if value is not None])
    if args.task not in recipe.tasks:
        raise InputError(f"--task is {args.task!r}, but the recipe's tasks are: {', '.join(recipe.tasks)}")
    task = recipe.tasks[args.task]
    splits = load_task(task.spec(args.task), task.data, recipe.data_dir).splits
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
    try:
        main(parse())
    except (OSError, ValueError) as error:
        sys.exit(display(error, lines=True))
