"""The tokenizer of a model: where it comes from, and how it is saved beside the weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from .encoder_loading import load_tokenizer
from .errors import MissingTokenizer
from .task_model import TaskModel


def source_of(model: TaskModel) -> dict[str, Any]:
    """Arguments of `load_tokenizer` for a model's checkpoint, or else its encoder; empty if it is new."""
    return model._source or ({"encoder": model.name_or_path} if model.name_or_path else {})


def find_tokenizer(model: TaskModel) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model's checkpoint, or of the encoder that it was made from.

    Raises:
        MissingTokenizer: if the model has neither, or there is no tokenizer beside it.
    """
    source = source_of(model)
    if not source:
        raise MissingTokenizer(
            "tokenizer is missing; this model was not loaded from a checkpoint, so give its tokenizer"
        )
    try:
        config = model.config if model.name_or_path else None  # an encoder's config is loaded again
        return load_tokenizer(**source, config=config)
    except Exception as error:  # tokenizers raises plain Exceptions
        raise MissingTokenizer(
            f"tokenizer is missing; {source['encoder']} has none that can be loaded ({error}), so give it"
        ) from error


def save_tokenizer(model: TaskModel, folder: str | os.PathLike[str]) -> None:
    """Save a model's tokenizer, if it has one, into a folder; see `MtBertForMultiTask.save_pretrained`."""
    unused = model._tokenizer is None and not model.name_or_path  # the encoder's; keep another one in the folder
    if unused and Path(folder, "tokenizer_config.json").is_file():
        return
    try:
        tokenizer = model.tokenizer
    except MissingTokenizer:
        return
    tokenizer.save_pretrained(folder)
