"""Quantise graphs of onnxruntime: products of the encoder with weights in int8, one scale for each column."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from .smoothing import smooth

DYNAMIC, STATIC = "int8 dynamic", "int8 static"
SMOOTHED = ", smoothed"
REDUCED = ", 7-bit weights"  # sums of products of 8 bits overflow 16 bits on processors without VNNI
_VNNI = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def has_vnni() -> bool:
    """Whether the processor sums products of 8-bit numbers in 32 bits, so that none overflows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":", 1)[1].split()}
    return not flags.isdisjoint(_VNNI)


class OnnxQuantiser:
    """Quantises one ONNX graph; see `int8.Quantiser`.

    Dynamic: activations have one scale for each batch, measured while it runs. Static: their scales are measured once,
    on calibration rows, as the range of all values. Both are tried with and without smoothed activations.

    Args:
        path: the graph in fp32.
        parts: name of a part → its nodes, which are products with weights.
        arrays: calibration batches.
    """

    def __init__(self, path: Path, parts: Mapping[str, Sequence[str]], arrays: Sequence[dict[str, np.ndarray]]):
        self.parts, self._arrays = parts, arrays
        self._scratch = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        plain, smoothed = self._scratch / "prepared.onnx", self._scratch / "smoothed.onnx"
        prepare(path, plain)
        self._sources = {"": plain}
        if smooth(plain, smoothed, {node for part in parts.values() for node in part}, arrays):
            self._sources[SMOOTHED] = smoothed
        bits = [""] if has_vnni() else ["", REDUCED]
        self.families: Sequence[Sequence[str]] = tuple(
            [family + source + more for source in self._sources for more in bits] for family in (DYNAMIC, STATIC)
        )

    def __call__(self, way: str, parts: Sequence[str], target: Path) -> None:
        """Write the graph with these parts in int8."""
        from onnxruntime import quantization as q

        source = self._sources[SMOOTHED if SMOOTHED in way else ""]
        chosen = [node for part in parts for node in self.parts[part]]
        if not chosen:  # for the quantisers, no name means every node
            shutil.copyfile(source, target)
            return
        options: dict[str, Any] = {
            "op_types_to_quantize": ["MatMul"],
            "nodes_to_quantize": chosen,
            "per_channel": True,
            "reduce_range": REDUCED in way,
            "weight_type": q.QuantType.QInt8,
        }
        if way.startswith(DYNAMIC):
            q.quantize_dynamic(str(source), str(target), **options, extra_options={"MatMulConstBOnly": True})
            return
        if "calibration_cache_path" in signature(q.quantize_static).parameters:  # the scales are measured once
            options["calibration_cache_path"] = source.with_suffix(".json")
        q.quantize_static(
            str(source),
            str(target),
            _Reader(self._arrays),
            activation_type=q.QuantType.QUInt8,
            calibrate_method=q.CalibrationMethod.MinMax,  # percentiles take batches of one length only
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
            **options,
        )


def prepare(path: Path, target: Path) -> None:
    """Write a graph that the quantisers take without a remark."""
    import onnx
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = onnx.load(str(path))
    del model.graph.value_info[:]  # types that the quantisers would not update
    add_pre_process_metadata(model)
    onnx.save(model, str(target))


class _Reader:
    """Gives calibration batches to onnxruntime, one after the other."""

    def __init__(self, arrays: Sequence[dict[str, np.ndarray]]):
        self._left: Iterator[dict[str, np.ndarray]] = iter(arrays)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch; None after the last."""
        return next(self._left, None)
