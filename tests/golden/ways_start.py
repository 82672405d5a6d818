"""What every way of training begins with: a tiny encoder, tiny data, and the initial weights of each model."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, BertConfig, set_seed

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))  # also where no pytest has done so

from tiny import WORDS, make_tokenizer

TRAIN_ROWS = {
    "stars": 40,
    "same": 24,
    "close": 33,
    "topics": 17,
    "slots": 22,
}  # more come last, so that the rows before stay
DEV_ROWS = 9

TASKS: dict[str, dict[str, Any]] = {
    "stars": {"labels": ["bad", "fine", "good"], "pooling": "mean"},
    "same": {"problem_type": "binary_classification", "labels": ["no", "yes"], "head": {"type": "mlp", "layers": 1}},
    "close": {"range": [0, 5], "pair": "siamese", "head": {"output": "sigmoid"}},
    "topics": {"problem_type": "multi_label_classification", "labels": ["cat", "dog", "bird"], "pooling": "max"},
}
SLOTS = {"problem_type": "token_classification", "labels": ["O", "B-ANIMAL", "I-ANIMAL", "B-PLACE"]}
PAIRS = ("same", "close")


def task_data(name: str, dev: bool) -> dict[str, Any]:
    """The `data` section of a task in a recipe.

    Args:
        dev: whether it has a dev split.
    """
    data: dict[str, Any] = {"train": f"{name}-train.jsonl"}
    if dev:
        data["dev"] = f"{name}-dev.jsonl"
    if name in PAIRS:
        data["text"] = ["first", "second"]
    return data


def write_encoder(folder: Path, dropout: float) -> None:
    """Write a BERT of two layers and width 16 with its tokenizer.

    Args:
        dropout: probability of every dropout layer of the encoder.
    """
    tokenizer = make_tokenizer(max_length=32)
    tokenizer.save_pretrained(folder)
    set_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    model = AutoModelForMaskedLM.from_config(config)
    fill_weights(model, seed=0)
    model.save_pretrained(folder)


def fill_weights(model: torch.nn.Module, seed: int) -> None:
    """Set every weight to normal numbers that depend on its name and the seed only, not on how the model was made."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            random = np.random.default_rng([seed, zlib.crc32(name.encode())])
            values = torch.from_numpy(0.2 * random.standard_normal(tuple(weight.shape))).to(weight.dtype)
            weight.copy_(1 + values if "norm" in name.lower() and name.endswith("weight") else values)


def write_data(folder: Path) -> None:
    """Write random sentences whose labels follow from their words."""
    folder.mkdir()
    random = np.random.default_rng(0)

    def sentence() -> str:
        return " ".join(random.choice(WORDS, size=random.integers(2, 11)))

    for name, train_rows in TRAIN_ROWS.items():
        for split, count in (("train", train_rows), ("dev", DEV_ROWS), ("unlabelled", DEV_ROWS)):
            rows = [_row(name, sentence(), sentence()) for _ in range(count)]
            lines = [json.dumps(row) for row in rows]
            (folder / f"{name}-{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(task: str, first: str, second: str) -> dict[str, Any]:
    words = first.split()
    if task == "stars":
        score = words.count("good") + words.count("fine") - words.count("bad") - words.count("not")
        return {"text": first, "label": ("bad", "fine", "good")[min(max(score + 1, 0), 2)]}
    if task == "topics":
        return {"text": first, "label": [name for name in ("cat", "dog", "bird") if name in words]}
    if task == "slots":
        return {"text": words, "label": _tags(words)}
    shared = len(set(words) & set(second.split()))
    return {"first": first, "second": second, "label": ("no", "yes")[shared > 1] if task == "same" else min(shared, 5)}


def _tags(words: list[str]) -> list[str]:
    """A tag for each word: `old` and `new` begin an animal that follows."""
    kinds = dict.fromkeys(("cat", "dog", "bird", "fish"), "ANIMAL") | dict.fromkeys(("house", "tree"), "PLACE")
    tags = [f"B-{kinds[word]}" if word in kinds else "O" for word in words]
    for place, word in enumerate(words[:-1]):
        if word in ("old", "new") and tags[place + 1] == "B-ANIMAL":
            tags[place : place + 2] = ["B-ANIMAL", "I-ANIMAL"]
    return tags


def write_initial(
    folder: Path, encoder: Path, tasks: Mapping[str, Mapping], adapter: Mapping | None, seed: int
) -> None:
    """Write a model with the weights that training begins from.

    Args:
        tasks: name → TaskSpec's fields.
        adapter: AdapterSpec's fields, or None.
    """
    from transformers import AutoTokenizer

    from mtbert import MtBertForMultiTask

    specs = [{"name": name, "texts": 2 if name in PAIRS else 1, **task} for name, task in tasks.items()]
    model = MtBertForMultiTask.from_encoder(str(encoder), specs, adapter)
    fill_weights(model, seed)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
