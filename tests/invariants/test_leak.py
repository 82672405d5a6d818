"""Training keeps nothing of the steps behind it: after some steps, memory and the number of tensors stay as they are.

MTBERT_SOAK_STEPS=20000 python -m pytest tests/invariants/test_leak.py -m soak
"""

from __future__ import annotations

import ctypes
import gc
import os

import psutil
import pytest
import torch
from transformers import TrainerCallback

from mtbert.data.sampling import Schedule

SOAK = int(os.environ.get("MTBERT_SOAK_STEPS", 2000))
MIB = 2**20


def resident() -> int:
    """The memory that this process holds (bytes), without what it has freed.

    glibc keeps freed pages between the blocks still in use, some MiB more or fewer from one moment to the next and the
    more the longer a process has lived; asked to, it gives them back. Other C libraries are taken as they are.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return psutil.Process().memory_info().rss


class Watch(TrainerCallback):
    """Takes the resident memory (bytes) every so many steps, and counts the tensors that are alive."""

    def __init__(self, every: int):
        self.every, self.resident, self.tensors = every, [], []

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0:
            self.resident.append(resident())
            self.tensors.append(sum(isinstance(each, torch.Tensor) for each in gc.get_objects()))


def watch(make_trainer, model, folder, steps: int, **own) -> Watch:
    trainer = make_trainer(
        model,
        folder,
        Schedule("annealed", mixed=True),
        rows=(200, 120, 170, 90),
        max_steps=steps,
        logging_steps=steps,
        own=own,
    )
    found = Watch(steps // 10)
    trainer.add_callback(found)
    shapes = {batch["input_ids"].shape for batch in trainer.get_train_dataloader()}
    assert len(shapes) > 10  # so the allocator has something to do
    trainer.train()
    return found


@pytest.mark.parametrize("steps", [300, pytest.param(SOAK, marks=[pytest.mark.soak, pytest.mark.timeout(0)])])
def test_memory_is_flat_after_the_first_steps(steps, make_model, make_trainer, tmp_path):
    found = watch(make_trainer, make_model(), tmp_path, steps)
    settled, end = found.resident[2:6], found.resident[6:]
    assert max(end) - max(settled) < 4 * MIB, [round(each / MIB, 1) for each in found.resident]
    assert found.tensors[-1] <= max(found.tensors[1:4]), found.tensors


def test_a_leak_is_seen(make_model, make_trainer, tmp_path):
    class Hoard(TrainerCallback):
        def __init__(self):
            self.kept = []

        def on_step_end(self, args, state, control, **kwargs):
            self.kept.append(torch.ones(1))

    trainer = make_trainer(make_model(), tmp_path, Schedule(), max_steps=20, logging_steps=20)
    found = Watch(2)
    trainer.add_callback(Hoard())
    trainer.add_callback(found)
    trainer.train()
    assert found.tensors[-1] >= max(found.tensors[1:4]) + 10
