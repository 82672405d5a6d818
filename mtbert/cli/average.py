"""Average the weights of several checkpoints into one, which costs no more to run than one of them.

    mtbert ensemble --weights CHECKPOINT CHECKPOINT... --out DIR [--greedy [--recipe RECIPE.yaml] [--data_dir DIR]]

The checkpoints must come from the same encoder and seed and have the same tasks and heads; they may differ in the
training method or the order of the rows (`training.data_seed`). All checkpoints are averaged. With `--greedy` they are
added one by one if they do not lower the average over tasks on the dev splits; greedy.json lists all attempts. Without
`--recipe`, the recipe of the first checkpoint is used. Score the mean with `mtbert evaluate DIR` or
`mtbert ensemble DIR --output DIR`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from ..errors import FileInTheWayError, InputError
from ..evaluation.ensemble import load_member, score_logits, task_logits
from ..evaluation.soup import greedy_soup, mean_of
from ..files import refuse_path, writing_folder
from ..modeling.display import display
from ..recipe import load_recipe, load_rows
from ..training.checkpoints.run_folder import save_run
from . import arguments
from .main import run as run_command


def choose(args: argparse.Namespace) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the members of a greedy soup, and all sets tried, as dicts of `members` and `overall`."""
    settings = {"encoder": args.checkpoints[0], "data_dir": args.data_dir, "training.output_dir": args.out}
    overrides = [f"--{key}={value}" for key, value in settings.items() if value is not None]
    recipe = load_recipe(args.recipe or Path(args.checkpoints[0], "recipe.json"), overrides)
    specs = [task.spec(name) for name, task in recipe.tasks.items()]
    splits = {name: loaded.splits for name, loaded in load_rows(recipe, specs).items()}
    rows = {name: task_splits["dev"] for name, task_splits in splits.items() if "dev" in task_splits}
    if not rows:
        raise InputError("--greedy: no task of the recipe has a dev split to choose by; give data.dev, or leave it out")
    metrics = {name: task.metric for name, task in recipe.tasks.items()}

    def overall(model: Any, tokenizer: Any) -> float:
        logits = {n: task_logits(model, tokenizer, n, rows[n]).cpu().numpy() for n in rows}
        return score_logits(specs, metrics, rows, logits)["overall"]

    kept, tried = greedy_soup(args.checkpoints, overall)
    for members, score in tried:
        print(display(f"{score:.4f}: {' + '.join(members)}"))
    return kept, [{"members": members, "overall": score} for members, score in tried]


def main(argv: list[str]) -> dict[str, float]:
    """Average the weights; return each member's distance from the mean."""
    return average(arguments.average(argv))


def average(args: argparse.Namespace) -> dict[str, float]:
    """Write the averaged checkpoint; return each member's distance from it."""
    refuse_path(args.out, "--out")
    if args.out.exists():
        raise FileInTheWayError(f"{args.out} exists; give another --out, or remove it")
    if not args.greedy and (args.recipe or args.data_dir):
        raise InputError("--recipe and --data_dir say what --greedy chooses by; give it, or leave them out")
    members, tried = choose(args) if args.greedy else (args.checkpoints, None)
    if len(members) > 1:
        model, tokenizer, distances = mean_of(members)
    else:
        (model, tokenizer), distances = load_member(members[0], "cpu"), {members[0]: 0.0}
    with writing_folder(args.out) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        recipe = Path(members[0], "recipe.json")
        if recipe.exists():  # names the data for `mtbert evaluate`
            shutil.copyfile(recipe, part / recipe.name)
        more: dict[str, Any] = {} if tried is None else {"greedy": tried}
        save_run(str(part), averaged=distances, **more)
    for folder, distance in distances.items():
        print(display(f"{folder}: {distance:.2%} of the mean's norm from it"))
    print(f"the mean of {len(distances)} checkpoints is in {args.out}")
    return distances


if __name__ == "__main__":
    sys.exit(run_command("average"))
