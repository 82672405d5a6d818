"""Per-task adapters over a shared encoder: projected attention, low-rank, Houlsby, top layers.

Stickland and Murray, "BERT and PALs: Projected Attention Layers for Efficient Adaptation in Multi-Task Learning"
(2019), whose symbols are used: TS(h) = V_D g(V_E h), d_m the encoder's width, d_s the adapter's. Adapters work on
packed states, `(tokens, d_m)`, of their own task's rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .errors import InputError
from .own_parts import ADAPTERS as own_adapters, put
from .packing import PackedLayout, packed_attention
from .task_spec import ADAPTERS, AdapterSpec

_ACTIVATIONS = {"gelu": nn.functional.gelu, "identity": lambda states: states}


def _number(config: PreTrainedConfig, *names: str) -> float:
    return next((getattr(config, name) for name in names if hasattr(config, name)), 0.0)


def dropouts(config: PreTrainedConfig) -> tuple[float, float]:
    """The encoder's dropout on hidden states and on attention weights."""
    hidden = _number(config, "hidden_dropout_prob", "mlp_dropout", "dropout")
    return hidden, _number(config, "attention_probs_dropout_prob", "attention_dropout")


class Decoder(nn.Linear):
    """V_D: initialised to zero, so that a parallel adapter adds nothing at first, unless `init` is `published`."""


class TopNorm(nn.LayerNorm):
    """A norm of the top layers; its weights are initialised from a normal distribution, as in the authors' code."""


class ProjectedAttention(nn.Module):
    """g: multi-head self-attention in d_s dimensions without an output matrix."""

    def __init__(self, size: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))

    def forward(self, states: Tensor, layout: PackedLayout) -> Tensor:
        """`(tokens, d_s)` → the same shape."""
        q, k, v = (project(states).unflatten(-1, (self.heads, -1)) for project in (self.query, self.key, self.value))
        return packed_attention(q, k, v, layout, self.dropout if self.training else 0.0).flatten(1)


class Adapter(nn.Module):
    """Base class of a task's adapter; its methods add to the states of each layer, and change the last ones.

    By default they do nothing.
    """

    def after_attention(self, layer: int, states: Tensor, layout: PackedLayout) -> Tensor | None:
        """The states to add to the attention sublayer's output `(tokens, d_m)` before its residual sum, or None."""
        return None

    def beside_layer(self, layer: int, inputs: Tensor, attended: Tensor, layout: PackedLayout) -> Tensor | None:
        """The states `(tokens, d_m)` to add at the end of a layer, before its last norm, or None.

        Args:
            layer: number of the layer, from 0.
            inputs: h, the layer's input, `(tokens, d_m)`.
            attended: a, the output of its attention sublayer, `(tokens, d_m)`.
            layout: layout of the sequences.
        """
        return None

    def on_top(self, states: Tensor, layout: PackedLayout) -> Tensor:
        """The states `(tokens, d_m)` that replace the last hidden states."""
        return states


class ParallelPal(Adapter):
    """LN(FFN(a) + a + TS(h)) in every layer; all layers share V_E and V_D, each has its own g (section 3.1).

    The GELU after V_D is in the authors' code, not in the paper's formula.
    """

    def __init__(self, spec: AdapterSpec, width: int, layers: tuple[int, ...], config: PreTrainedConfig):
        super().__init__()
        size, heads = spec.shape
        self.encode, self.decode = nn.Linear(width, size), Decoder(size, width)
        dropout = dropouts(config)[1]
        self.attention = nn.ModuleDict({str(i): ProjectedAttention(size, heads, dropout) for i in layers})
        self.activation = spec.activation

    def beside_layer(self, layer: int, inputs: Tensor, attended: Tensor, layout: PackedLayout) -> Tensor | None:
        if str(layer) not in self.attention:
            return None
        added = self.decode(self.attention[str(layer)](self.encode(inputs), layout))
        return _ACTIVATIONS[self.activation](added)


class TopPal(Adapter):
    """One TS on the last hidden states, in sequence with the encoder (report A)."""

    def __init__(self, spec: AdapterSpec, width: int, layers: tuple[int, ...], config: PreTrainedConfig):
        super().__init__()
        size, heads = spec.shape
        self.encode, self.decode = nn.Linear(width, size), Decoder(size, width)
        self.attention = ProjectedAttention(size, heads, dropouts(config)[1])
        self.activation = spec.activation
        self.first_only = spec.input == "cls"

    def on_top(self, states: Tensor, layout: PackedLayout) -> Tensor:
        if not self.first_only:
            return self._project(states, layout)
        first = self._project(states.index_select(0, layout.starts), layout.firsts())
        return states.index_copy(0, layout.starts, first.to(states.dtype))

    def _project(self, states: Tensor, layout: PackedLayout) -> Tensor:
        return _ACTIVATIONS[self.activation](self.decode(self.attention(self.encode(states), layout)))


class Bottleneck(nn.Module):
    """V_D gelu(V_E x), `(tokens, d_m)` → the same shape."""

    def __init__(self, width: int, size: int):
        super().__init__()
        self.encode, self.decode = nn.Linear(width, size), Decoder(size, width)

    def forward(self, states: Tensor) -> Tensor:
        return self.decode(nn.functional.gelu(self.encode(states)))


class LowRank(Adapter):
    """A bottleneck beside every layer, with its own pair of matrices (section 3.2)."""

    def __init__(self, spec: AdapterSpec, width: int, layers: tuple[int, ...], config: PreTrainedConfig):
        super().__init__()
        self.layers = nn.ModuleDict({str(i): Bottleneck(width, spec.shape[0]) for i in layers})

    def beside_layer(self, layer: int, inputs: Tensor, attended: Tensor, layout: PackedLayout) -> Tensor | None:
        return self.layers[str(layer)](inputs) if str(layer) in self.layers else None


class Houlsby(Adapter):
    """Two bottlenecks a layer: on the attention sublayer's output, and beside the FFN, reading the FFN's input.

    Houlsby et al., "Parameter-Efficient Transfer Learning for NLP" (2019), as implemented by Stickland and Murray.
    """

    def __init__(self, spec: AdapterSpec, width: int, layers: tuple[int, ...], config: PreTrainedConfig):
        super().__init__()
        self.attention = nn.ModuleDict({str(i): Bottleneck(width, spec.shape[0]) for i in layers})
        self.ffn = nn.ModuleDict({str(i): Bottleneck(width, spec.shape[0]) for i in layers})

    def after_attention(self, layer: int, states: Tensor, layout: PackedLayout) -> Tensor | None:
        return self.attention[str(layer)](states) if str(layer) in self.attention else None

    def beside_layer(self, layer: int, inputs: Tensor, attended: Tensor, layout: PackedLayout) -> Tensor | None:
        return self.ffn[str(layer)](attended) if str(layer) in self.ffn else None


class TopAttention(nn.Module):
    """An attention sublayer of BERT in d_s dimensions: LN(x + dropout(W g(x)))."""

    def __init__(self, spec: AdapterSpec, config: PreTrainedConfig):
        super().__init__()
        size, heads = spec.shape
        hidden_dropout, attention_dropout = dropouts(config)
        self.attention = ProjectedAttention(size, heads, attention_dropout)
        self.dense = nn.Linear(size, size)
        self.dropout = nn.Dropout(hidden_dropout)
        self.norm = TopNorm(size, eps=1e-12)

    def forward(self, states: Tensor, layout: PackedLayout) -> Tensor:
        return self.norm(states + self.dropout(self.dense(self.attention(states, layout))))


class TopLayers(Adapter):
    """On the last states: a projection to d_s, `depth` attention sublayers, a projection to d_m (section 3.2)."""

    def __init__(self, spec: AdapterSpec, width: int, layers: tuple[int, ...], config: PreTrainedConfig):
        super().__init__()
        size = spec.shape[0]
        self.encode, self.decode = nn.Linear(width, size), Decoder(size, width)
        self.blocks = nn.ModuleList([TopAttention(spec, config) for _ in range(spec.depth)])

    def on_top(self, states: Tensor, layout: PackedLayout) -> Tensor:
        states = self.encode(states)
        for block in self.blocks:
            states = block(states, layout)
        return self.decode(states)


_TYPES = {"pal": ParallelPal, "pal_top": TopPal, "low_rank": LowRank, "houlsby": Houlsby, "top_layers": TopLayers}


def make_adapter(spec: AdapterSpec, encoder: PreTrainedConfig) -> Adapter:
    """Make one task's adapter for an encoder.

    Raises:
        ValueError: if `spec.layers` names a layer that the encoder does not have.
    """
    count = encoder.num_hidden_layers
    if spec.layers is not None and (outside := [i for i in spec.layers if not 0 <= i < count]):
        raise InputError(f"adapter.layers has {outside}, but the encoder's layers are 0 to {count - 1}; name those")
    layers = tuple(range(count)) if spec.layers is None else spec.layers
    return {**_TYPES, **own_adapters}[spec.type](spec, encoder.hidden_size, layers, encoder)


def register_adapter(name: str, adapter: Callable[..., Adapter]) -> None:
    """Register an adapter of your own as `adapter.type: name`, for Python, recipes and checkpoints.

    To load a checkpoint with such adapters, register the name first.

    Args:
        adapter: a subclass of `Adapter`, called with (spec, width of the encoder, numbers of its layers, the encoder's
            config).

    Raises:
        InputError: if the name is taken, or the class is not a subclass of `Adapter`.
    """
    if not (isinstance(adapter, type) and issubclass(adapter, Adapter)):
        raise InputError(f"the adapter {name!r} is {adapter!r}, but must be a subclass of Adapter")
    put(own_adapters, name, adapter, "adapter", ADAPTERS)


@dataclass(frozen=True)
class AdapterPass:
    """The adapters of one batch, for the layers of one forward pass.

    Attributes:
        parts: for each task in the batch, in order: its adapter (None: it has none), its range of tokens, its layout.
        tokens: `(tokens,)`, indices of the real tokens in padded states `(sequences · length)`; None if packed.
    """

    parts: tuple[tuple[Adapter | None, tuple[int, int], PackedLayout], ...]
    tokens: Tensor | None = None

    def add(self, states: Tensor, part: Callable[..., Tensor | None], *others: Tensor) -> Tensor:
        """Add the outputs of the tasks' adapters to `states`.

        Args:
            part: `part(adapter, layout, *others)` returns a task's addition, or None.
            others: states that `part` reads; it gets the task's tokens of each.
        """
        width = states.shape[-1]
        flat = [other.reshape(-1, width) for other in others]
        if self.tokens is not None:
            flat = [other.index_select(0, self.tokens) for other in flat]
        added: list[Any] = []
        for adapter, (first, last), layout in self.parts:
            addition = None if adapter is None else part(adapter, layout, *(other[first:last] for other in flat))
            added.append(None if addition is None else addition.to(states.dtype))
        if all(addition is None for addition in added):
            return states
        for number, (_, (first, last), _) in enumerate(self.parts):
            if added[number] is None:
                added[number] = states.new_zeros(last - first, width)
        total = added[0] if len(added) == 1 else torch.cat(added)
        if self.tokens is not None:
            padded = total.new_zeros(states.numel() // width, width)
            total = padded.index_copy(0, self.tokens, total)
        return states + total.view_as(states)

    def on_top(self, states: Tensor) -> Tensor:
        """Apply each task's adapter to its part of the last hidden states, `(tokens, d_m)`, packed."""
        tops = [
            states[first:last] if adapter is None else adapter.on_top(states[first:last], layout).to(states.dtype)
            for adapter, (first, last), layout in self.parts
        ]
        return tops[0] if len(tops) == 1 else torch.cat(tops)
