"""`Predictor`: a batch's columns in, the columns of `mtbert predict`'s files out."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from predicted_tasks import SPECS

from mtbert import MtBertForMultiTask, Predictor
from mtbert.evaluation.prediction_files import prediction_columns
from mtbert.evaluation.text_scorer import TextScorer

TEXTS = [" the cat sleeps ", "a dog", "", "the bird flies and the fish was very good"]
PAIRS = ["a cat", "the dog runs", "old tree", ""]


@pytest.fixture
def checkpoint(make_model, tokenizer, tmp_path) -> str:
    folder = str(tmp_path / "predictor")
    make_model(SPECS).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def expected(checkpoint, tokenizer) -> dict[str, list]:
    model = MtBertForMultiTask.from_pretrained(checkpoint)
    scorer = TextScorer(model, tokenizer, [task.name for task in SPECS])
    logits = scorer([text.strip() for text in TEXTS], PAIRS)
    return {name: values for task in SPECS for name, values in prediction_columns(task, logits[task.name]).items()}


BATCHES = {
    "lists": lambda columns: columns,
    "arrays": lambda columns: {name: np.array(values, dtype=object) for name, values in columns.items()},
    "frame": pd.DataFrame,
}


@pytest.mark.parametrize("form", BATCHES)
def test_answers_are_those_of_the_files(checkpoint, expected, form):
    batch = BATCHES[form]({"text": TEXTS, "text_pair": PAIRS, "key": [1, 2, 3, 4]})
    answers = Predictor(checkpoint)(batch)
    assert list(answers) == ["text", "text_pair", "key", *expected]
    assert answers["key"] == [1, 2, 3, 4]
    for name, values in expected.items():
        same = values if isinstance(values[0], str) else pytest.approx(values, abs=1e-6)
        assert answers[name] == same, name


def test_columns_say_the_types(checkpoint, expected):
    assert Predictor(checkpoint).columns == {name: type(values[0]) for name, values in expected.items()}


def test_maps_a_dataset(checkpoint, expected):
    rows = Dataset.from_dict({"first": TEXTS, "second": PAIRS})
    answers = rows.map(Predictor(checkpoint, text="first", text_pair="second"), batched=True, batch_size=3)
    assert answers["stars"][:] == expected["stars"]
    assert answers.column_names[:3] == ["first", "second", "stars"]


def test_keeps_the_columns_asked_for(checkpoint):
    answers = Predictor(checkpoint, ["stars"], keep=["key"])({"text": TEXTS, "key": [1, 2, 3, 4]})
    assert list(answers) == ["key", "stars", "stars:0", "stars:1", "stars:2"]


def test_missing_texts_are_empty(checkpoint):
    predictor = Predictor(checkpoint, "stars", keep=[])
    assert predictor({"text": [None, float("nan"), ""]})["stars:1"] == predictor({"text": ["", "", ""]})["stars:1"]


def test_an_empty_batch(checkpoint, expected):
    answers = Predictor(checkpoint)({"text": [], "text_pair": []})
    assert list(answers) == ["text", "text_pair", *expected]
    assert not any(answers.values())


def test_travels_without_its_model(checkpoint):
    predictor = Predictor(checkpoint, "stars")
    answers = predictor({"text": TEXTS})
    copy = pickle.dumps(predictor)
    assert len(copy) < 10_000
    assert pickle.loads(copy)({"text": TEXTS}) == answers


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"body": TEXTS}, r"the batch has no columns \['text', 'text_pair'\]; it has: body"),
        ({"text": [["a list"]], "text_pair": ["a"]}, "row 0 of the batch: 'text' is a list, but must be text"),
        ({"text": TEXTS, "text_pair": PAIRS, "stars": TEXTS}, r"columns \['stars'\], as the answers have"),
    ],
)
def test_refuses(checkpoint, batch, message):
    with pytest.raises(ValueError, match=message):
        Predictor(checkpoint)(batch)


def test_refuses_a_task_that_is_not_there(checkpoint):
    with pytest.raises(ValueError, match="tars"):
        Predictor(checkpoint, "tars")
