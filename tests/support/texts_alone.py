"""Short texts, sizes of tiny encoders, and each text encoded alone with transformers only."""

from __future__ import annotations

import copy

import torch

TEXTS = ["the cat sleeps .", "a dog", "is the old house not very good ?", "fish", "a bird flies", "the tree is old ."]
PAIRS = [(text, other) for text, other in zip(TEXTS, reversed(TEXTS), strict=True)]
TINY = {"vocab_size": 40, "max_position_embeddings": 32}
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def padded_texts(tokenizer):
    """Padded inputs; from its third token on, a text has token type 1."""
    inputs = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    inputs["token_type_ids"] = inputs["attention_mask"] * (torch.arange(inputs["input_ids"].shape[1]) >= 2)
    return inputs


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def naive_hidden(model, batch):
    """Last hidden states of each text, encoded alone and without the package: a list of (length, hidden)."""
    encoder = copy.deepcopy(model.encoder)
    encoder.config._attn_implementation = "eager"
    states = []
    for i, mask in enumerate(batch["attention_mask"]):
        inputs = {key: value[i : i + 1, mask.bool()] for key, value in batch.items()}
        states.append(encoder(**inputs).last_hidden_state[0])
    return states
