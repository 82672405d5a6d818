"""Where transformers' Trainer and accelerate do something else than a run of several tasks needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from transformers import EarlyStoppingCallback, PreTrainedConfig, TrainerCallback

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


def add_callbacks(trainer: Any, encoder: PreTrainedConfig) -> None:
    """Add the callback that every run has, and the one that stops it early where the arguments say so."""
    args = trainer.args
    trainer.add_callback(KeepSpecialTokens(encoder))
    if args.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(args.early_stopping_patience, args.early_stopping_threshold))


@contextmanager
def holding(args: Any, **values: Any) -> Iterator[None]:
    """Within, some arguments have other values."""
    before = {name: getattr(args, name) for name in values}
    vars(args).update(values)
    try:
        yield
    finally:
        vars(args).update(before)


def clip_with(accelerator: Accelerator, clip: Callable[..., Tensor]) -> None:
    """Let transformers' Trainer clip gradients, and take their norm, with `clip(parameters, max_norm)`.

    Versions of transformers that find sharded and whole gradients side by side do that themselves.
    """
    accelerator.clip_grad_norm_ = clip
