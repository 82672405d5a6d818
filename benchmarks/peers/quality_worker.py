"""A peer of benchmarks/quality.py in a process, and an environment, of its own. Imports nothing of mtbert.

Trains on `<task>-train.jsonl` for a stated CPU time of this process, all threads counted, from its start on. Then it
predicts `<task>-dev.jsonl`, which is not counted, and writes the predictions as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cpu_budget import CpuBudget
from datasets import Dataset, DatasetDict
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

PACKAGES = ("torch", "transformers", "sentence-transformers", "setfit", "tasknet", "scikit-learn", "datasets")
MOST_TOKENS = 256
BATCH = 32
CLASSES, SCORE, SEVERAL = "classes", "score", "several"
MANY = 10**7  # steps, more than any budget has
Rows = list[dict[str, Any]]


class Data:
    """The tasks and their rows.

    Attributes:
        tasks: the tasks, as `quality_tasks.prepare` writes them.
    """

    def __init__(self, work: Path, only: list[str] | None):
        tasks = json.loads((work / "tasks.json").read_text(encoding="utf-8"))
        self.tasks = [task for task in tasks if not only or task["name"] in only]
        self.work = work

    def rows(self, task: dict[str, Any], split: str) -> Rows:
        """Return the rows of a split."""
        file = self.work / f"{task['name']}-{split}.jsonl"
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def outputs(task: dict[str, Any]) -> int:
    """Return the number of logits of a task."""
    return max(1, len(task["labels"]))


def problem_type(task: dict[str, Any]) -> str:
    """Return transformers' name of a kind of task."""
    names = {CLASSES: "single_label_classification", SCORE: "regression", SEVERAL: "multi_label_classification"}
    return names[task["kind"]]


def decided(task: dict[str, Any], logits: np.ndarray) -> list[Any]:
    """Return class ids, scores or 0/1 vectors."""
    if task["kind"] == SCORE:
        return logits[:, 0].tolist()
    if task["kind"] == SEVERAL:
        return (logits > 0).astype(int).tolist()
    return logits.argmax(-1).tolist()


def texts_of(rows: Rows) -> list[list[str]]:
    """Return the column of texts, or the two of pairs."""
    return [[row[key] for row in rows] for key in ("text", "text_pair") if key in rows[0]]


def logits_of(model: Any, tokenizer: Any, rows: Rows) -> np.ndarray:
    """Return a model's logits for rows, shorter texts first."""
    columns = texts_of(rows)
    order = sorted(range(len(rows)), key=lambda i: sum(len(column[i]) for column in columns))
    parts = []
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            given = [[column[i] for i in chosen] for column in columns]
            batch = tokenizer(*given, truncation=True, max_length=MOST_TOKENS, padding=True, return_tensors="pt")
            parts.append(model(**batch).logits)
    logits = np.empty((len(rows), parts[0].shape[1]))
    logits[order] = torch.cat(parts).float().numpy()
    return logits


def arguments(args: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """Return the training arguments that all Trainers share."""
    return {
        "output_dir": str(args.work / "scratch"),
        "max_steps": MANY,
        "per_device_train_batch_size": BATCH,
        "learning_rate": args.learning_rate,
        "weight_decay": 0.01,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": args.seed,
        **more,
    }


# ---- one Trainer a task ----


def trainers(args: argparse.Namespace, data: Data) -> tuple[Any, int]:
    """Train one model a task, in turn, each with an equal share of the time that is left."""
    tokenizer, models, steps = AutoTokenizer.from_pretrained(args.encoder), {}, 0
    for number, task in enumerate(data.tasks):
        set_seed(args.seed)
        rows = data.rows(task, "train")
        encoded = dict(tokenizer(*texts_of(rows), truncation=True, max_length=MOST_TOKENS))
        labels = [row["label"] for row in rows]
        model = AutoModelForSequenceClassification.from_pretrained(
            args.encoder, num_labels=outputs(task), problem_type=problem_type(task)
        )
        now = time.process_time()
        budget = CpuBudget(now + (args.seconds - now) / (len(data.tasks) - number))
        Trainer(
            model=model,
            args=TrainingArguments(**arguments(args)),
            train_dataset=Dataset.from_dict({**encoded, "labels": labels}),
            data_collator=DataCollatorWithPadding(tokenizer),
            callbacks=[budget],
        ).train()
        models[task["name"]], steps = model, steps + budget.steps
    return lambda task, rows: decided(task, logits_of(models[task["name"]], tokenizer, rows)), steps


# ---- tasknet ----


def tasknet(args: argparse.Namespace, data: Data) -> tuple[Any, int]:
    """Train tasknet's model of all tasks."""
    import evaluate

    load, evaluate.load = evaluate.load, lambda *args, **kwargs: None  # its import loads metrics from the hub
    try:
        import tasknet as tn
    finally:
        evaluate.load = load
    tasks = []
    for task in data.tasks:
        rows = Dataset.from_list(data.rows(task, "train"))
        few = rows.select(range(2))
        names = {"s1": "text", "s2": "text_pair", "y": "label", "name": task["name"]}
        tasks.append(
            tn.Classification(DatasetDict(train=rows, validation=few, test=few), num_labels=outputs(task), **names)
        )
        tasks[-1].problem_type = problem_type(task)
    settings = arguments(args, model_name=args.encoder, max_length=MOST_TOKENS, eval_strategy="no", batched=True)
    with contextlib.redirect_stdout(io.StringIO()):
        model, trainer = tn.Model_Trainer(tasks, settings)
    trainer.model_accepts_loss_kwargs = False  # its own forward does, but those of its tasks' models do not
    budget = CpuBudget(args.seconds)
    trainer.add_callback(budget)
    trainer.train()
    tokenizer = AutoTokenizer.from_pretrained(args.encoder)
    models = {task["name"]: model.task_models_list[i] for i, task in enumerate(data.tasks)}

    def call(name: str) -> Any:
        inner = models[name]
        plain = lambda **batch: inner(**{key: batch[key] for key in ("input_ids", "attention_mask")})  # noqa: E731
        plain.eval = inner.eval
        return plain

    return lambda task, rows: decided(task, logits_of(call(task["name"]), tokenizer, rows)), budget.steps


# ---- sentence-transformers ----


def regressions(args: argparse.Namespace, data: Data) -> tuple[Any, int]:
    """Fit a logistic (or ridge) regression a task on frozen embeddings, of as many rows as the time allows."""
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    encoder = SentenceTransformer(args.encoder, device="cpu")
    encoder.max_seq_length = MOST_TOKENS

    def features(rows: Rows) -> np.ndarray:
        parts = [encoder.encode(column, batch_size=64, show_progress_bar=False) for column in texts_of(rows)]
        return parts[0] if len(parts) == 1 else np.hstack([*parts, np.abs(parts[0] - parts[1]), parts[0] * parts[1]])

    kept = {task["name"]: data.rows(task, "train") for task in data.tasks}
    found: dict[str, list[np.ndarray]] = {name: [] for name in kept}
    waiting, fitting = dict.fromkeys(kept, 0), 0.85 * args.seconds  # the rest is for the regressions
    while waiting and time.process_time() < fitting:
        for name in list(waiting):
            start, stop = waiting[name], waiting[name] + 512
            found[name].append(features(kept[name][start:stop]))
            waiting[name] = stop
            if stop >= len(kept[name]):
                del waiting[name]
            if time.process_time() >= fitting:
                break
    heads = {}
    for task in data.tasks:
        if not found[task["name"]]:
            continue
        inputs = np.concatenate(found[task["name"]])
        labels = np.array([row["label"] for row in kept[task["name"]][: len(inputs)]])
        logistic = LogisticRegression(max_iter=1000)
        kinds = {CLASSES: logistic, SCORE: Ridge(1.0), SEVERAL: OneVsRestClassifier(logistic)}
        heads[task["name"]] = make_pipeline(StandardScaler(), kinds[task["kind"]]).fit(inputs, labels)

    def answer(task: dict[str, Any], rows: Rows) -> list[Any]:
        if task["name"] not in heads:
            return [[0] * outputs(task) if task["kind"] == SEVERAL else 0] * len(rows)
        return heads[task["name"]].predict(features(rows)).tolist()

    return answer, sum(len(part) for parts in found.values() for part in parts)


# ---- SetFit ----


def setfit(args: argparse.Namespace, data: Data) -> tuple[Any, int]:
    """Train SetFit on each task, in turn; the texts of a pair are joined by the separator."""
    from setfit import SetFitModel, Trainer as SetFitTrainer, TrainingArguments as SetFitArguments

    mark = AutoTokenizer.from_pretrained(args.encoder).sep_token
    joined = lambda rows: [f" {mark} ".join(parts) for parts in zip(*texts_of(rows))]  # noqa: E731
    models, steps = {}, 0
    for number, task in enumerate(data.tasks):
        set_seed(args.seed)
        rows = data.rows(task, "train")
        model = SetFitModel.from_pretrained(args.encoder)
        now = time.process_time()
        budget = CpuBudget(now + 0.9 * (args.seconds - now) / (len(data.tasks) - number))  # then it fits a regression
        settings = SetFitArguments(
            output_dir=str(args.work / "scratch"),
            batch_size=16,
            max_steps=5_000,
            body_learning_rate=2e-5,
            max_length=MOST_TOKENS,
            report_to="none",
            save_strategy="no",
            show_progress_bar=False,
            seed=args.seed,
        )
        trainer = SetFitTrainer(
            model=model,
            args=settings,
            train_dataset=Dataset.from_dict({"text": joined(rows), "label": [row["label"] for row in rows]}),
            callbacks=[budget],
        )
        trainer.train()
        models[task["name"]], steps = model, steps + budget.steps
    return lambda task, rows: [int(label) for label in models[task["name"]].predict(joined(rows))], steps


PEERS = {"trainers": trainers, "tasknet": tasknet, "sentence-transformers": regressions, "setfit": setfit}


def versions() -> dict[str, str]:
    """Return the versions of the packages that are there."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def main() -> None:
    """Train and predict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--work", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--seconds", type=float, required=True, help="CPU time of the whole process until it predicts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tasks", nargs="+", help="names of tasks; default: all")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(args.threads)
    set_seed(args.seed)
    data = Data(args.work, args.tasks)
    answer, steps = PEERS[args.peer](args, data)
    used = time.process_time()
    predictions = {task["name"]: answer(task, data.rows(task, "dev")) for task in data.tasks}
    result = {"predictions": predictions, "cpu_seconds": used, "steps": steps, "versions": versions()}
    args.output.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
