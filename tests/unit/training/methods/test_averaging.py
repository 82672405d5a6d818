"""The averages against closed forms, and that they come in for the weights and go out again."""

import re

import pytest
import torch
from attached import attached
from torch import nn

from mtbert.training.methods.averaging import FILE, Averaging, WeightAverage

STEPS = 12


def model_of(*values: float, dtype=torch.float32) -> nn.Module:
    layer = nn.Linear(3, 2, dtype=dtype)
    layer.bias.requires_grad_(False)
    return set_to(layer, *values)


def set_to(layer: nn.Module, value: float) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(torch.arange(6.0).view(2, 3) + value)
    return layer


def averaged(settings: Averaging, trajectory: list[torch.Tensor]) -> torch.Tensor:
    layer, average = model_of(0.0), WeightAverage(settings)
    for weight in trajectory:
        with torch.no_grad():
            layer.weight.copy_(weight)
        average.update(layer)
    assert average.count == len(trajectory) and list(average.tensors) == ["weight"]
    return average.tensors["weight"]


@pytest.fixture
def trajectory() -> list[torch.Tensor]:
    return list(torch.randn(STEPS, 2, 3, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, None])
def test_ema_has_its_closed_form(trajectory, decay):
    """d^(n-1) θ_1 + (1 - d) Σ d^(n-k) θ_k over k = 2…n."""
    found = averaged(Averaging("ema", decay), trajectory)
    d, n = 0.999 if decay is None else decay, STEPS
    weights = [d ** (n - 1), *((1 - d) * d ** (n - k) for k in range(2, n + 1))]
    assert sum(weights) == pytest.approx(1)
    expected = sum(w * each.double() for w, each in zip(weights, trajectory, strict=True))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_swa_is_the_mean(trajectory):
    found = averaged(Averaging("swa"), trajectory)
    torch.testing.assert_close(found, torch.stack(trajectory).mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Averaging(), [1, 2, 3, 4, 5, 6, 7, 8]),
        (Averaging(start=0.5), [4, 5, 6, 7, 8]),
        (Averaging("swa", start=0), [2, 4, 6, 8]),
        (Averaging("swa", start=0.5), [4, 6, 8]),
        (Averaging("swa", start=0.51), [4, 6, 8]),
        (Averaging("swa"), [6, 8]),
    ],
)
def test_which_steps_are_taken(settings, expected):
    """8 steps in 4 epochs."""
    assert [step for step in range(1, 9) if settings.takes(step, 8, step / 2)] == expected


def test_the_last_step_ends_an_epoch():
    assert Averaging("swa").takes(7, 7, 3.5) and not Averaging("swa").takes(7, 8, 3.5)


def test_weights_come_back_bit_for_bit_even_after_an_error():
    layer, average = model_of(1.0), WeightAverage(Averaging("swa"))
    for value in (0.1, 0.7):
        average.update(set_to(layer, value))
    before, bias = layer.weight.clone(), layer.bias.clone()
    with average.applied(layer):
        torch.testing.assert_close(layer.weight, before - 0.3)
        assert torch.equal(layer.bias, bias)
    assert torch.equal(layer.weight, before)
    with pytest.raises(KeyError), average.applied(layer):
        raise KeyError
    assert torch.equal(layer.weight, before)


def test_without_weights_taken_nothing_is_exchanged():
    layer, average = model_of(1.0), WeightAverage(Averaging("swa"))
    before = layer.weight.clone()
    with average.applied(layer):
        assert torch.equal(layer.weight, before)


def test_small_changes_of_half_precision_weights_are_kept():
    """In bfloat16 a step of 0.001 times the difference would be rounded away, however often it is taken."""
    layer, average = model_of(1.0, dtype=torch.bfloat16), WeightAverage(Averaging("ema", 0.999))
    average.update(layer)
    set_to(layer, 2.0)
    for _ in range(1000):
        average.update(layer)
    assert average.tensors["weight"].dtype is torch.float32
    torch.testing.assert_close(average.tensors["weight"][0, 0], torch.tensor(2 - 0.999**1000), rtol=1e-3, atol=0)


@pytest.mark.parametrize("count", [0, 3])
def test_saved_and_loaded(tmp_path, count):
    layer, average = model_of(1.0), WeightAverage(Averaging("ema", 0.5))
    for value in range(count):
        average.update(set_to(layer, float(value)))
    set_to(layer, 9.0)
    attached(average, layer).save(str(tmp_path))
    other, again = model_of(-1.0), WeightAverage(Averaging("ema", 0.5))
    attached(again, other).load(str(tmp_path))
    assert torch.equal(other.weight, layer.weight)
    assert again.count == count and again.tensors.keys() == average.tensors.keys()
    assert all(torch.equal(again.tensors[name], average.tensors[name]) for name in average.tensors)


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
    layer = model_of(1.0)
    average = attached(WeightAverage(Averaging()), layer)
    WeightAverage.refuse_checkpoint(str(tmp_path))
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path} has no {FILE}; it was saved without averaging")):
        average.load(str(tmp_path))
    average.save(str(tmp_path))
    with pytest.raises(ValueError, match="was saved with averaging, so its weights are not those of the last step"):
        WeightAverage.refuse_checkpoint(str(tmp_path))
    layer.bias.requires_grad_(True)
    with pytest.raises(ValueError, match="trained other parameters than this one, such as bias"):
        average.load(str(tmp_path))


def test_wrong_settings():
    assert Averaging().problems() == Averaging("swa", start=0.2).problems() == []
    assert list(map(str, Averaging("mean", 1.5, -0.1).problems())) == [
        "type is 'mean', but must be one of: ema, swa",
        "decay is 1.5, but must be in [0, 1)",
        "start is -0.1, but must be in [0, 1)",
    ]
