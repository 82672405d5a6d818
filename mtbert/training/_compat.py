"""Workarounds for transformers' Trainer and accelerate where multi-task training needs other behaviour."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from transformers import (
    EarlyStoppingCallback,
    PreTrainedConfig,
    PrinterCallback,
    TrainerCallback,
    trainer as of_transformers,
)

from .progress.callbacks import closing_display as closing_display, make_display
from .progress.styles import chosen_style

_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")


class KeepSpecialTokens(TrainerCallback):
    """Restores the special tokens of the encoder's config, which transformers' Trainer replaces by the tokenizer's.

    Some encoders number positions from the padding token of their own config, even if the tokenizer has another one.
    """

    def __init__(self, encoder: PreTrainedConfig):
        self.encoder = encoder
        self.tokens = {name: getattr(encoder, name, None) for name in _TOKENS}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for name, token in self.tokens.items():
            setattr(self.encoder, name, token)


def add_callbacks(trainer: Any, encoder: PreTrainedConfig) -> None:
    """Add the callbacks of every run, and early stopping if the arguments ask for it."""
    args = trainer.args
    trainer.add_callback(KeepSpecialTokens(encoder))
    show_progress(trainer)
    if args.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(args.early_stopping_patience, args.early_stopping_threshold))


def show_progress(trainer: Any) -> None:
    """Replace transformers' progress bar and dicts by the display that `args.console` chooses, if any."""
    args = trainer.args
    shown = make_display(trainer, chosen_style(args.console, args.disable_tqdm))
    if shown is not None:
        for kind in (PrinterCallback, of_transformers.DEFAULT_PROGRESS_CALLBACK):
            trainer.remove_callback(kind)
        trainer.add_callback(shown)


@contextmanager
def holding(args: Any, **values: Any) -> Iterator[None]:
    """Within, the given arguments have these values; afterwards their old ones again."""
    before = {name: getattr(args, name) for name in values}
    vars(args).update(values)
    try:
        yield
    finally:
        vars(args).update(before)


def clip_with(accelerator: Accelerator, clip: Callable[..., Tensor]) -> None:
    """Make transformers' Trainer clip gradients with `clip(parameters, max_norm)`, which returns their norm.

    Needed until transformers clips sharded and whole gradients together.
    """
    accelerator.clip_grad_norm_ = clip
