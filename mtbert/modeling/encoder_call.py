"""Call an encoder, and give its layers arguments that its own `forward` does not pass on.

Most families pass keyword arguments from the model to its layers. MPNet and DeBERTa do not; their layers ask `given`
for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from transformers import PreTrainedModel

# Families whose models pass no keyword arguments on.
_PASS_NOTHING_ON = {"deberta-v2", "mpnet"}
_given: ContextVar[Mapping[str, Any] | None] = ContextVar("_given", default=None)  # each thread has its own value


def call_encoder(encoder: PreTrainedModel, inputs: Mapping[str, Any], **layers: Any) -> Any:
    """The encoder's output for `inputs`; its layers get those arguments of `layers` that are not None."""
    layers = {name: value for name, value in layers.items() if value is not None}
    if encoder.config.model_type not in _PASS_NOTHING_ON:
        return encoder(**inputs, **layers)
    token = _given.set(layers)
    try:
        return encoder(**inputs)
    finally:
        _given.reset(token)


def given(name: str) -> Any:
    """An argument that `call_encoder` gives to the layers of the encoder that is running; None if it gives none."""
    return (_given.get() or {}).get(name)
