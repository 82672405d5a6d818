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
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
_OWN = {
    "albert": {"embedding_size": 16},
    "big_bird": {"block_size": 2, "num_random_blocks": 1, "attention_type": "original_full"},
    "camembert": _AFTER_PADDING,
    "canine": {"num_hash_buckets": 64, "downsampling_rate": 2, "local_transformer_stride": 8},
    "convbert": {"embedding_size": 16},
    "data2vec-text": _AFTER_PADDING,
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "esm": {**_AFTER_PADDING, "mask_token_id": 4, "token_dropout": True},
    "eurobert": _SPECIAL | {"num_key_value_heads": 2},
    "funnel": {
        "architectures": ["FunnelModel"],
        "block_sizes": [1, 2],
        "d_head": 8,
        "d_inner": 64,
        "num_decoder_layers": 1,
    },
    "ibert": _AFTER_PADDING,
    "longformer": {**_AFTER_PADDING, "attention_window": 4},
    "luke": {**_AFTER_PADDING, "entity_vocab_size": 10, "entity_emb_size": 8},
    "markuplm": {**_AFTER_PADDING, "max_depth": 4, "xpath_unit_hidden_size": 4},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "modernbert": {"local_attention": 8, **_SPECIAL},
    "mpnet": _AFTER_PADDING,
    "nystromformer": {"conv_kernel_size": 3},
    "rembert": {"input_embedding_size": 16},
    "roberta": _AFTER_PADDING,
    "roberta-prelayernorm": _AFTER_PADDING,
    "roc_bert": {
        "pronunciation_vocab_size": 10,
        "shape_vocab_size": 10,
        "pronunciation_embed_dim": 8,
        "shape_embed_dim": 8,
    },
    "squeezebert": {"embedding_size": 32},
    "xlm-roberta": _AFTER_PADDING,
    "xlm-roberta-xl": _AFTER_PADDING,
    "xmod": {**_AFTER_PADDING, "languages": ["en_XX", "de_DE"], "default_language": "de_DE"},
}
_WITHOUT = {"funnel": ("num_hidden_layers",), "reformer": (), "xlnet": ("max_position_embeddings",)}


def family_config(family: str, **values) -> PretrainedConfig:
    """Three layers, width 32, four heads; `values` on top."""
    shape = {key: value for key, value in SHAPE.items() if key not in _WITHOUT.get(family, ())}
    return AutoConfig.for_model(family, **{**shape, **_OWN.get(family, {}), **values})
