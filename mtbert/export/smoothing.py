"""Make activations of an ONNX graph easier to quantise: divide wide channels, and multiply their weights.

SmoothQuant (Xiao et al., 2023, equations 3 and 4): for a product x W, channel x_j is divided by s_j and row j of W is
multiplied by it, with s_j = max|x_j|^α / max|W_j|^(1 − α). The product stays the same, but the scale that all of x
shares in int8 is no longer that of a few wide channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# The paper takes 1/2 for most large language models, and more where channels are wider.
ALPHA = 0.75
WIDE = 4.0  # states are smoothed if their widest channel is so many times as wide as the median one
# A channel counts as at least so many times as wide as the mean: calibration rows may not show all that it can hold.
_LEAST = 0.1


def smooth(source: Path, target: Path, products: Collection[str], batches: Sequence[Mapping[str, np.ndarray]]) -> int:
    """Write a graph whose products have smoothed inputs; return the number of inputs that were smoothed.

    Products of the same input share its divisors. An input is left as it is if none of its channels is wide, or if its
    weights belong to other products too, as in ALBERT, whose layers share theirs.

    Args:
        source: the graph in fp32.
        target: where the graph is written.
        products: names of the products with weights that may be quantised.
        batches: inputs of the graph by which the width of channels is measured.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(source))
    nodes, weights = model.graph.node, {weight.name: weight for weight in model.graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in nodes:
        if node.name in products and node.op_type == "MatMul":
            readers.setdefault(node.input[0], []).append(node)
    uses = Counter(name for node in nodes for name in node.input)
    readers = {name: own for name, own in readers.items() if all(uses[node.input[1]] == 1 for node in own)}
    count = 0
    for name, ranges in channel_ranges(source, list(readers), batches).items():
        if ranges.max() < WIDE * np.median(ranges):
            continue
        matrices = [numpy_helper.to_array(weights[node.input[1]]) for node in readers[name]]
        scales = divisors(ranges, np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0))
        factors, smoothed = f"{name}.factors", f"{name}.smoothed"
        model.graph.initializer.append(numpy_helper.from_array((1 / scales).astype(np.float32), factors))
        place = min(list(nodes).index(node) for node in readers[name])
        nodes.insert(place, helper.make_node("Mul", [name, factors], [smoothed], name=smoothed))
        for node, matrix in zip(readers[name], matrices, strict=True):
            weights[node.input[1]].CopyFrom(numpy_helper.from_array(matrix * scales[:, None], node.input[1]))
            node.input[0] = smoothed
        count += 1
    onnx.save(model, str(target))
    return count


def divisors(ranges: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return s_j of each channel, with a geometric mean of 1, float32.

    Args:
        ranges: max|x_j|, shape `(channels,)`.
        weights: max|W_j| over the columns, shape `(channels,)`.
    """
    wide, heavy = (np.maximum(each, max(_LEAST * float(each.mean()), 1e-9)) for each in (ranges, weights))
    logs = ALPHA * np.log(wide) - (1 - ALPHA) * np.log(heavy)
    return np.exp(logs - logs.mean()).astype(np.float32)


def channel_ranges(
    graph: Path, names: Sequence[str], batches: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Measure max|x_j| of some values of a graph over all batches; return name → `(channels,)`.

    Without batches, nothing is measured.
    """
    import onnx
    import onnxruntime

    model = onnx.load(str(graph))
    outputs = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = [each.name for each in session.get_inputs()]
    ranges: dict[str, np.ndarray] = {}
    for batch in batches if names else ():
        for name, values in zip(names, session.run(list(names), {key: batch[key] for key in inputs}), strict=True):
            own = np.abs(values.reshape(-1, values.shape[-1])).max(axis=0, initial=0)
            ranges[name] = np.maximum(ranges.get(name, 0), own)
    return ranges
