"""Quantise graphs of OpenVINO with nncf: products of the encoder with weights in int8."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

STATIC = "int8 static (nncf)"


class OpenVinoQuantiser:
    """Quantises one OpenVINO graph; see `int8.Quantiser`.

    Args:
        path: the graph in fp32.
        parts: name of a part → its nodes, which are products with weights.
        arrays: calibration batches.
    """

    families: Sequence[Sequence[str]] = ((STATIC,),)

    def __init__(self, path: Path, parts: Mapping[str, Sequence[str]], arrays: Sequence[dict[str, np.ndarray]]):
        import openvino

        self.parts, self._arrays, self._path = parts, arrays, path
        graph = openvino.Core().read_model(str(path))
        self._products = [op.get_friendly_name() for op in graph.get_ops() if op.get_type_name() == "MatMul"]
        self._gathers = [op.get_friendly_name() for op in graph.get_ops() if op.get_type_name() == "Gather"]

    def __call__(self, way: str, parts: Sequence[str], target: Path) -> None:
        """Write the graph with these parts in int8."""
        import nncf
        import openvino

        logging.getLogger("nncf").setLevel(logging.ERROR)
        chosen = {node for part in parts for node in self.parts[part]}
        others = [name for name in (*self._products, *self._gathers) if name not in chosen]
        graph = openvino.Core().read_model(str(self._path))
        if chosen:
            graph = nncf.quantize(
                graph,
                nncf.Dataset(self._arrays),
                subset_size=len(self._arrays),
                model_type=nncf.ModelType.TRANSFORMER,
                ignored_scope=nncf.IgnoredScope(names=others, validate=False),
            )
        openvino.save_model(graph, str(target), compress_to_fp16=False)
