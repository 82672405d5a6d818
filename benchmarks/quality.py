"""Scores for the same CPU time: mtbert against what a user would pick instead, on twelve tasks with one encoder.

    python benchmarks/quality.py DATA --encoder DIR                  # on idle cores; resumable
    python benchmarks/quality.py DATA --encoder DIR --smoke          # rehearse with few rows and seconds
    python benchmarks/quality.py DATA --encoder DIR --finished_only  # the table and the curve of what has run

DATA holds the folders `wide` and `cs224n`. Every contender trains on the same rows in a process of its own for 10, 40
and 120 minutes of CPU time (all threads, from the start of the process, imports and tokenization too); the prediction
of the dev rows is not counted. All have batches of 32, the same learning rate, which falls to 0 as the time ends, and
inputs of at most 256 tokens, except for what is stated here. SetFit has the rates and batches that it recommends.
Train rows that give away a dev row of any task are left out for all.

    mtbert                  one model with twelve heads: a plain recipe
    mtbert-best             recipes/configs/wide/best.yaml with its own rates and lengths, but without its teachers
    tasknet                 its model of twelve heads
    trainers                a transformers Trainer a task, in turn, each with an equal share of the time
    sentence-transformers   a logistic (or ridge) regression a task on frozen embeddings
    setfit                  the three smallest tasks of classes, in turn, each with a twelfth of the time

The peers run in environments of their own, built from benchmarks/peers/*.txt. Each finished point writes its file in
benchmarks/results/quality/, and is not run again; the table and the curve are benchmarks/results/quality.md and .svg.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from measure import commit, cpu_model
from peers import environments
from quality_tasks import SMALLEST, TASKS, prepare, score
from tables import Table, facts, print_tables, write

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OURS = {"mtbert": None, "mtbert-best": ROOT / "recipes" / "configs" / "wide" / "best.yaml"}  # and their recipes
PEERS = {"tasknet": "tasknet", "trainers": "quality", "sentence-transformers": "quality", "setfit": "quality"}
CONTENDERS = (*OURS, *PEERS)
MINUTES = (10, 40, 120)
WEIGHTED = ("cola", "emotions")  # whose classes best.yaml weighs
SMOKE_SECONDS = 90  # most of which the imports take
BAR = 40  # CPU-minutes from which mtbert should be ahead


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of wide/ and cs224n/")
    parser.add_argument("--encoder", required=True, help="folder of the encoder")
    minutes = f"CPU-minutes of the points (default: {MINUTES}; with --smoke {SMOKE_SECONDS / 60:g})"
    parser.add_argument("--minutes", type=float, nargs="+", help=minutes)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="contenders to run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further keys of mtbert's recipe")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "quality", help="rows and environments")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write to")
    parser.add_argument("--finished_only", action="store_true", help="run nothing; write the table and the curve")
    smoke = "few rows, a minute and a half for each contender; writes to the work folder"
    parser.add_argument("--smoke", action="store_true", help=smoke)
    args = parser.parse_args(argv)
    args.environments = args.work / "environments"  # a rehearsal builds those that are used afterwards
    if args.smoke:
        args.work = args.work / "smoke"
        args.results = args.work
    args.minutes = args.minutes or ([SMOKE_SECONDS / 60] if args.smoke else list(MINUTES))
    return args


def point_file(args: argparse.Namespace, name: str, minutes: float) -> Path:
    """Return the result file of a contender at a budget."""
    return Path(args.results, "quality", f"{name}-{minutes:g}.json")


def command(args: argparse.Namespace, name: str, minutes: float, output: Path) -> list[str]:
    """Return the command that trains a contender and writes its predictions."""
    share = len(SMALLEST) / len(TASKS) if name == "setfit" else 1.0
    common = ["--work", str(args.work / "rows"), "--encoder", args.encoder, "--threads", str(args.threads)]
    common += ["--learning_rate", str(args.learning_rate), "--seed", str(args.seed), "--output", str(output)]
    common += ["--seconds", str(60 * minutes * (1.0 if args.smoke else share))]
    if name in OURS:
        more = ["--recipe", str(OURS[name]), "--data", str(args.data)] if OURS[name] else []
        more += ["--set", *args.set] if args.set else []
        return [sys.executable, str(HERE / "peers" / "quality_ours.py"), *common, *more]
    python = environments.build(PEERS[name], args.environments)
    more = ["--tasks", *SMALLEST] if name == "setfit" else []
    return [str(python), str(HERE / "peers" / "quality_worker.py"), name, *common, *more]


def run_point(args: argparse.Namespace, name: str, minutes: float, gold: dict[str, list[Any]]) -> None:
    """Run a contender at a budget, and write its result file."""
    output, log = args.work / "predictions.json", args.work / f"{name}-{minutes:g}.log"
    output.unlink(missing_ok=True)
    print(f"{name}, {minutes:g} CPU-minutes", flush=True)
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command(args, name, minutes, output), stdout=file, stderr=file)
    if done.returncode:
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-8:])
        raise SystemExit(f"{name} does not run, and a curve without it would say nothing ({log}):\n{tail}")
    said = json.loads(output.read_text(encoding="utf-8"))
    predictions = said.pop("predictions")
    tasks = [task for task in TASKS if task.name in predictions]
    result = {
        "contender": name,
        "minutes": minutes,
        "scores": {task.name: score(task, gold[task.name], predictions[task.name]) for task in tasks},
        **said,
        "learning_rate": args.learning_rate,
        "seed": args.seed,
        "threads": args.threads,
        "set": args.set,
        "cpu": f"{cpu_model()}, {os.cpu_count()} cores",
        "commit": commit(),
    }
    file = point_file(args, name, minutes)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.replace(file)


def read_points(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the results of all finished points, in the contenders' order."""
    files = sorted(Path(args.results, "quality").glob("*.json"))
    points = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return sorted(points, key=lambda point: (CONTENDERS.index(point["contender"]), point["minutes"]))


def origin(points: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return how and where the points were made, with all values that differ."""
    keys = ("cpu", "threads", "seed", "commit")
    values = {key: ", ".join(sorted({str(point[key]) for point in points})) for key in keys}
    return {"command": "python benchmarks/quality.py DATA --encoder DIR", **values}


def mean_score(point: dict[str, Any], tasks: Sequence[str]) -> float | None:
    """Return the mean score over tasks; None if the contender has not all of them."""
    if not set(tasks) <= point["scores"].keys():
        return None
    return fmean(point["scores"][name] for name in tasks)


def tables(points: Sequence[dict[str, Any]]) -> list[Table]:
    """Return the table of means, that of all tasks, and that of the smallest tasks."""
    names = [task.name for task in TASKS]
    others = [name for name in names if name not in WEIGHTED]
    means, rows, small = [], [], []
    for point in points:
        key = [point["contender"], f"{point['minutes']:g}", point["cpu_seconds"] / 60]
        whole, least = mean_score(point, names), mean_score(point, SMALLEST)
        if whole is not None:
            means.append([*key, whole, mean_score(point, others), point["steps"]])
            rows.append([*key[:2], *(point["scores"][name] for name in names)])
        small.append([*key, least])
    metrics = ", ".join(f"{task.name}: {task.metric}" for task in TASKS)
    about = f"best.yaml weighs the classes of {' and '.join(WEIGHTED)}; the second mean is without these. "
    about += "Steps of sentence-transformers are embedded rows."
    columns = ["contender", "budget", "CPU-minutes", "mean score", "of ten tasks", "steps"]
    return [
        Table("Mean over twelve tasks", columns, means, about),
        Table("Each task", ["contender", "budget", *names], rows, f"Metrics: {metrics}."),
        Table(f"Mean over {', '.join(SMALLEST)}", ["contender", "budget", "CPU-minutes", "mean score"], small),
    ]


def behind(points: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence for each point from the bar on at which a peer is ahead of mtbert on the mean."""
    names = [task.name for task in TASKS]
    means = {(point["contender"], point["minutes"]): mean_score(point, names) for point in points}
    sentences = []
    for (name, minutes), theirs in means.items():
        if name in OURS or minutes < BAR or theirs is None:
            continue
        for own in OURS:
            mine = means.get((own, minutes))
            if mine is not None and theirs >= mine:
                sentences.append(f"{name} is ahead of {own} at {minutes:g}: {theirs:.3f} and {mine:.3f}")
    return sentences


def draw(points: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw the mean score against CPU-minutes, one curve a contender, as SVG with text."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    names = [task.name for task in TASKS]
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "quality"}):
        figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
        for contender in CONTENDERS:
            own = [point for point in points if point["contender"] == contender]
            means = [(point["cpu_seconds"] / 60, mean_score(point, names)) for point in own]
            pairs = [pair for pair in means if pair[1] is not None]
            if pairs:
                axes.plot(*zip(*sorted(pairs)), marker="o", label=contender)
        axes.set(xlabel="CPU-minutes of training", ylabel="mean dev score over twelve tasks", xscale="log")
        if axes.lines:
            axes.legend()
        figure.savefig(file, metadata={"Date": None})
        plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, and write the table and the curve."""
    args = parse(argv)
    if not args.finished_only:
        gold = prepare(args.data, args.work / "rows", args.smoke)
        for minutes in args.minutes:
            for name in args.only:
                if not point_file(args, name, minutes).is_file():
                    run_point(args, name, minutes, gold)
    points = read_points(args)
    found = tables(points)
    print_tables(found)
    notes = behind(points)
    lines = ["# Scores for the same CPU time", "", *facts(origin(points)), ""]
    text = "\n".join([*lines, *(table.markdown() for table in found), *notes])
    text += "\n\n![mean dev score against CPU-minutes](quality.svg)\n"
    write(args.results, "quality", text, {"points": points})
    draw(points, args.results / "quality.svg")
    print("\n".join(notes))


if __name__ == "__main__":
    main()
