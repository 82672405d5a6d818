"""A device whose values the host cannot read: a run on it shows where a step would wait for a GPU.

It is PyTorch's `meta`, which computes shapes only. Operations whose result has a size that depends on values (masks as
indices, `nonzero`, `unique`) fail on it. Reads are counted here, and give 1. So are copies to it from pageable memory,
which wait, too.
"""

from __future__ import annotations

import traceback
from collections import Counter
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data.dataloader import _SingleProcessDataLoaderIter

from mtbert.modeling import device_copies
from mtbert.training import finite_steps
from mtbert.training.arguments import MtBertTrainingArguments

META = torch.device("meta")
READS = {
    **{name: (lambda tensor: 1.0) for name in ("item", "__float__")},
    **{"__int__": lambda tensor: 1, "__index__": lambda tensor: 1, "__bool__": lambda tensor: True},
    "tolist": lambda tensor: np.ones(tensor.shape).tolist(),
    "numpy": lambda tensor: np.ones(tensor.shape),
    "cpu": lambda tensor: torch.ones(tensor.shape, dtype=tensor.dtype),
}


def place() -> str:
    """The function of mtbert, or else of transformers, that is being executed, as `file:function`."""
    stack = traceback.extract_stack()
    for package in ("/mtbert/", "/transformers/", "/"):
        for frame in reversed(stack):
            if package in frame.filename and "/tests/" not in frame.filename and "/torch/" not in frame.filename:
                return f"{frame.filename.rpartition('/')[2]}:{frame.name}"
    return "?"


class Waits:
    """What a GPU would have made the host wait for.

    Attributes:
        reads: function → number of values that it read.
        copies: function → number of copies from pageable memory.
    """

    def __init__(self):
        self.reads, self.copies = Counter(), Counter()


class _MaskedIndices(TorchDispatchMode):
    """Fails for a mask as an index, also where the device `meta` does not."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_):
            assert not any(index is not None and index.dtype == torch.bool for index in args[1]), place()
        return function(*args, **kwargs or {})


@contextmanager
def unreadable_device(monkeypatch):
    """Within, runs compute on a device whose values cannot be read; yields the `Waits`."""
    waits, locked = Waits(), set()
    with monkeypatch.context() as patch, _MaskedIndices():
        patch.setattr(MtBertTrainingArguments, "device", property(lambda self: META))
        patch.setattr(Accelerator, "device", property(lambda self: META))
        patch.setattr(device_copies, "PAGE_LOCKED", ("meta",))
        patch.setattr(finite_steps, "OnItsWay", _Arriving(waits).start)
        states = SimpleNamespace(get_rng_state=lambda device: None, set_rng_state=lambda state, device: None)
        patch.setattr(torch, "get_device_module", lambda device: states)
        patch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
        for name, value in READS.items():
            patch.setattr(Tensor, name, _counted(waits, getattr(Tensor, name), value))
        patch.setattr(
            _SingleProcessDataLoaderIter, "__init__", _pins_as_on_a_gpu(_SingleProcessDataLoaderIter.__init__)
        )
        patch.setattr(Tensor, "pin_memory", _locking(locked))
        patch.setattr(Tensor, "to", _watched(waits, locked, Tensor.to))
        for name in ("tensor", "as_tensor"):
            patch.setattr(torch, name, _made(waits, getattr(torch, name)))
        yield waits


class _Arriving:
    """Stands for `OnItsWay`: a number waits if it is read before the next one is on its way."""

    def __init__(self, waits):
        self.waits, self.newest = waits, 0

    def start(self, value):
        assert value.device == META
        self.newest += 1
        return SimpleNamespace(read=partial(self.read, self.newest))

    def read(self, number):
        if number == self.newest:
            self.waits.reads[place()] += 1
        return 1.0


def _counted(waits, read, value):
    def reading(tensor, *args, **kwargs):
        if tensor.device != META:
            return read(tensor, *args, **kwargs)
        waits.reads[place()] += 1
        return value(tensor)

    return reading


def _pins_as_on_a_gpu(start):
    def starting(iterator, loader):
        start(iterator, loader)
        iterator._pin_memory = loader.pin_memory  # PyTorch does so only where there is an accelerator

    return starting


def _locking(locked):
    def pin_memory(tensor):
        assert tensor.device.type == "cpu"
        copy = tensor.clone()
        locked.add(copy)  # by identity
        return copy

    return pin_memory


def _watched(waits, locked, to):
    def moving(tensor, *args, **kwargs):
        moved = to(tensor, *args, **kwargs)
        if (
            tensor.device.type == "cpu"
            and moved.device == META
            and (tensor not in locked or not kwargs["non_blocking"])
        ):
            waits.copies[place()] += 1
        return moved

    return moving


def _made(waits, make):
    def making(*args, **kwargs):
        if kwargs.get("device") is not None and torch.device(kwargs["device"]) == META:
            waits.copies[place()] += 1
        return make(*args, **kwargs)

    return making
