"""Runs of two processes, one of which fails in the fourth step: `python failing.py DATA RESULTS PORT`.

DATA is as in `worker.py`. RESULTS gets a folder for each run, and `ends.json`. The processes are forks of this one, so
that they need not import everything again.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from datasets import load_from_disk
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from transformers import TrainerCallback

from mtbert.data.sampling import Schedule
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.training.arguments import MtBertTrainingArguments
from mtbert.training.checkpoints.run_folder import choose_checkpoint
from mtbert.training.trainer import MtBertTrainer

TIMEOUTS = {signal.SIGSTOP: 10}  # seconds that a process waits for another (`ddp_timeout`)
TIMEOUT = 600  # the same where it must not be what ends a process
LIMIT = 120  # seconds in which every process has to end


class Fails(TrainerCallback):
    """Sends a signal to the last process in the fourth step, after a checkpoint, unless it was started again."""

    def __init__(self, failure: signal.Signals | None):
        self.failure = failure

    def on_step_begin(self, args, state, control, **kwargs):
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if self.failure is not None and first and state.global_step == 3 and args.process_index == 1:
            os.kill(os.getpid(), self.failure)


def train(data: Path, output: Path, failure: signal.Signals | None) -> None:
    """Six steps with a checkpoint after every second one; notes the checkpoint that it began at."""
    args = MtBertTrainingArguments(
        str(output / "run"),
        use_cpu=True,
        ddp_backend="gloo",
        ddp_timeout=TIMEOUTS.get(failure, TIMEOUT),
        report_to="none",
        disable_tqdm=True,
        save_steps=2,
        max_steps=6,
        logging_steps=1,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        resume_from_checkpoint="auto",
    )
    checkpoint = choose_checkpoint(args)
    trainer = MtBertTrainer(
        MtBertForMultiTask.from_pretrained(data / "model"),
        args,
        {each.name: load_from_disk(str(each)) for each in (data / "train").iterdir()},
        schedule=Schedule("annealed", mixed=True),
        callbacks=[Fails(failure)],
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    if args.process_index == 0:
        (output / "began.json").write_text(json.dumps(checkpoint and Path(checkpoint).name))


def fork(data: Path, output: Path, failure: signal.Signals | None, port: int) -> dict:
    """Two processes that nobody watches: how they end, and after how many seconds the first does."""
    start, children = time.monotonic(), []
    for rank in range(2):
        child = os.fork()
        if not child:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in names.items()}}
            code = 1
            try:
                train(data, output, failure)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    code = wait(children[0], start)
    seconds = time.monotonic() - start
    if failure == signal.SIGSTOP:
        os.kill(children[1], signal.SIGKILL)
    return {"codes": [code, wait(children[1], start)], "seconds": seconds}


def wait(child: int, start: float) -> int | None:
    """A child's exit status (minus a signal's number); None if it did not end in time, and was killed."""
    while time.monotonic() - start < LIMIT:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def restart(data: Path, output: Path, port: int) -> None:
    """Two processes under the agent that `torchrun --rdzv_backend c10d --max_restarts 1` starts.

    With the static backend, which is torchrun's default, processes that start again find the old addresses.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="failing",
        rdzv_backend="c10d",
        rdzv_endpoint=f"127.0.0.1:{port}",
        max_restarts=1,
        monitor_interval=0.2,
        start_method="fork",
    )
    elastic_launch(config, train)(data, output, signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    gc.freeze()
    data, results, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    runs = {"whole": None, "killed": signal.SIGKILL, "stopped": signal.SIGSTOP}
    for name in (*runs, "restarted"):
        (results / name).mkdir()
    ends = {name: fork(data, results / name, failure, port) for name, failure in runs.items()}
    (results / "ends.json").write_text(json.dumps(ends))
    restart(data, results / "restarted", port)
