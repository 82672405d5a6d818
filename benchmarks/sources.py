"""Time a training step of k = 1, 2, 4 and 8 heads on one source, whose texts are encoded once, and of its rows apart.

    python benchmarks/sources.py
    python benchmarks/sources.py --smoke      # rehearse with few rows and rounds

A step is everything that one update takes: collation, the packed pass, the losses, the gradients, clipping and AdamW.
All models start from the same encoder and take turns in every round; each text has a label of each task. "Apart" has
one encoded row for each label, as k tasks with data of their own in one mixed step. Writes
benchmarks/results/sources.md and sources.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from datasets import Dataset
from measure import environment
from tables import Table, report
from transformers import AutoTokenizer, set_seed
from workload import ROOT, find_encoder, make_pairs, quiet

from mtbert import MtBertForMultiTask, Schedule, Source, TaskSpec, TaskTraining
from mtbert.data.collation import MultiTaskDataset
from mtbert.data.given_splits import prepare_splits
from mtbert.data.sampling import Step
from mtbert.modeling.tokenization import has_token_types
from mtbert.training.objective import StepLosses

HEADS = (1, 2, 4, 8)
BAR = 1.2  # 8 heads take at most so many times the step of one
CLASSES = 3


def make_table(tokenizer, rows: int) -> Dataset:
    """Return texts of the lengths of the pairs that other benchmarks use, with a column of labels for each head."""
    random, pairs = np.random.default_rng(0), make_pairs(tokenizer, rows)
    texts = [f"{one} {two}" for one, two in zip(pairs["text"][:], pairs["text_pair"][:], strict=True)]
    labels = {f"head{head}": random.integers(0, CLASSES, rows).tolist() for head in range(max(HEADS))}
    return Dataset.from_dict({"text": texts, **labels})


def make_step(encoder: str, table: Dataset, heads: int, batch: int, together: bool) -> Callable[[int], int]:
    """Return a function that takes step number i, and returns the number of tokens that it encodes."""
    set_seed(0)
    tasks = [TaskSpec(f"head{head}", labels=CLASSES, pooling="mean") for head in range(heads)]
    names = [task.name for task in tasks]
    model = MtBertForMultiTask.from_encoder(encoder, tasks).train()
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    given = {name: table.select_columns(["text", name]).rename_column(name, "label") for name in names}
    data = {"source": Source(table, names)} if together else given
    splits, _ = prepare_splits(tasks, "train", data, tokenizer, model.config.encoder)
    batches = MultiTaskDataset(tasks, splits, has_token_types(model.config.encoder), model.config, training=True)
    losses = StepLosses(model, {name: TaskTraining() for name in names}, Schedule(), [], torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)

    def step(number: int) -> int:
        rows = (number * batch + np.arange(batch)) % len(table)
        inputs = batches.__getitems__(Step(tuple((pool, rows) for pool in range(len(batches.pools)))))
        by_task, _ = losses(model, inputs, inputs["labelled"])
        sum(by_task.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return inputs["input_ids"].numel()

    return step


def measure(steps: dict[str, Callable[[int], int]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each step in each round; the steps take turns, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step(number)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def rows_of_table(seconds: dict[str, list[float]]) -> list[list]:
    """Return a row for each case: its median, and its ratio to one head's in the same round."""
    rows = []
    for name, values in seconds.items():
        ratios = [value / one for value, one in zip(values, seconds["1 head"], strict=True)]
        rows.append([name, median(values), median(ratios), min(ratios), max(ratios)])
    return rows


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", help="folder of the encoder; default: the quickstart's, or random weights")
    parser.add_argument("--batch", type=int, default=32, help="texts of a step")
    parser.add_argument("--rounds", type=int, default=15, help="times that every step is timed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--smoke", action="store_true", help="4 texts a step and 2 rounds")
    parser.add_argument("--results", type=Path, help="folder to write to; default: benchmarks/results, smoke: none")
    args = parser.parse_args(argv)
    if args.smoke:
        args.batch, args.rounds = 4, 2
    return args


def main(argv: list[str] | None = None) -> None:
    """Measure and write the results."""
    args = parse(argv)
    quiet()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        encoder = find_encoder(args.encoder, f"{folder}/encoder")
        table = make_table(AutoTokenizer.from_pretrained(encoder), 4 * args.batch)
        cases = {f"{heads} head{'s' * (heads > 1)}": (heads, True) for heads in HEADS}
        cases |= {f"{heads} heads, rows apart": (heads, False) for heads in HEADS if heads > 1}
        steps = {name: make_step(encoder, table, heads, args.batch, one) for name, (heads, one) in cases.items()}
        where = environment(batch=args.batch, rounds=args.rounds, threads=args.threads)
        seconds = measure(steps, args.rounds)
        where["load_average_after"] = environment()["load_average_before"]
    rows = rows_of_table(seconds)
    ratio = rows[len(HEADS) - 1][2]
    result = f"{max(HEADS)} heads take {ratio:.2f} times the step of one; the bar is {BAR}."
    table_of_steps = Table(
        "A training step on one source, packed, fp32",
        ["case", "seconds", "× one head", "least", "most"],
        rows,
        f"× one head is the median over rounds. {result}",
    )
    values = {"environment": where, "seconds": seconds, "ratio": ratio, "bar": BAR}
    with tempfile.TemporaryDirectory() as folder:
        results = args.results or (Path(folder) if args.smoke else ROOT / "benchmarks" / "results")
        report("sources", "What more heads on one source cost in training", values, [table_of_steps], results)


if __name__ == "__main__":
    main()
