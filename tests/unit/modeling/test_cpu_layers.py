"""Linear layers and dropout for CPUs against torch.nn's."""

import copy
import os
import pickle

import pytest
import torch
from scipy import stats
from torch import nn

from mtbert.modeling import cpu_layers
from mtbert.modeling.cpu_layers import MIN_ROWS, Dropout, Linear, dropout, use_faster_layers

needs_onednn = pytest.mark.usefixtures("onednn")


@pytest.fixture
def onednn(monkeypatch):
    """Products by oneDNN, although another library may be the faster one on this processor."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("PyTorch has no oneDNN here")
    monkeypatch.setattr(cpu_layers, "ONEDNN", True)


def test_onednn_is_used_where_it_is_the_faster_library():
    assert cpu_layers.ONEDNN is (
        torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )
    if os.environ.get("ATEN_CPU_CAPABILITY") == "avx2":  # `make test-avx2`
        assert torch.backends.cpu.get_cpu_capability() == "AVX2"


def pair(*args, **kwargs) -> tuple[nn.Linear, Linear]:
    """The same layer twice: torch.nn's and ours."""
    theirs = nn.Linear(*args, **kwargs)
    ours = copy.deepcopy(theirs)
    use_faster_layers(ours)
    assert type(ours) is Linear
    return theirs, ours


class TestLinear:
    @needs_onednn
    @pytest.mark.parametrize("change", [lambda y: y.div_(2), lambda y: y.relu_(), lambda y: y[..., 0].zero_()])
    @pytest.mark.parametrize("shape", [(MIN_ROWS,), (MIN_ROWS, 2), (2, 3, MIN_ROWS)])
    def test_the_output_may_be_changed_in_place(self, shape, change):
        """As Longformer does; the inputs are no contiguous ones, as there."""
        results = []
        for layer in pair(24, 40):
            inputs = torch.randn(24, *shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
            output = layer(inputs.movedim(0, -1))
            change(output)
            output.pow(2).sum().backward()
            results.append([output, inputs.grad, *(p.grad for p in layer.parameters())])
        for expected, found in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)

    @needs_onednn
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("shape", [(MIN_ROWS,), (1, 101), (3, 40), (2,), (1, 0)])
    @pytest.mark.parametrize("sizes", [(24, 40), (40, 24), (7, 1)])
    def test_output_and_gradients(self, onednn, sizes, shape, bias):
        theirs, ours = pair(*sizes, bias=bias)
        results = []
        for layer in (theirs, ours):
            inputs = torch.randn(*shape, sizes[0], generator=torch.Generator().manual_seed(0)).requires_grad_()
            output = layer(inputs)
            (output * torch.arange(output.numel()).view(output.shape).cos()).sum().backward()
            results.append([output, inputs.grad, *(p.grad for p in layer.parameters())])
        for expected, found in zip(*results, strict=True):
            assert found.shape == expected.shape
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    def test_only_large_fp32_products_are_onednns(self, onednn, monkeypatch):
        counted = []
        product = cpu_layers._product
        monkeypatch.setattr(cpu_layers, "_product", lambda *args: counted.append(1) or product(*args))
        _, ours = pair(24, 40)
        rows = torch.randn(MIN_ROWS, 24)
        ours(rows[1:])
        with torch.autocast("cpu", torch.bfloat16):
            assert ours(rows).dtype == torch.bfloat16
        ours.double()(rows.double())
        assert not counted
        ours.float()(rows)
        assert len(counted) == 1

    def test_frozen_weights_and_inputs_get_no_gradient(self, onednn):
        _, ours = pair(24, 40)
        ours.weight.requires_grad_(False)
        inputs = torch.randn(MIN_ROWS, 24)
        ours(inputs).sum().backward()
        assert ours.weight.grad is None
        assert ours.bias.grad is not None

    def test_a_second_derivative_is_refused_not_wrong(self, onednn):
        _, ours = pair(24, 40)
        inputs = torch.randn(MIN_ROWS, 24, requires_grad=True)
        (first,) = torch.autograd.grad(ours(inputs).pow(2).sum(), inputs, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            first.sum().backward()

    def test_without_onednn(self, monkeypatch):
        monkeypatch.setattr(cpu_layers, "ONEDNN", False)
        theirs, ours = pair(24, 40)
        inputs = torch.randn(MIN_ROWS, 24)
        assert torch.equal(theirs(inputs), ours(inputs))

    def test_names_and_pickles(self):
        theirs, ours = pair(4, 5)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        again = pickle.loads(pickle.dumps(ours))
        assert torch.equal(again(torch.ones(2, 4)), theirs(torch.ones(2, 4)))


class TestDropout:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_values(self, dtype):
        states = torch.randn(50, 41, dtype=dtype, requires_grad=True)
        dropped = dropout(states, 0.25)
        kept = dropped != 0
        scale = torch.tensor(1 / 0.75, dtype=dtype)
        assert dropped.dtype == dtype
        assert torch.equal(dropped, torch.where(kept, states * scale, 0))
        dropped.sum().backward()
        assert torch.equal(states.grad, kept.to(dtype) * scale)

    @pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.003])
    def test_every_element_is_dropped_with_probability_p(self, p):
        torch.manual_seed(0)
        dropped = dropout(torch.ones(2**20), p).view(-1, 4) == 0  # four elements share a draw of 64 bits
        for lane in range(4):
            test = stats.binomtest(int(dropped[:, lane].sum()), len(dropped), p)
            assert test.pvalue > 1e-4, (lane, test.statistic)

    def test_elements_are_independent(self):
        torch.manual_seed(0)
        dropped = (dropout(torch.ones(2**20), 0.5).view(-1, 16) == 0).double()
        correlations = torch.corrcoef(dropped.T) - torch.eye(16)
        assert correlations.abs().max() < 5 / len(dropped) ** 0.5

    def test_mean_is_exact(self):
        torch.manual_seed(0)
        p = 0.3  # not a multiple of 1/65536
        kept = dropout(torch.ones(100), p).amax()
        assert kept.item() == pytest.approx(1 / (1 - round(p * 2**16) / 2**16), rel=1e-6)

    def test_the_generator_decides(self):
        states = torch.ones(1001)
        torch.manual_seed(3)
        first, second = dropout(states, 0.5), dropout(states, 0.5)
        torch.manual_seed(3)
        assert torch.equal(dropout(states, 0.5), first)
        assert not torch.equal(first, second)

    @pytest.mark.parametrize(("p", "expected"), [(0.0, 1.0), (1.0, 0.0), (1e-9, 1.0)])
    def test_ends_of_the_range(self, p, expected):
        assert torch.equal(dropout(torch.ones(10), p), torch.full((10,), expected))

    def test_shapes(self):
        for shape in [(0,), (), (3, 5, 7), (2, 0)]:
            assert dropout(torch.ones(shape), 0.5).shape == shape
        assert dropout(torch.ones(4, 6).t(), 0.5).shape == (6, 4)

    def test_layer(self):
        layer = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5, inplace=True))
        use_faster_layers(layer)
        assert [type(module) for module in layer] == [Dropout, nn.Dropout]
        assert not torch.equal(layer.train()[0](torch.ones(100)), torch.ones(100))
        assert torch.equal(layer.eval()[0](torch.ones(100)), torch.ones(100))


def test_layers_of_a_subclass_stay():
    class Own(nn.Linear):
        pass

    layer = nn.Sequential(Own(2, 3), nn.Linear(3, 2))
    use_faster_layers(layer)
    assert [type(module) for module in layer] == [Own, Linear]
