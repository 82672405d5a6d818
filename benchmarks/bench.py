"""Time training and evaluation on the CPU: mtbert, a bare loop as its upper bound, and the alternatives.

    make bench

`python benchmarks/bench.py --precision bf16 --only mtbert padded` runs a part of it. Each contender has its own
process, and only one of them computes at a time. Writes benchmarks/results/<instructions>.md and .json, where the
instructions are `avx2`, `avx512` or `amx`. Without instructions for bf16, that part is left out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch
from contenders import CONTENDERS, compare, take_turns
from datasets import Dataset
from isolation import Isolated
from measure import DTYPES, environment, has_bf16, instruction_set, matmul_rate, training_flops
from mpnet import compare_mpnet
from rich.console import Console
from tables import Table, report
from timed_steps import Timing
from transformers import AutoTokenizer
from workload import ROOT, WARM_UP, Workload, find_encoder, quiet, read_pairs

MEMORY_STEPS = 2
EVALUATED = ("mtbert", "padded")
DEFAULT = [name for name in CONTENDERS if name != "bucketed"]  # which pads no less than `padded` does where BERT packs


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="times that every contender is timed")
    parser.add_argument("--steps", type=int, default=8, help="timed optimizer steps of a round")
    parser.add_argument("--batch", type=int, default=32, help="rows of a step")
    parser.add_argument("--eval_rows", type=int, default=1500, help="rows of the evaluation; 0: leave it out")
    parser.add_argument("--mpnet_steps", type=int, default=2, help="timed steps of a round of MPNet; 0: leave it out")
    parser.add_argument("--only", nargs="+", choices=[*CONTENDERS], help="these contenders, and mtbert")
    parser.add_argument("--precision", nargs="+", choices=[*DTYPES], help="default: those with instructions")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--encoder", help="folder of an encoder; default: the quickstart's, else random weights")
    parser.add_argument("--data_dir", help="folder with the course's quora-train.csv; default: ../shared/data/cs224n")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    return parser.parse_args()


def precisions(given: list[str] | None, console: Console) -> list[str]:
    """Return the given precisions, or those that this CPU has instructions for; say which one is left out."""
    if given or has_bf16():
        return given or [*DTYPES]
    console.print("bf16 is left out: this CPU has no instructions for it (--precision bf16 measures it anyway)")
    return [name for name in DTYPES if name != "bf16"]


def make_workload(args: argparse.Namespace, precision: str, steps: int, folder: str) -> tuple[Workload, Dataset, str]:
    """Return the workload, the rows to evaluate, and a description of the rows."""
    encoder = find_encoder(args.encoder, f"{folder}/encoder")
    rows = (WARM_UP + steps) * args.batch
    pairs, what = read_pairs(args.data_dir, AutoTokenizer.from_pretrained(encoder), rows + args.eval_rows)
    training, evaluation = pairs.select(range(rows)), pairs.select([*range(rows, len(pairs))])
    work = Workload(encoder, training, args.batch, steps, f"{folder}/output", precision)
    return work, evaluation, what


def evaluate(ready: dict[str, Isolated], rows: int, rounds: int, precision: str) -> tuple[Table, dict]:
    """Time `predict` of both trainers in turns, on rows without labels."""
    seconds: dict[str, list[float]] = {name: [] for name in EVALUATED}
    for _ in range(rounds):
        for name in EVALUATED:
            seconds[name].append(ready[name].predict())
    ratio = [theirs / ours for ours, theirs in zip(seconds["mtbert"], seconds["padded"], strict=True)]
    speeds = {name: median([rows / each for each in seconds[name]]) for name in EVALUATED}
    what = {"mtbert": "MtBertTrainer.predict", "padded": "Trainer.predict, in the rows' order"}
    table = Table(
        f"Evaluation of {rows:,} rows, {precision}",
        ["contender", "what", "examples/s", "mtbert is × as fast"],
        [
            ["mtbert", what["mtbert"], speeds["mtbert"], 1.0],
            ["padded", what["padded"], speeds["padded"], median(ratio)],
        ],
    )
    return table, {"examples_per_second": speeds, "ratio": median(ratio), "ratios": ratio, "seconds": seconds}


def limit(work: Workload, timings: list[Timing]) -> tuple[list, dict]:
    """Compare mtbert's step with the time that its matrix products alone take on this machine."""
    tokens = round(work.timed_lengths.sum() / work.steps)
    flops = training_flops(work.config, work.timed_lengths) / work.steps
    rate = matmul_rate(tokens, work.config.hidden_size, work.config.intermediate_size, DTYPES[work.precision])
    step = median([t.seconds for t in timings]) / work.steps
    values = {
        "tokens_per_step": tokens,
        "gflop_per_step": flops / 1e9,
        "matmul_gflops": rate / 1e9,
        "limit_ms": 1e3 * flops / rate,
        "step_ms": 1e3 * step,
        "share_of_limit": flops / rate / step,
    }
    return [work.precision, *values.values()], values


def run(args: argparse.Namespace, folder: str) -> None:
    """Run all parts for each precision."""
    console = Console(stderr=True)
    start = time.perf_counter()
    if args.threads:
        torch.set_num_threads(args.threads)
    names = [name for name in CONTENDERS if name in ("mtbert", *(args.only or DEFAULT))]
    values, tables, limits = {}, [], []
    instructions = instruction_set()
    where = environment(
        instructions=instructions,
        threads=torch.get_num_threads(),
        batch=args.batch,
        steps=args.steps,
        rounds=args.rounds,
    )
    for precision in precisions(args.precision, console):
        work, _, where["data"] = make_workload(args, precision, args.steps, folder)
        console.print(f"[bold]{precision}[/bold]: preparing {', '.join(names)}")
        make = partial(make_workload, args, precision, args.steps)
        all_ready = {name: Isolated(name, make, torch.get_num_threads()) for name in names}
        skipped = {name: each.left_out for name, each in all_ready.items() if each.left_out}
        ready = {name: each for name, each in all_ready.items() if not each.left_out}
        for name, why in skipped.items():
            console.print(f"{name} is left out: {why}")
        timings = take_turns(
            ready, args.rounds, lambda name, t: console.print(f"  {name:12}{t.examples_per_second:8.1f} examples/s")
        )
        values[precision] = {"skipped": skipped}
        more = {"peak memory (MiB)": {name: each.memory() for name, each in ready.items()}}
        table, values[precision]["training"] = compare(f"Training, {precision}", timings, more)
        tables.append(table)
        if args.eval_rows and all(name in ready for name in EVALUATED):
            table, values[precision]["evaluation"] = evaluate(ready, args.eval_rows, args.rounds, precision)
            tables.append(table)
        row, values[precision]["limit"] = limit(work, timings["mtbert"])
        limits.append(row)
        for each in all_ready.values():
            each.stop()
        if args.mpnet_steps:
            table, values[precision]["mpnet"] = compare_mpnet(args, precision, console)
            tables.append(table)
    tables.append(
        Table(
            "Our training step against this machine's matrix products",
            ["precision", "tokens", "GFLOP", "matmul GFLOP/s", "limit (ms)", "step (ms)", "share"],
            limits,
            "GFLOP counts the step's matrix products over real tokens; limit is that over the rate of a product of "
            "(tokens, width) and (width, MLP width) matrices.",
        )
    )
    where["load_average_after"] = environment()["load_average_before"]
    where["seconds"] = round(time.perf_counter() - start)
    report(instructions, f"Benchmarks on a CPU, {instructions}", {"environment": where, **values}, tables, args.results)


def main() -> None:
    args = parse()
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        run(args, folder)


if __name__ == "__main__":
    main()
