"""mtbert as a contender of benchmarks/quality.py, in a process of its own: one model with a head for each task.

Without `--recipe` it trains a plain recipe on the rows that all contenders have. With it, it trains a recipe of the
same twelve tasks, without teachers, on the files of `--data`; `leaks: drop` leaves it the same rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from cpu_budget import CpuBudget

import mtbert

MOST_TOKENS = 256
CLASSES, SCORE, SEVERAL = "classes", "score", "several"


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the training settings of both recipes."""
    return {
        "output_dir": str(args.work / "ours"),
        "num_train_epochs": 10_000,
        "per_device_train_batch_size": 32,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "eval_strategy": "no",
        "eval_on_start": False,
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "cpu_threads": args.threads,
        "seed": args.seed,
    }


def plain_recipe(args: argparse.Namespace, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the plain recipe of all tasks."""
    specs = {}
    for task in tasks:
        text: Any = "text" if task["texts"] == 1 else ["text", "text_pair"]
        spec: dict[str, Any] = {"data": {"text": text, "train": f"{task['name']}-train.jsonl"}}
        spec["max_length"] = MOST_TOKENS
        if task["kind"] == SCORE:
            spec["range"] = task["range"]
        else:
            spec["labels"] = len(task["labels"])
        if task["kind"] == SEVERAL:
            spec["problem_type"] = "multi_label_classification"
        if task["texts"] == 2:
            spec["pair"] = args.pair
        specs[task["name"]] = spec
    return {
        "encoder": args.encoder,
        "data_dir": str(args.work),
        "all_tasks": {"pooling": "mean"},
        "tasks": specs,
        "schedule": {"name": "sqrt"},
        "training": {"learning_rate": args.learning_rate, "weight_decay": 0.01, **settings(args)},
    }


def own_keys(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keys that override those of `--recipe`."""
    training = {f"training.{key}": value for key, value in settings(args).items()}
    keys = {"encoder": args.encoder, "data_dir": str(args.data), "leaks": "drop", "distillation": None}
    return {**keys, **training}


def answers(task: dict[str, Any], prediction: Any) -> list[Any]:
    """Return class ids, scores or 0/1 vectors of a prediction."""
    if task["kind"] == SCORE:
        return [float(score) for score in prediction.scores]
    names = prediction.task.classes
    if set(names) == set(task["labels"]):  # a recipe may have them in another order
        names = task["labels"]
    if task["kind"] == SEVERAL:
        return [[int(name in row) for name in names] for row in prediction.labels]
    return [names.index(label) for label in prediction.labels]


def main() -> None:
    """Train and predict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--seconds", type=float, required=True, help="CPU time of the whole process until it predicts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--pair", default="cross", help="how the plain recipe encodes two texts")
    parser.add_argument("--recipe", type=Path, help="a recipe of the same tasks, instead of the plain one")
    parser.add_argument("--data", type=Path, help="folder of the recipe's files")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further keys of the recipe")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    tasks = json.loads((args.work / "tasks.json").read_text(encoding="utf-8"))
    budget = CpuBudget(args.seconds)
    shutil.rmtree(args.work / "ours", ignore_errors=True)  # of another budget, or of a run that was stopped
    if args.recipe:
        recipe, keys = args.recipe, own_keys(args)
    else:
        recipe, keys = plain_recipe(args, tasks), {}
    keys.update(pair.split("=", 1) for pair in args.set)
    trainer = mtbert.train(recipe, keys, callbacks=[budget]).trainer
    predictions = {}
    for task in tasks:
        file = args.work / f"{task['name']}-dev.jsonl"
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        texts = {key: [row[key] for row in rows] for key in ("text", "text_pair") if key in rows[0]}
        predictions[task["name"]] = answers(task, trainer.model.predict(texts, tasks=task["name"]))
    result = {"predictions": predictions, "cpu_seconds": budget.used, "steps": budget.steps}
    result["versions"] = {"mtbert": mtbert.__version__}
    args.output.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
