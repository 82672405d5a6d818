"""Measure the peak memory of `mtbert predict` for 10⁴ to 10⁶ rows.

    python benchmarks/predict_memory.py

Each prediction has its own process, a tiny model with random weights, and a file of short texts with two further
columns, which are kept. The table has the peak resident memory, and its growth over that of the fewest rows. Other work
on the machine does not matter. Writes benchmarks/results/predict_memory.md and predict_memory.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import environment, peak_memory
from tables import Table, report
from workload import ROOT, made_up_tokenizer

ROWS = (10_000, 100_000, 1_000_000)
FORMATS = {"csv → csv": ("in.csv", "out.csv"), "jsonl.gz → parquet": ("in.jsonl.gz", "out.parquet")}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS), help="numbers of rows")
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS), metavar="FORMAT")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--predict", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)  # a process's part
    return parser.parse_args(argv)


def predict(arguments: list[str]) -> None:
    """Predict in this process, and print its peak memory in MiB."""
    from mtbert.cli import predict as command

    command.main(arguments)
    print(json.dumps({"measured": peak_memory()}))


def write_checkpoint(folder: Path) -> None:
    """Write a checkpoint with a tiny encoder and two tasks."""
    from transformers import AutoModel, BertConfig

    from mtbert import MtBertForMultiTask, TaskSpec

    tokenizer = made_up_tokenizer(1000)
    config = BertConfig(
        vocab_size=1000, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    AutoModel.from_config(config).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    tasks = [TaskSpec("queue", labels=["billing", "technical", "other"]), TaskSpec("urgency", range=(0, 5))]
    MtBertForMultiTask.from_encoder(str(folder / "encoder"), tasks).save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")


def write_rows(path: Path, rows: int) -> None:
    """Write texts of three words with two further columns."""
    import gzip

    lines = (f"w{5 + i % 900} w{5 + i % 701} w{5 + i % 97}" for i in range(rows))
    if path.suffix == ".csv":
        with open(path, "w", encoding="utf-8") as file:
            file.write("text,ticket,note\n")
            file.writelines(f"{line},{i},{'a note ' * 3}\n" for i, line in enumerate(lines))
    else:
        with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
            file.writelines(
                json.dumps({"text": line, "ticket": i, "note": "a note " * 3}) + "\n" for i, line in enumerate(lines)
            )


def measure(folder: Path, source: str, target: str, rows: int) -> dict[str, float]:
    """Return the peak memory in MiB and the seconds of one prediction."""
    write_rows(folder / source, rows)
    arguments = [str(folder / "checkpoint"), str(folder / source), "--output", str(folder / target), "--overwrite"]
    arguments += ["--keep_columns", "--batch_size", "1024", "--device", "cpu"]
    start = time.perf_counter()
    command = [sys.executable, __file__, "--predict", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{rows:,} rows failed:\n{done.stderr[-4000:]}")
    found = json.loads(re.findall(r"^\{.*\}$", done.stdout, re.MULTILINE)[-1])
    return found | {"rows": rows, "seconds": time.perf_counter() - start}


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.predict is not None:
        return predict(args.predict)
    where, values, table = environment(), {}, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder)
        for way in args.formats:
            measured = values[way] = [measure(folder, *FORMATS[way], rows) for rows in args.rows]
            least = measured[0]["measured"]
            for found in measured:
                table.append([way, found["rows"], found["measured"], found["measured"] - least, found["seconds"]])
                print(table[-1], flush=True)
    most = max(row[3] for row in table)
    columns = ["files", "rows", "peak (MiB)", "more than for the fewest rows (MiB)", "seconds"]
    note = f"Peak memory grows by at most {most:,.0f} MiB, from {min(args.rows):,} to {max(args.rows):,} rows."
    report(
        "predict_memory",
        "Memory of mtbert predict",
        {"environment": where, **values},
        [Table("Peak resident memory of a process", columns, table, note)],
        args.results,
    )


if __name__ == "__main__":
    main()
