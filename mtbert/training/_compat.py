"""The special tokens of the encoder's config in training."""

from __future__ import annotations

from transformers import PreTrainedConfig, TrainerCallback

_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")


class KeepSpecialTokens(TrainerCallback):
    """Undoes that transformers' Trainer writes the tokenizer's special tokens into the encoder's config.

    Some encoders count positions from the padding token of their config, which is theirs, whatever the tokenizer's is.
    """

    def __init__(self, encoder: PreTrainedConfig):
        self.encoder = encoder
        self.tokens = {name: getattr(encoder, name, None) for name in _TOKENS}

    def on_train_begin(self, args, state, control, **kwargs):
        for name, token in self.tokens.items():
            setattr(self.encoder, name, token)
