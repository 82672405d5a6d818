"""Average the weights of several checkpoints into one, which costs no more than one of them.

    python recipes/average.py CHECKPOINT CHECKPOINT... --out DIR

Of runs from the same encoder and seed with the same tasks and heads, such as two ways of training. What the mean is
worth say evaluate_run.py DIR, or ensemble.py DIR --output DIR.
"""

import argparse
import shutil
from pathlib import Path

from mtbert.evaluation.soup import mean_of
from mtbert.recipe.ending import clear_errors
from mtbert.training.runs import save_run


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", help="folders of checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint, not one that is there")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> dict[str, float]:
    """Write the checkpoint; returns each member's distance from it."""
    if args.out.exists():
        raise FileExistsError(f"{args.out} exists; give another --out, or remove it")
    model, tokenizer, distances = mean_of(args.checkpoints)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    recipe = Path(args.checkpoints[0], "recipe.json")
    if recipe.exists():  # names the data by which it can be scored
        shutil.copyfile(recipe, args.out / recipe.name)
    save_run(str(args.out), averaged=distances)
    for folder, distance in distances.items():
        print(f"{folder}: {distance:.2%} of the mean's norm from it")
    print(f"the mean of {len(distances)} checkpoints is in {args.out}")
    return distances


if __name__ == "__main__":
    with clear_errors():
        main(parse())
