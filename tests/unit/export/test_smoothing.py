"""Smoothed activations: the same graph in fp32, with a smaller error in int8."""

from __future__ import annotations

import numpy as np
import pytest

from mtbert.export.smoothing import ALPHA, channel_ranges, divisors, smooth

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
SIZE = 6


def weights_of(seed: int, columns: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, (SIZE, columns)).astype(np.float32)


@pytest.fixture
def write(tmp_path):
    """A function: product → (its input, its weights' name) → a graph in which `x` and `y` = −x are multiplied."""

    def make(products, matrices):
        nodes = [onnx.helper.make_node("Neg", ["x"], ["y"], name="neg")]
        for name, (value, matrix) in products.items():
            nodes.append(onnx.helper.make_node("MatMul", [value, matrix], [f"{name}.out"], name=name))
        floats = onnx.TensorProto.FLOAT
        outputs = [onnx.helper.make_tensor_value_info(f"{name}.out", floats, None) for name in products]
        graph = onnx.helper.make_graph(
            nodes,
            "g",
            [onnx.helper.make_tensor_value_info("x", floats, ["rows", SIZE])],
            outputs,
            [onnx.numpy_helper.from_array(matrix, name) for name, matrix in matrices.items()],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, tmp_path / "source.onnx")
        return tmp_path / "source.onnx"

    return make


def run(file, x):
    return ort.InferenceSession(str(file)).run(None, {"x": x})


def states(rows=20, wide=50.0):
    x = np.random.default_rng(0).normal(0, 1, (rows, SIZE)).astype(np.float32)
    x[:, 2] *= wide
    return x


def kinds(file):
    return [node.op_type for node in onnx.load(file).graph.node]


def test_divisors_are_those_of_the_paper_with_a_geometric_mean_of_one():
    ranges, weights = np.array([4.0, 1.0, 0.0]), np.array([0.5, 0.25, 1.0])
    found = divisors(ranges, weights)
    plain = np.maximum(ranges, 0.1 * 5 / 3) ** ALPHA / weights ** (1 - ALPHA)  # a channel without values is no tiny one
    np.testing.assert_allclose(found, plain / np.prod(plain) ** (1 / 3), rtol=1e-6)
    assert np.isfinite(divisors(np.zeros(3), np.zeros(3))).all()


def test_ranges_are_of_all_batches(write):
    file = write({"a": ("y", "w")}, {"w": weights_of(1)})
    x = states()
    found = channel_ranges(file, ["y", "a.out"], [{"x": x[:5]}, {"x": x[5:], "other": x}])
    np.testing.assert_array_equal(found["y"], np.abs(x).max(axis=0))
    np.testing.assert_allclose(found["a.out"], np.abs(x @ weights_of(1)).max(axis=0), rtol=1e-5)
    assert channel_ranges(file, ["y"], []) == {} == channel_ranges(file, [], [{"x": x}])


def test_the_graph_stays_the_same_in_fp32_and_loses_less_in_int8(write, tmp_path):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    file = write({"a": ("x", "w"), "b": ("x", "v"), "c": ("y", "u")}, {k: weights_of(i) for i, k in enumerate("wvu")})
    x, target = states(), tmp_path / "smoothed.onnx"
    assert smooth(file, target, {"a", "b", "c"}, [{"x": x}]) == 2
    assert kinds(target).count("Mul") == 2  # a and b read the same states
    for own, other in zip(run(file, x), run(target, x), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-5)
    errors = []
    for source in (file, target):
        quantize_dynamic(source, tmp_path / "int8.onnx", per_channel=True, weight_type=QuantType.QInt8)
        errors.append([np.abs(a - b).mean() for a, b in zip(run(file, x), run(tmp_path / "int8.onnx", x), strict=True)])
    assert all(smoothed < plain / 2 for plain, smoothed in zip(*errors, strict=True))


@pytest.mark.parametrize(
    ("products", "chosen", "wide"),
    [
        ({"a": ("x", "w")}, {"a"}, 1.0),  # no channel is wide
        ({"a": ("x", "w"), "b": ("y", "w")}, {"a", "b"}, 50.0),  # layers that share their weights
        ({"a": ("x", "w"), "b": ("y", "w")}, {"a"}, 50.0),  # shared with a product that stays in fp32
        ({"a": ("x", "w")}, set(), 50.0),
    ],
)
def test_what_is_left_as_it_is(products, chosen, wide, write, tmp_path):
    file, x = write(products, {"w": weights_of(1)}), states(wide=wide)
    assert smooth(file, tmp_path / "same.onnx", chosen, [{"x": x}]) == 0
    assert kinds(tmp_path / "same.onnx") == kinds(file)
    for own, other in zip(run(file, x), run(tmp_path / "same.onnx", x), strict=True):
        np.testing.assert_array_equal(own, other)


def test_without_calibration_rows_nothing_is_smoothed(write, tmp_path):
    assert smooth(write({"a": ("x", "w")}, {"w": weights_of(1)}), tmp_path / "same.onnx", {"a"}, []) == 0


def test_others_read_the_states_as_they_were(write, tmp_path):
    file, x = write({"a": ("x", "w"), "b": ("x", "v")}, {"w": weights_of(1), "v": weights_of(2)}), states()
    assert smooth(file, tmp_path / "one.onnx", {"a"}, [{"x": x}]) == 1
    nodes = {node.name: node.input[0] for node in onnx.load(tmp_path / "one.onnx").graph.node}
    assert nodes["b"] == "x" != nodes["a"]
    np.testing.assert_array_equal(run(file, x)[1], run(tmp_path / "one.onnx", x)[1])
