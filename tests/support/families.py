"""Tiny configurations of the encoder families, for models that are made in a moment."""

from __future__ import annotations

from transformers import AutoConfig, PretrainedConfig

SHAPE = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
_AFTER_PADDING = {"pad_token_id": 1, "max_position_embeddings": 66}
_OWN = {
    "albert": {"embedding_size": 16},
    "camembert": _AFTER_PADDING,
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "modernbert": {
        "local_attention": 8,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
    "mpnet": _AFTER_PADDING,
    "roberta": _AFTER_PADDING,
    "xlm-roberta": _AFTER_PADDING,
}


def family_config(family: str, **values) -> PretrainedConfig:
    """Three layers, width 32, four heads; `values` on top."""
    return AutoConfig.for_model(family, **{**SHAPE, **_OWN.get(family, {}), **values})
