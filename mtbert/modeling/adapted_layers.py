"""Encoder layers that call adapters, for each supported family.

A layer keeps its weights and their names; only its class is replaced by one whose `forward` calls the adapters after
attention and at the end of the layer. Each `forward` here computes the same as the family's own layer.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from .adapters import AdapterPass
from .encoder_call import given
from .errors import InputError


def _after_attention(layer: Any, adapters: AdapterPass | None, states: Tensor) -> Tensor:
    if adapters is None:
        return states
    return adapters.add(states, lambda adapter, layout, s: adapter.after_attention(layer.number, s, layout), states)


def _beside_layer(layer: Any, adapters: AdapterPass | None, states: Tensor, inputs: Tensor, attended: Tensor) -> Tensor:
    if adapters is None:
        return states
    return adapters.add(
        states,
        lambda adapter, layout, h, a: adapter.beside_layer(layer.number, h, a, layout),
        inputs,
        attended,
    )


class _BertLayer:
    """LN(FFN(a) + a + TS(h)) with a = LN(attention(h) + h): BERT, RoBERTa, ELECTRA and their derivatives."""

    def forward(
        self: Any,
        hidden_states: Any,
        attention_mask: Any = None,
        *args: Any,
        adapters: AdapterPass | None = None,
        **kwargs: Any,
    ) -> Tensor:
        context, _ = self.attention.self(hidden_states, attention_mask=attention_mask, **kwargs)
        sublayer = self.attention.output
        states = _after_attention(self, adapters, sublayer.dropout(sublayer.dense(context)))
        attended = sublayer.LayerNorm(states + hidden_states)
        states = self.output.dropout(self.output.dense(self.intermediate(attended))) + attended
        return self.output.LayerNorm(_beside_layer(self, adapters, states, hidden_states, attended))


class _DistilBertLayer:
    """The same function as `_BertLayer`, with the names of DistilBERT's modules."""

    def forward(
        self: Any,
        hidden_states: Any,
        attention_mask: Any = None,
        *args: Any,
        adapters: AdapterPass | None = None,
        **kwargs: Any,
    ) -> Tensor:
        states, _ = self.attention(hidden_states, attention_mask=attention_mask, **kwargs)
        states = _after_attention(self, adapters, states)
        attended = self.sa_layer_norm(states + hidden_states)
        states = self.ffn(attended) + attended
        return self.output_layer_norm(_beside_layer(self, adapters, states, hidden_states, attended))


class _ModernBertLayer:
    """Pre-norm layer without a last norm: a + FFN(LN(a)) + TS(h) with a = h + attention(LN(h))."""

    def forward(
        self: Any,
        hidden_states: Any,
        attention_mask: Any = None,
        position_embeddings: Any = None,
        adapters: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        states, _ = self.attn(
            self.attn_norm(hidden_states),
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            **kwargs,
        )
        attended = hidden_states + _after_attention(self, adapters, states)
        states = attended + self.mlp(self.mlp_norm(attended))
        return _beside_layer(self, adapters, states, hidden_states, attended)


class _AsksForAdapters:
    """A layer of a family whose model does not pass the adapters on."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # here, not in `forward`, which gradient checkpointing repeats when the encoder is no longer running
        layer: Any = super()
        return layer.__call__(*args, adapters=given("adapters"), **kwargs)


class _MPNetLayer(_AsksForAdapters):
    """The same function as `_BertLayer`, with the names of MPNet's modules."""

    def forward(
        self: Any,
        hidden_states: Any,
        attention_mask: Any = None,
        position_bias: Any = None,
        output_attentions: bool = False,
        adapters: AdapterPass | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        sublayer = self.attention
        states, *weights = sublayer.attn(hidden_states, attention_mask, position_bias, output_attentions)
        states = _after_attention(self, adapters, sublayer.dropout(states))
        attended = sublayer.LayerNorm(states + hidden_states)
        states = self.output.dropout(self.output.dense(self.intermediate(attended))) + attended
        return self.output.LayerNorm(_beside_layer(self, adapters, states, hidden_states, attended)), *weights


class _DebertaLayer(_AsksForAdapters):
    """The same function as `_BertLayer`, with DeBERTa's attention, to which relative positions are given."""

    def forward(
        self: Any,
        hidden_states: Any,
        attention_mask: Any,
        query_states: Any = None,
        output_attentions: bool = False,
        adapters: AdapterPass | None = None,
        **positions: Any,
    ) -> tuple[Any, Any]:
        context, weights = self.attention.self(
            hidden_states, attention_mask, output_attentions, query_states=query_states, **positions
        )
        sublayer = self.attention.output
        states = _after_attention(self, adapters, sublayer.dropout(sublayer.dense(context)))
        attended = sublayer.LayerNorm(states + (hidden_states if query_states is None else query_states))
        states = self.output.dropout(self.output.dense(self.intermediate(attended))) + attended
        return self.output.LayerNorm(_beside_layer(self, adapters, states, hidden_states, attended)), weights


# model_type → path of the list of layers, and the class with their `forward`
_FAMILIES = {
    **dict.fromkeys(("bert", "camembert", "electra", "ernie", "roberta", "xlm-roberta"), ("encoder.layer", _BertLayer)),
    "deberta-v2": ("encoder.layer", _DebertaLayer),
    "distilbert": ("transformer.layer", _DistilBertLayer),
    "modernbert": ("layers", _ModernBertLayer),
    "mpnet": ("encoder.layer", _MPNetLayer),
}


@cache
def _adapted(layer_class: type, form: type) -> Any:
    return type(f"Adapted{layer_class.__name__}", (form, layer_class), {"__reduce_ex__": _reduce})


def _reduce(layer: nn.Module, protocol: int) -> tuple[Any, ...]:
    """Pickle and copy a layer by its two base classes, because its own class is made at run time."""
    form, layer_class = type(layer).__bases__
    return _empty_layer, (layer_class, form), layer.__dict__


def _empty_layer(layer_class: type, form: type) -> nn.Module:
    adapted = _adapted(layer_class, form)
    return adapted.__new__(adapted)


def prepare_layers(encoder: PreTrainedModel) -> None:
    """Make the layers of an encoder call adapters.

    Raises:
        ValueError: for unsupported families, with the supported ones.
    """
    family = encoder.config.model_type
    if family not in _FAMILIES:
        raise InputError(
            f"adapter: {family} encoders work without adapters only; with one: {', '.join(sorted(_FAMILIES))}"
        )
    path, form = _FAMILIES[family]
    layers: Any = encoder.get_submodule(path)
    for number, layer in enumerate(layers):
        layer_class: Any = type(layer)
        if not isinstance(layer, form):
            layer.__class__ = _adapted(layer_class, form)
        layer.number = number
