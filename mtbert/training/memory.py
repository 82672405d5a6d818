"""Estimate the peak memory of a training run before it begins, and compare it with the free memory.

The estimate counts the tensors that an optimizer step holds at once. Activations are those that PyTorch's autograd
keeps of a BERT layer, in this package and in transformers; other families are assumed to be alike. The estimate leaves
out the activations of heads and adapters, which are small, and the fragmentation of a GPU's allocator.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from transformers import TrainingArguments

from ..data.collation import pool_lengths
from ..data.pools import describe_sources, sources_of, tasks_apart
from ..data.sampling import Step, StepSampler
from ..data.token_plan import TokenPlan
from ..modeling.encoder_support import ATTENTION_DROPOUT
from ..modeling.packing import PackedLayout
from .console import print_lines, print_parameters, print_plan
from .distributed.encoder_sharding import encoder_layers
from .distributed.launch import print_start
from .methods.base import PeakMemory, TaskTrainer
from .optimizers import MOMENTS, moment_bytes

MIB = 2**20
# Bytes of heap for each byte of activations on a CPU: the C library keeps freed blocks of earlier steps. Measured with
# benchmarks/memory.py.
HEAP = 1.9
LOOKED_AT = 2048  # the longest micro-batch is searched for among so many first ones
_SUBLAYERS = 2  # attention and the feed-forward network; each ends in dropout, a sum and a norm
_MOMENTS = {"sgd": 0, "adagrad": 1, "rmsprop": 1, "adafactor": 0}  # moments per parameter, if not 2 as for AdamW


@dataclass(frozen=True)
class Shape:
    """Sizes of a forward pass that determine its memory.

    Attributes:
        tokens: number of tokens in the linear layers.
        slots: number of tokens in attention, padding included.
        scores: Σ length² over all sequences, padding included.
        layers, width, inner, heads: sizes of the encoder.
        half: whether linear layers compute in bf16 or fp16.
        weights_kept: whether autograd keeps the attention weights `(heads, length, length)`.
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
        """Bytes that autograd keeps of one layer, without its weights.

        The number does not depend on the library that multiplies matrices: a processor without AVX-512 keeps transposed
        weights for the backward pass, but these are views. Under autocast, the projections to queries, keys and values
        each keep their own cast of the common input.
        """
        number = 2 if self.half else 4
        inputs = (5 if self.half else 3) * number  # of all linear layers but the one that reads the inner states
        sublayers = _SUBLAYERS * (4 + (number if self.dropout else 0))  # input of the norm, and the dropout mask
        attention = (3 if self.weights_kept else 4) * number  # queries, keys, values, and a fused kernel's output
        weights = (8 + number) * self.heads * self.scores if self.weights_kept else 0
        wide = self.tokens * (inputs + sublayers) + self.slots * attention
        return wide * self.width + self.tokens * 2 * number * self.inner + weights

    def working_bytes(self) -> int:
        """Bytes of a layer's temporary gradients in the backward pass: of the inner states, scores and weights."""
        weights = 8 * self.heads * self.scores if self.weights_kept else 0
        return self.tokens * 2 * self.inner * (2 if self.half else 4) + weights

    def pass_bytes(self, checkpointing: bool = False) -> int:
        """Bytes that a forward pass keeps for the backward pass.

        With gradient checkpointing these are the inputs of all layers, and the activations of one layer.
        """
        embeddings = (2 if self.dropout else 1) * 4 * self.width * self.tokens  # input of the norm, and dropout mask
        if checkpointing:
            return embeddings + self.layers * 4 * self.width * self.tokens + self.layer_bytes()
        return embeddings + self.layers * self.layer_bytes()


def longest_step(trainer: TaskTrainer) -> Step:
    """The micro-batch with the most tokens on this process, among the first `LOOKED_AT` ones.

    If a budget of tokens bounds some steps, its rows are repeated until it has its share of the budget.
    """
    args = trainer.args
    lengths = pool_lengths(trainer.tasks, trainer.train_dataset, trainer.model.config)
    plan = trainer.plan()
    sampler = StepSampler.of(plan, args)
    steps = min(LOOKED_AT, max(plan.total_steps, 1) * args.gradient_accumulation_steps)

    def tokens(step: Step) -> int:
        return sum(int(lengths[pool][rows].sum()) for pool, rows in step.parts)

    longest = max(islice(sampler, steps), key=tokens)
    if isinstance(plan, TokenPlan) and (plan.mean_batches < plan.task_batches).any():
        share = plan.budget.tokens / (args.world_size * args.gradient_accumulation_steps)
        times = max(1.0, share / max(1, tokens(longest)))
        parts = tuple((task, np.resize(rows, int(len(rows) * times))) for task, rows in longest.parts)
        return Step(parts, longest.filler)
    return longest


def shape_of(model: Any, layout: PackedLayout, half: bool) -> Shape:
    """The shape of a model's forward pass over a layout; the model may be inside peft."""
    config, scores = model.config.encoder, sum(bucket.count * bucket.length**2 for bucket in layout.buckets)

    def size(*names: str) -> Any:
        """The first of these attributes that the config has; 0 if it has none."""
        return next((getattr(config, name) for name in names if getattr(config, name, None) is not None), 0)

    packs, on_cpu = getattr(model, "_packs", False), next(model.parameters()).device.type == "cpu"
    padded = sum(bucket.count * bucket.length for bucket in layout.buckets)
    longest = max(layout.lengths, default=0)
    if not packs and not on_cpu:
        padded, scores = len(layout.lengths) * longest, len(layout.lengths) * longest**2
    return Shape(
        tokens=sum(layout.lengths) if packs else padded,
        slots=padded,
        scores=scores,
        layers=size("num_hidden_layers", "n_layers"),
        width=size("hidden_size", "dim"),
        inner=size("intermediate_size", "hidden_dim"),
        heads=size("num_attention_heads", "n_heads"),
        half=half,
        weights_kept=not packs or (on_cpu and bool(size(*ATTENTION_DROPOUT))),
        dropout=bool(size("hidden_dropout_prob", "dropout", "mlp_dropout")),
    )


def _bytes(parameters: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _recomputes(args: TrainingArguments) -> bool:
    """Whether gradient checkpointing is on, under either of transformers' names for it."""
    return bool(args.gradient_checkpointing or getattr(args, "activation_checkpointing", False))


def _longest_pass(trainer: TaskTrainer) -> PackedLayout:
    """Layout of the largest forward pass: the longest micro-batch, or the part of it that a method passes at once."""
    batches = trainer.batches(trainer.train_dataset, training=True)
    layout: PackedLayout = batches.__getitems__(longest_step(trainer))["layout"]
    for method in trainer.methods.values():
        layout = method.pass_layout(layout)
    return layout


def step_parts(gradients: int, activations: int, on_cpu: bool, together: bool) -> dict[str, int]:
    """Bytes of a step's gradients and activations.

    On a GPU, a step without accumulation frees activations while it makes gradients, so that only the larger of the two
    counts. On a CPU both count, because the heap keeps freed blocks.

    Args:
        together: whether gradients exist already while the forward pass makes activations.
    """
    if on_cpu:
        return {"gradients": gradients, "activations": round(HEAP * activations)}
    if together:
        return {"gradients": gradients, "activations": activations}
    return {"gradients": gradients} if gradients >= activations else {"activations": activations}


def estimate(trainer: TaskTrainer) -> tuple[dict[str, int], int]:
    """The parts of a run's peak memory in bytes, and the tokens of its longest micro-batch.

    Returns:
        `weights`, `gradients`, `moments`, `copies` (weights that a method keeps), `activations`, and on a CPU
        `process`: the memory that this process already uses besides the weights.
    """
    model, args = trainer.model, trainer.args
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    trained, on_cpu = _bytes(parameter for _, parameter in named), args.device.type == "cpu"
    weights = _bytes(model.parameters()) + _bytes(model.buffers())
    layout, checkpointing = _longest_pass(trainer), _recomputes(args)
    shape = shape_of(model, layout, trainer.accelerator.native_amp)
    only_heads = all(".heads." in f".{name}" for name, _ in named)  # then autograd keeps no layer's activations
    activations = 0 if only_heads else shape.pass_bytes(checkpointing)
    peak = PeakMemory(shape, checkpointing, gradients=trained, activations=activations)
    peak.keeps_gradients = args.gradient_accumulation_steps > 1 or args.world_size > 1
    for method in trainer.methods.values():
        method.add_memory(peak)
    if only_heads:
        peak.activations = 0
    if args.world_size > 1 and not any(method.averages_gradients for method in trainer.methods.values()):
        peak.gradients *= 2  # DistributedDataParallel's buckets
    optimizer = str(getattr(args.optim, "value", args.optim))
    moment_count = _MOMENTS.get(optimizer, MOMENTS)
    moments = moment_bytes(named, peak.states_of) * moment_count // MOMENTS
    whole_weights = weights
    if args.shard_encoder and args.world_size > 1:
        layers = [parameter for part in encoder_layers(model.encoder) for parameter in part.parameters()]
        sharded = _bytes(parameter for parameter in layers if parameter.requires_grad)
        elsewhere = sharded - sharded // args.world_size
        weights -= _bytes(layers) - _bytes(layers) // args.world_size
        moments -= elsewhere * moment_count
        peak.gradients -= sharded + elsewhere  # sharded layers have no buckets: FSDP averages layer by layer
    parts = {"weights": weights, "moments": moments}
    activations = peak.activations + shape.working_bytes()
    parts |= step_parts(peak.gradients, activations, on_cpu, peak.keeps_gradients)
    if peak.copies:
        parts["copies"] = peak.copies * sum(
            parameter.numel() * max(4, parameter.element_size()) for _, parameter in named
        )
    if trainer.accelerator.native_amp:
        parts["half-precision weights"] = weights // 2  # autocast keeps them for a pass
    if on_cpu:
        parts["process"] = max(0, psutil.Process().memory_info().rss - whole_weights)
    return parts, sum(layout.lengths)


def free_memory(device: torch.device) -> int:
    """Free bytes on a device; on a CPU at most what the limit of the process's control group leaves."""
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
    sizes = ", ".join(f"{name} {size / MIB:,.0f}" for name, size in parts.items())
    total = f"{sum(parts.values()) / MIB:,.0f} MiB"
    return f"Memory at the peak, about: {total} ({sizes}; {tokens:,} tokens); free: {free / MIB:,.0f} MiB"


def lacking(
    parts: Mapping[str, int], free: int, checkpointing: bool, processes: int = 1, has_budget: bool = False
) -> str | None:
    """A warning with remedies if a run does not fit into memory, or None.

    Args:
        free: free bytes, which all `processes` share.
        checkpointing: whether gradient checkpointing is on.
        has_budget: whether a budget of tokens bounds the steps.
    """
    allocated = parts["weights"] + parts.get("process", 0)
    more = processes * (sum(parts.values()) - allocated)
    if more <= free:
        return None
    remedies = ["a smaller per_device_train_batch_size with more gradient_accumulation_steps"]
    if has_budget:
        remedies = ["a smaller max_tokens_per_step", "more gradient_accumulation_steps"]
    if not checkpointing:
        remedies.append("gradient_checkpointing: true")
    of = f" of {processes} processes" if processes > 1 else ""
    return (
        f"training{of} may need {more / MIB:,.0f} MiB more, but {free / MIB:,.0f} MiB are free; try "
        f"{' or '.join(remedies)}"
    )


def print_memory(trainer: TaskTrainer) -> None:
    """Print a run's peak memory, and warn if less is free."""
    args = trainer.args
    parts, tokens = estimate(trainer)
    free = free_memory(args.device)
    print_lines([describe(parts, tokens, free)])
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if args.device.type == "cpu" else 1
    has_budget = args.max_tokens_per_step is not None
    if line := lacking(parts, free, _recomputes(args), processes, has_budget):
        warnings.warn(line, stacklevel=3)


def print_beginning(trainer: TaskTrainer, first: int = 0) -> None:
    """Print a run's device and precision, parameters, plan, memory and methods.

    Args:
        trainer: the trainer.
        first: number of steps that the run has taken before it resumes.
    """
    print_start(trainer)
    print_parameters(trainer.model.parameter_table())
    print_plan(trainer.plan(), first=first)
    apart = tasks_apart(trainer.tasks, trainer.model.config)
    print_lines(describe_sources(trainer.tasks, sources_of(trainer.train_dataset), apart))
    print_memory(trainer)
    print_lines(method.describe() for method in trainer.methods.values())
