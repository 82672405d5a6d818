"""Pretrained encoders and tokenizers, from a folder or a hub: what is taken, and that none of their own code is run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from .configuration_mtbert import MtBertConfig
from .encoders import check_encoder

_OURS = MtBertConfig.model_type  # such a checkpoint names the code beside it, for those who have not installed mtbert


def encoder_config(encoder: str | os.PathLike, **where: Any) -> PreTrainedConfig:
    """The config of a pretrained encoder, once it is known to be one that is taken.

    Args:
        encoder: a model of the hub, or a folder.
        where: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`, as in transformers.

    Raises:
        ValueError: for an encoder that brings code of its own, or that `check_encoder` refuses.
    """
    _refuse_code(encoder, "config.json", PreTrainedConfig.get_config_dict(encoder, **where)[0])
    config = AutoConfig.from_pretrained(encoder, **where)
    if config.model_type not in CONFIG_MAPPING or config.model_type == _OURS:
        raise ValueError(f"{encoder}: {config.model_type!r} is not an encoder of transformers; give one that is")
    try:
        check_encoder(config)
    except ValueError as error:
        raise ValueError(f"{encoder}: {error}") from error
    return config


def load_tokenizer(encoder: str | os.PathLike, **where: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of an encoder or checkpoint.

    How it cuts and pads is said with every call; what its file says of that (sentence-transformers' pad to 128) is left
    out, so that what a run saves does not depend on whether it called its tokenizer or found the texts encoded.

    Args:
        encoder: a model of the hub, or a folder.
        where: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`, as in transformers.

    Raises:
        ValueError: if the tokenizer, or the encoder beside it, brings code of its own.
    """
    _refuse_code(encoder, "config.json", PreTrainedConfig.get_config_dict(encoder, **where)[0])
    _refuse_code(encoder, "tokenizer_config.json", get_tokenizer_config(encoder, **where))
    tokenizer = AutoTokenizer.from_pretrained(encoder, **where)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _refuse_code(encoder: str | os.PathLike, file: str, values: Mapping[str, Any]) -> None:
    """Refuse classes that are not transformers' own.

    transformers would ask on the terminal whether to run them; or, where it knows a model of the same type, take that
    one unasked, which need not be the one that was trained.
    """
    named = values.get("auto_map")
    if not named or values.get("model_type") == _OURS:
        return
    known = values.get("model_type") or values.get("tokenizer_class")
    raise ValueError(
        f"{encoder}: {file} names code of its own (auto_map: {named}), which is not run; give an encoder whose code is "
        f"part of transformers, or, if transformers' own {known!r} is meant, a copy without auto_map in that file"
    )
