"""Shared parts of the benchmarks: speed of the machine, operation counts, memory, and where a run took place."""

from __future__ import annotations

import os
import platform
import resource
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from workload import ROOT

from mtbert.modeling.cpu_layers import use_faster_layers

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


# ---- arithmetic ----


def training_flops(config, lengths: Sequence[int], num_labels: int = 1) -> int:
    """Return the floating-point operations of training on these rows: forward, and twice that for backward.

    The count has the matrix products of a BERT encoder with pooler and a linear head, over real tokens. It leaves out
    embeddings, norms, activations, softmax, the optimizer, and recomputation.

    Args:
        config: the encoder's.
        lengths: tokens of each row, `(rows,)`.
        num_labels: logits of a row.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    width, inner = config.hidden_size, config.intermediate_size
    matrices = 2 * (4 * width * width + 2 * width * inner) * int(lengths.sum())  # query, key, value, output; two MLP
    attention = 2 * 2 * width * int((lengths**2).sum())  # scores, and their product with the values
    head = 2 * len(lengths) * (width * width + width * num_labels)
    return 3 * (config.num_hidden_layers * (matrices + attention) + head)


def matmul_rate(tokens: int, width: int, inner: int, dtype: torch.dtype, device: str = "cpu", seconds: float = 1.0):
    """Return the operations per second of `(tokens, width) · (width, inner)`, in the library of our linear layers.

    The best of the batches that fit in `seconds`.
    """
    layer = torch.nn.Linear(width, inner, bias=False, device=device, dtype=dtype).requires_grad_(False)
    use_faster_layers(layer)
    rows = torch.randn(tokens, width, device=device).to(dtype)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(3):
        layer(rows)
    wait()
    best, repeats, stop = 0.0, 10, time.perf_counter() + seconds
    while time.perf_counter() < stop:
        start = time.perf_counter()
        for _ in range(repeats):
            layer(rows)
        wait()
        best = max(best, repeats * 2 * tokens * width * inner / (time.perf_counter() - start))
    return best


# ---- memory ----


def process_memory(key: str) -> float:
    """A line of /proc/self/status in MiB: `VmHWM` (peak), `VmRSS` (now), `RssAnon` (now, without mapped files)."""
    with open("/proc/self/status", encoding="ascii") as file:
        values = dict(line.split(":", 1) for line in file)
    return int(values[key].split()[0]) / 1024


def peak_memory() -> float:
    """Return this process's largest resident memory so far, in MiB.

    Reads /proc if it exists, because `ru_maxrss` includes the memory of the parent when it started this process.
    """
    try:
        return process_memory("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


# ---- where and what ----


def commit() -> str:
    """Return the commit of the checkout, read from its files, or `unknown`."""
    folder = shared = ROOT / ".git"
    try:
        if folder.is_file():  # of a worktree
            folder = Path(folder.read_text(encoding="utf-8").removeprefix("gitdir: ").strip())
            shared = folder / (folder / "commondir").read_text(encoding="utf-8").strip()
        head = (folder / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head
        reference = head.removeprefix("ref: ")
        if (file := shared / reference).is_file():
            return file.read_text(encoding="utf-8").strip()
        for line in (shared / "packed-refs").read_text(encoding="utf-8").splitlines():
            if line.endswith(f" {reference}"):
                return line.split()[0]
    except OSError:
        pass
    return "unknown"


def cpu_model() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """Return the processor's features as Linux names them; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":", 1)[1].split()}


def instruction_set() -> str:
    """Return the widest instructions that PyTorch uses here: `amx`, `avx512`, `avx2`, or the architecture's name."""
    capability = torch.backends.cpu.get_cpu_capability().lower()
    if capability == "avx512" and "amx_tile" in cpu_flags():
        return "amx"
    return capability if capability.startswith("avx") else platform.machine()


def has_bf16() -> bool:
    """Return whether the CPU has instructions for products in bf16; without them bf16 is slower than fp32."""
    wanted = {"avx512_bf16", "amx_bf16"} if instruction_set() in ("avx512", "amx") else {"bf16"}
    return not wanted.isdisjoint(cpu_flags())


def environment(**more: Any) -> dict[str, Any]:
    """Return what a reader needs to judge or repeat a run."""
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    return {
        "command": shlex.join(["python", str(name), *sys.argv[1:]]),
        "commit": commit(),
        "cpu": f"{cpu_model()}, {os.cpu_count()} cores",
        "load_average_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **more,
    }
