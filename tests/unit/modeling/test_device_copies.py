"""Copies between host and device go through page-locked memory, and wait for the work before them only."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from mtbert.modeling import device_copies
from mtbert.modeling.device_copies import OnItsWay, to_device
from mtbert.modeling.packing import PackedLayout

META = torch.device("meta")


@pytest.fixture
def copied(monkeypatch):
    """Copies of tensors to `meta`, which stands for a GPU: (whether it was page-locked, non_blocking) of each."""
    locked, copies, move = [], [], Tensor.to

    def pin_memory(tensor):
        locked.append(tensor.clone())
        return locked[-1]

    def to(tensor, *args, **kwargs):
        copies.append((any(tensor is each for each in locked), kwargs.get("non_blocking", False)))
        return move(tensor, *args, **kwargs)

    monkeypatch.setattr(device_copies, "PAGE_LOCKED", ("meta",))
    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(Tensor, "to", to)
    return copies


def test_a_copy_to_the_device_is_page_locked(copied):
    assert to_device(torch.arange(3), META).device == META
    assert copied == [(True, True)]


def test_a_copy_on_the_host_is_none(copied):
    tensor = torch.arange(3)
    assert to_device(tensor, torch.device("cpu")) is tensor
    assert copied == [(False, False)]


@pytest.mark.parametrize("make", [lambda layout: layout.part(layout.segments[1]), PackedLayout.firsts])
def test_layouts_that_a_step_builds(make, copied):
    layout = PackedLayout.build([3, 1, 8, 2, 9], [(0, 2, 1), (1, 3, 1)]).to("meta")
    copied.clear()
    built = make(layout)
    assert copied and set(copied) == {(True, True)}
    assert {
        built.gather.device,
        built.starts.device,
        *(b.mask.device for b in built.buckets if b.mask is not None),
    } == {META}


def test_a_number_of_the_host_is_there():
    assert OnItsWay(2.5).read() == 2.5
    assert OnItsWay(torch.tensor(2.5)).read() == 2.5


def test_a_number_of_the_device_waits_for_its_copy_only(copied, monkeypatch):
    """The copy is followed by an event; reading waits for that event, not for the device."""
    happened = []

    class Event:
        def record(self):
            happened.append("event")

        def synchronize(self):
            happened.append("wait")

    def copy(to, value, non_blocking):
        happened.append(f"copy from {value.device.type}, {non_blocking}")
        return to.fill_(3.0)

    monkeypatch.setattr(torch, "get_device_module", lambda device: SimpleNamespace(Event=Event))
    monkeypatch.setattr(Tensor, "copy_", copy)
    number = OnItsWay(torch.empty((), device="meta"))
    assert happened == ["copy from meta, True", "event"]
    assert number.read() == 3.0
    assert happened == ["copy from meta, True", "event", "wait"]
