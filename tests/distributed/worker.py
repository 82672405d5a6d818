"""The runs that one process and two must train alike: `torchrun --nproc_per_node 2 worker.py DATA RESULTS`.

DATA holds `model/` (a checkpoint without dropout) and `train/<task>`, `eval/<task>` (encoded data sets). RESULTS gets,
for each case and rank, `<case>-<rank>.safetensors` (final weights and predictions) and `<case>-<rank>.json` (the log).
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import torch
from datasets import load_from_disk
from safetensors.torch import save_file
from transformers import set_seed

from mtbert.data.sampling import Schedule
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.training.arguments import MtBertTrainingArguments, TaskTraining
from mtbert.training.averaging import Averaging
from mtbert.training.losses import LossSettings
from mtbert.training.optimizers import OptimizerSettings
from mtbert.training.proximal import Proximal
from mtbert.training.smart import Smart
from mtbert.training.stages import Stages
from mtbert.training.surgery import Surgery
from mtbert.training.trainer import MtBertTrainer

SPLITS = ("train", "eval")
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
    "smart": {"schedule": Schedule("annealed", steps_per_epoch=4), "smart": Smart(radius=1e-4, step_size=1.0)},
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
    "heads first": {"schedule": Schedule("annealed", steps_per_epoch=4), "heads_first": True},
}


def run_case(name: str, data: Path, results: Path, processes: int) -> None:
    """Train one case and write what came out of it."""
    case = CASES[name]
    accumulation = case.get("accumulation", 1)
    set_seed(0)
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
    splits = {split: {each.name: load_from_disk(str(each)) for each in (data / split).iterdir()} for split in SPLITS}
    model = MtBertForMultiTask.from_pretrained(data / "model")
    stages = Stages(args, 2 if case.get("heads_first") else 0)
    for frozen in (True, False) if case.get("heads_first") else (False,):
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
            **case.get("own", {}),
            stage=stage,
        )
        if case.get("evaluate_before"):
            trainer.evaluate()
        trainer.train()
        stages.end(trainer)
    trainer.state = stages.join()
    prediction = trainer.predict(splits["eval"])
    tensors = {f"weight.{key}": value.contiguous() for key, value in trainer.model.state_dict().items()}
    tensors |= {f"prediction.{task}": torch.from_numpy(logits) for task, logits in prediction.predictions.items()}
    rank = args.process_index
    save_file(tensors, results / f"{name}-{rank}.safetensors")
    logged = {"log_history": trainer.state.log_history, "test": prediction.metrics}
    (results / f"{name}-{rank}.json").write_text(json.dumps(logged))


def run_all(data: Path, results: Path, processes: int) -> None:
    for name in CASES:
        run_case(name, data, results, processes)


if __name__ == "__main__":
    torch.set_num_threads(1)
    gc.freeze()  # each training collects garbage
    run_all(Path(sys.argv[1]), Path(sys.argv[2]), processes=2)
    torch.distributed.destroy_process_group()
