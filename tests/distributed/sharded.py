"""Runs on two processes that share the encoder's layers out: whole, interrupted, and resumed with and without shares.

    python sharded.py DATA RESULTS

DATA is as in `worker.py`. RESULTS gets each run's folder, and `<run>-<rank>.safetensors` with the final weights, what
`shares` found after each step (`share`, the part of the layers that the process holds), and the run's last losses; and
`refused-<rank>.txt`, how a process ends where the run differs from the checkpoint on the other alone.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
from datasets import load_from_disk
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, set_seed

from mtbert.data.sampling import Schedule
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.training.arguments import MtBertTrainingArguments
from mtbert.training.trainer import MtBertTrainer

PROCESSES = 2
# name → whether layers are shared out, steps, the run whose third step's checkpoint it goes on from
RUNS = {
    "whole": (True, 6, None),
    "resumed": (True, 6, "whole"),
    "resumed without shares": (False, 6, "whole"),
    "plain": (False, 6, None),
    "resumed with shares": (True, 6, "plain"),
}


class Shares(TrainerCallback):
    """Notes which part of the layers' weights, gradients and moments a process holds after each step."""

    def __init__(self):
        self.found = []

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        layers = [p for name, p in model.named_parameters() if name.startswith("encoder.encoder.layer.")]
        kept = [optimizer.state[p]["exp_avg"] for p in layers]
        local = [
            sum(t.to_local().numel() if isinstance(t, DTensor) else t.numel() for t in ts) for ts in (layers, kept)
        ]
        self.found.append([own / sum(p.numel() for p in layers) for own in local])


def run(name: str, data: Path, results: Path, rank: int, rows: int = 20) -> None:
    shared, steps, origin = RUNS[name]
    set_seed(0)
    model = MtBertForMultiTask.from_pretrained(data / "model")
    args = MtBertTrainingArguments(
        output_dir=str(results / name),
        use_cpu=True,
        ddp_backend="gloo",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        save_strategy="steps",
        save_steps=3,
        eval_strategy="steps",
        eval_steps=3,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        max_steps=steps,
        learning_rate=0.01,
        per_device_train_batch_size=4,
        optim="adamw_torch",
        adam_epsilon=0.1,
        seed=3,
        shard_encoder=shared,
    )
    splits = {
        split: {each.name: load_from_disk(str(each)) for each in (data / split).iterdir()}
        for split in ("train", "eval")
    }
    splits["train"]["stars"] = splits["train"]["stars"].select(range(rows))
    shares = Shares()
    schedule = Schedule("annealed", steps_per_epoch=4)
    trainer = MtBertTrainer(model, args, splits["train"], splits["eval"], schedule=schedule, callbacks=[shares])
    trainer.train(resume_from_checkpoint=str(results / origin / "checkpoint-3") if origin else None)
    trainer.save_model()
    assert not any(isinstance(each, DTensor) for each in trainer.model.state_dict().values())
    save_file(
        {k: v.contiguous() for k, v in trainer.model.state_dict().items()}, results / f"{name}-{rank}.safetensors"
    )
    about = {"shares": shares.found, "log": trainer.state.log_history, "best": trainer.state.best_model_checkpoint}
    (results / f"{name}-{rank}.json").write_text(json.dumps(about))


def refuse(data: Path, results: Path, rank: int) -> None:
    """Note how each process ends where one of them has a row fewer than the run that it is to go on from."""
    try:
        run("resumed without shares", data, results, rank, rows=19 if rank else 20)
    except ValueError as error:
        (results / f"refused-{rank}.txt").write_text(str(error))


def start(rank: int, data: Path, results: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(PROCESSES), "LOCAL_WORLD_SIZE": str(PROCESSES)}
    store = torch.distributed.FileStore(str(results / "meeting"), PROCESSES)
    limit = timedelta(seconds=120)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES, timeout=limit)
    torch.set_num_threads(1)
    for name in RUNS:
        run(name, data, results, rank)
    refuse(data, results, rank)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.start_processes(
        start, (Path(sys.argv[1]), Path(sys.argv[2])), nprocs=PROCESSES, start_method="fork"
    )
