"""Time training on one GPU at BERT-base size in bf16: mtbert, a bare loop as its upper bound, and the alternatives.

    python benchmarks/gpu.py

The encoder has random weights, so nothing is downloaded. Writes benchmarks/results/gpu.md and gpu.json.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from contenders import CONTENDERS, compare, prepare, take_turns
from measure import environment, matmul_rate, training_flops
from rich.console import Console
from tables import report
from transformers import AutoTokenizer, BertConfig
from workload import ROOT, WARM_UP, Workload, quiet, random_encoder, read_pairs

TAKING_PART = ["mtbert", "raw_packed", "padded", "grouped", "padded_128"]
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="times that every contender is timed")
    parser.add_argument("--steps", type=int, default=40, help="timed optimizer steps of a round")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128, 512], help="rows of a step")
    parser.add_argument("--only", nargs="+", choices=[*CONTENDERS], help="these contenders, and mtbert")
    parser.add_argument("--workers", type=int, default=4, help="processes that load data, for all contenders")
    parser.add_argument("--attention_dropout", type=float, default=0.1, help="of the encoder; BERT's is 0.1")
    parser.add_argument("--peak_tflops", type=float, help="the GPU's bf16 peak; default: measured, a large product")
    parser.add_argument("--data_dir", help="folder with the course's quora-train.csv; default: ../shared/data/cs224n")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--cpu_smoke", action="store_true", help="try the script on the CPU, with a tiny encoder")
    args = parser.parse_args()
    if args.cpu_smoke:
        args.batch, args.steps, args.rounds, args.workers = [4, 8], 2, 1, 0
    elif not torch.cuda.is_available():
        sys.exit("gpu.py: torch sees no GPU here; use bench.py for the CPU, or --cpu_smoke to try this script")
    return args


def run(args: argparse.Namespace, folder: str) -> None:
    """Run one comparison for each batch size."""
    console, start = Console(stderr=True), time.perf_counter()
    device, side = ("cpu", 256) if args.cpu_smoke else ("cuda", 8192)
    config = BertConfig(**(TINY if args.cpu_smoke else {}), attention_probs_dropout_prob=args.attention_dropout)
    encoder = random_encoder(f"{folder}/encoder", config)
    peak = args.peak_tflops or matmul_rate(side, side, side, torch.bfloat16, device) / 1e12
    names = [name for name in args.only or TAKING_PART if name != "mtbert"]
    where = environment(
        device="cpu" if args.cpu_smoke else torch.cuda.get_device_name(),
        precision="bf16",
        encoder=f"BERT, random weights, {config.num_hidden_layers} layers of width {config.hidden_size}",
        attention_dropout=args.attention_dropout,
        workers=args.workers,
        steps=args.steps,
        rounds=args.rounds,
        peak_tflops=f"{peak:.4g} ({'given' if args.peak_tflops else 'measured'})",
    )
    values, tables = {}, []
    for batch in args.batch:
        rows = (WARM_UP + args.steps) * batch
        pairs, where["data"] = read_pairs(args.data_dir, AutoTokenizer.from_pretrained(encoder), rows)
        work = Workload(encoder, pairs, batch, args.steps, f"{folder}/output", "bf16", device, args.workers)
        console.print(f"[bold]batch {batch}[/bold], after {time.perf_counter() - start:.0f} s")
        ready, skipped = prepare(["mtbert", *names], work)
        for name, why in skipped.items():
            console.print(f"{name} is left out: {why}")
        timings = take_turns(
            ready, args.rounds, lambda name, t: console.print(f"  {name:12}{t.examples_per_second:10.1f} examples/s")
        )
        flops = training_flops(work.config, work.timed_lengths)
        more = {
            "peak above idle (MiB)": {name: rounds[-1].memory for name, rounds in timings.items()},
            "utilisation": {
                name: flops / 1e12 / peak / median([each.seconds for each in rounds])
                for name, rounds in timings.items()
            },
        }
        title = f"Training, batch {batch} ({work.timed_lengths.mean():.1f} tokens a row)"
        table, values[f"batch {batch}"] = compare(title, timings, more)
        tables.append(table)
        del ready, work
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    where["seconds"] = round(time.perf_counter() - start)
    report("gpu", "Benchmarks on one GPU", {"environment": where, **values}, tables, args.results)


def main() -> None:
    args = parse()
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        run(args, folder)


if __name__ == "__main__":
    main()
