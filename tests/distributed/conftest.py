"""What makes small runs fast, and the data that their processes read."""

import socket
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tagged import SLOTS, tagged_split

from mtbert.training.arguments import MtBertTrainingArguments
from mtbert.training.trainer import MtBertTrainer

# train sizes leave uneven last steps of 4, 4, 1 and 1 rows; eval sizes leave uneven batches on several processes
TRAIN_ROWS, EVAL_ROWS = (20, 12, 17, 9), (13, 9, 8, 3)
WORDS = (18, EVAL_ROWS[2])  # rows of a third task, whose words are labelled


@pytest.fixture(scope="session")
def eval_rows() -> tuple[int, ...]:
    """Rows of each task in `eval`."""
    return EVAL_ROWS


@pytest.fixture(scope="session")
def free_port():
    """A function that finds a port of this machine that nobody listens on."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture
def write_data(make_model, splits, tasks, tokenizer):
    """A function: folder → in it what `worker.py` describes, and `model-pal`, as `model` with adapters."""

    def write(folder: Path) -> None:
        still = [replace(task, dropout=0.0) for task in (*tasks, SLOTS)]
        make = partial(make_model, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        for name, adapter in (("model", None), ("model-pal", {"type": "pal", "size": 12})):
            model = make(still[:-1], adapter=adapter)
            model.save_pretrained(folder / name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        model.save_pretrained(folder / "teacher")
        tokenizer.save_pretrained(folder / "teacher")
        for name, rows in splits(TRAIN_ROWS).items():
            rows.save_to_disk(str(folder / "texts" / name))
        args = MtBertTrainingArguments(str(folder / "encoding"), use_cpu=True, report_to="none")
        encoded = MtBertTrainer(model, args, splits(TRAIN_ROWS), splits(EVAL_ROWS, 1), tokenizer)
        save(encoded, folder)
        model = make([*still[:2], still[-1]])
        model.save_pretrained(folder / "model-words")
        train = splits(TRAIN_ROWS[:2], specs=tasks[:2]) | {"slots": tagged_split(WORDS[0])}
        evaluated = splits(EVAL_ROWS[:2], 1, tasks[:2]) | {"slots": tagged_split(WORDS[1], 1)}
        save(MtBertTrainer(model, args, train, evaluated, tokenizer), folder / "words")

    return write


def save(trainer: MtBertTrainer, folder: Path) -> None:
    """Write the encoded rows of a trainer."""
    for split, data in (("train", trainer.train_dataset), ("eval", trainer.eval_dataset)):
        for name, rows in data.items():
            rows.save_to_disk(str(folder / split / name))
