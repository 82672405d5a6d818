"""Let onnxruntime's attention operator split states into heads itself, which saves copies of the states."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_HEADS_FIRST = [0, 2, 1, 3]  # (rows, length, heads, size) ↔ (rows, heads, length, size)


def merge_heads(file: Path) -> int:
    """Give attention operators their queries, keys and values as `(rows, length, hidden size)`.

    An operator is left as it is where something else than the split into heads lies between it and such states, as
    rotary positions do. Answers stay the same.

    Args:
        file: an ONNX graph, which is rewritten; its weights may lie beside it.

    Returns:
        The number of operators that were changed.
    """
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    graph: Any = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    weights = {weight.name: weight for weight in graph.initializer}
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    removed: set[str] = set()  # by their outputs
    operators = [node for node in graph.node if node.op_type == "Attention"]
    changed = 0
    for node in operators:
        splits = [_split_of(name, makers, readers) for name in node.input[:3]]
        merge = _merge_of(node.output[0], readers)
        if merge is None or None in splits:
            continue
        shapes = {_shape(split[1].input[1], makers, weights) for split in splits if split}
        widths = {_width(split[1].input[0], makers, weights) for split in splits if split}
        (rank, size), width = shapes.pop(), widths.pop()
        if shapes or widths or rank != 4 or _shape(merge[1].input[1], makers, weights)[0] != 3 or not (size and width):
            continue
        heads = width // size
        for place, (transpose, reshape) in enumerate(filter(None, splits)):
            node.input[place] = reshape.input[0]
            removed |= {transpose.output[0], reshape.output[0]}
        transpose, reshape = merge
        removed |= {transpose.output[0], reshape.output[0]}
        node.output[0] = reshape.output[0]
        node.attribute.extend(onnx.helper.make_attribute(f"{kind}_num_heads", heads) for kind in ("q", "kv"))
        changed += 1
    if changed:
        kept = [node for node in graph.node if node.op_type == "Attention" or node.output[0] not in removed]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(copies)
        del graph.value_info[:]  # shapes of states that are gone
        onnx.save(model, str(file))
    return changed


def _split_of(state: str, makers: Mapping[str, Any], readers: Mapping[str, Sequence[Any]]) -> tuple[Any, Any] | None:
    """The transpose and the reshape that split `(rows, length, hidden size)` into `state`; None for another state."""
    transpose = makers.get(state)
    if transpose is None or not _swaps(transpose) or len(readers[state]) != 1:
        return None
    reshape = makers.get(transpose.input[0])
    if reshape is None or reshape.op_type != "Reshape" or len(readers[reshape.output[0]]) != 1:
        return None
    return transpose, reshape


def _merge_of(state: str, readers: Mapping[str, Sequence[Any]]) -> tuple[Any, Any] | None:
    """The transpose and the reshape that join the heads of `state`; None if something else reads it."""
    found = []
    for kind in ("Transpose", "Reshape"):
        if len(readers[state]) != 1 or readers[state][0].op_type != kind:
            return None
        found.append(readers[state][0])
        state = found[-1].output[0]
    return (found[0], found[1]) if _swaps(found[0]) else None


def _shape(name: str, makers: Mapping[str, Any], weights: Mapping[str, Any]) -> tuple[int, int]:
    """How many sizes a reshape is given, and the last of them, if it is a constant; else 0."""
    from onnx import numpy_helper

    maker = makers.get(name)
    parts = list(maker.input) if maker is not None and maker.op_type == "Concat" else [name]
    last = numpy_helper.to_array(weights[parts[-1]]).ravel() if parts[-1] in weights else [0]
    return (len(last) if len(parts) == 1 else len(parts)), int(last[-1])


def _width(state: str, makers: Mapping[str, Any], weights: Mapping[str, Any]) -> int:
    """The last size of a product of `(rows, length, …)` with weights, to which a bias may be added; of others 0."""
    maker = makers.get(state)
    if maker is not None and maker.op_type == "Add":
        maker = next((makers[name] for name in maker.input if name in makers), None)
    weight = weights.get(maker.input[1]) if maker is not None and maker.op_type == "MatMul" else None
    return int(weight.dims[1]) if weight is not None and len(weight.dims) == 2 else 0


def _swaps(node: Any) -> bool:
    """Whether a node swaps length and heads."""
    return node.op_type == "Transpose" and any(list(entry.ints) == _HEADS_FIRST for entry in node.attribute)
