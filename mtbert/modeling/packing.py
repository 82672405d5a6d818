"""Packed batches: all sequences of a batch are one row of real tokens, and only attention separates them.

Linear layers, norms, adapters and heads work on `(tokens, hidden)`. Attention groups the sequences into a few buckets
of similar length, pads inside a bucket only, and removes the padding again; on a GPU, PyTorch's kernel for sequences of
different lengths does without buckets (`uses_kernel`). It is registered with transformers' attention interface as
`mtbert_packed`, and gets the layout as a keyword argument.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .cpu_layers import dropout as faster_dropout
from .device_copies import to_device
from .errors import InputError
from .kernel import kernel_attention, uses_kernel

PACKED_ATTENTION = "mtbert_packed"

# Families whose attention is not transformers' attention interface, but has classes for packed batches of its own.
_OWN_ATTENTION = {"deberta-v2", "mpnet"}
# Families whose layers pass keyword arguments on to the attention interface, and those of _OWN_ATTENTION. A test checks
# packed = padded for each.
PACKED_FAMILIES = {
    "albert",
    "bert",
    "camembert",
    "deberta-v2",
    "distilbert",
    "electra",
    "ernie",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
}
MAX_BUCKETS = 4


@dataclass(frozen=True)
class Segment:
    """The rows of one task in a batch: half-open ranges of rows, encoder inputs and tokens."""

    task_id: int
    rows: tuple[int, int]
    sequences: tuple[int, int]
    tokens: tuple[int, int]


@dataclass(frozen=True)
class Bucket:
    """Sequences that attention computes together.

    Attributes:
        count: number of sequences.
        length: the longest one, in tokens.
        mask: `(count, 1, 1, length)`, true on real tokens; None where all have this length.
    """

    count: int
    length: int
    mask: Tensor | None


@dataclass(frozen=True)
class PackedLayout:
    """Positions of sequences and tasks in a packed row; built on the CPU, so that it never waits for a GPU.

    Attributes:
        lengths: number of tokens of each sequence.
        segments: one for each task in the batch, in the order of rows; tasks may share rows, one after the other.
        position_ids: `(1, tokens)`, counted from 0 in each sequence.
        starts: `(sequences,)`, index of each sequence's first token.
        cu_seqlens: `(sequences + 1,)` int32, the cumulated lengths.
        buckets: groups of sequences of similar length.
        gather: `(slots,)`, index of the token in each slot of the padded buckets, one bucket after the other; 0 for
            padding.
        scatter: `(tokens,)`, index of each token's slot.
    """

    lengths: tuple[int, ...]
    segments: tuple[Segment, ...]
    position_ids: Tensor
    starts: Tensor
    cu_seqlens: Tensor
    buckets: tuple[Bucket, ...]
    gather: Tensor
    scatter: Tensor

    @classmethod
    def build(
        cls,
        lengths: Sequence[int] | np.ndarray,
        tasks: Sequence[tuple[int, int, int]],
        max_buckets: int = MAX_BUCKETS,
    ) -> PackedLayout:
        """Build the layout of sequences with the given lengths.

        Args:
            lengths: number of tokens of each sequence, at least 1; the two texts of a Siamese pair follow each other.
            tasks: (task id, number of rows, sequences per row) for each task, in the order of the batch.
            max_buckets: largest number of attention buckets.

        Raises:
            ValueError: for a sequence without tokens, or if the number of sequences does not fit the tasks' rows.
        """
        lengths = np.asarray(lengths, dtype=np.int64)
        if (empty := np.flatnonzero(lengths < 1)).size:
            raise InputError(f"sequence {empty[0]} has {lengths[empty[0]]} tokens, but must have 1 or more")
        ends = np.cumsum(lengths)
        starts = ends - lengths
        total = int(ends[-1]) if len(ends) else 0
        if (expected := sum(rows * per_row for _, rows, per_row in tasks)) != len(lengths):
            raise InputError(f"{len(lengths)} sequences were given, but the tasks' rows have {expected}")
        segments, row, sequence = [], 0, 0
        for task_id, rows, per_row in tasks:
            last = sequence + rows * per_row
            tokens = (int(starts[sequence]) if sequence < len(starts) else total, int(ends[last - 1]) if last else 0)
            segments.append(Segment(task_id, (row, row + rows), (sequence, last), tokens))
            row, sequence = row + rows, last
        buckets, gather, scatter = _bucket(lengths, starts, total, max_buckets)
        return cls(
            lengths=tuple(lengths.tolist()),
            segments=tuple(segments),
            position_ids=torch.from_numpy(np.arange(total) - np.repeat(starts, lengths)).unsqueeze(0),
            starts=torch.from_numpy(starts),
            cu_seqlens=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
            buckets=buckets,
            gather=gather,
            scatter=scatter,
        )

    def part(self, segment: Segment) -> PackedLayout:
        """The layout of one task's sequences, on the same device."""
        first, last = segment.sequences
        rows = segment.rows[1] - segment.rows[0]
        layout = PackedLayout.build(self.lengths[first:last], [(segment.task_id, rows, (last - first) // max(rows, 1))])
        return layout.on(self.starts.device)

    def firsts(self) -> PackedLayout:
        """The layout of the first tokens, each as a sequence of its own."""
        count = len(self.lengths)
        return PackedLayout.build([1] * count, [(0, count, 1)]).on(self.starts.device)

    def _apply(self, function: Any) -> PackedLayout:
        buckets = tuple(Bucket(b.count, b.length, None if b.mask is None else function(b.mask)) for b in self.buckets)
        tensors = ("position_ids", "starts", "cu_seqlens", "gather", "scatter")
        values = {name: function(getattr(self, name)) for name in tensors}
        return PackedLayout(lengths=self.lengths, segments=self.segments, buckets=buckets, **values)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedLayout:
        """The same layout on another device."""
        return self._apply(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def on(self, device: torch.device) -> PackedLayout:
        """A layout that was just built, on a device, without waiting for the device."""
        return self._apply(lambda tensor: to_device(tensor, device))

    def pin_memory(self) -> PackedLayout:
        """The same layout in page-locked memory, for asynchronous copies."""
        return self._apply(Tensor.pin_memory)


def _bucket(
    lengths: np.ndarray, starts: np.ndarray, total: int, max_buckets: int
) -> tuple[tuple[Bucket, ...], Tensor, Tensor]:
    """Group sequences of similar length; return `buckets`, `gather` and `scatter` of `PackedLayout`."""
    if total == 0:
        empty = torch.empty(0, dtype=torch.long)
        return (), empty, empty
    order = np.argsort(lengths, kind="stable")
    buckets, gather, slot = [], [], 0
    scatter = np.empty(total, dtype=np.int64)
    for members in _split(lengths[order], max_buckets):
        index = order[members]
        count, width = lengths[index], int(lengths[index[-1]])
        real = np.arange(width) < count[:, None]
        tokens = np.where(real, starts[index][:, None] + np.arange(width), 0)
        slots = slot + np.arange(len(index) * width).reshape(real.shape)
        scatter[tokens[real]] = slots[real]
        gather.append(tokens.ravel())
        mask = None if real.all() else torch.from_numpy(real)[:, None, None, :]
        buckets.append(Bucket(len(index), width, mask))
        slot += len(index) * width
    return tuple(buckets), torch.from_numpy(np.concatenate(gather)), torch.from_numpy(scatter)


def _split(ascending: np.ndarray, max_buckets: int) -> list[slice]:
    """Cut ascending lengths into at most `max_buckets` runs that minimise Σ count · longest², the cost of attention.

    Uses dynamic programming over the few places where the length changes.
    """
    cuts = np.flatnonzero(np.diff(ascending)) + 1
    if len(cuts) > 24:  # quantiles are about as good, and cheap for large batches
        cuts = cuts[np.linspace(0, len(cuts) - 1, 24).astype(int)]
    edges = np.concatenate([[0], cuts, [len(ascending)]])
    longest = ascending[edges[1:] - 1].astype(np.float64)
    cost = (edges[None, 1:] - edges[:-1, None]) * longest[None, :] ** 2  # of the run from edge i to edge j + 1
    cost[np.tril_indices(len(longest), -1)] = np.inf
    best, choice = cost[0], []
    for _ in range(min(max_buckets, len(longest)) - 1):
        options = np.concatenate([[np.inf], best[:-1]])[:, None] + cost
        start = options.argmin(axis=0)
        better = options[start, np.arange(len(longest))] < best
        choice.append(np.where(better, start, -1))
        best = np.where(better, options[start, np.arange(len(longest))], best)
    runs, last = [], len(longest) - 1
    for start in reversed(choice):
        if start[last] > 0:
            runs.append(slice(edges[start[last]], edges[last + 1]))
            last = start[last] - 1
    return [slice(0, edges[last + 1]), *reversed(runs)]


class _ToSlots(torch.autograd.Function):
    """Copy tokens to padded slots. Each token has one slot, so that the gradient is a selection, not a sum."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, gather: Tensor, scatter: Tensor) -> Tensor:
        ctx.save_for_backward(scatter)
        return tokens.index_select(0, gather)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (scatter,) = ctx.saved_tensors
        return gradient.index_select(0, scatter), None, None


class _FromSlots(torch.autograd.Function):
    """Copy padded slots to tokens. The gradient of padding slots is 0."""

    @staticmethod
    def forward(ctx: Any, slots: Tensor, scatter: Tensor) -> Tensor:
        ctx.save_for_backward(scatter)
        ctx.count = slots.shape[0]
        return slots.index_select(0, scatter)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (scatter,) = ctx.saved_tensors
        slots = gradient.new_zeros(ctx.count, *gradient.shape[1:])
        return slots.index_copy_(0, scatter, gradient), None


def to_buckets(states: Tensor, layout: PackedLayout) -> list[Tensor]:
    """Pad packed states `(tokens, heads, size)` within the buckets: `(count, heads, length, size)` for each."""
    slots = _ToSlots.apply(states, layout.gather, layout.scatter)
    parts = slots.split([bucket.count * bucket.length for bucket in layout.buckets])
    return [
        part.unflatten(0, (bucket.count, bucket.length)).transpose(1, 2)
        for part, bucket in zip(parts, layout.buckets, strict=True)
    ]


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PackedLayout,
    dropout: float = 0.0,
    scaling: float | None = None,
    window: int | None = None,
    added: Sequence[Tensor] | None = None,
) -> Tensor:
    """Scaled dot-product attention of each sequence over itself.

    Args:
        query, key, value: `(tokens, heads, size)`.
        layout: layout of the sequences.
        dropout: dropout probability of the attention weights.
        scaling: factor on the scores; None: size^(-1/2).
        window: largest distance, in tokens, that is attended to; None: no limit.
        added: for each bucket, what is added to its scores, `(count or 1, heads, length, length)`, -inf on padding; it
            takes the place of the buckets' masks. Not with a window.

    Returns:
        `(tokens, heads, size)`.
    """
    if hasattr(layout, "attend"):  # padded states of an exported graph (`onnx_export.PaddedLayout`)
        return layout.attend(query, key, value)
    if not layout.lengths:
        return value
    if added is None and uses_kernel(query.device, query.dtype, query.shape[-1], dropout):
        return kernel_attention(query, key, value, layout.cu_seqlens, max(layout.lengths), scaling, window)
    parts = zip(layout.buckets, *(to_buckets(states, layout) for states in (query, key, value)), strict=True)
    outputs = []
    for number, (bucket, q, k, v) in enumerate(parts):
        mask = bucket.mask if added is None else added[number]
        if window is not None and bucket.length > window + 1:
            position = torch.arange(bucket.length, device=query.device)
            near = (position[:, None] - position[None, :]).abs() <= window
            if mask is not None:  # a padding query attends to its own key, because an empty row would be nan
                near = near & mask | torch.eye(bucket.length, dtype=torch.bool, device=near.device)
            mask = near
        output = _attend(q, k, v, mask, dropout, scaling)
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return _FromSlots.apply(torch.cat(outputs) if len(outputs) > 1 else outputs[0], layout.scatter)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scaling: float | None
) -> Tensor:
    """Attention of padded sequences `(count, heads, length, size)`; `mask` leaves at least one key for every query.

    A mask is true where keys are attended to, or is added to the scores.

    On CPUs PyTorch's kernel supports no dropout and no gradient of a mask, and its fallback draws random numbers slowly
    and computes half precision in fp32. There products, softmax (in fp32) and dropout are therefore written out here.
    """
    learnt = mask is not None and mask.requires_grad
    if query.device.type != "cpu" or (dropout == 0 and not learnt):
        if mask is not None and mask.dtype is not torch.bool:
            mask = mask.to(query.dtype)  # under autocast it is in fp32
        return nn.functional.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, scale=scaling)
    scores = query * (query.shape[-1] ** -0.5 if scaling is None else scaling) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else scores + mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return faster_dropout(weights, dropout).to(value.dtype) @ value


def packed_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: PackedLayout | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: `packed_attention` with a layout, else `scaled_dot_product_attention`.

    `query`, `key` and `value` are `(1, heads, tokens, size)`, the output is `(1, tokens, heads, size)`.
    `sliding_window` is the smallest distance that is not attended to.
    """
    if layout is None:
        extra: dict[str, Any] = {} if sliding_window is None else {"sliding_window": sliding_window}
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **extra, **kwargs
        )
    q, k, v = (states.squeeze(0).transpose(0, 1) for states in (query, key, value))
    window = None if sliding_window is None else sliding_window - 1
    return packed_attention(q, k, v, layout, dropout, scaling, window).unsqueeze(0), None


AttentionInterface.register(PACKED_ATTENTION, packed_attention_forward)
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)


def has_own_attention(encoder: PreTrainedModel) -> bool:
    """Whether an encoder's attention can be packed, but is not transformers' attention interface.

    Its padded passes compute the same whatever the attention implementation, which is eager by default.
    """
    return encoder.config.model_type in _OWN_ATTENTION


def is_packed(encoder: PreTrainedModel) -> bool:
    """Whether the encoder's current attention implementation separates the sequences of a packed row.

    `set_attn_implementation` and the config can change it at any time. With any other implementation the sequences of a
    packed row would attend to each other.
    """
    return _can_pack(encoder.config) and encoder.config._attn_implementation == PACKED_ATTENTION


def _can_pack(config: PreTrainedConfig) -> bool:
    # the convolution of DeBERTa's largest models would mix the ends of neighbouring texts
    convolution = config.model_type == "deberta-v2" and getattr(config, "conv_kernel_size", 0) > 0
    return config.model_type in PACKED_FAMILIES and not convolution


def enable_packing(encoder: PreTrainedModel) -> None:
    """Set an encoder's attention to `mtbert_packed`; warn if its family does not support it.

    An encoder with another attention implementation than the default (`eager`, …) keeps it.
    """
    config = encoder.config
    if not _can_pack(config):
        which = " with a convolution" if config.model_type in PACKED_FAMILIES else ""
        warnings.warn(
            f"{config.model_type} encoders{which} are computed with padding; padding-free encoding works for: "
            f"{', '.join(sorted(PACKED_FAMILIES))}",
            stacklevel=2,
        )
    elif config._attn_implementation == ("eager" if has_own_attention(encoder) else "sdpa"):
        config._attn_implementation = PACKED_ATTENTION
