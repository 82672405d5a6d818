"""What ten tasks on one shared encoder cost, beside one task: `model.predict(texts, tasks="all")`.

    python benchmarks/many_tasks.py [--encoder DIR] [--rows 256] [--rounds 5]

Both predict the same texts with the same weights, in turn, on an untrained model; encoding texts is part of the time.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from measure import median
from transformers import AutoTokenizer, set_seed
from workload import ROOT

from mtbert import MtBertForMultiTask, TaskSpec

WORDS = (ROOT / "README.md").read_text(encoding="utf-8").split()
HEAD = {"type": "mlp", "layers": 1}


def seconds(function) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", required=True, help="a pretrained encoder: a folder, or a name on the hub")
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--rows", type=int, default=256, help="texts of 4 to 40 words")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    set_seed(0)
    tasks = [TaskSpec(f"task{i}", labels=3, pooling="mean", head=HEAD) for i in range(args.tasks)]
    model = MtBertForMultiTask.from_encoder(args.encoder, tasks).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.encoder)
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, size=random.integers(4, 41))) for _ in range(args.rows)]
    calls = {
        "one": lambda: model.predict(texts, task="task0", tokenizer=tokenizer),
        "all": lambda: model.predict(texts, tasks="all", tokenizer=tokenizer),
    }
    for call in calls.values():  # the first call makes kernels ready
        call()
    rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(args.rounds)]
    for name in calls:
        print(f"{name:>4} of {args.tasks} tasks: {args.rows / median([each[name] for each in rounds]):,.0f} texts/s")
    print(f"ratio (median of {args.rounds} rounds): {median([each['all'] / each['one'] for each in rounds]):.3f}")


if __name__ == "__main__":
    main()
