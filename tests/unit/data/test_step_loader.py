"""Batches reach a GPU by copies that the host does not wait for: page-locked by the loader, moved without blocking."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.utils.data._utils.pin_memory import pin_memory

from mtbert.data.collation import MultiTaskDataset
from mtbert.data.given_splits import prepare_splits
from mtbert.data.sampling import Step
from mtbert.data.step_loader import step_loader
from mtbert.training.arguments import MtBertTrainingArguments, PretrainingArguments


@pytest.fixture
def batch(make_model, splits, tasks, tokenizer):
    data, _ = prepare_splits(tasks, "train", splits(), tokenizer, make_model().config.encoder)
    return MultiTaskDataset(tasks, data, token_types=True).__getitems__(Step(((0, np.arange(3)), (2, np.arange(2)))))


def tensors(value) -> list[Tensor]:
    """All tensors of a batch, also those of its layout."""
    if isinstance(value, Tensor):
        return [value]
    if hasattr(value, "cu_seqlens"):
        masks = [bucket.mask for bucket in value.buckets if bucket.mask is not None]
        return [value.position_ids, value.starts, value.cu_seqlens, value.gather, value.scatter, *masks]
    return [tensor for item in value.values() for tensor in tensors(item)]


def test_every_tensor_of_a_batch_is_page_locked(batch, monkeypatch):
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor + 0)
    found = pin_memory(batch)
    assert found.keys() == batch.keys() and len(tensors(found)) == len(tensors(batch)) >= 12
    for pinned, tensor in zip(tensors(found), tensors(batch), strict=True):
        assert pinned is not tensor and torch.equal(pinned, tensor)


def test_every_tensor_of_a_batch_is_moved_without_blocking(batch, monkeypatch):
    move, moved = Tensor.to, []

    def to(tensor, *args, **kwargs):
        moved.append(kwargs.get("non_blocking"))
        return move(tensor, *args, **kwargs)

    monkeypatch.setattr(Tensor, "to", to)
    found = send_to_device(batch, torch.device("meta"), non_blocking=True)
    assert {tensor.device.type for tensor in tensors(found)} == {"meta"}
    assert moved == [True] * len(tensors(batch))


@pytest.mark.parametrize(
    ("device", "asked", "pinned"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)]
)
def test_the_loader_is_asked_to(device, asked, pinned):
    args = SimpleNamespace(
        device=torch.device(device),
        dataloader_num_workers=0,
        dataloader_pin_memory=asked,
        dataloader_prefetch_factor=None,
        dataloader_persistent_workers=False,
    )
    loader = step_loader(args, torch.utils.data.TensorDataset(torch.arange(4)), [[0], [1]])
    assert loader.pin_memory is pinned
    assert loader._non_blocking is True and loader.device == torch.device(device)


@pytest.mark.parametrize("kind", [MtBertTrainingArguments, PretrainingArguments])
def test_it_is_asked_for_by_default(kind, tmp_path):
    assert kind(str(tmp_path), report_to="none").dataloader_pin_memory is True
