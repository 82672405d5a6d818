"""Measure start-up time, memory and time per step of the data layer, by rows of a task and by number of tasks.

    python benchmarks/scale.py

Each case runs in its own process, on encoded data sets on the disk, as a warm cache leaves them. Writes
benchmarks/results/scale.md and scale.json. Needs Linux, for /proc.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset
from measure import environment, process_memory
from rich.console import Console
from tables import Table, report
from workload import ROOT

from mtbert.data.collation import MultiTaskDataset
from mtbert.data.sampling import Plan, Schedule, StepSampler
from mtbert.modeling.task_spec import TaskSpec

LENGTH = 8  # mean tokens of a row
WRITTEN = 1000  # rows of a record batch, as datasets' map writes them
COLUMNS = ("open_ms", "plan_ms", "first_batch_ms", "step_ms", "opening_mib", "sampling_mib", "resident_mib")


def write_rows(file: Path, rows: int, seed: int = 0) -> None:
    """Write an encoded split to the disk: `input_ids` of 4 to 12 tokens, `token_type_ids` and `label`."""
    random = np.random.default_rng(seed)
    fields = {"input_ids": pa.list_(pa.int32()), "token_type_ids": pa.list_(pa.int8()), "label": pa.int64()}
    schema = pa.schema(list(fields.items()))
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for first in range(0, rows, WRITTEN):
            count = min(WRITTEN, rows - first)
            lengths = random.integers(LENGTH - 4, LENGTH + 5, count)
            offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
            ids = random.integers(0, 30000, lengths.sum(), dtype=np.int32)
            types = np.zeros(lengths.sum(), dtype=np.int8)
            arrays = [pa.ListArray.from_arrays(offsets, pa.array(values)) for values in (ids, types)]
            labels = pa.array(random.integers(0, 2, count))
            writer.write_batch(pa.record_batch([*arrays, labels], schema=schema))


def measure_case(file: Path, tasks: int, batch: int, steps: int, epochs: int) -> dict[str, float]:
    """Open, plan, draw and collate in this process; all tasks read the same file, each as its own data set."""
    memory = [process_memory("RssAnon")]
    clock = [time.perf_counter()]
    splits = {f"task{i}": Dataset.from_file(str(file)) for i in range(tasks)}
    specs = [TaskSpec(name, "binary_classification", labels=2, texts=2) for name in splits]
    data = MultiTaskDataset(specs, splits, token_types=True)
    clock.append(time.perf_counter())
    memory.append(process_memory("RssAnon"))
    rows = tuple(len(split) for split in splits.values())
    plan = Plan(Schedule(), tuple(splits), rows, batch, epochs)
    plan.describe()
    clock.append(time.perf_counter())
    sampler = iter(StepSampler(plan))
    data.__getitems__(next(sampler))
    clock.append(time.perf_counter())
    taken = sum(1 for _, step in zip(range(steps), sampler, strict=False) if data.__getitems__(step))
    clock.append(time.perf_counter())
    opened, planned, first, stepped = np.diff(clock) * 1e3
    memory.append(process_memory("RssAnon"))
    return {
        "open_ms": opened,
        "plan_ms": planned,
        "first_batch_ms": first,
        "step_ms": stepped / max(taken, 1),
        "opening_mib": memory[1] - memory[0],
        "sampling_mib": memory[2] - memory[1],
        "resident_mib": process_memory("VmRSS"),
    }


def in_child(file: Path, tasks: int, args: argparse.Namespace) -> dict[str, float]:
    """Run `measure_case` in its own process, with the file in the page cache."""
    with file.open("rb") as stream:
        while stream.read(1 << 24):
            pass
    options = {"file": file, "tasks": tasks, "batch": args.batch, "steps": args.steps, "epochs": args.epochs}
    command = [sys.executable, __file__, "--case", json.dumps(options, default=str)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10**3, 10**5, 10**7], help="rows of the one task")
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 10, 100], help="numbers of tasks")
    parser.add_argument("--task_rows", type=int, default=10**5, help="rows of each of several tasks")
    parser.add_argument("--batch", type=int, default=32, help="rows of a step")
    parser.add_argument("--steps", type=int, default=1000, help="timed steps")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the plan")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # what child processes do
    args = parser.parse_args()
    if args.case:
        case = json.loads(args.case)
        print(json.dumps(measure_case(Path(case.pop("file")), **case)))
        return
    console, where = Console(stderr=True), environment(batch=args.batch, steps=args.steps, epochs=args.epochs)
    by_rows, by_tasks = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.arrow"
        for rows in args.rows:
            write_rows(file, rows)
            by_rows[rows] = in_child(file, 1, args)
            console.print(f"{rows:,} rows: {by_rows[rows]}")
        write_rows(file, args.task_rows)
        for tasks in args.tasks:
            by_tasks[tasks] = in_child(file, tasks, args)
            console.print(f"{tasks} tasks: {by_tasks[tasks]}")
    columns = [name.replace("_", " ").replace(" ms", " (ms)").replace(" mib", " (MiB)") for name in COLUMNS]
    note = (
        "open: map the data sets (datasets' own work); plan: count the rows of each task in the whole run, as the "
        "trainer prints them; first batch: sampler and collation; step: the same for a later step. opening and "
        "sampling: memory that mapping, and all the rest, added; mapped files left out. resident: the whole process, "
        "imports and mapped pages of the data sets included, which the system takes back when it needs them."
    )
    tables = [
        Table("One task of so many rows", ["rows", *columns], _rows(by_rows), note),
        Table(f"So many tasks of {args.task_rows:,} rows", ["tasks", *columns], _rows(by_tasks), note),
    ]
    report(
        "scale",
        "Scale of the data layer",
        {"environment": where, "rows": by_rows, "tasks": by_tasks},
        tables,
        args.results,
    )


def _rows(cases: dict[int, dict[str, float]]) -> list[list]:
    return [[count, *(values[name] for name in COLUMNS)] for count, values in cases.items()]


if __name__ == "__main__":
    main()
