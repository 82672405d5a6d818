"""Speed of prediction on a CPU: mtbert in torch, onnxruntime and OpenVINO, and what a user would pick instead.

    python benchmarks/inference.py runs/quickstart                  # on idle cores
    python benchmarks/inference.py runs/quickstart --smoke          # rehearse with few texts

Each contender has a process of its own, and the peers have environments of their own, built from
benchmarks/peers/*.txt. All predict the same texts with the same encoder, in turns. The times include tokenization. Ours
answer every task of the checkpoint that takes one text; the peers encode the text, or give it one head. Writes
benchmarks/results/inference.<instructions>.md and .json. A peer that does not run is an error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from measure import cpu_flags, environment, has_bf16, instruction_set
from peers import environments
from peers.bars import bars, speed_tables
from tables import print_tables, report
from workload import ROOT, quiet

from mtbert import MtBertForMultiTask, TaskSpec

HERE = Path(__file__).parent
PEERS = {
    "pipeline": "onnx",
    "st-torch": "onnx",
    "st-onnx": "onnx",
    "st-onnx-int8": "onnx",
    "st-openvino-int8": "openvino",
}
EXPORTS = {
    "onnx": ("--to", "onnx"),
    "onnx-int8": ("--to", "onnx", "--int8"),
    "openvino": ("--to", "openvino"),
    "openvino-int8": ("--to", "openvino", "--int8"),
}
WORDS = {"short": (6, 18), "long": (60, 100)}
BATCHES = {"short": {1: 96, 32: 64, 256: 256}, "long": {1: 24, 32: 32, 256: 256}}  # batch size → texts of a timing
WARM_UP = 32  # texts of a first call that is not timed
TEN = 10
STEADY = 9  # timings of one head and ten in turn, of which the first does not count


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a run with a task of one text, its recipe.json and its data")
    parser.add_argument("--data_dir", help="folder of the data files; default: the recipe's")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7, help="times that each contender is timed")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "inference", help="environments and exports")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--only", nargs="+", help="contenders to time, for a trial; the table is not written then")
    parser.add_argument("--smoke", action="store_true", help="few texts, one thread and one round, to rehearse")
    args = parser.parse_args(argv)
    if args.smoke:
        args.threads, args.rounds = [1], 1
    return args


def instructions() -> str:
    """Return the instructions that decide the speed of int8: `avx2`, `avx2_vnni`, `avx512`, `avx512_vnni` or `amx`."""
    name, flags = instruction_set(), cpu_flags()
    vnni = (name == "avx512" and "avx512_vnni" in flags) or (name == "avx2" and "avx_vnni" in flags)
    return f"{name}_vnni" if vnni else name


def make_texts(smoke: bool) -> dict[str, list[str]]:
    """Return texts of the sample data, joined to each length of `WORDS`."""
    lines = (ROOT / "recipes/sample_data/sentiment-train.csv").read_text(encoding="utf-8").split()
    texts: dict[str, list[str]] = {}
    for kind, (least, most) in WORDS.items():
        place, texts[kind] = 0, []
        for number in range(4 if smoke else max(BATCHES[kind].values())):
            count = least + number * 7 % (most - least + 1)
            chosen = [lines[(place + i) % len(lines)] for i in range(count)]
            texts[kind].append(" ".join(chosen))
            place += count
    return texts


def export(args: argparse.Namespace) -> dict[str, Path]:
    """Export the checkpoint in every way, unless it was; return contender → folder."""
    folders = {}
    for name, options in EXPORTS.items():
        folder = args.work / name
        if not folder.is_dir():
            command = [sys.executable, "-m", "mtbert", "export", str(args.checkpoint), *options]
            command += [
                "--output",
                str(folder),
                *(["--data_dir", args.data_dir] if args.data_dir and "--int8" in options else []),
            ]
            print("$ python", *command[1:], flush=True)
            subprocess.run(command, check=True)
        folders[name] = folder
    return folders


def save_encoder(checkpoint: Path, folder: Path) -> Path:
    """Write the checkpoint's encoder as a plain model of transformers, with its tokenizer."""
    model = MtBertForMultiTask.from_pretrained(checkpoint)
    model.export_encoder().save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


class Contender:
    """A process that predicts texts when it is asked.

    Attributes:
        versions: versions of its packages.
    """

    def __init__(self, name: str, command: list[str], log: Path):
        self.name, self.log = name, log
        with log.open("w", encoding="utf-8") as file:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": file}
            self.process = subprocess.Popen(command, text=True, **pipes)
        self.versions = self._answer()["ready"]

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            self.process.wait()
            tail = "\n".join(self.log.read_text(encoding="utf-8").splitlines()[-8:])
            raise SystemExit(f"{self.name} does not run, and a table without it would say nothing:\n{tail}")
        return dict(json.loads(line))

    def seconds(self, texts: list[str], batch: int) -> float:
        """Return the time that it takes to predict the texts in batches of this size."""
        self.process.stdin.write(json.dumps({"texts": texts, "batch": batch}) + "\n")
        self.process.stdin.flush()
        return float(self._answer()["seconds"])

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def commands(args: argparse.Namespace, folders: dict[str, Path], encoder: Path, threads: int) -> dict[str, list[str]]:
    """Return contender → the command that starts it."""
    ours = {"torch": args.checkpoint, **({"bf16": args.checkpoint} if has_bf16() else {}), **folders}
    script = HERE / "peers" / "ours.py"
    table = {
        f"mtbert {name}": [sys.executable, str(script), name, str(folder), "--threads", str(threads)]
        for name, folder in ours.items()
    }
    for name, pins in PEERS.items():
        python = environments.build(pins, args.work / "environments")
        command = [str(python), str(HERE / "peers" / "worker.py"), name, "--encoder", str(encoder)]
        command += ["--work", str(args.work / "peers" / pins), "--texts", str(args.work / "texts.json")]
        kind = instructions() if instructions() in ("avx512", "avx512_vnni") else "avx2"
        kind = "avx512_vnni" if instructions() == "amx" else kind
        table[name] = [*command, "--threads", str(threads), "--instructions", kind]
    if args.only:
        table = {name: command for name, command in table.items() if name in args.only}
    return table


def time_all(
    contenders: list[Contender], texts: dict[str, list[str]], threads: int, rounds: int, stored: Path
) -> list[dict[str, Any]]:
    """Time the contenders in turns; return a row for each kind of texts and batch size.

    Args:
        stored: where each row is written at once; rows that an interrupted benchmark left there are not timed again.
    """
    rows: list[dict[str, Any]] = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else []
    known = {(row["threads"], row["texts"], row["batch"]) for row in rows}
    for kind, own in texts.items():
        for batch, count in BATCHES[kind].items():
            if (threads, kind, batch) in known:
                continue
            chosen = own[:count]
            for contender in contenders:
                contender.seconds(chosen[:WARM_UP], batch)
            times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
            for _ in range(rounds):
                for contender in contenders:
                    times[contender.name].append(contender.seconds(chosen, batch))
                    time.sleep(0.02)  # its threads stop waiting for work
            rates = {name: len(chosen) / median(values) for name, values in times.items()}
            where = {"threads": threads, "texts": kind, "batch": batch, "count": len(chosen)}
            rows.append({**where, "texts/s": rates, "seconds": times})
            stored.write_text(json.dumps(rows), encoding="utf-8")
            print(f"{kind} texts, batch {batch}: done", flush=True)
    return rows


def ten_heads(args: argparse.Namespace, encoder: Path, texts: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Time ten heads and one on the same encoder, in onnxruntime in fp32 and in int8; return rows with the ratio."""
    from transformers import AutoTokenizer

    from mtbert.export import ExportedModel
    from mtbert.export.folder import write_model
    from mtbert.export.graphs import find_parts
    from mtbert.export.int8_onnx import DYNAMIC, OnnxQuantiser

    models: dict[tuple[str, int], ExportedModel] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for count in (1, TEN):
            specs = [TaskSpec(f"task{i}", labels=3, pooling="mean") for i in range(count)]
            model = MtBertForMultiTask.from_encoder(encoder, specs)
            folder = Path(scratch, f"fp32-{count}")
            folder.mkdir()
            write_model(model, AutoTokenizer.from_pretrained(encoder), folder, "onnx", "encoder")
            models["fp32", count] = ExportedModel(folder, args.threads[-1])
            file = folder / "model.onnx"
            parts = find_parts(file)
            OnnxQuantiser(file, parts, [])(DYNAMIC, list(parts), file)
            models["int8", count] = ExportedModel(folder, args.threads[-1])
    rows = []
    for precision in ("fp32", "int8"):
        for batch, count in BATCHES["short"].items():
            chosen = texts["short"][:count]
            ratios = []
            for _ in range(1 if args.smoke else STEADY):
                one, ten = (_timed(models[precision, heads], chosen, batch) for heads in (1, TEN))
                ratios.append(ten / one)
            rows.append({"precision": precision, "batch": batch, "ratio": median(ratios[1:] or ratios)})
    return rows


def _timed(model: Any, texts: list[str], batch: int) -> float:
    start = time.perf_counter()
    for first in range(0, len(texts), batch):
        model.predict(texts[first : first + batch], "all")
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> None:
    """Export, build the peers' environments, time everything, and write the tables."""
    args = parse(argv)
    quiet()
    facts = environment(instructions=instructions())
    args.work.mkdir(parents=True, exist_ok=True)
    texts = make_texts(args.smoke)
    (args.work / "texts.json").write_text(json.dumps(texts["short"]), encoding="utf-8")
    folders = export(args)
    encoder = save_encoder(args.checkpoint, args.work / "encoder")
    rows, versions, stored = [], {}, args.work / "rows.json"
    for threads in args.threads:
        contenders: list[Contender] = []
        try:
            for name, command in commands(args, folders, encoder, threads).items():
                print(f"starting {name} with {threads} thread(s)", flush=True)
                contenders.append(Contender(name, command, args.work / f"{name.replace(' ', '-')}.log"))
                versions[name] = contenders[-1].versions
            rows = time_all(contenders, texts, threads, args.rounds, stored)
        finally:
            for contender in contenders:
                contender.close()
    heads = {
        name: json.loads((folders[name] / "decisions.json").read_text()) for name in ("onnx-int8", "openvino-int8")
    }
    rows.sort(key=lambda row: (row["threads"], -len(row["texts"]), row["batch"]))  # `short` before `long`
    values = {
        "environment": facts,
        "versions": versions,
        "int8": {name: decisions["int8"] for name, decisions in heads.items()},
        "rows": rows,
        "ten heads": [] if args.only else ten_heads(args, encoder, texts),
    }
    tables = speed_tables(values)
    values["bars"] = bars(values, instructions()) if not args.only else []
    if args.only or args.smoke:
        stored.unlink()
        print_tables(tables)
        print(json.dumps(values["bars"], indent=1))
        return
    report(f"inference.{instructions()}", "Speed of prediction on a CPU", values, tables, args.results)
    stored.unlink()
    missed = [bar["bar"] for bar in values["bars"] if not bar["held"]]
    if missed:
        raise SystemExit("not held: " + "; ".join(missed))


if __name__ == "__main__":
    main()
