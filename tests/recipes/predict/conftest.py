"""A checkpoint with seven tasks, rows for it, and the command."""

from __future__ import annotations

import importlib

import numpy as np
import pandas as pd
import pytest
from predicted_tasks import SPECS

WORDS = "a an the cat dog bird fish house tree runs sleeps eats flies is was not very good bad fine old new".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def predict():
    """`mtbert.cli.predict`, imported."""
    return importlib.import_module("mtbert.cli.predict")


@pytest.fixture
def checkpoint(make_model, tokenizer, tmp_path) -> str:
    """A checkpoint of six tasks."""
    folder = str(tmp_path / "checkpoint")
    make_model(SPECS).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def rows() -> pd.DataFrame:
    """41 pairs of 0 to 29 words, of very different lengths."""
    random = np.random.default_rng(0)
    sentences = [" ".join(random.choice(WORDS, size=random.integers(1, 30))) for _ in range(82)]
    frame = pd.DataFrame({"key": [f"R{i}" for i in range(41)], "text": sentences[:41], "text_pair": sentences[41:]})
    frame.loc[3, "text"] = ""
    return frame
