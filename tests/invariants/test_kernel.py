"""Packed attention by PyTorch's kernel gets the windows, scales and lengths with which it is the padded attention.

The kernel runs on GPUs only; a stand-in with its signature computes it here.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from families import family_config
from plain_kernel import SIGNATURE, use_kernel

from mtbert.modeling import kernel
from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.packing import PackedLayout, packed_attention
from mtbert.modeling.task_spec import TaskSpec

LENGTHS = (1, 20, 3, 7, 12, 5, 6)
NEAR = {torch.float64: 1e-9, torch.float32: 1e-5}


def make_model(family: str, packed: bool, dtype: torch.dtype, scaling: float | None = None) -> MtBertForMultiTask:
    """The same random weights at each call, far larger than an initialisation's."""
    config = MtBertConfig(encoder=family_config(family), tasks=[TaskSpec("one", labels=3)], packed=packed)
    model = MtBertForMultiTask(config).to(dtype).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty(parameter.shape).normal_(0, 0.2, generator=generator).to(dtype)
            parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    if scaling is not None:
        layers = [module for module in model.encoder.modules() if hasattr(module, "scaling")]
        assert len(layers) == 3
        for layer in layers:
            layer.scaling = scaling
    return model


def outputs_and_gradients(model: MtBertForMultiTask) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    ids = torch.randint(5, 100, (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = (torch.arange(ids.shape[1]) < torch.tensor(LENGTHS)[:, None]).long()
    logits = model(input_ids=ids, attention_mask=mask).logits
    wanted = torch.randn(logits.shape, generator=generator).to(logits.dtype)
    (logits * wanted).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"logits": logits.detach(), **gradients}


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize(
    ("family", "scaling", "windows"),
    [
        ("bert", None, {(-1, -1)}),
        ("roberta", 0.3, {(-1, -1)}),
        ("albert", None, {(-1, -1)}),
        ("modernbert", None, {(-1, -1), (4, 4)}),  # its config says 8, which is 4 on each side
        ("electra", 0.7, {(-1, -1)}),
    ],
)
def test_outputs_and_gradients_are_the_padded_ones(family, scaling, windows, dtype, monkeypatch):
    plain = use_kernel(monkeypatch)
    found = outputs_and_gradients(make_model(family, True, dtype, scaling))
    assert [call["window_size"] for call in plain.calls].count((-1, -1)) == (1 if family == "modernbert" else 3)
    assert {call["window_size"] for call in plain.calls} == windows and len(plain.calls) == 3
    assert {call["scale"] for call in plain.calls} == {8**-0.5 if scaling is None else scaling}
    assert {call["query"].dtype for call in plain.calls} == {dtype}
    padded = outputs_and_gradients(make_model(family, False, dtype, scaling))
    assert len(plain.calls) == 3 and found.keys() == padded.keys()
    for name, wanted in padded.items():
        near = NEAR[dtype] * max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(
            found[name], wanted, rtol=0, atol=near, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("window", [None, 0, 1, 3, 11, 12, 100])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_kernel_and_buckets_compute_the_same(window, scaling, monkeypatch):
    layout = PackedLayout.build([2, 12, 11, 1, 7], [(0, 5, 1)])
    states = [torch.randn(33, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    wanted, found = torch.randn(33, 2, 3, dtype=torch.float64), []
    for by_kernel in (False, True):
        plain = use_kernel(monkeypatch) if by_kernel else None
        output = packed_attention(*states, layout, scaling=scaling, window=window)
        found.append((output, *torch.autograd.grad((output * wanted).sum(), states)))
    (call,) = plain.calls
    assert call["window_size"] == ((window, window) if window is not None and window < 11 else (-1, -1))
    for buckets, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, buckets)


def test_the_kernel_of_this_pytorch_takes_windows_and_a_scale():
    assert kernel.HAS_WINDOWS
    assert SIGNATURE.parameters["window_size"].default == (-1, -1) and SIGNATURE.parameters["scale"].default is None
    assert "dropout_p" not in SIGNATURE.parameters  # or buckets would not be needed


# (device, dtype, size of a head, dropout, compute capability, PyTorch has windows) → whether the kernel is used
CHOICES = [
    ("cuda", torch.bfloat16, 64, 0.0, 8, True, True),
    ("cuda", torch.float16, 64, 0.0, 9, True, True),
    ("cuda", torch.bfloat16, 8, 0, 12, True, True),
    ("cuda", torch.bfloat16, 192, 0.0, 8, True, True),
    ("cuda", torch.bfloat16, 64, 0.1, 8, True, False),  # training with attention dropout
    ("cuda", torch.float32, 64, 0.0, 8, True, False),  # without autocast
    ("cuda", torch.float64, 64, 0.0, 8, True, False),
    ("cuda", torch.bfloat16, 64, 0.0, 7, True, False),  # Volta and Turing
    ("cuda", torch.bfloat16, 20, 0.0, 8, True, False),
    ("cuda", torch.bfloat16, 256, 0.0, 8, True, False),
    ("cuda", torch.bfloat16, 64, 0.0, 8, False, False),  # PyTorch 2.10
    ("cpu", torch.bfloat16, 64, 0.0, 8, True, False),
    ("mps", torch.float16, 64, 0.0, 8, True, False),
    ("meta", torch.bfloat16, 64, 0.0, 8, True, False),
]


@pytest.mark.parametrize(("device", "dtype", "size", "dropout", "capability", "windows", "used"), CHOICES)
def test_when_the_kernel_is_used(device, dtype, size, dropout, capability, windows, used, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=capability))
    monkeypatch.setattr(kernel, "HAS_WINDOWS", windows)
    assert kernel.uses_kernel(torch.device(device), dtype, size, dropout) is used


@pytest.mark.parametrize(
    ("family", "probability", "training", "calls"),
    [
        ("bert", 0.1, True, 0),
        ("bert", 0.1, False, 3),
        ("bert", 0.0, True, 3),
        ("modernbert", 0.0, True, 3),
        ("modernbert", 0.1, True, 0),
        ("modernbert", 0.1, False, 3),
    ],
)
def test_training_with_attention_dropout_takes_buckets(family, probability, training, calls, monkeypatch):
    key = "attention_dropout" if family == "modernbert" else "attention_probs_dropout_prob"
    config = MtBertConfig(encoder=family_config(family, **{key: probability}), tasks=[TaskSpec("one", labels=3)])
    plain = use_kernel(monkeypatch)
    MtBertForMultiTask(config).train(training)(input_ids=torch.randint(5, 100, (2, 9)))
    assert len(plain.calls) == calls
