"""What a teacher predicted is found again after a reworded comment, and not after a change that matters."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer
from ways_start import fill_weights

from mtbert.evaluation.ensemble import task_logits
from mtbert.modeling import tokenization
from mtbert.modeling.task_spec import TaskSpec
from mtbert.training.methods import teacher_cache

SPECS = (TaskSpec("stars", labels=3, pooling="mean"), TaskSpec("close", range=(0, 5), texts=2, pair="siamese"))
# The version, and the logits of `ROWS`. If they change beyond rounding, raise TEACHER_VERSION in
# mtbert/training/methods/teacher_cache.py, so that predictions of earlier versions are not used, and write both here.
STORED_VERSION = 1
STORED = {"stars": [[0.115072, 0.343657, 0.987387], [-0.375286, 0.541392, 0.673119]], "close": [[1.269908], [1.513480]]}
ROWS = {"text": ["a cat sleeps .", "the dog runs"], "text_pair": ["is the cat old ?", "a fish"]}


@pytest.fixture
def teacher(make_model):
    model = make_model(SPECS).eval()
    fill_weights(model, seed=0)
    return model


def path(model, tokenizer, task="stars", precision="no"):
    return teacher_cache.Memory(model, tokenizer, task, precision).path


def test_the_version_is_raised_where_logits_change(teacher, tokenizer):
    assert teacher_cache.TEACHER_VERSION == STORED_VERSION
    for name, rows in (("stars", {"text": ROWS["text"]}), ("close", ROWS)):
        with torch.no_grad():
            logits = task_logits(teacher, tokenizer, name, Dataset.from_dict(rows))
        np.testing.assert_allclose(logits, STORED[name], rtol=1e-3, atol=1e-4)


def test_another_comment_keeps_the_file(reword, teacher, tokenizer):
    before = path(teacher, tokenizer)
    reword(tokenization)
    assert reword(teacher_cache).Memory(teacher, tokenizer, "stars", "no").path == before


@pytest.mark.parametrize("name", ["TEACHER_VERSION", "ENCODING_VERSION"])
def test_another_version_changes_the_file(teacher, tokenizer, monkeypatch, name):
    before = path(teacher, tokenizer)
    monkeypatch.setattr(teacher_cache, name, getattr(teacher_cache, name) + 1)
    assert path(teacher, tokenizer) != before


def test_another_tokenizer_task_precision_or_weight_changes_the_file(teacher, tokenizer, encoder_dir):
    other = AutoTokenizer.from_pretrained(encoder_dir)
    other.add_tokens(["catcat"])
    paths = [path(teacher, tokenizer), path(teacher, other), path(teacher, tokenizer, "close")]
    paths.append(path(teacher, tokenizer, precision="bf16"))
    with torch.no_grad():
        next(teacher.parameters()).add_(1e-3)
    paths.append(path(teacher, tokenizer))
    assert len(set(paths)) == len(paths)


def test_another_text_is_not_remembered(teacher, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache, "memory_folder", lambda: tmp_path)
    memory = teacher_cache.Memory(teacher, tokenizer, "stars", "no")
    hashes = [teacher_cache.text_hashes(Dataset.from_dict({"text": [text]})) for text in ("a cat", "a dog")]
    memory.keep(hashes[0], np.ones((1, 3), np.float32))
    assert np.isfinite(memory.recall(hashes[0])).all()
    assert np.isnan(memory.recall(hashes[1])).all()
