"""Small runs whose weights can be compared: encoded data, no dropout unless a test asks for it."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mtbert.data.given_splits import prepare_splits
from mtbert.data.sampling import Schedule
from mtbert.training.arguments import MtBertTrainingArguments
from mtbert.training.trainer import MtBertTrainer


@pytest.fixture(scope="session")
def still_tasks(tasks):
    """The tasks without dropout."""
    return tuple(replace(task, dropout=0.0) for task in tasks)


@pytest.fixture
def still_model(make_model, still_tasks):
    """A function that makes a model without any dropout, with the same weights at each call."""
    return lambda: make_model(still_tasks, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@pytest.fixture(scope="session")
def _encoded_splits() -> dict:
    return {}


@pytest.fixture
def encoded(_encoded_splits, make_model, splits, tasks, tokenizer):
    """A function: rows by task → encoded splits, made once for each size and seed."""

    def make(rows=(20, 12, 17, 9), seed=0):
        if (rows, seed) not in _encoded_splits:
            encoder = make_model().config.encoder
            _encoded_splits[rows, seed], _ = prepare_splits(tasks, "train", splits(rows, seed), tokenizer, encoder)
        return _encoded_splits[rows, seed]

    return make


@pytest.fixture
def make_trainer(encoded):
    """A function: model, folder, schedule, settings → a trainer on the tiny data; `own`: more of its arguments."""

    def make(model, folder, schedule: Schedule, task_training=None, rows=(20, 12, 17, 9), own=None, **settings):
        values = {
            "output_dir": str(folder),
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "logging_steps": 1,
            "save_strategy": "no",
            "per_device_train_batch_size": 8,
            "num_train_epochs": 2,
            "seed": 3,
            **settings,
        }
        data = {"train_dataset": encoded(rows), "eval_dataset": encoded((10, 9, 8, 7), 1)}
        return MtBertTrainer(
            model,
            MtBertTrainingArguments(**values),
            schedule=schedule,
            task_training=task_training,
            **data | (own or {}),
        )

    return make


@pytest.fixture(scope="session")
def assert_same_weights():
    """A function that compares two checkpoints' weights and optimizer states bit for bit."""

    def same(one, other, where=""):
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other), f"{where} differs by up to {(one - other).abs().max():.3g}"
        elif isinstance(one, dict):
            assert one.keys() == other.keys(), where
            for key in one:
                same(one[key], other[key], f"{where}.{key}")
        elif isinstance(one, (list, tuple)):
            assert len(one) == len(other), where
            for number, (left, right) in enumerate(zip(one, other, strict=True)):
                same(left, right, f"{where}[{number}]")
        else:
            assert one == other, f"{where}: {one} and {other}"

    def compare(one: Path, other: Path):
        for name in ("model.safetensors", "optimizer.pt", "scheduler.pt"):
            read = load_file if name.endswith("safetensors") else lambda path: torch.load(path, weights_only=True)
            same(read(Path(one, name)), read(Path(other, name)), name)

    return compare


@pytest.fixture(scope="session")
def killed_run():
    """The module `killed_run.py`, which is also a script."""
    path = Path(__file__).with_name("killed_run.py")
    spec = importlib.util.spec_from_file_location("killed_run", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
