"""Part of bench.py: training MPNet of base size, whose attention adds a bias of relative positions to its scores."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from typing import Any

import torch
from contenders import compare, take_turns
from datasets import Dataset
from isolation import Isolated
from rich.console import Console
from transformers import AutoTokenizer, MPNetConfig
from workload import WARM_UP, Workload, random_encoder, read_pairs

COMPARED = ("mtbert", "bucketed", "padded")


def make_mpnet_workload(args: Namespace, precision: str, folder: str) -> tuple[Workload, Dataset, str]:
    """Return the workload with random weights, its rows, and a description of them."""
    encoder = random_encoder(f"{folder}/mpnet", MPNetConfig())
    rows = (WARM_UP + args.mpnet_steps) * args.batch
    pairs, what = read_pairs(args.data_dir, AutoTokenizer.from_pretrained(encoder), rows)
    return Workload(encoder, pairs, args.batch, args.mpnet_steps, f"{folder}/output", precision), pairs, what


def compare_mpnet(args: Namespace, precision: str, console: Console) -> tuple[Any, dict]:
    """Time the contenders in turns; return their table and its values."""
    console.print(f"[bold]MPNet, {precision}[/bold]: preparing {', '.join(COMPARED)}")
    make = partial(make_mpnet_workload, args, precision)
    ready = {name: Isolated(name, make, torch.get_num_threads()) for name in COMPARED}
    timings = take_turns(
        ready, args.rounds, lambda name, t: console.print(f"  {name:12}{t.examples_per_second:8.1f} examples/s")
    )
    more = {"peak memory (MiB)": {name: each.memory() for name, each in ready.items()}}
    for each in ready.values():
        each.stop()
    return compare(f"Training MPNet of base size with random weights, {precision}", timings, more)
