"""Write the graphs of a model: one with every head, or with adapters one for each task that has its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..modeling.onnx_export import OPSET, PaddedModel, export_onnx, refuse_family
from ..modeling.tokenization import has_token_types
from . import extras
from .attention_nodes import merge_heads
from .standalone import Graph

# The first version with an operator for attention, which onnxruntime computes faster than its parts.
ATTENTION_OPSET = 23
_SCOPES = "pkg.torch.onnx.name_scopes"  # where PyTorch's exporter writes the modules around a node


@dataclass(frozen=True)
class TaskGraph:
    """The graph of some tasks.

    Attributes:
        file: its file's name in the exported folder.
        outputs: task name → name of its output.
        parts: name of a part of the encoder or adapter → its products with weights, which int8 may quantise. Those of
            poolers and heads are not among them: they work on one state of a text, and take no time. Products of an
            adapter within a layer belong to the layer.
    """

    file: str
    outputs: dict[str, str]
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """All files of the graph."""
        return (self.file, f"{self.file[:-4]}.bin") if self.file.endswith(".xml") else (self.file,)


def task_groups(model: Any) -> list[list[str]]:
    """Names of the tasks of each graph: those without an adapter share one, each other task has its own."""
    shared = [task.name for task in model.tasks if task.name not in model.adapters]
    return [*([shared] if shared else []), *([name] for name in model.adapters)]


def write_graphs(model: Any, folder: Path, engine: str) -> list[TaskGraph]:
    """Write a model's graphs in fp32 into a folder.

    Args:
        model: the model, in fp32 on the CPU.
        folder: an existing folder.
        engine: `onnx` or `openvino`.

    Raises:
        InputError: the engine is not installed, or the encoder's family cannot be exported.
    """
    extras.require(engine, extras.PACKAGES[engine])
    refuse_family(model)
    groups, graphs = task_groups(model), []
    for number, names in enumerate(groups, start=1):
        stem = "model" if len(groups) == 1 else f"model-{number}"
        graphs.append(_write_graph(model, folder / f"{stem}.onnx", names, engine))
    return graphs


def _write_graph(model: Any, file: Path, names: list[str], engine: str) -> TaskGraph:
    """Write one graph and try it: with an attention operator, if the exporter writes it and the engine reads it."""
    try:
        return _write_with(ATTENTION_OPSET, model, file, names, engine)
    except InputError:  # of some families, only the earlier version can express the layers, or run
        for left in file.parent.glob(f"{file.stem}.*"):
            left.unlink()
        return _write_with(OPSET, model, file, names, engine)


def _write_with(opset: int, model: Any, file: Path, names: list[str], engine: str) -> TaskGraph:
    outputs = export_onnx(model, file, names, opset)
    parts = find_parts(file)
    if engine == "openvino":
        file = to_openvino(file)
    elif opset == ATTENTION_OPSET:
        merge_heads(file)
    check_graph(model, file, names, outputs)
    return TaskGraph(file.name, dict(zip(names, outputs, strict=True)), parts)


@torch.inference_mode()
def check_graph(model: Any, file: Path, names: list[str], outputs: list[str]) -> None:
    """Run a graph on sizes other than those that it was made with; raise InputError if it answers otherwise."""
    try:
        graph = Graph(file, torch.get_num_threads())
    except Exception as error:  # onnxruntime's errors have no common type
        raise InputError(f"the exported graph can not be loaded: {str(error).splitlines()[0]}") from error
    for sequences, length in ((6, 5), (12, 3)):
        ids = torch.arange(sequences * length).view(sequences, length) % (model.config.encoder.vocab_size - 1) + 1
        mask = torch.ones_like(ids)
        mask[1:, length - 1] = 0
        inputs = {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        if not (model._accepts_types and has_token_types(model.config.encoder)):
            del inputs["token_type_ids"]
        expected = PaddedModel(model, names)(**inputs)
        try:
            found = graph(outputs, {name: values.numpy() for name, values in inputs.items()})
        except Exception as error:
            raise InputError(f"the exported graph does not run: {str(error).splitlines()[0]}") from error
        for name, own, logits in zip(names, found, expected, strict=True):
            if not np.allclose(own, logits.numpy(), atol=1e-3, rtol=1e-3):
                raise InputError(f"the exported graph answers task {name!r} unlike the model; predict with torch")


def to_openvino(file: Path) -> Path:
    """Replace an ONNX file by OpenVINO's two files; return the path of the `.xml`.

    Raises:
        InputError: OpenVINO does not know an operator of the graph.
    """
    import openvino

    target = file.with_suffix(".xml")
    try:
        converted = openvino.convert_model(str(file))
    except Exception as error:  # its errors have no common type
        raise InputError(f"openvino can not read the exported graph: {str(error).splitlines()[0]}") from error
    _drop_nan_guards(converted)
    openvino.save_model(converted, str(target), compress_to_fp16=False)
    file.unlink()
    file.with_name(f"{file.name}.data").unlink(missing_ok=True)
    return target


def _drop_nan_guards(model: Any) -> None:
    """Remove what turns nan into 0 behind attention: nan would need a token that sees none, but each sees its text."""
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Select":
            continue
        test, attention = (node.input_value(place).get_node() for place in (0, 2))
        if test.get_type_name() != "IsNaN" or attention.get_type_name() != "ScaledDotProductAttention":
            continue
        if test.input_value(0).get_node() == attention:
            node.output(0).replace(attention.output(0))
    model.validate_nodes_and_infer_types()


def find_parts(file: Path) -> dict[str, list[str]]:
    """Parts of an ONNX graph → names of their products with weights; see `TaskGraph.parts`.

    A layer of the encoder has three parts: `attention`, whose weights are square, `feed-forward in`, and
    `feed-forward out`, whose inputs are the wider states, and most hurt by int8.
    """
    import onnx

    graph = onnx.load(str(file), load_external_data=False).graph
    shapes = {weight.name: list(weight.dims) for weight in graph.initializer}
    parts: dict[str, list[str]] = {}
    for node in graph.node:
        shape = shapes.get(node.input[1]) if node.op_type == "MatMul" else None
        if shape is None or len(shape) != 2:
            continue
        scopes = {entry.key: entry.value for entry in node.metadata_props}.get(_SCOPES, "[]")
        name = _part_name(ast.literal_eval(scopes), *shape)
        if name is not None:
            parts.setdefault(name, []).append(node.name)
    return parts


def _part_name(scopes: Sequence[str], rows: int, columns: int) -> str | None:
    """Name of the part that a product belongs to, by the modules around it and the size of its weights; None: it is not
    quantised."""
    modules = [scope for scope in scopes if "." in scope]
    if not modules or modules[-1].startswith("model.heads."):
        return None
    if modules[-1].startswith("model.adapters."):
        return "adapter"
    if ".pooler" in modules[-1]:
        return None
    layer = re.search(r"\b\w*(?:layers?|blocks?)\.(\d+)", modules[-1])
    if layer is None:
        return "embeddings"
    kind = "attention" if rows == columns else f"feed-forward {'in' if rows < columns else 'out'}"
    return f"layer {layer[1]} {kind}"
