"""Load configs, tokenizers and encoders from a folder or a hub, without remote code.

All uses of transformers' auto classes are in this file. Without `trust_remote_code=False`, they ask on the terminal
whether to run the code beside a checkpoint, and accept a `y` from standard input.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
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
from .display import brief_names
from .encoder_support import attention_dropout, check_encoder
from .errors import FileError, InputError
from .limits import beyond

_OURS = MtBertConfig.model_type  # mtbert's checkpoints name the code beside them, for use without mtbert
WHERE = ("revision", "token", "cache_dir", "local_files_only", "subfolder")


def load_config(name: str | os.PathLike[str], **where: Any) -> PreTrainedConfig:
    """The config of an encoder or a checkpoint.

    Args:
        name: a model of the hub, or a folder.
        where: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`, as in transformers.

    Raises:
        ValueError: if it needs remote code.
        OSError: if there is none, or it cannot be read.
    """
    file = Path(name, where.get("subfolder") or "", "config.json")
    if file.is_file() and (sentences := beyond("config_bytes", file.stat().st_size, f"{file} has", " bytes")):
        raise InputError(sentences[0])
    try:
        values = PreTrainedConfig.get_config_dict(name, **where)[0]
    except RecursionError as error:
        raise FileError(f"{name}: config.json can not be read: its values lie too deep in each other") from error
    _refuse_code(name, "config.json", values)
    refuse_sizes(values, f"{name}: config.json: ")
    return AutoConfig.from_pretrained(name, **where, trust_remote_code=False)


def load_encoder(
    encoder: str | os.PathLike[str], auto_class: Any = AutoModel, unread: str | None = None, **kwargs: Any
) -> PreTrainedModel:
    """A pretrained model of transformers' own classes.

    One line warns of weights that the encoder's files lack. transformers' table of them, which lists the weights of
    other heads too, is shown only if loading fails.

    Args:
        encoder: a model of the hub, or a folder.
        auto_class: the class that loads it.
        unread: beginning of the names of weights that nothing reads, and that may be absent.
        kwargs: as in `AutoModel.from_pretrained`.
    """
    with _tables_held_back():
        model, loading = auto_class.from_pretrained(
            encoder, **{**kwargs, "output_loading_info": True, "trust_remote_code": False}
        )
    missing = sorted(name for name in loading["missing_keys"] if unread is None or not name.startswith(unread))
    if missing:
        warnings.warn(f"{encoder} has no weights for {brief_names(missing)}, which begin at random", stacklevel=2)
    return model


@contextmanager
def _tables_held_back() -> Iterator[None]:
    """Within, transformers' tables of missing and surplus weights are not logged, unless an error ends the block."""
    logger, held = logging.getLogger("transformers.modeling_utils"), []

    def hold(record: logging.LogRecord) -> bool:
        if "LOAD REPORT" not in record.getMessage():
            return True
        held.append(record)
        return False

    logger.addFilter(hold)
    try:
        yield
    except BaseException:
        logger.removeFilter(hold)
        for record in held:
            logger.handle(record)
        raise
    logger.removeFilter(hold)


def make_encoder(config: PreTrainedConfig, auto_class: Any = AutoModel) -> PreTrainedModel:
    """A model of transformers' own classes with new weights."""
    return auto_class.from_config(config, trust_remote_code=False)


def encoder_config(encoder: str | os.PathLike[str], **where: Any) -> PreTrainedConfig:
    """Load and check the config of a pretrained encoder.

    Args:
        encoder: a model of the hub, or a folder.
        where: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`, as in transformers.

    Raises:
        ValueError: for an encoder that needs remote code, or that `check_encoder` refuses.
    """
    config = load_config(encoder, **where)
    if config.model_type not in CONFIG_MAPPING or config.model_type == _OURS:
        raise InputError(f"{encoder}: {config.model_type!r} is not an encoder of transformers; give one that is")
    try:
        check_encoder(config)
    except ValueError as error:
        raise InputError(f"{encoder}: {error}") from error
    return config


def start_encoder(
    encoder: str | os.PathLike[str], dropout: float | None, tasks: Sequence[Any], **kwargs: Any
) -> PreTrainedModel:
    """Load a pretrained encoder as the first weights of a new model.

    Args:
        encoder: a model of the hub, or a folder.
        dropout: dropout probability of the attention weights, in [0, 1); None: that of the encoder's config.
        tasks: the model's tasks, or their fields; if none reads the encoder's pooler, its weights may be absent.
        kwargs: as in `AutoModel.from_pretrained`.

    Raises:
        ValueError: see `encoder_config` and `attention_dropout`.
    """
    config = encoder_config(encoder, **{key: kwargs[key] for key in WHERE if key in kwargs})
    if dropout is not None:
        if kwargs.get("config") is not None:
            raise InputError("give either attention_dropout or a config, which can say it itself")
        kwargs |= attention_dropout(config, dropout)
    poolings = [task.get("pooling") if isinstance(task, Mapping) else getattr(task, "pooling", None) for task in tasks]
    loaded = load_encoder(encoder, unread=None if "pooler" in poolings else "pooler.", **kwargs)
    if os.path.isdir(encoder):
        loaded.config._name_or_path = ""  # a checkpoint must not carry the paths of one machine
    module: Any
    for module in loaded.modules():
        module._is_hf_initialized = True  # transformers does not initialise such modules
    return loaded


def load_tokenizer(
    encoder: str | os.PathLike[str], config: PreTrainedConfig | None = None, **where: Any
) -> PreTrainedTokenizerBase:
    """The tokenizer of an encoder or checkpoint.

    Settings of truncation and padding in its file (sentence-transformers' pad to 128) are removed: every call sets its
    own. Otherwise the saved tokenizer of a run would depend on whether the run called it or found cached encodings.

    Args:
        encoder: a model of the hub, or a folder.
        config: the model's config, if it is loaded already.
        where: as in `load_config`.

    Raises:
        ValueError: if the tokenizer, or the encoder beside it, needs remote code.
    """
    if config is None:
        config = load_config(encoder, **where)
    _refuse_code(encoder, "tokenizer_config.json", get_tokenizer_config(encoder, **where))
    tokenizer = AutoTokenizer.from_pretrained(encoder, config=config, **where, trust_remote_code=False)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _refuse_code(encoder: str | os.PathLike[str], file: str, values: Mapping[str, Any]) -> None:
    """Raise InputError if a config names remote code.

    transformers would ask on the terminal whether to run it; or, if it knows a model of the same type, silently use
    that one, which need not be the model that was trained.
    """
    for key, value in values.items():
        if key.endswith(("attn_implementation", "experts_implementation")) and "/" in str(value):
            raise InputError(f"{encoder}: {file} names code on a hub ({key}: {value}), which is not run; drop that key")
    named = values.get("auto_map")
    if not named or (file == "config.json" and values.get("model_type") == _OURS):
        return
    own_class = values.get("model_type") or values.get("tokenizer_class")
    raise InputError(
        f"{encoder}: {file} names code of its own (auto_map: {named}), which is not run; give an encoder whose code is "
        f"part of transformers, or, if transformers' own {own_class!r} is meant, a copy without auto_map in that file"
    )


def reinitialize_layers(encoder: PreTrainedModel, count: int) -> None:
    """Give the top layers of an encoder, and its pooler if it has one, the random weights of a new encoder.

    Zhang et al., "Revisiting Few-sample BERT Fine-tuning" (2021, section 5): the top layers are specialised in
    pre-training, and random ones may be a better start for small data.

    The weights are drawn from torch's generator, as the encoder's family draws them before pre-training. Adapters,
    embeddings and lower layers keep their weights. ALBERT's layers share their weights: its groups count as layers.

    Args:
        encoder: the encoder, which is changed in place.
        count: number of layers, from the top; 0 leaves the encoder as it is.

    Raises:
        ValueError: if the encoder has fewer layers.
    """
    chosen = top_layers(encoder, count)
    if not chosen:
        return
    new = AutoModel.from_config(encoder.config, trust_remote_code=False)
    names = {module: name for name, module in encoder.named_modules()}
    pooler = getattr(encoder, "pooler", None)  # None also of an encoder that was made without it
    for part in chosen if pooler is None else (*chosen, pooler):
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
