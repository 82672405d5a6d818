"""Configs, tokenizers and encoders, from a folder or a hub. None of their own code is run, and nobody is asked to.

Everything that is loaded by one of transformers' auto classes goes through this file. Without `trust_remote_code=False`
they ask on the terminal whether to run the code beside a checkpoint, and take a `y` from standard input for consent.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from .config_checks import refuse_sizes
from .configuration_mtbert import MtBertConfig
from .encoder_support import check_encoder
from .errors import FileError, InputError
from .limits import beyond

_OURS = MtBertConfig.model_type  # such a checkpoint names the code beside it, for those who have not installed mtbert
WHERE = ("revision", "token", "cache_dir", "local_files_only", "subfolder")


def load_config(name: str | os.PathLike, **where: Any) -> PreTrainedConfig:
    """The config of an encoder or a checkpoint.

    Args:
        name: a model of the hub, or a folder.
        where: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`, as in transformers.

    Raises:
        ValueError: if it brings code of its own.
        OSError: if there is none, or it can not be read.
    """
    file = Path(name, where.get("subfolder") or "", "config.json")
    if file.is_file() and (found := beyond("config_bytes", file.stat().st_size, f"{file} has", " bytes")):
        raise InputError(found[0])
    try:
        values = PreTrainedConfig.get_config_dict(name, **where)[0]
    except RecursionError as error:
        raise FileError(f"{name}: config.json can not be read: its values lie too deep in each other") from error
    _refuse_code(name, "config.json", values)
    refuse_sizes(values, f"{name}: config.json: ")
    return AutoConfig.from_pretrained(name, **where, trust_remote_code=False)


def load_encoder(encoder: str | os.PathLike, auto_class: type = AutoModel, **kwargs: Any) -> PreTrainedModel:
    """A pretrained model of transformers' own classes; `kwargs` as in `AutoModel.from_pretrained`."""
    return auto_class.from_pretrained(encoder, **{**kwargs, "trust_remote_code": False})


def make_encoder(config: PreTrainedConfig, auto_class: type = AutoModel) -> PreTrainedModel:
    """A model of transformers' own classes with new weights."""
    return auto_class.from_config(config, trust_remote_code=False)


def encoder_config(encoder: str | os.PathLike, **where: Any) -> PreTrainedConfig:
    """The config of a pretrained encoder, once it is known to be one that is taken.

    Args:
        encoder: a model of the hub, or a folder.
        where: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`, as in transformers.

    Raises:
        ValueError: for an encoder that brings code of its own, or that `check_encoder` refuses.
    """
    config = load_config(encoder, **where)
    if config.model_type not in CONFIG_MAPPING or config.model_type == _OURS:
        raise InputError(f"{encoder}: {config.model_type!r} is not an encoder of transformers; give one that is")
    try:
        check_encoder(config)
    except ValueError as error:
        raise InputError(f"{encoder}: {error}") from error
    return config


def load_tokenizer(
    encoder: str | os.PathLike, config: PreTrainedConfig | None = None, **where: Any
) -> PreTrainedTokenizerBase:
    """The tokenizer of an encoder or checkpoint.

    How it cuts and pads is said with every call; what its file says of that (sentence-transformers' pad to 128) is left
    out, so that what a run saves does not depend on whether it called its tokenizer or found the texts encoded.

    Args:
        encoder: a model of the hub, or a folder.
        config: the model's config, where it has been loaded.
        where: as in `load_config`.

    Raises:
        ValueError: if the tokenizer, or the encoder beside it, brings code of its own.
    """
    if config is None:
        config = load_config(encoder, **where)
    _refuse_code(encoder, "tokenizer_config.json", get_tokenizer_config(encoder, **where))
    tokenizer = AutoTokenizer.from_pretrained(encoder, config=config, **where, trust_remote_code=False)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _refuse_code(encoder: str | os.PathLike, file: str, values: Mapping[str, Any]) -> None:
    """Refuse classes that are not transformers' own.

    transformers would ask on the terminal whether to run them; or, where it knows a model of the same type, take that
    one unasked, which need not be the one that was trained.
    """
    for key, value in values.items():
        if key.endswith(("attn_implementation", "experts_implementation")) and "/" in str(value):
            raise InputError(f"{encoder}: {file} names code on a hub ({key}: {value}), which is not run; drop that key")
    named = values.get("auto_map")
    if not named or (file == "config.json" and values.get("model_type") == _OURS):
        return
    known = values.get("model_type") or values.get("tokenizer_class")
    raise InputError(
        f"{encoder}: {file} names code of its own (auto_map: {named}), which is not run; give an encoder whose code is "
        f"part of transformers, or, if transformers' own {known!r} is meant, a copy without auto_map in that file"
    )
