"""The model side: a pass that another interrupts computes the same, tokens are counted, and exports are told apart."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
from families import family_config
from tiny import make_tokenizer
from transformers import AutoModel, set_seed

from mtbert import MtBertForMultiTask, TaskSpec
from mtbert.errors import InputError
from mtbert.serving.served_model import ServedModel, TorchModel, exported, load_exported

EVERY_TIME = ("bert", "deberta-v2", "distilbert", "modernbert", "mpnet")
MORE = (
    *(
        "albert",
        "big_bird",
        "camembert",
        "convbert",
        "deberta",
        "electra",
        "esm",
        "eurobert",
        "fnet",
        "funnel",
        "ibert",
    ),
    *("longformer", "megatron-bert", "mobilebert", "nystromformer", "rembert", "roberta", "roformer"),
    *("xlm-roberta", "xmod", "yoso"),
)
FAMILIES = EVERY_TIME + (MORE if os.environ.get("MTBERT_ALL_CASES") else ())
TASKS = (TaskSpec("stars", labels=3), TaskSpec("close", range=(0, 5), texts=2, max_length=16))
LONG = [("the cat sleeps and a dog runs " * 3, None), ("a bird", None), ("good " * 20, None)]
SHORT = [("a fish", "the fish eats"), ("bad", "very bad")]


def served(encoder, adapter=None) -> ServedModel:
    tokenizer = make_tokenizer()
    model = MtBertForMultiTask.from_encoder(encoder, TASKS, adapter)
    return ServedModel(TorchModel(model, tokenizer), tokenizer.backend_tokenizer)


def logits(model: ServedModel, rows, task: str) -> np.ndarray:
    return model.predict(rows, [task])[task].logits


def check_interrupted(model: ServedModel) -> None:
    """Interrupt a pass before each of its linear layers by another, whose layers interrupt nothing."""
    alone = logits(model, LONG, "stars"), logits(model, SHORT, "close")
    inner: list[np.ndarray] = []
    busy = False

    def interrupt() -> None:
        nonlocal busy
        if busy:
            return
        busy = True
        inner.append(logits(model, SHORT, "close"))
        busy = False

    model.between_layers(interrupt)
    np.testing.assert_array_equal(logits(model, LONG, "stars"), alone[0])
    assert len(inner) > 3
    for each in inner:
        np.testing.assert_array_equal(each, alone[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_interrupted_pass_computes_the_same(family, tmp_path):
    set_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        AutoModel.from_config(family_config(family)).save_pretrained(tmp_path)
        check_interrupted(served(str(tmp_path)))


def test_adapters_are_not_mixed_up_by_an_interruption(encoder_dir):
    set_seed(0)
    check_interrupted(served(encoder_dir, {"type": "pal", "size": 8, "heads": 2}))


def test_tasks_that_encode_alike_share_a_pass(encoder_dir):
    tasks = [TaskSpec("a", labels=2), TaskSpec("b", labels=3, pooling="mean"), TaskSpec("c", labels=2, max_length=9)]
    tokenizer = make_tokenizer()
    shared = ServedModel(
        TorchModel(MtBertForMultiTask.from_encoder(encoder_dir, tasks), tokenizer), tokenizer.backend_tokenizer
    )
    a, b, c = shared.tasks
    assert shared.encodings([a]) == shared.encodings([b]) == shared.encodings([a, b]) != shared.encodings([c])
    assert len(shared.encodings([a, b, c])) == 2 and shared.longest == 64
    adapted = MtBertForMultiTask.from_encoder(encoder_dir, tasks, {"type": "pal", "size": 8, "heads": 2})
    apart = ServedModel(TorchModel(adapted, tokenizer), tokenizer.backend_tokenizer)
    assert len(apart.encodings(apart.tasks)) == 3  # each task is a pass of its own
    shared.choose(["c", "a"])
    assert [task.name for task in shared.tasks] == ["a", "c"]


def test_tokens_are_counted_before_any_is_cut(encoder_dir):
    model = served(encoder_dir)
    assert model.count_tokens([("a cat", None), ("", None), ("cat " * 500, None), ("a cat", "a dog")]) == [4, 2, 502, 7]
    assert model.count_tokens([]) == []


def test_an_export_is_told_from_a_checkpoint_and_refused_clearly(tmp_path, monkeypatch):
    (tmp_path / "model.onnx").touch()
    assert exported(str(tmp_path)) and not exported("some/hub-name")
    with pytest.raises(InputError, match="exported graph, which this version cannot run|has no tokenizer.json"):
        load_exported(str(tmp_path))
    (tmp_path / "model.safetensors").touch()  # a checkpoint with a graph beside it
    assert not exported(str(tmp_path))
