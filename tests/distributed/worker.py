"""The runs that one process and many must train alike.

    torchrun --nproc_per_node 2 worker.py DATA RESULTS [CASE...]     processes as a launcher starts them
    python worker.py DATA RESULTS --fork 4 [CASE...]                 processes that share what was imported before

Without CASE: `EVERY_TIME`, and all of `CASES` where the environment has MTBERT_ALL_CASES.

DATA holds `model/` (a checkpoint without dropout), `teacher/` (another, with its tokenizer), `train/<task>` and
`eval/<task>` (encoded data sets) and `texts/<task>` (the texts of `train`), and `words/`, with a further task that
labels words: its `train/` and `eval/`, beside `model-words/`. RESULTS gets, for each case and rank,
`<case>-<rank>.safetensors` (final weights and predictions) and `<case>-<rank>.json` (the log).
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import datasets
import torch
from datasets import load_from_disk
from safetensors.torch import save_file
from transformers import set_seed

from mtbert.data.pools import TaskSplits
from mtbert.data.sampling import Schedule
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.training.arguments import MtBertTrainingArguments, TaskTraining
from mtbert.training.checkpoints.stages import Stages
from mtbert.training.methods.affinity import Affinity
from mtbert.training.methods.averaging import Averaging
from mtbert.training.methods.distillation import Distillation, add_targets
from mtbert.training.methods.group_weights import GroupWeights
from mtbert.training.methods.proximal import Proximal
from mtbert.training.methods.rdrop import RDrop
from mtbert.training.methods.simcse import SimCSE
from mtbert.training.methods.smart import Smart
from mtbert.training.methods.surgery import Surgery
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.optimizers import OptimizerSettings
from mtbert.training.peft import wrap
from mtbert.training.trainer import MtBertTrainer

UNLABELLED_ROWS = 5  # of a taught task
SPLITS = ("train", "eval")
FEW_ROWS = {"stars": 1, "same": 3}
BATCH = 8  # rows a step, over all processes and micro-batches
CASES = {
    "annealed": {"schedule": Schedule("annealed", steps_per_epoch=4)},
    "mixed": {"schedule": Schedule("annealed", mixed=True, steps_per_epoch=4)},
    "sequential": {"schedule": Schedule("sequential")},
    "simultaneous": {
        "schedule": Schedule("simultaneous", steps_per_epoch=3),
        "task_training": {"close": TaskTraining(batch_size=1), "same": TaskTraining(batch_size=3, weight=0.5)},
    },
    "one row a step": {
        "schedule": Schedule("round_robin", steps_per_epoch=5),
        "task_training": {"stars": TaskTraining(batch_size=1), "topics": TaskTraining(batch_size=1)},
    },
    "accumulated": {"schedule": Schedule("sqrt", mixed=True, steps_per_epoch=4), "accumulation": 2},
    "accumulated sequential": {"schedule": Schedule("sequential"), "accumulation": 2},
    "surgery": {
        "schedule": Schedule("simultaneous", steps_per_epoch=3),
        "task_training": {"close": TaskTraining(batch_size=1), "same": TaskTraining(batch_size=3, weight=0.5)},
        "surgery": Surgery(),
    },
    "surgery of accumulated mixed steps": {
        "schedule": Schedule("annealed", mixed=True, steps_per_epoch=4),
        "accumulation": 2,
        "surgery": Surgery("upgrad"),
    },
    "proximal": {
        "schedule": Schedule("annealed", mixed=True, steps_per_epoch=4),
        "accumulation": 2,
        "proximal": Proximal(weight=3.0, decay=0.5, late_decay=0.8),
    },
    # noise, and so the penalty, differs between one process and two, at this radius by less than the bounds
    "smart": {"schedule": Schedule("annealed", steps_per_epoch=4), "smart": Smart(radius=5e-5, step_size=1.0)},
    "groups": {
        "schedule": Schedule("annealed", mixed=True, steps_per_epoch=4),
        "grouped": True,
        "own": {"methods": [GroupWeights(power=0.5)]},
    },
    "rdrop": {  # the penalty is 0 without dropout; the second pass has its share of every gradient
        "schedule": Schedule("annealed", mixed=True, steps_per_epoch=4),
        "accumulation": 2,
        "own": {"methods": [RDrop()]},
    },
    "rdrop sharded": {
        "schedule": Schedule("annealed", mixed=True, steps_per_epoch=4),
        "own": {"methods": [RDrop()]},
        "args": {"shard_encoder": True},
    },
    "simcse": {  # negatives are of a micro-batch, of which a step has as many with any number of processes
        "schedule": Schedule("annealed", mixed=True, steps_per_epoch=4),
        "micro_batches": 4,
        "own": {"methods": [SimCSE()]},
    },
    "affinity": {  # the first process measures while the other waits
        "schedule": Schedule("annealed", mixed=True, steps_per_epoch=4),
        "own": {"methods": [Affinity(every=2, rows=3)]},
    },
    "evaluated before": {"schedule": Schedule("annealed", steps_per_epoch=4), "evaluate_before": True},
    "averaged": {"schedule": Schedule("annealed", steps_per_epoch=4), "averaging": Averaging("ema", 0.5)},
    "separate": {
        "schedule": Schedule("round_robin", steps_per_epoch=5),
        "task_training": {
            "stars": TaskTraining(batch_size=1, learning_rate=0.02),
            "same": TaskTraining(weight_decay=0.3),
        },
        "own": {"optimizer": OptimizerSettings(per_task="separate")},
        "args": {"optim": "adamw_torch", "adam_epsilon": 0.1},  # so large that rounding stays rounding here, too
    },
    "uncertainty": {
        "schedule": Schedule("uniform", mixed=True, steps_per_epoch=5),
        "task_training": {"stars": TaskTraining(class_weights="balanced", label_smoothing=0.2)},
        "own": {"loss": LossSettings("uncertainty", 0.2)},
        "accumulation": 2,
    },
    "balanced classes": {
        "schedule": Schedule("sequential"),
        "task_training": {"stars": TaskTraining(balanced=True), "same": TaskTraining(balanced=True)},
    },
    "sharded": {"schedule": Schedule("annealed", steps_per_epoch=4), "args": {"shard_encoder": True}},
    "sharded moments": {
        "schedule": Schedule("sqrt", mixed=True, steps_per_epoch=4),
        "accumulation": 2,
        "adapter": True,
        "own": {"optimizer": OptimizerSettings(layer_decay=0.9), "loss": LossSettings("uncertainty", 0.2)},
        "args": {
            **{"shard_encoder": True, "activation_checkpointing": True, "max_grad_norm": 0.5},
            **{"optim": "adamw_torch_fused", "adam_epsilon": 0.1},
        },
    },
    "sharded stages": {
        "schedule": Schedule("annealed", steps_per_epoch=4),
        "heads_first": True,
        "args": {"shard_encoder": True},
    },
    "heads first": {"schedule": Schedule("annealed", steps_per_epoch=4), "heads_first": True},
    "taught": {"schedule": Schedule("annealed", mixed=True, steps_per_epoch=4), "taught": 0.7},
    "every task in every share": {"schedule": Schedule("simultaneous", steps_per_epoch=3)},
    "tokens": {
        "schedule": Schedule("annealed", mixed=True, steps_per_epoch=4),
        "args": {"max_tokens_per_step": 60},
    },
    # some shares have no row of a task
    "tokens of every task": {
        "schedule": Schedule("simultaneous", steps_per_epoch=3),
        "args": {"max_tokens_per_step": 90},
    },
    "source": {  # a step may lack labels of one of its tasks on some process, or on all
        "schedule": Schedule("annealed", mixed=True, steps_per_epoch=5),
        "source": True,
        "accumulation": 2,
    },
    "source in pcgrad": {"schedule": Schedule("proportional"), "source": True, "surgery": Surgery()},
    "words": {  # the mean over the labelled words of all processes
        "schedule": Schedule("annealed", mixed=True, steps_per_epoch=4),
        "words": True,
        "task_training": {"slots": TaskTraining(class_weights=(1.0, 2.0, 3.0, 4.0), label_smoothing=0.1)},
        "accumulation": 2,
    },
    "few rows": {"schedule": Schedule("uniform", mixed=True, steps_per_epoch=5), "few_rows": True},
    "lora": {"schedule": Schedule("annealed", mixed=True, steps_per_epoch=4), "peft": {"r": 2}},
    "pal": {"schedule": Schedule("round_robin", steps_per_epoch=5), "adapter": True},
    "pal in pcgrad": {"schedule": Schedule("simultaneous", steps_per_epoch=3), "adapter": True, "surgery": Surgery()},
    "activation checkpointing": {
        "schedule": Schedule("annealed", steps_per_epoch=4),
        "args": {"activation_checkpointing": True},
    },
}
# the other draws of a task a step: they are the ones above with other probabilities
RARE = {
    name: {"schedule": Schedule(name, steps_per_epoch=5, temperature=3.0 if name == "temperature" else None)}
    for name in ("proportional", "sqrt", "min_annealed", "uniform", "temperature")
}
RARE |= {f"{name} mixed": {"schedule": replace(case["schedule"], mixed=True)} for name, case in RARE.items()}
RARE |= {
    "lora in pcgrad": {"schedule": Schedule("simultaneous", steps_per_epoch=3), "peft": {"r": 2}, "surgery": Surgery()},
    "cagrad": {"schedule": Schedule("simultaneous", steps_per_epoch=3), "surgery": Surgery("cagrad", 0.4)},
    "mgda": {"schedule": Schedule("simultaneous", steps_per_epoch=3), "surgery": Surgery("mgda")},
    "rates by task": {
        "schedule": Schedule("round_robin", steps_per_epoch=5),
        "task_training": {"stars": TaskTraining(learning_rate=0.02)},
        "own": {"optimizer": OptimizerSettings(per_task="rates")},
    },
    "smart of mixed steps": {
        "schedule": Schedule("annealed", mixed=True, steps_per_epoch=4),
        "smart": Smart(radius=1e-4, step_size=1.0),
        "accumulation": 2,
    },
}
HELD = ("sharded", "heads first", "activation checkpointing")  # parts of "sharded stages" and "sharded moments"
EVERY_TIME = tuple(name for name in CASES if name not in HELD)
CASES |= RARE


def chosen() -> tuple[str, ...]:
    """The cases to run."""
    return tuple(CASES) if os.environ.get("MTBERT_ALL_CASES") else EVERY_TIME


def make_model(name: str, data: Path):
    """The untrained model of a case."""
    case = CASES[name]
    set_seed(0)
    folder = "model-words" if case.get("words") else "model-pal" if case.get("adapter") else "model"
    model = MtBertForMultiTask.from_pretrained(data / folder)
    return wrap(model, {"target_modules": ["query", "value"], **case["peft"]}) if "peft" in case else model


def read_splits(name: str, data: Path) -> dict[str, dict[str, datasets.Dataset]]:
    """Split → task → the rows of a case."""
    folder = data / "words" if CASES[name].get("words") else data
    return {split: {each.name: load_from_disk(str(each)) for each in (folder / split).iterdir()} for split in SPLITS}


def teach(trainer: MtBertTrainer, data: Path, results: Path) -> None:
    """Add what the teacher says, which nobody asked before, and leave some rows without a label."""
    datasets.config.HF_DATASETS_CACHE = results / "cache"
    texts = {name: load_from_disk(str(data / "texts" / name)) for name in trainer.train_dataset}
    taught = add_targets(trainer.methods["distillation"].settings, trainer, texts)
    labels = taught["stars"].with_format(None)["label"][UNLABELLED_ROWS:]
    column = [-100] * UNLABELLED_ROWS + list(labels)
    taught["stars"] = taught["stars"].remove_columns("label").add_column("label", column)
    trainer.train_dataset = taught


def share_texts(rows: dict[str, datasets.Dataset]) -> TaskSplits:
    """Rows of which two tasks share the texts of the first; each has labels of some."""
    stars = rows["stars"]
    several = [[float(row % 2), 1.0, 0.0] if row % 5 < 2 else [float("nan")] * 3 for row in range(len(stars))]
    single = [-100 if row % 5 == 0 else label for row, label in enumerate(stars["label"][:])]
    shared = {}
    for name, labels in {"stars": single, "topics": several}.items():
        shared[name] = stars.remove_columns("label").add_column("label", labels, feature=rows[name].features["label"])
        shared[name].info.description = rows[name].info.description  # the classes of the labels
    return TaskSplits({**rows, **shared}, {"texts": ("stars", "topics")})


def run_case(name: str, data: Path, results: Path, processes: int) -> None:
    """Train one case and write what came out of it."""
    case = CASES[name]
    accumulation = case.get("accumulation", case.get("micro_batches", processes) // processes)
    model = make_model(name, data)
    start = {key: value.clone().contiguous() for key, value in model.state_dict().items()}
    distillation = Distillation((str(data / "teacher"),), case["taught"]) if "taught" in case else None
    args = MtBertTrainingArguments(
        output_dir=str(results / "runs" / name),
        use_cpu=True,
        ddp_backend="gloo" if processes > 1 else None,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        save_strategy="no",
        eval_strategy="epoch",
        eval_on_start=True,
        num_train_epochs=2,
        learning_rate=0.05,
        per_device_train_batch_size=BATCH // processes // accumulation,
        per_device_eval_batch_size=4,
        gradient_accumulation_steps=accumulation,
        seed=3,
        # sgd is linear in the gradient, so that rounding stays rounding
        **{"optim": "sgd", **case.get("args", {})},
    )
    assert args.world_size == processes
    splits = read_splits(name, data)
    if case.get("few_rows"):  # fewer than processes
        splits["train"] |= {name: splits["train"][name].select(range(rows)) for name, rows in FEW_ROWS.items()}
    if case.get("source"):
        splits["train"] = share_texts(splits["train"])
    if case.get("grouped"):
        for task in ("stars", "close"):
            groups = ["small" if row % 5 == 0 else "large" for row in range(len(splits["train"][task]))]
            splits["train"][task] = splits["train"][task].add_column("group", groups)
    stages = Stages(args, 2 if case.get("heads_first") else 0)
    for frozen in (True, False) if case.get("heads_first") else (False,):
        if "peft" not in case:
            model.freeze_encoder(frozen)
        stage, _ = stages.next(model)
        trainer = MtBertTrainer(
            model,
            args,
            splits["train"],
            splits["eval"],
            schedule=case["schedule"],
            task_training=case.get("task_training"),
            surgery=case.get("surgery"),
            smart=case.get("smart"),
            proximal=case.get("proximal"),
            averaging=case.get("averaging"),
            distillation=distillation,
            **case.get("own", {}),
            stage=stage,
        )
        if case.get("evaluate_before"):
            trainer.evaluate()
        if distillation is not None:
            teach(trainer, data, results)
        trainer.train()
        stages.end(trainer)
    trainer.state = stages.join()
    prediction = trainer.predict(splits["eval"])
    tensors = {f"weight.{key}": value.contiguous() for key, value in trainer.model.state_dict().items()}
    tensors |= {f"start.{key}": value for key, value in start.items()}
    tensors |= {f"prediction.{task}": torch.from_numpy(logits) for task, logits in prediction.predictions.items()}
    rank = args.process_index
    save_file(tensors, results / f"{name}-{rank}.safetensors")
    logged = {"log_history": trainer.state.log_history, "test": prediction.metrics}
    (results / f"{name}-{rank}.json").write_text(json.dumps(logged))


def run_all(data: Path, results: Path, processes: int, names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # each training collects garbage
    for name in names:
        run_case(name, data, results, processes)


def run_forked(rank: int, processes: int, data: Path, results: Path, names: Sequence[str]) -> None:
    """One of several processes on this machine, which meet at a file."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    store = torch.distributed.FileStore(str(results / "meeting"), processes)
    limit = timedelta(seconds=120)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=processes, timeout=limit)
    run_all(data, results, processes, names)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    data, results, *names = sys.argv[1:]
    if names[:1] == ["--fork"]:
        count = int(names[1])
        given = (count, Path(data), Path(results), names[2:] or chosen())
        torch.multiprocessing.start_processes(run_forked, given, nprocs=count, start_method="fork")
    else:
        run_all(Path(data), Path(results), int(os.environ["WORLD_SIZE"]), names or chosen())
        torch.distributed.destroy_process_group()
