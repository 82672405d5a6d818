"""Supported encoders of transformers, and how some families differ from BERT."""

from __future__ import annotations

import inspect
import sys
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from .errors import InputError

# Models pretrained with masks attend to both sides of a token; so does Splinter, which has no masked-LM class.
_TEXT_ENCODERS = {*MODEL_FOR_MASKED_LM_MAPPING_NAMES, "splinter"}

_PAGES = "it reads where words stand on a page, which texts do not say; give an encoder of plain text"
_IMAGES = "it reads images beside texts; give its text encoder alone, or another encoder of plain text"
# Families that need more than token ids, or whose output is not one state of `hidden_size` for each token.
_REFUSED = {
    "bros": _PAGES,
    "canine": "it reads characters, for which the tokenizers library has no tokenizer; give an encoder of word pieces",
    "layoutlmv2": _PAGES,
    "layoutlmv3": _PAGES,
    "lilt": _PAGES,
    "markuplm": _PAGES,
    "modernvbert": _IMAGES,
    "perceiver": "it reads bytes and takes no input_ids; give an encoder of word pieces",
    "reformer": "it needs texts of a fixed multiple of tokens, and its states are twice hidden_size; give another",
    "ultravbert": _IMAGES,
}

# Families whose states depend on the padding behind a text: convolutions, Fourier transforms and pooling mix
# neighbouring tokens, and YOSO misreads the masks of current versions. A test checks that the other families do not.
_PADDING_SENSITIVE = {"convbert", "fnet", "funnel", "mobilebert", "nystromformer", "yoso"}

# Names that families give the dropout probability of attention weights in their configs.
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")
_UNREAD_DROPOUT = {"mra", "nystromformer", "yoso"}  # their layers in transformers do not use what their configs say


def check_encoder(config: PreTrainedConfig) -> None:
    """Raise InputError if a config is not of a supported text encoder, or lacks a setting that its family needs.

    Raises:
        InputError: with the family, the reason and the remedy.
    """
    kind = config.model_type
    if kind in _REFUSED:
        raise InputError(f"{kind!r} can not be the encoder: {_REFUSED[kind]}")
    decodes = any(getattr(config, key, False) for key in ("is_decoder", "is_encoder_decoder", "causal"))
    if decodes or (kind not in _TEXT_ENCODERS and kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        raise InputError(f"{kind!r} has a decoder; give an encoder-only model")
    if kind not in _TEXT_ENCODERS:
        raise InputError(
            f"{kind!r} is no text encoder of transformers; give one that was pretrained with masked tokens"
        )
    if kind == "xmod" and config.default_language not in config.languages:
        raise InputError(
            f"'xmod': default_language is {config.default_language!r}, but must name the language of the texts, one of "
            f"{', '.join(config.languages)}; set it in the encoder's config"
        )
    if kind == "nystromformer" and config.num_landmarks != config.segment_means_seq_len:
        raise InputError(
            f"'nystromformer': segment_means_seq_len is {config.segment_means_seq_len}, so that every text must have a "
            f"multiple of {config.num_landmarks} tokens; set it to num_landmarks ({config.num_landmarks}) in the "
            "encoder's config, which computes the whole attention"
        )
    if _counts_after_padding(config) and config.pad_token_id is None:
        raise InputError(f"{kind!r}: pad_token_id is null, but positions are counted from it; set it in its config")


def attention_dropout(config: PreTrainedConfig, probability: float) -> dict[str, float]:
    """The dropout of attention weights as the keys of an encoder's config.

    Raises:
        InputError: for a probability outside [0, 1), and for a family without such a dropout.
    """
    if not 0 <= probability < 1:
        raise InputError(f"attention_dropout is {probability}, but must be in [0, 1)")
    names = [name for name in ATTENTION_DROPOUT if hasattr(config, name)]
    if not names or config.model_type in _UNREAD_DROPOUT:
        raise InputError(
            f"attention_dropout is {probability}, but {config.model_type!r} encoders have no dropout of attention "
            "weights; drop it (their other dropout is in the encoder's config)"
        )
    return dict.fromkeys(names, probability)


def adopt(encoder: Any) -> None:
    """Make an encoder's outputs independent of earlier batches; warn if it does not compute what its config says."""
    kind = encoder.config.model_type
    if kind == "big_bird" and encoder.config.attention_type == "block_sparse":
        # transformers switches to it for good at the first short batch, so that outputs would depend on earlier batches
        warnings.warn("big_bird: attention_type is 'original_full' from now on, not 'block_sparse'", stacklevel=2)
        encoder.set_attention_type("original_full")
        encoder.config.attention_type = "original_full"
    if kind == "mra" and sys.modules[type(encoder).__module__].mra_cuda_kernel is None:
        warnings.warn(
            "mra: transformers has no kernel for its attention on this machine and leaves attention out, so that no "
            "token sees another; use a machine with CUDA and the kernels package, or another encoder",
            stacklevel=2,
        )


def _model_class(config: PreTrainedConfig) -> Any:
    classes = MODEL_MAPPING[type(config)]
    return classes[0] if isinstance(classes, tuple) else classes


def _counts_after_padding(config: PreTrainedConfig) -> bool:
    """Whether a family numbers positions like RoBERTa; then its file of transformers has RoBERTa's function for it."""
    module = sys.modules[_model_class(config).__module__]
    makers = [module, *(value for value in vars(module).values() if inspect.isclass(value))]
    rotary = getattr(config, "position_embedding_type", "absolute") in ("rotary", None)
    return not rotary and any(hasattr(maker, "create_position_ids_from_input_ids") for maker in makers)


def first_position(config: PreTrainedConfig) -> int:
    """Position id of a text's first token: 0, or, in families like RoBERTa, the padding index + 1."""
    return config.pad_token_id + 1 if _counts_after_padding(config) else 0


def position_ids(config: PreTrainedConfig, input_ids: Tensor | None, places: Tensor) -> Tensor:
    """Position ids `(rows, tokens)`, numbered as in the encoder's family.

    Families like RoBERTa give every padding token the padding index and do not count it, even inside of a text that
    contains `<pad>`.

    Args:
        input_ids: `(rows, tokens)`; a row may hold several texts, one after the other. None if the encoder gets
            embeddings, which are all counted.
        places: `(rows, tokens)`, index of each token in its own text, from 0.
    """
    if input_ids is None or not _counts_after_padding(config):
        return places + first_position(config)
    padding = config.pad_token_id
    counted = input_ids.ne(padding).long()
    before = counted.cumsum(1) - counted
    first = (
        torch.arange(places.shape[1], device=places.device) - places
    )  # index of the first token of each token's text
    return torch.where(counted.bool(), before - before.gather(1, first) + padding + 1, padding)


def depends_on_padding(config: PreTrainedConfig) -> bool:
    """Whether the states of a text depend on the padding behind it, so that it must be encoded without padding."""
    return config.model_type in _PADDING_SENSITIVE


def shortest_input(config: PreTrainedConfig) -> int:
    """The smallest number of tokens, with padding, that an encoder takes: Funnel halves a text after most blocks."""
    return 2 ** (len(config.block_sizes) - 1) + 1 if config.model_type == "funnel" else 1


class NoPooler(nn.Module):
    """Replaces the pooler in families that always call it."""

    def forward(self, states: Tensor) -> None:
        return None


def has_pooler(encoder: nn.Module) -> bool:
    """Whether an encoder has a pooler."""
    return not isinstance(getattr(encoder, "pooler", None), (NoPooler, type(None)))


def drop_pooler(encoder: Any) -> None:
    """Remove an encoder's pooler and its weights."""
    if has_pooler(encoder):
        optional = "add_pooling_layer" in inspect.signature(type(encoder).__init__).parameters
        encoder.pooler = None if optional else NoPooler()


def pool(encoder: Any, first: Tensor) -> Tensor:
    """Apply the encoder's own pooler to the states of first tokens, `(sequences, hidden)` → the same shape."""
    if isinstance(encoder.pooler, nn.Linear):  # ALBERT and BigBird, whose activation is another attribute
        activation = encoder.pooler_activation if hasattr(encoder, "pooler_activation") else encoder.activation
        return activation(encoder.pooler(first))
    return encoder.pooler(first.unsqueeze(1))
