"""A checkpoint with tasks of every kind, its server, and what `predict` answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from served import Served, serving
from transformers import set_seed

from mtbert import MtBertForMultiTask, Prediction, TaskSpec
from mtbert.modeling.calibration import Calibration

TASKS = (
    TaskSpec("stars", labels=3, pooling="mean", calibration=Calibration(1.5, None, 0.9, 0.62, 0.45)),
    TaskSpec("mood", labels=["bad", "fair", "good"]),
    TaskSpec("topics", "multi_label_classification", labels=["cat", "dog", "bird"], pooling="max"),
    TaskSpec("length", range=(0, 5), max_length=8, calibration=Calibration(coverage=0.9, quantile=0.4)),
    TaskSpec("same", "binary_classification", labels=["no", "yes"], texts=2, calibration=Calibration(2.0, (0.3,))),
    TaskSpec("close", range=(0, 5), texts=2, pair="siamese"),
)


@pytest.fixture(scope="session")
def model(encoder_dir) -> MtBertForMultiTask:
    set_seed(1)
    torch.set_num_threads(1)  # the fixture that does so in other tests comes later
    return MtBertForMultiTask.from_encoder(encoder_dir, TASKS).eval()


@pytest.fixture(scope="session")
def checkpoint(model, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory) -> Served:
    """A server with default settings, but for a time limit that a busy machine keeps, too."""
    with serving(checkpoint, tmp_path_factory.mktemp("server") / "log", "--timeout", 300) as running:
        yield running


@pytest.fixture(scope="session")
def expected(model, tokenizer) -> Callable[[list[Any]], list[dict[str, Any]]]:
    """A function: texts and pairs → the answers that a server owes, by `predict`, for all tasks that fit."""

    def answers(inputs: list[Any]) -> list[dict[str, Any]]:
        found: list[Any] = [{} for _ in inputs]
        for pairs in (False, True):
            places = [place for place, value in enumerate(inputs) if isinstance(value, list) == pairs]
            rows = [tuple(inputs[place]) if pairs else inputs[place] for place in places]
            for name, prediction in model.predict(rows, "all", tokenizer=tokenizer).items() if rows else ():
                for row, place in enumerate(places):
                    found[place][name] = _of_task(prediction, row)
        return found

    return answers


def _of_task(prediction: Prediction, row: int) -> dict[str, Any]:
    """The answer to one row, worked out by its names rather than by the server's columns."""
    task, cut = prediction.task, int(prediction.truncated[row])
    more: dict[str, Any] = {"truncated": cut} if cut else {}
    if task.problem_type == "regression":
        interval = {"interval": list(prediction.sets[row])} if task.calibration else {}
        return {"score": float(prediction.scores[row]), **interval, **more}
    shares = dict(zip(task.labels, map(float, prediction.probabilities[row]), strict=True))
    if task.problem_type == "multi_label_classification":
        given = [label for label, share in shares.items() if share > 0.5]
        sure = {label: share if label in given else 1 - share for label, share in shares.items()}
        return {"labels": given, "confidence": sure, "probabilities": shares, **more}
    label = prediction.labels[row]
    if task.name == "stars":
        more |= {
            "set": [name for name, share in shares.items() if share >= 1 - 0.62],
            "abstained": shares[label] < 0.45,
        }
    return {"label": label, "confidence": shares[label], "probabilities": shares, **more}
