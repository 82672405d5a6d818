"""Average the predictions of several checkpoints: mean probabilities, or mean scores of a regression.

    mtbert ensemble CHECKPOINT CHECKPOINT... --output DIR [--recipe RECIPE.yaml] [--data_dir DIR]
    mtbert ensemble --weights CHECKPOINT CHECKPOINT... --out DIR [--greedy]

Each task is predicted by the checkpoints that have it. scores.json gets the scores of the ensemble and of each member
on the recipe's dev splits. `--predict test` also writes the ensemble's predictions for the test splits, one csv file
per task. Without `--recipe`, the recipe of the first checkpoint is used. `--weights` averages the weights into one
checkpoint instead, which costs no more to run than one of them.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console

from ..data.spec import SPLITS, UNLABELLED
from ..data.splits import files_of_split
from ..errors import FileInTheWayError
from ..evaluation.ensemble import combine, predict_members, score_logits
from ..files import refuse_path, refuse_same_file, write_json, writing_file
from ..modeling.answers import Prediction
from ..modeling.decoding import decisions, label_names
from ..modeling.display import display
from ..modeling.task_spec import TaskSpec
from ..recipe import load_recipe, load_rows
from ..training.console import print_scores
from . import arguments
from .average import average
from .main import run as run_command

BESIDE = 3  # members in one table; a narrow terminal would cut more


def write_predictions(path: Path, spec: TaskSpec, rows: Dataset, logits: np.ndarray) -> None:
    """Write row number, id (if the data has one) and prediction: a label, labels joined by spaces, or a score."""
    keys = [key for key in ("row", "id") if key in rows.column_names]
    chosen = decisions(spec, logits)
    predicted: list[Any]
    if spec.kind.answers is not None:
        predicted = Prediction.of(spec, logits, texts=rows["text"][:]).labels
    else:
        predicted = chosen.tolist() if spec.kind.numeric else label_names(spec, chosen)
    if spec.kind.lists_labels:
        predicted = [" ".join(row) for row in predicted]
    with writing_file(path) as file:
        writer = csv.writer(file)
        writer.writerow([*keys, "prediction"])
        writer.writerows(zip(*(rows[key] for key in keys), predicted, strict=True))


def print_members(scores: dict[str, dict[str, float]], console: Console | None = None) -> None:
    """Print the scores with the members as numbered columns, and the folder of each number."""
    console = console or Console()
    joint, *members = scores.values()
    numbered = [(str(number), member) for number, member in enumerate(members, 1)]
    for start in range(0, len(numbered), BESIDE):
        print_scores({"ensemble": joint, **dict(numbered[start : start + BESIDE])}, console)
    for number, folder in enumerate(list(scores)[1:], 1):
        console.print(display(f"{number}: {folder}"), markup=False, highlight=False, soft_wrap=True)


def main(argv: list[str]) -> dict[str, dict[str, float]] | dict[str, float]:
    """Score an ensemble, or average its weights; return the result of `ensemble` or `average`."""
    args = arguments.ensemble(argv)
    return average(args) if args.weights else ensemble(args)


def ensemble(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Predict, score and write files; return the scores of the ensemble and of each member."""
    refuse_path(args.output, "--output")
    settings = {"encoder": args.encoder, "data_dir": args.data_dir, "training.output_dir": args.output}
    overrides = [f"--{key}={value}" for key, value in settings.items() if value is not None]
    path = args.recipe or Path(args.checkpoints[0], "recipe.json")
    recipe = load_recipe(path, overrides)
    read = [path]
    for task in recipe.tasks.values():
        for split in (*SPLITS, UNLABELLED):
            read += files_of_split(task.data, split, recipe.data_dir)
    for checkpoint in args.checkpoints:
        read += Path(checkpoint).glob("*")
    written = ["scores.json", *(f"{name}-{args.predict}.csv" for name in recipe.tasks if args.predict)]
    for file in (args.output / name for name in written):
        if file.exists() and not args.overwrite:
            raise FileInTheWayError(f"{file} exists; give another --output, or --overwrite to replace it")
        refuse_same_file(read, file)
    specs = {name: task.spec(name) for name, task in recipe.tasks.items()}
    splits = {name: loaded.splits for name, loaded in load_rows(recipe, specs.values()).items()}

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")

    def together(split: str) -> tuple[dict[str, Dataset], dict[str, Any], dict[str, np.ndarray]]:
        rows = {name: task_splits[split] for name, task_splits in splits.items() if split in task_splits}
        members = predict_members(args.checkpoints, list(specs.values()), rows, device, args.batch_size)
        joint = {}
        for name in rows:
            logits = [member[name] for member in members.values() if name in member]
            if logits:
                joint[name] = combine(specs[name], logits)
        return rows, members, joint

    args.output.mkdir(parents=True, exist_ok=True)
    rows, members, joint = together("dev")
    metrics = {name: task.metric for name, task in recipe.tasks.items()}
    predictors = {"ensemble": joint, **members}
    scores = {who: score_logits(list(specs.values()), metrics, rows, logits) for who, logits in predictors.items()}
    write_json(args.output / "scores.json", scores)
    print_members(scores)
    if args.predict is not None:
        if args.predict != "dev":
            rows, _, joint = together(args.predict)
        for name, logits in joint.items():
            write_predictions(args.output / f"{name}-{args.predict}.csv", specs[name], rows[name], logits)
    return scores


if __name__ == "__main__":
    sys.exit(run_command("ensemble"))
