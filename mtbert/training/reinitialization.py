"""Random weights for the top layers of a pretrained encoder.

Zhang et al., "Revisiting Few-sample BERT Fine-tuning" (2021, section 5): the top layers of a pretrained encoder are
specialised in its pre-training, and random ones may be a better start for small data.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from ..errors import InputError

_POOLERS = ("pooler", "pooling_layer")


def reinitialize_layers(encoder: PreTrainedModel, count: int) -> None:
    """Give the top layers of an encoder, and its pooler if it has one, the random weights of a new encoder.

    The weights are drawn from torch's generator, as its family draws them before pre-training. Adapters, embeddings
    and lower layers keep their weights. ALBERT's layers share their weights: its groups count as layers.

    Args:
        encoder: the encoder, which is changed in place.
        count: number of layers, from the top; 0 leaves the encoder as it is.

    Raises:
        ValueError: if the encoder has fewer layers.
    """
    chosen = top_layers(encoder, count)
    if not chosen:
        return
    new = AutoModel.from_config(encoder.config)
    names = {module: name for name, module in encoder.named_modules()}
    poolers = [part for name in _POOLERS if isinstance(part := getattr(encoder, name, None), nn.Module)]
    for part in (*chosen, *poolers):
        random = dict(new.get_submodule(names[part]).named_parameters())
        with torch.no_grad():
            for name, parameter in part.named_parameters():
                if name in random:  # an adapter's parameters are not in a new encoder
                    parameter.copy_(random[name])


def top_layers(encoder: PreTrainedModel, count: int) -> Sequence[nn.Module]:
    """The last `count` modules of an encoder's longest list of layers.

    Raises:
        ValueError: if there are fewer.
    """
    lists = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    layers = max(lists, key=len, default=nn.ModuleList())
    if count > len(layers):
        raise InputError(
            f"model.reinitialized_layers is {count}, but the {encoder.config.model_type!r} encoder has {len(layers)}"
        )
    return list(layers)[len(layers) - count :]
