"""The parameters that tasks share, and sparse gradients of the word embeddings among them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


def shared_and_own(model: Any) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trained parameters that all tasks share, and those of single tasks: heads and per-task adapters.

    Args:
        model: an `MtBertForMultiTask`, or the PeftModel around it. Shared are the encoder's parameters, or those that
            peft added to it.
    """
    of_tasks = {id(p) for kind, _, module in model.parts() if kind != "encoder" for p in module.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    return [p for p in trained if id(p) not in of_tasks], [p for p in trained if id(p) in of_tasks]


def word_embeddings(model: Any, shared: list[nn.Parameter]) -> nn.Embedding | None:
    """The encoder's word embeddings if they are among the shared parameters; a step reads few of their rows."""
    words = model.encoder.get_input_embeddings()
    found = isinstance(words, nn.Embedding) and any(words.weight is p for p in shared)
    return words if found else None


@contextmanager
def sparse_gradient(words: nn.Embedding | None) -> Iterator[None]:
    """Within, the gradient of these embeddings is sparse; None: nothing changes."""
    if words is None:
        yield
        return
    before, words.sparse = words.sparse, True
    try:
        yield
    finally:
        words.sparse = before
