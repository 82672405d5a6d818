"""Speed of training at BERT-base size on pairs of Quora's lengths: mtbert, a bare loop, and transformers' Trainer.

All train in `bf16`. The peers' encoder has no attention dropout, as mtbert's, except where a name ends in `_dropout`:
there both have BERT's 0.1.
"""

from __future__ import annotations

import gc
from statistics import median
from typing import Any

import torch
from contenders import CONTENDERS, compare, take_turns
from measure import matmul_rate, training_flops
from tables import Table
from timed_steps import Contender, Timing
from transformers import AutoTokenizer
from workload import WARM_UP, Workload, random_encoder, read_pairs

from .results import Bar
from .setting import Setting

TAKING_PART = {  # name → the contender, and its attention dropout
    "mtbert": ("mtbert", 0.0),
    "mtbert_dropout": ("mtbert", 0.1),
    "raw_packed": ("raw_packed", 0.0),
    "padded": ("padded", 0.0),
    "padded_dropout": ("padded", 0.1),
    "grouped": ("grouped", 0.0),
    "padded_128": ("padded_128", 0.0),
}
WHAT = {
    name: CONTENDERS[kind].what + (", attention dropout 0.1" if dropout else "")
    for name, (kind, dropout) in TAKING_PART.items()
}
FASTER_THAN_PADDED = {256: 2.2, 32: 1.4}  # batch → the least ratio to the Trainer with dynamic padding
OF_THE_BARE_LOOP = 0.9
SHARE = 0.35  # of the measured matrix product, at batch 256
LARGE = 256


def run(setting: Setting) -> None:
    """Compare the contenders for each batch size, and write after each round."""
    side = 256 if setting.rehearsal else 8192
    dtype = torch.bfloat16 if setting.precision == "bf16" else torch.float32
    product = matmul_rate(side, side, side, dtype, setting.device, seconds=0.1 if setting.rehearsal else 1.0)
    values: dict[str, Any] = {"matrix product (TFLOP/s)": product / 1e12}
    tables: list[Table] = []
    bars: list[Bar] = []
    encoders = {
        dropout: random_encoder(f"{setting.folder}/{dropout}", setting.bert(attention_probs_dropout_prob=dropout))
        for dropout in (0.0, 0.1)
    }
    for batch in setting.args.batch:
        works, values["data"] = workloads(setting, encoders, batch)
        ready = prepare(works)
        timings: dict[str, list[Timing]] = {name: [] for name in ready}
        for number in range(setting.args.rounds):
            if number and setting.left() < 2 * max(sum(t[-1].seconds for t in timings.values()), 5):
                break
            for name, rounds in take_turns(ready, 1, announce).items():
                timings[name] += rounds
            table, found, more = judge(batch, works[0.0], timings, product)
            last = batch == setting.args.batch[-1] and number == setting.args.rounds - 1
            stopped = "" if last else f"batch {batch}, round {number + 1} was the last"
            setting.put({**values, f"batch {batch}": found}, [*tables, table], [*bars, *more], stopped)
        values[f"batch {batch}"] = found
        tables.append(table)
        bars += more
        del ready, works
        gc.collect()
        if setting.device == "cuda":
            torch.cuda.empty_cache()
    setting.put(values, tables, bars)


def workloads(setting: Setting, encoders: dict[float, str], batch: int) -> tuple[dict[float, Workload], str]:
    """Return the same workload for each attention dropout, and what its rows are."""
    args = setting.args
    tokenizer = AutoTokenizer.from_pretrained(encoders[0.0])
    pairs, what = read_pairs(args.data_dir, tokenizer, (WARM_UP + args.steps) * batch)
    place = (f"{setting.folder}/output", setting.precision, setting.device, args.workers)
    return {key: Workload(folder, pairs, batch, args.steps, *place) for key, folder in encoders.items()}, what


def prepare(works: dict[float, Workload]) -> dict[str, Contender]:
    """Make all contenders."""
    ready = {}
    for name, (kind, dropout) in TAKING_PART.items():
        ready[name] = CONTENDERS[kind](works[dropout])
        ready[name].prepare()
    return ready


def announce(name: str, timing: Timing) -> None:
    print(f"  {name:16}{timing.examples_per_second:10,.0f} examples/s", flush=True)


def judge(
    batch: int, work: Workload, timings: dict[str, list[Timing]], product: float
) -> tuple[Table, dict, list[Bar]]:
    """Return the table of a batch size, its values and its bars.

    Args:
        batch: rows of a step.
        work: the workload.
        timings: the rounds so far, by contender.
        product: operations per second of a large matrix product.
    """
    flops = training_flops(work.config, work.timed_lengths)
    shares = {name: flops / product / median([each.seconds for each in t]) for name, t in timings.items()}
    memory = {name: rounds[-1].memory for name, rounds in timings.items()}
    title = f"Training, batch {batch} ({work.timed_lengths.mean():.1f} tokens a row), {work.precision}"
    columns = {"peak above idle (MiB)": memory, "share of a matrix product": shares}
    table, values = compare(title, timings, columns, WHAT)
    ratios = {name: each["mtbert is × as fast"] for name, each in values.items()}
    with_dropout = [
        own.examples_per_second / theirs.examples_per_second
        for own, theirs in zip(timings["mtbert_dropout"], timings["padded_dropout"], strict=True)
    ]
    least = FASTER_THAN_PADDED.get(batch)
    bars = [
        Bar(f"batch {batch}: mtbert × the Trainer with dynamic padding", ratios["padded"], least),
        Bar(f"batch {batch}: the same, both with attention dropout 0.1", median(with_dropout), least, aim=True),
        Bar(f"batch {batch}: mtbert × the bare loop", ratios["raw_packed"], OF_THE_BARE_LOOP),
    ]
    share = SHARE if batch == LARGE else None
    bars.append(Bar(f"batch {batch}: share of the measured matrix product", shares["mtbert"], share, aim=True))
    return table, values, bars
