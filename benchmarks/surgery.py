"""Time gradient surgery: a step with each method, against the plain sum of losses on the same rows.

    python benchmarks/surgery.py

There are three tasks of sentence pairs, and every step has rows of each (`simultaneous`). The contenders take turns in
every round, and ratios are computed within a round. Writes benchmarks/results/surgery.md and surgery.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from pathlib import Path
from statistics import median

import torch
from datasets import Dataset
from measure import environment
from tables import Table, report
from timed_steps import SEED, StepClock
from transformers import AutoTokenizer, PrinterCallback, set_seed
from workload import ROOT, WARM_UP, Workload, find_encoder, quiet, read_pairs

from mtbert import MtBertForMultiTask, MtBertTrainer, MtBertTrainingArguments, Schedule, Surgery, TaskSpec

TASKS = ("one", "two", "three")
METHODS = {
    "plain": None,
    "pcgrad": Surgery("pcgrad"),
    "cagrad": Surgery("cagrad", c=0.5),
    "mgda": Surgery("mgda"),
    "upgrad": Surgery("upgrad"),
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="times that every contender is timed")
    parser.add_argument("--steps", type=int, default=6, help="timed optimizer steps of a round")
    parser.add_argument("--batch", type=int, default=32, help="rows of each task in a step")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS][1:], default=["pcgrad"])
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--encoder", help="folder of an encoder; default: the quickstart's, else random weights")
    parser.add_argument("--data_dir", help="folder with the course's quora-train.csv; default: ../shared/data/cs224n")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    return parser.parse_args(argv)


def make_trainer(name: str, work: Workload) -> tuple[MtBertTrainer, StepClock]:
    """A trainer whose tasks share the workload's rows out among them, and its clock."""
    set_seed(SEED)
    rows = Dataset.from_dict({**work.encoded, "label": work.pairs["label"][:]})
    trainer = MtBertTrainer(
        model=MtBertForMultiTask.from_encoder(
            work.encoder, [TaskSpec(task, "binary_classification", labels=2, texts=2) for task in TASKS]
        ),
        args=MtBertTrainingArguments(
            output_dir=work.output_dir,
            max_steps=WARM_UP + work.steps,
            per_device_train_batch_size=work.batch // len(TASKS),
            learning_rate=work.learning_rate,
            lr_scheduler_type="constant",
            use_cpu=work.device == "cpu",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=SEED,
        ),
        train_dataset={task: rows.shard(len(TASKS), number) for number, task in enumerate(TASKS)},
        processing_class=work.tokenizer,
        schedule=Schedule("simultaneous"),
        surgery=METHODS[name],
    )
    trainer.remove_callback(PrinterCallback)
    clock = StepClock(work)
    trainer.add_callback(clock)
    return trainer, clock


def run(args: argparse.Namespace, folder: str) -> None:
    """Time all contenders in turns, and write the results."""
    if args.threads:
        torch.set_num_threads(args.threads)
    encoder = find_encoder(args.encoder, f"{folder}/encoder")
    batch = len(TASKS) * args.batch
    pairs, what = read_pairs(args.data_dir, AutoTokenizer.from_pretrained(encoder), (WARM_UP + args.steps) * batch)
    work = Workload(encoder, pairs, batch, args.steps, f"{folder}/output")
    where = environment(
        threads=torch.get_num_threads(), rows_of_each_task=args.batch, steps=args.steps, rounds=args.rounds, data=what
    )
    ready = {name: make_trainer(name, work) for name in ("plain", *args.methods)}
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for number in range(args.rounds + 1):  # in the first, which does not count, memory is taken that the others reuse
        for name in [*ready] if number % 2 == 0 else [*ready][::-1]:
            trainer, clock = ready[name]
            with contextlib.redirect_stdout(io.StringIO()):
                trainer.train()
            if number:
                seconds[name].append(clock.seconds)
    values, rows = {}, []
    for name, each in seconds.items():
        ratios = [own / plain for own, plain in zip(each, seconds["plain"], strict=True)]
        step = 1e3 * median(each) / args.steps
        surgery = ready[name][0].methods.get("surgery")
        memory = 0.0 if surgery is None else len(TASKS) * sum(p.nbytes for p in surgery.shared) / 2**20
        values[name] = {"step_ms": step, "ratio": median(ratios), "ratios": ratios, "gradients_mib": memory}
        rows.append([name, step, median(ratios), min(ratios), max(ratios), memory])
    where["load_average_after"] = environment()["load_average_before"]
    columns = ["contender", "step (ms)", "× plain", "least", "most", "gradients (MiB)"]
    note = "× plain is the median over rounds; gradients: at most, one of each task (sparse for word embeddings)."
    table = Table("Gradient surgery in a training step, fp32", columns, rows, note)
    report("surgery", "What gradient surgery adds to a step", {"environment": where, **values}, [table], args.results)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        run(args, folder)


if __name__ == "__main__":
    main()
