"""Cached encodings outlive a reworded comment, and are made anew where what they depend on changes."""

import hashlib
import json
from dataclasses import replace

import pytest
from datasets import Dataset
from transformers import AutoTokenizer, BertConfig

from mtbert.data import tokenize
from mtbert.data.tokenize import encode_dataset
from mtbert.modeling import tokenization
from mtbert.modeling.task_spec import TaskSpec

# The version, and the SHA-256 of what `encode_texts` gives for `ROWS`. If the second changes, raise ENCODING_VERSION in
# mtbert/modeling/tokenization.py, so that encodings of earlier versions are not used, and write both here.
STORED = (1, "fa213e9d8da5fcf4e16ca9f80b31326e8c272abd09005b1a66ed90bdfcff90f2")
ROWS = {
    "text": ["a cat sleeps .", "the dog runs and the bird flies", "", "Very GOOD"],
    "text_pair": ["is the cat old ?", "unknownword", "fish", "a bad old house"],
}
SPECS = (
    TaskSpec("one", labels=2),
    TaskSpec("short", labels=2, max_length=5),
    TaskSpec("cross", labels=2, texts=2),
    TaskSpec("separated", labels=2, texts=2, separator=("[SEP]", "[unused36]"), token_types=False, max_length=9),
    TaskSpec("apart", range=(0, 5), texts=2, pair="siamese", max_length=6),
    TaskSpec("both", labels=2, texts=2, pair="both"),
)


@pytest.fixture(scope="module")
def encoder():
    return BertConfig(max_position_embeddings=64)


def test_the_version_is_raised_where_token_ids_change(tokenizer, encoder):
    pairs = [ROWS["text_pair"] if spec.texts == 2 else None for spec in SPECS]
    columns = [
        tokenization.encode_texts(spec, tokenizer, encoder, ROWS["text"], pair) for spec, pair in zip(SPECS, pairs)
    ]
    found = hashlib.sha256(json.dumps(columns, sort_keys=True).encode()).hexdigest()
    assert (tokenization.ENCODING_VERSION, found) == STORED, "token ids differ from those of this version: see STORED"


def key(task, tokenizer, encoder, encode=encode_dataset, **columns) -> str:
    """The name by which the encoded rows are cached."""
    rows = Dataset.from_dict({"text": ROWS["text"], **columns})
    return encode(task, rows, tokenizer, encoder)[0]._fingerprint


def test_another_comment_keeps_the_key(reword, tokenizer, encoder):
    before = key(SPECS[0], tokenizer, encoder)
    reword(tokenization)
    assert key(SPECS[0], tokenizer, encoder, reword(tokenize).encode_dataset) == before


def test_another_version_changes_the_key(tokenizer, encoder, monkeypatch):
    before = key(SPECS[0], tokenizer, encoder)
    monkeypatch.setattr(tokenization, "ENCODING_VERSION", tokenization.ENCODING_VERSION + 1)
    assert key(SPECS[0], tokenizer, encoder) != before


def test_another_text_tokenizer_or_encoding_setting_changes_the_key(encoder_dir, tokenizer, encoder):
    spec = SPECS[2]
    pairs = ROWS["text_pair"]
    other = AutoTokenizer.from_pretrained(encoder_dir)
    other.add_tokens(["catcat"])
    keys = [
        key(spec, tokenizer, encoder, text_pair=pairs),
        key(spec, tokenizer, encoder, text_pair=[*pairs[:-1], "a bad old tree"]),
        key(spec, other, encoder, text_pair=pairs),
        key(spec, tokenizer, BertConfig(max_position_embeddings=32), text_pair=pairs),
    ]
    settings = (
        {"max_length": 9},
        {"pair": "siamese"},
        {"pair": "both"},
        {"token_types": False},
        {"separator": ("[SEP]", "[SEP]")},
    )
    keys += [key(replace(spec, **each), tokenizer, encoder, text_pair=pairs) for each in settings]
    assert len(set(keys)) == len(keys)


def test_settings_that_encoding_does_not_read_keep_the_key(tokenizer, encoder):
    other = replace(SPECS[0], dropout=0.3, pooling="mean")
    assert key(other, tokenizer, encoder) == key(SPECS[0], tokenizer, encoder)
