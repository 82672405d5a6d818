"""How much memory a training run will take at its peak, before it begins, and whether there is as much.

Counted are tensors: what an optimizer step has to hold at once. Activations are what PyTorch's autograd keeps of a
transformer layer in these sources and in transformers' for BERT; other families are taken to be like it. Not counted
are heads and adapters' activations, which are small, and on a GPU what the allocator loses between its blocks.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import TrainingArguments

from ..data.collation import row_lengths
from ..data.sampling import Step, StepSampler
from ..modeling.packing import PackedLayout
from .console import print_lines, print_parameters, print_plan
from .distributed.encoder_sharding import encoder_layers
from .distributed.launch import print_start
from .methods.base import PeakMemory, TaskTrainer
from .optimizers import MOMENTS, moment_bytes

MIB = 2**20
# What a CPU's activations take of the C library's heap, which keeps the freed blocks of earlier steps' sizes, for each
# byte of theirs; found with benchmarks/memory.py.
HEAP = 1.9
LOOKED_AT = 2048  # micro-batches of the first epoch among which the longest is looked for
_SUBLAYERS = 2  # of a layer, attention and the feed-forward network; both end in dropout, a sum and a norm
_MOMENTS = {"sgd": 0, "adagrad": 1, "rmsprop": 1, "adafactor": 0}  # of the optimizers that are not like AdamW


@dataclass(frozen=True)
class Shape:
    """What the memory of one pass depends on.

    Attributes:
        tokens: that the linear layers see.
        slots: tokens as attention pads them.
        scores: Σ length² over all sequences as attention pads them.
        layers, width, inner, heads: of the encoder.
        half: whether linear layers compute in bf16 or fp16.
        weights_kept: whether attention keeps its weights `(heads, length, length)`, as where they are written out.
        dropout: whether hidden states have dropout.
    """

    tokens: int
    slots: int
    scores: int
    layers: int
    width: int
    inner: int
    heads: int
    half: bool = False
    weights_kept: bool = True
    dropout: bool = True

    def layer_bytes(self) -> int:
        """What autograd keeps of one layer, weights left out.

        That is the same whichever library computes the products: a processor without AVX-512 gives the backward pass
        transposed weights, which are views. Under autocast, queries, keys and values cast their common input each.
        """
        number = 2 if self.half else 4
        inputs = (5 if self.half else 3) * number  # of the linear layers, but for the one that reads the widest states
        sublayers = _SUBLAYERS * (4 + (number if self.dropout else 0))  # what a norm is given, and dropout's factors
        attention = (3 if self.weights_kept else 4) * number  # queries, keys, values, and what a kernel returned
        weights = (8 + number) * self.heads * self.scores if self.weights_kept else 0
        wide = self.tokens * (inputs + sublayers) + self.slots * attention
        return wide * self.width + self.tokens * 2 * number * self.inner + weights

    def working_bytes(self) -> int:
        """What computing a layer's gradients takes beside that: gradients of the widest states, scores and weights."""
        weights = 8 * self.heads * self.scores if self.weights_kept else 0
        return self.tokens * 2 * self.inner * (2 if self.half else 4) + weights

    def pass_bytes(self, checkpointing: bool = False) -> int:
        """What a forward pass leaves for the backward pass; with gradient checkpointing, each layer's input and one
        layer at a time."""
        embeddings = (2 if self.dropout else 1) * 4 * self.width * self.tokens  # what the norm is given, and factors
        if checkpointing:
            return embeddings + self.layers * 4 * self.width * self.tokens + self.layer_bytes()
        return embeddings + self.layers * self.layer_bytes()


def longest_step(trainer: TaskTrainer) -> Step:
    """The micro-batch with the most tokens on this process, among the first ones of the first epoch."""
    args = trainer.args
    lengths = [row_lengths(trainer.train_dataset[task.name]) for task in trainer.tasks]
    plan = trainer.plan()
    sampler = StepSampler.of(plan, args)
    steps = min(LOOKED_AT, max(plan.total_steps, 1) * args.gradient_accumulation_steps)
    return max(
        islice(sampler, steps), key=lambda step: sum(int(lengths[task][rows].sum()) for task, rows in step.parts)
    )


def shape_of(model: nn.Module, layout: PackedLayout, half: bool) -> Shape:
    """The shape of a pass over a layout by a model (one inside peft, too)."""
    config, kept = model.config.encoder, sum(bucket.count * bucket.length**2 for bucket in layout.buckets)

    def size(*names: str) -> Any:
        return next((getattr(config, name) for name in names if getattr(config, name, None) is not None), 0)

    packs, on_cpu = getattr(model, "_packs", False), next(model.parameters()).device.type == "cpu"
    padded = sum(bucket.count * bucket.length for bucket in layout.buckets)
    longest = max(layout.lengths, default=0)
    if not packs and not on_cpu:
        padded, kept = len(layout.lengths) * longest, len(layout.lengths) * longest**2
    return Shape(
        tokens=sum(layout.lengths) if packs else padded,
        slots=padded,
        scores=kept,
        layers=size("num_hidden_layers", "n_layers"),
        width=size("hidden_size", "dim"),
        inner=size("intermediate_size", "hidden_dim"),
        heads=size("num_attention_heads", "n_heads"),
        half=half,
        weights_kept=not packs or (on_cpu and bool(size("attention_probs_dropout_prob", "attention_dropout"))),
        dropout=bool(size("hidden_dropout_prob", "dropout", "mlp_dropout")),
    )


def _bytes(parameters: Any) -> int:
    return sum(each.numel() * each.element_size() for each in parameters)


def _recomputes(args: TrainingArguments) -> bool:
    """Whether gradient checkpointing is on, by either of transformers' names for it."""
    return bool(args.gradient_checkpointing or getattr(args, "activation_checkpointing", False))


def _longest_pass(trainer: TaskTrainer) -> PackedLayout:
    """What the longest micro-batch puts through the model at once."""
    layout: PackedLayout = trainer.batches(trainer.train_dataset).__getitems__(longest_step(trainer))["layout"]
    for method in trainer.methods.values():
        layout = method.pass_layout(layout)
    return layout


def step_parts(gradients: int, activations: int, on_cpu: bool, together: bool) -> dict[str, int]:
    """What gradients and activations of a step take, in bytes.

    A GPU's step that does not accumulate makes gradients while it gives up activations, so that only
    the larger of both counts. A CPU's heap keeps the blocks of both.

    Args:
        together: whether there are gradients when activations are made.
    """
    if on_cpu:
        return {"gradients": gradients, "activations": round(HEAP * activations)}
    if together:
        return {"gradients": gradients, "activations": activations}
    return {"gradients": gradients} if gradients >= activations else {"activations": activations}


def estimate(trainer: TaskTrainer) -> tuple[dict[str, int], int]:
    """The parts of a run's peak memory in bytes, and the tokens of its longest micro-batch.

    Returns:
        `weights`, `gradients`, `moments`, `copies` (of the weights, where a method keeps some), `activations`, and on a
        CPU `process`: what this process holds already besides the weights.
    """
    model, args = trainer.model, trainer.args
    named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    trained, on_cpu = _bytes(each for _, each in named), args.device.type == "cpu"
    weights = _bytes(model.parameters()) + _bytes(model.buffers())
    layout, checkpointing = _longest_pass(trainer), _recomputes(args)
    shape = shape_of(model, layout, trainer.accelerator.native_amp)
    only_heads = not any(".heads." not in f".{name}" for name, _ in named)  # then no layer's states are kept
    kept = 0 if only_heads else shape.pass_bytes(checkpointing)
    peak = PeakMemory(shape, checkpointing, gradients=trained, activations=kept)
    peak.keeps_gradients = args.gradient_accumulation_steps > 1 or args.world_size > 1
    for method in trainer.methods.values():
        method.add_memory(peak)
    if only_heads:
        peak.activations = 0
    if args.world_size > 1 and not any(method.averages_gradients for method in trainer.methods.values()):
        peak.gradients *= 2  # the buckets in which processes average them
    kind = str(getattr(args.optim, "value", args.optim))
    each_moment = _MOMENTS.get(kind, MOMENTS)
    moments = moment_bytes(named, peak.states_of) * each_moment // MOMENTS
    held = weights
    if args.shard_encoder and args.world_size > 1:
        layers = [each for part in encoder_layers(model.encoder) for each in part.parameters()]
        own = _bytes(each for each in layers if each.requires_grad)
        elsewhere = own - own // args.world_size
        weights -= _bytes(layers) - _bytes(layers) // args.world_size
        moments -= elsewhere * each_moment
        peak.gradients -= own + elsewhere  # theirs are averaged layer by layer
    parts = {"weights": weights, "moments": moments}
    activations = peak.activations + shape.working_bytes()
    parts |= step_parts(peak.gradients, activations, on_cpu, peak.keeps_gradients)
    if peak.copies:
        parts["copies"] = peak.copies * sum(each.numel() * max(4, each.element_size()) for _, each in named)
    if trainer.accelerator.native_amp:
        parts["half-precision weights"] = weights // 2  # autocast keeps them for a pass
    if on_cpu:
        parts["process"] = max(0, psutil.Process().memory_info().rss - held)
    return parts, sum(layout.lengths)


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take on a device; on a CPU within the limit of its control group, if any."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    free = psutil.virtual_memory().available
    try:
        limit, used = (int(Path("/sys/fs/cgroup", f"memory.{name}").read_text()) for name in ("max", "current"))
        return min(free, limit - used)
    except (OSError, ValueError):  # no control group, or one without a limit
        return free


def describe(parts: Mapping[str, int], tokens: int, free: int) -> str:
    """One line for the terminal."""
    each = ", ".join(f"{name} {size / MIB:,.0f}" for name, size in parts.items())
    total = sum(parts.values())
    return f"Memory at the peak, about: {total / MIB:,.0f} MiB ({each}; {tokens:,} tokens); free: {free / MIB:,.0f} MiB"


def lacking(parts: Mapping[str, int], free: int, checkpointing: bool, processes: int = 1) -> str | None:
    """What to do where a run does not fit; None where it does.

    Args:
        free: bytes besides those that the process holds already, for all `processes` that share them.
        checkpointing: whether gradient checkpointing is on.
    """
    held = parts["process"] + parts["weights"] if "process" in parts else parts["weights"]
    more = processes * (sum(parts.values()) - held)
    if more <= free:
        return None
    remedies = ["a smaller per_device_train_batch_size with more gradient_accumulation_steps"]
    if not checkpointing:
        remedies.append("gradient_checkpointing: true")
    of = f" of {processes} processes" if processes > 1 else ""
    return (
        f"training{of} may need {more / MIB:,.0f} MiB more, but {free / MIB:,.0f} MiB are free; try "
        f"{' or '.join(remedies)}"
    )


def print_memory(trainer: TaskTrainer) -> None:
    """Print what a run will take at its peak, and warn where there is less."""
    args = trainer.args
    parts, tokens = estimate(trainer)
    free = free_memory(args.device)
    print_lines([describe(parts, tokens, free)])
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if args.device.type == "cpu" else 1
    if line := lacking(parts, free, _recomputes(args), processes):
        warnings.warn(line, stacklevel=3)


def print_beginning(trainer: TaskTrainer) -> None:
    """Print how a run computes, its parameters, its plan, the memory it takes, and what its methods do."""
    print_start(trainer)
    print_parameters(trainer.model.parameter_table())
    print_plan(trainer.plan())
    print_memory(trainer)
    print_lines(method.describe() for method in trainer.methods.values())
