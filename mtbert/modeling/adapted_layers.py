"""Layers of the encoder families that adapters fit into.

A layer keeps its weights and their names; only its class is exchanged for one whose `forward` calls the adapters at
the two places where they may add something. Each `forward` here is the family's own layer, written out.
"""

from __future__ import annotations

from functools import cache

from torch import Tensor, nn

from .adapters import AdapterPass
from .errors import InputError


def _after_attention(layer: nn.Module, adapters: AdapterPass | None, states: Tensor) -> Tensor:
    if adapters is None:
        return states
    return adapters.add(states, lambda adapter, layout, own: adapter.after_attention(layer.number, own, layout), states)


def _beside_layer(layer: nn.Module, adapters: AdapterPass | None, states: Tensor, inputs: Tensor, attended: Tensor):
    if adapters is None:
        return states
    return adapters.add(
        states,
        lambda adapter, layout, own, a: adapter.beside_layer(layer.number, own, a, layout),
        inputs,
        attended,
    )


class _BertLayer:
    """LN(FFN(a) + a + TS(h)), a = LN(attention(h) + h): BERT, RoBERTa, ELECTRA and their derivatives."""

    def forward(self, hidden_states, attention_mask=None, *args, adapters: AdapterPass | None = None, **kwargs):
        context, _ = self.attention.self(hidden_states, attention_mask=attention_mask, **kwargs)
        sublayer = self.attention.output
        states = _after_attention(self, adapters, sublayer.dropout(sublayer.dense(context)))
        attended = sublayer.LayerNorm(states + hidden_states)
        states = self.output.dropout(self.output.dense(self.intermediate(attended))) + attended
        return self.output.LayerNorm(_beside_layer(self, adapters, states, hidden_states, attended))


class _DistilBertLayer:
    """The same in DistilBERT's names."""

    def forward(self, hidden_states, attention_mask=None, *args, adapters: AdapterPass | None = None, **kwargs):
        states, _ = self.attention(hidden_states, attention_mask=attention_mask, **kwargs)
        states = _after_attention(self, adapters, states)
        attended = self.sa_layer_norm(states + hidden_states)
        states = self.ffn(attended) + attended
        return self.output_layer_norm(_beside_layer(self, adapters, states, hidden_states, attended))


class _ModernBertLayer:
    """Pre-norm: h + attention + FFN + TS(h), with no norm behind."""

    def forward(self, hidden_states, attention_mask=None, position_embeddings=None, adapters=None, **kwargs):
        states, _ = self.attn(
            self.attn_norm(hidden_states),
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            **kwargs,
        )
        attended = hidden_states + _after_attention(self, adapters, states)
        states = attended + self.mlp(self.mlp_norm(attended))
        return _beside_layer(self, adapters, states, hidden_states, attended)


# model_type → where the layers are, and their form
_FAMILIES = {
    **dict.fromkeys(("bert", "camembert", "electra", "ernie", "roberta", "xlm-roberta"), ("encoder.layer", _BertLayer)),
    "distilbert": ("transformer.layer", _DistilBertLayer),
    "modernbert": ("layers", _ModernBertLayer),
}


@cache
def _adapted(layer_class: type, form: type) -> type:
    return type(f"Adapted{layer_class.__name__}", (form, layer_class), {"__reduce_ex__": _reduce})


def _reduce(layer: nn.Module, protocol: int) -> tuple:
    """How a layer is pickled and copied: its class is made here, so that no module has it under its name."""
    form, layer_class = type(layer).__bases__
    return _empty_layer, (layer_class, form), layer.__dict__


def _empty_layer(layer_class: type, form: type) -> nn.Module:
    adapted = _adapted(layer_class, form)
    return adapted.__new__(adapted)


def prepare_layers(encoder: nn.Module) -> None:
    """Let the layers of an encoder call adapters.

    Raises:
        ValueError: for families whose layers are not known here, with the list of those that are.
    """
    family = encoder.config.model_type
    if family not in _FAMILIES:
        raise InputError(
            f"adapter: {family} encoders work without adapters only; with one: {', '.join(sorted(_FAMILIES))}"
        )
    path, form = _FAMILIES[family]
    for number, layer in enumerate(encoder.get_submodule(path)):
        if not isinstance(layer, form):
            layer.__class__ = _adapted(type(layer), form)
        layer.number = number
