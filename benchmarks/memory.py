"""Compare the peak memory that mtbert estimates before training with the peak memory of the training process.

    python benchmarks/memory.py

Each run has its own process, on the repository's sample data. The table has its peak resident memory and the growth
after training began, beside the estimates. Other work on the machine does not matter. Writes
benchmarks/results/memory.md and memory.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import environment, peak_memory, process_memory
from tables import Table, report
from workload import ROOT, find_encoder

SURGERY = {"schedule.name": "simultaneous", "surgery.method": "pcgrad"}
RUNS: dict[str, dict[str, str]] = {
    "plain": {},
    "mixed": {"schedule.mixed": "true"},
    "batch 128": {"schedule.mixed": "true", "training.per_device_train_batch_size": "128"},
    "batch 128, checkpointing": {
        "schedule.mixed": "true",
        "training.per_device_train_batch_size": "128",
        "training.gradient_checkpointing": "true",
    },
    "batch 32 × 4": {"schedule.mixed": "true", "training.gradient_accumulation_steps": "4"},
    "bf16": {"schedule.mixed": "true", "training.bf16": "true"},
    "separate": {"schedule.name": "round_robin", "optimizer.per_task": "separate"},
    "pcgrad": SURGERY,
    "smart": {"schedule.mixed": "true", "smart.weight": "1"},
    "average and teacher": {"averaging.type": "ema", "proximal.weight": "1"},
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of a run")
    parser.add_argument("--encoder", help="folder of an encoder; default: the quickstart's, else random weights")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--train", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)  # a process's part
    return parser.parse_args(argv)


def train(arguments: list[str]) -> None:
    """Fine-tune in this process; print the estimated memory, the memory at the start of training, and the peak."""
    from mtbert.cli import finetune
    from mtbert.training import memory

    found: dict[str, float] = {}
    original = memory.describe

    def noting(parts, tokens, free):
        found.update({name.replace(" ", "_"): size / memory.MIB for name, size in parts.items()})
        found.update(tokens=tokens, estimated=sum(parts.values()) / memory.MIB, before=process_memory("VmRSS"))
        return original(parts, tokens, free)

    memory.describe = noting
    finetune.main(arguments)
    print(json.dumps(found | {"measured": peak_memory()}))


def measure(name: str, encoder: str, steps: int) -> dict[str, float]:
    """Return the figures of one run, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"training.output_dir": f"{folder}/run", "training.max_steps": str(steps), **RUNS[name]}
        settings |= {"training.eval_strategy": "no", "training.eval_on_start": "false", "training.use_cpu": "true"}
        settings |= {"training.report_to": "none", "training.save_strategy": "no", "encoder": encoder}
        for task in ("sentiment", "paraphrase", "similarity"):  # an evaluation at the end is not what is estimated
            settings[f"tasks.{task}.data.dev"] = "null"
        arguments = [f"--{key}={value}" for key, value in settings.items()]
        recipe = str(ROOT / "recipes" / "configs" / "quickstart.yaml")
        command = [sys.executable, __file__, "--train", recipe, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-4000:]}")
    return json.loads(re.findall(r"^\{.*\}$", done.stdout, re.MULTILINE)[-1])


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.train is not None:
        return train(args.train)
    with tempfile.TemporaryDirectory() as folder:
        encoder = find_encoder(args.encoder, folder)
        where, values, rows = environment(steps=args.steps), {}, []
        for name in args.runs:
            found = values[name] = measure(name, encoder, args.steps)
            off = found["estimated"] / found["measured"] - 1
            grown, expected = found["measured"] - found["before"], found["estimated"] - found["before"]
            found |= {"off": off, "grown": grown, "expected_growth": expected}
            rows.append([name, found["estimated"], found["measured"], f"{off:+.0%}", expected, grown])
            print(rows[-1], flush=True)
    columns = ["run", "estimated (MiB)", "measured (MiB)", "off", "estimated growth", "measured growth"]
    worst = max(abs(each["off"]) for each in values.values())
    note = f"The estimate is at most {worst:.0%} off. Growth: beyond what the process held before its first step."
    table = Table("Peak resident memory of a training process", columns, rows, note)
    report("memory", "Memory: estimated and measured", {"environment": where, **values}, [table], args.results)


if __name__ == "__main__":
    main()
