"""What the benchmarks time: a contender trains the workload, and its steps are timed and counted."""

from __future__ import annotations

import contextlib
import io
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, set_seed
from workload import WARM_UP, Workload

SEED = 42


@dataclass(frozen=True)
class Timing:
    """Time and memory of the timed steps.

    Attributes:
        seconds: wall clock.
        examples: rows that the model got.
        real_tokens: their tokens, padding left out.
        memory: MiB on the GPU at the peak, above what was held before; None on the CPU.
    """

    seconds: float
    examples: int
    real_tokens: int
    memory: float | None = None

    @property
    def examples_per_second(self) -> float:
        return self.examples / self.seconds

    @property
    def tokens_per_second(self) -> float:
        return self.real_tokens / self.seconds


class NotAvailable(Exception):
    """The reason why a contender does not take part."""


class Contender(ABC):
    """A way to train the workload.

    Attributes:
        model: the trained model; `prepare` sets it.
        seen: for each step of the last `train`, the rows of its batch, and their lengths or attention mask.
    """

    name = ""
    what = ""

    def __init__(self, work: Workload):
        self.work = work
        self.seen: list[tuple[int, torch.Tensor | np.ndarray]] = []

    @abstractmethod
    def prepare(self) -> None:
        """Make model, data and trainer; called once."""

    @abstractmethod
    def run(self) -> float:
        """Train WARM_UP + `work.steps` steps and return the seconds of the latter."""

    def train(self) -> Timing:
        """Run, and count what the model got in the timed steps."""
        self.seen.clear()
        on_gpu = self.work.device == "cuda"
        before = torch.cuda.memory_allocated() if on_gpu else 0
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        with contextlib.redirect_stdout(io.StringIO()):
            seconds = self.run()
        memory = (torch.cuda.max_memory_allocated() - before) / 2**20 if on_gpu else None
        timed = self.seen[WARM_UP:]
        examples, tokens = sum(rows for rows, _ in timed), sum(int(tokens.sum()) for _, tokens in timed)
        return Timing(seconds, examples, tokens, memory)

    def _watch(self, model: torch.nn.Module) -> None:
        """Store the mask (or lengths) of every batch; they are summed after the clock has stopped."""
        self.model = model

        def remember(module, args, kwargs):
            layout = kwargs.get("layout")
            if layout is None:
                self.seen.append((len(kwargs["attention_mask"]), kwargs["attention_mask"]))
            else:
                self.seen.append((len(layout.lengths), np.asarray(layout.lengths)))

        model.register_forward_pre_hook(remember, with_kwargs=True)


class StepClock(TrainerCallback):
    """Measures the seconds from the end of step WARM_UP to the end of the last step."""

    def __init__(self, work: Workload):
        self.work, self.start, self.seconds = work, 0.0, 0.0

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == WARM_UP:
            self.work.synchronize()
            self.start = time.perf_counter()
        elif state.global_step == state.max_steps:
            self.work.synchronize()
            self.seconds = time.perf_counter() - self.start


class TrainerContender(Contender):
    """A contender that is a transformers Trainer; subclasses make it."""

    @abstractmethod
    def make_trainer(self) -> Trainer:
        """The trainer, with the model and the data."""

    def prepare(self) -> None:
        set_seed(SEED)
        self.trainer = self.make_trainer()
        self.trainer.remove_callback(PrinterCallback)
        self.clock = StepClock(self.work)
        self.trainer.add_callback(self.clock)
        self._watch(self.trainer.model)

    def run(self) -> float:
        self.trainer.train()
        return self.clock.seconds

    def arguments(self) -> dict:
        """TrainingArguments that all Trainers share; the others keep transformers' defaults."""
        work = self.work
        return {
            "output_dir": work.output_dir,
            "max_steps": WARM_UP + work.steps,
            "per_device_train_batch_size": work.batch,
            "per_device_eval_batch_size": 64,
            "learning_rate": work.learning_rate,
            "weight_decay": work.weight_decay,
            "max_grad_norm": 1.0,
            "optim": "adamw_torch_fused",
            "lr_scheduler_type": "constant",
            "bf16": work.precision == "bf16",
            "use_cpu": work.device == "cpu",
            "dataloader_num_workers": work.workers,
            "dataloader_pin_memory": work.device == "cuda",
            "logging_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "seed": SEED,
        }
