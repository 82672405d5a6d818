"""Writes what this version of mtbert leaves on a disk, so that later versions can be held against it.

    python tests/compat/make_artefacts.py tests/compat/VERSION

Run it once for each released version, with that version installed, and commit the folder. Everything in it is tiny and
made here: an encoder of random weights, sentences of a few words, and what training on them for twelve steps writes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support"), str(Path(__file__).parent)]

import logits
import numpy as np
import torch
import yaml
from peft import PeftModel
from tiny import WORDS, make_tokenizer
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, set_seed

from mtbert import MtBertForMultiTask
from mtbert.cli import finetune
from mtbert.modeling.hub_upload import finish_repository
from mtbert.recipe import load_recipe

TASKS = {
    "stars": {
        "labels": ["bad", "fine", "good"],
        "pooling": "mean",
        "data": {"train": "stars-train.csv", "dev": "stars-dev.csv"},
    },
    "same": {
        "problem_type": "binary_classification",
        "labels": ["no", "yes"],
        "head": {"type": "mlp", "layers": 1},
        "data": {"text": ["first", "second"], "train": "same-train.csv", "dev": "same-dev.csv"},
    },
    "close": {
        "range": [0, 5],
        "pair": "siamese",
        "head": {"output": "sigmoid"},
        "data": {"text": ["first", "second"], "train": "close-train.csv", "dev": "close-dev.csv"},
    },
    "topics": {
        "problem_type": "multi_label_classification",
        "labels": ["cat", "dog", "bird"],
        "pooling": "max",
        "max_length": 16,
        "data": {"train": "topics-train.jsonl", "dev": "topics-dev.jsonl"},
    },
}
TASK_KEYS = {
    "labels": 3,
    "pooling": "max",
    "dropout": 0.2,
    "max_length": 20,
    "adapter": False,
    "weight": 2.0,
    "batch_size": 4,
    "examples_per_epoch": 12,
    "metric": "f1_macro",
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "class_weights": [1, 2, 3],
    "label_smoothing": 0.1,
    "head": {"type": "attention", "layers": 1, "hidden_size": 8, "activation": "tanh", "dropout": 0.1},
}
PAIR_KEYS = {
    "problem_type": "binary_classification",
    "labels": ["no", "yes"],
    "pair": "both",
    "token_types": False,
    "separator": ["[SEP]", "[unused36]"],
    "head": {"type": "mlp", "layers": 1, "features": "u;v"},
    "data": {
        "text": ["first", "second"],
        "label": "label",
        "id": "first",
        "symmetric": True,
        "format": "csv",
        "train": "same-train.csv",
        "dev": "same-dev.csv",
        "test": "same-dev.csv",
    },
}
HUB_KEYS = {"hub": "glue", "subset": "sst2", "revision": "main", "text": "sentence", "train": "train"}
# Recipes that together name every key; some keys exclude each other.
EVERY_KEY = {
    "separate": {
        "tasks": {
            "one": TASK_KEYS | {"data": {"train": "stars-train.csv", "unlabelled": "stars-dev.csv"}},
            "two": PAIR_KEYS,
            "three": {"labels": 2, "data": HUB_KEYS, "balanced": True},
        },
        "schedule": {"name": "temperature", "temperature": 2.0, "steps_per_epoch": 3, "mixed": False},
        "model": {"adapter": {"type": "pal", "size": 8, "heads": 2, "activation": "identity", "layers": [0]}},
        "optimizer": {
            "per_task": "separate",
            "encoder_learning_rate": 1e-3,
            "adapter_learning_rate": 1e-3,
            "head_learning_rate": 1e-3,
            "layer_decay": 0.9,
        },
        "loss": {"weighting": "fixed"},
        "averaging": {"type": "ema", "decay": 0.9, "start": 0.1},
        "distillation": {"teachers": ["teacher"], "weight": 0.5, "temperature": 2.0},
        "card": {
            "license": "other",
            "license_name": "mine",
            "language": ["en"],
            "datasets": ["nyu-mll/glue"],
            "tags": ["tiny"],
        },
        "training": {
            "early_stopping_patience": 2,
            "early_stopping_threshold": 0.01,
            "metric_for_best_model": "eval_overall",
            "load_best_model_at_end": True,
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "eval_train": True,
            "data_seed": 4,
            "on_nonfinite": "skip",
            "cpu_threads": 1,
        },
    },
    "together": {
        "tasks": {
            "one": {
                "labels": 3,
                "head": {"type": "attention", "attention_heads": 2},
                "data": {"train": "stars-train.csv"},
            },
            "two": {
                "range": [0, 5],
                "pair": "siamese",
                "head": {"type": "cosine", "output": "relu"},
                "data": {"text": ["first", "second"], "train": "close-train.csv"},
            },
        },
        "schedule": {"name": "simultaneous"},
        "surgery": {"method": "cagrad", "c": 0.3},
        "model": {
            "adapter": {"type": "top_layers", "size": 8, "heads": 2, "depth": 2, "init": "published"},
            "packed": False,
        },
        "pretraining": {
            "num_train_epochs": 2,
            "mask_probability": 0.2,
            "max_length": 16,
            "use_epoch": 1,
            "keep_epochs": [1],
            "learning_rate": 1e-3,
        },
        "stages": [{"model": {"freeze_encoder": True, "train_layer_norms": True}}, {}],
    },
    "regularised": {
        "tasks": {"one": {"labels": 3, "data": {"train": "stars-train.csv"}}, "two": PAIR_KEYS},
        "model": {"adapter": {"type": "pal_top", "size": 8, "heads": 2, "input": "all"}},
        "loss": {"weighting": "uncertainty", "learning_rate": 0.1},
        "smart": {
            "weight": 1.0,
            "steps": 1,
            "step_size": 1e-3,
            "noise": 1e-5,
            "radius": 1e-5,
            "norm": "inf",
            "projection": "published",
        },
        "proximal": {"weight": 1.0, "decay": 0.9, "late_decay": 0.99, "switch": 0.2},
    },
    "lora": {
        "tasks": {"one": {"labels": 3, "data": {"train": "stars-train.csv"}}},
        "peft": {"type": "lora", "r": 2, "target_modules": ["query"]},
        "training": {"use_cpu": True},
    },
    "sharded": {
        "tasks": {"one": {"labels": 3, "data": {"train": "stars-train.csv"}}},
        "training": {"shard_encoder": True, "use_cpu": True},
    },
}
TRAINING = {
    "max_steps": 12,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.01,
    "warmup_steps": 2,
    "logging_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "save_strategy": "steps",
    "save_steps": 4,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "seed": 3,
    "cpu_threads": 1,
}


def write_encoder(folder: Path) -> None:
    """A BERT of one layer and width 16, and its tokenizer."""
    set_seed(0)
    tokenizer = make_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_data(folder: Path) -> None:
    """Random sentences whose labels follow from their words; 24 rows to train on, 8 to score."""
    folder.mkdir()
    random = np.random.default_rng(0)

    def sentence() -> str:
        return " ".join(random.choice(WORDS, size=random.integers(2, 9)))

    for split, rows in (("train", 24), ("dev", 8)):
        texts = [sentence() for _ in range(rows)]
        stars = ["good" if "good" in text else "bad" if "bad" in text else "fine" for text in texts]
        lines = ["text,label", *(f"{text},{label}" for text, label in zip(texts, stars))]
        (folder / f"stars-{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for name in ("same", "close"):
            pairs = [(sentence(), sentence()) for _ in range(rows)]
            shared = [len(set(first.split()) & set(second.split())) for first, second in pairs]
            labels = [("no", "yes")[count > 0] if name == "same" else str(min(count, 5)) for count in shared]
            lines = ["first,second,label", *(f"{u},{v},{label}" for (u, v), label in zip(pairs, labels))]
            (folder / f"{name}-{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        animals = [[name for name in ("cat", "dog", "bird") if name in text.split()] or ["cat"] for text in texts]
        lines = [json.dumps({"text": text, "label": names}) for text, names in zip(texts, animals)]
        (folder / f"topics-{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_run(folder: Path, name: str, keep: str | None = None, **settings) -> None:
    """A run's folder `name`, made by `name.yaml` beside it; of its checkpoints only `keep` stays."""
    recipe = {"encoder": "encoder", "data_dir": "data", "tasks": TASKS, **settings}
    recipe["training"] = TRAINING | {"output_dir": name}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    finetune.main([f"{name}.yaml"])
    for checkpoint in (folder / name).glob("checkpoint-*"):
        if checkpoint.name != keep:
            shutil.rmtree(checkpoint)
    shutil.rmtree(folder / name / "runs", ignore_errors=True)


def write_every_key(folder: Path) -> dict[str, dict]:
    """The recipes of `EVERY_KEY` as files; each one's values, defaults included, by the file's name."""
    folder.mkdir()
    resolved = {}
    for name, values in EVERY_KEY.items():
        training = {"output_dir": "out", **values.get("training", {})}
        recipe = {"encoder": "encoder", "data_dir": "data", **values, "training": training}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        resolved[f"{folder.name}/{name}.yaml"] = load_recipe(folder / f"{name}.yaml").to_dict()
    return resolved


def write_hub_folder(folder: Path, run: Path) -> None:
    """What a push of a run's model uploads: weights, tokenizer, and the code that loads them."""
    MtBertForMultiTask.from_pretrained(run).save_pretrained(folder)
    finish_repository(folder, AutoTokenizer.from_pretrained(run), None)


def load_adapter(folder: Path, encoder: Path) -> PeftModel:
    """A model from an adapter-only save, as its model card says."""
    config = AutoConfig.from_pretrained(folder)
    return PeftModel.from_pretrained(MtBertForMultiTask.from_encoder(encoder, config.tasks), folder)


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    os.chdir(folder)
    here = Path(".")
    torch.set_num_threads(1)
    write_encoder(here / "encoder")
    write_data(here / "data")
    write_run(here, "run", keep="checkpoint-4", model={"adapter": {"size": 8, "heads": 2}})
    write_run(here, "peft", peft={"type": "lora", "r": 2, "target_modules": ["query", "value"]})
    write_hub_folder(here / "hub", here / "run")
    run = MtBertForMultiTask.from_pretrained("run")
    with_lora = load_adapter(here / "peft", here / "encoder")
    values = {"run": logits.logits_of(run, AutoTokenizer.from_pretrained("run"))}
    values["peft"] = logits.logits_of(with_lora, AutoTokenizer.from_pretrained("peft"))
    (here / "logits.json").write_text(json.dumps(values) + "\n")
    resolved = {name: load_recipe(here / name).to_dict() for name in ("run.yaml", "peft.yaml")}
    resolved |= write_every_key(here / "every_key")
    (here / "resolved.json").write_text(json.dumps(resolved, indent=1) + "\n")
    (here / "VERSION").write_text(f"mtbert {version('mtbert')}, transformers {version('transformers')}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
