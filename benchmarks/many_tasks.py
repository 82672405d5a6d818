"""Time the prediction of ten tasks on one shared encoder and of one task: `model.predict(texts, tasks="all")`.

    python benchmarks/many_tasks.py

Both predict the same texts with the same weights and untrained heads, in turns. The time includes tokenization. Writes
benchmarks/results/many_tasks.md and many_tasks.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from measure import environment
from tables import Table, report
from transformers import AutoTokenizer, set_seed
from workload import ROOT, find_encoder, quiet

from mtbert import MtBertForMultiTask, TaskSpec

WORDS = (ROOT / "README.md").read_text(encoding="utf-8").split()
HEAD = {"type": "mlp", "layers": 1}


def seconds(function) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--rows", type=int, default=256, help="texts of 4 to 40 words")
    parser.add_argument("--rounds", type=int, default=9, help="times that each of both is timed")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--encoder", help="folder of an encoder; default: the quickstart's, else random weights")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    return parser.parse_args(argv)


def run(args: argparse.Namespace, folder: str) -> None:
    """Time both in turns, and write the results."""
    if args.threads:
        torch.set_num_threads(args.threads)
    set_seed(0)
    encoder = find_encoder(args.encoder, f"{folder}/encoder")
    tasks = [TaskSpec(f"task{i}", labels=3, pooling="mean", head=HEAD) for i in range(args.tasks)]
    model = MtBertForMultiTask.from_encoder(encoder, tasks).eval()
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, size=random.integers(4, 41))) for _ in range(args.rows)]
    calls = {
        "one task": lambda: model.predict(texts, task="task0", tokenizer=tokenizer),
        f"{args.tasks} tasks": lambda: model.predict(texts, tasks="all", tokenizer=tokenizer),
    }
    for call in calls.values():  # the first call makes kernels ready
        call()
    where = environment(threads=torch.get_num_threads(), texts=args.rows, rounds=args.rounds)
    rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(args.rounds)]
    where["load_average_after"] = environment()["load_average_before"]
    values, rows = {}, []
    for name in calls:
        rate = args.rows / median([each[name] for each in rounds])
        ratios = [each[name] / each["one task"] for each in rounds]
        values[name] = {"texts_per_second": rate, "ratio": median(ratios), "ratios": ratios}
        rows.append([name, rate, median(ratios), min(ratios), max(ratios)])
    table = Table(
        "Prediction with heads of one hidden layer, fp32",
        ["heads", "texts/s", "× one task", "least", "most"],
        rows,
        "× one task is the median over rounds.",
    )
    title = "What more tasks on one encoder cost in prediction"
    report("many_tasks", title, {"environment": where, **values}, [table], args.results)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        run(args, folder)


if __name__ == "__main__":
    main()
