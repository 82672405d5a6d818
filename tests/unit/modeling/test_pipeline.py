"""The pipeline in all its forms of input, against `predict`."""

import numpy as np
import pytest
from datasets import Dataset
from transformers import pipeline

from mtbert.modeling.pipeline import PIPELINE_TASK, MultiTaskTextClassificationPipeline

TEXTS = ["the cat sleeps .", "a dog", "is the old house not very good ?", "fish", "a bird flies"]
PAIRS = list(zip(TEXTS, reversed(TEXTS), strict=True))


@pytest.fixture
def model(make_model):
    return make_model().eval()


@pytest.fixture
def pipe(model, tokenizer):
    return pipeline(PIPELINE_TASK, model=model, tokenizer=tokenizer)


def scores(found: list) -> list[float]:
    return [answer["score"] for answer in found]


def test_it_is_registered(pipe):
    assert type(pipe) is MultiTaskTextClassificationPipeline


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_answers_are_those_of_predict(pipe, model, tokenizer, batch_size):
    for task, rows in (("stars", TEXTS), ("same", PAIRS), ("close", PAIRS)):
        expected = model.predict(rows, task=task, tokenizer=tokenizer)
        found = pipe(rows, task=task, batch_size=batch_size)
        best = expected.scores if task == "close" else expected.scores.max(1)
        np.testing.assert_allclose(scores(found), best, atol=1e-5)
        if task != "close":
            assert [answer["label"] for answer in found] == expected.labels


def test_every_form_of_rows(pipe):
    expected = scores(pipe(PAIRS, task="same"))
    mappings = [{"text": text, "text_pair": pair} for text, pair in PAIRS]
    for rows in ([list(pair) for pair in PAIRS], mappings):
        assert scores(pipe(rows, task="same")) == expected
    columns = {"text": TEXTS, "text_pair": TEXTS[::-1], "label": [0] * 5}
    for rows in (iter(PAIRS), (row for row in mappings), Dataset.from_dict(columns)):
        found = pipe(rows, task="same", batch_size=2)
        assert not isinstance(found, list)
        np.testing.assert_allclose(scores(list(found)), expected, atol=1e-6)


def test_one_row_gives_one_answer(pipe):
    assert pipe("a cat", task="stars") == pipe(["a cat"], task="stars")[0]
    one, several = pipe(("a cat", "a dog"), task="same"), pipe([("a cat", "a dog")], task="same")
    assert [one] == several and set(one) == {"label", "score"}
    assert pipe({"text": "a cat", "text_pair": "a dog"}, task="same") == one
    assert pipe([], task="stars") == []


def test_top_k(pipe, model, tokenizer):
    expected = model.predict(TEXTS, task="stars", tokenizer=tokenizer).scores
    for k in (2, 3, None):
        found = pipe(TEXTS, task="stars", top_k=k)
        for answers, row in zip(found, expected, strict=True):
            np.testing.assert_allclose(scores(answers), np.sort(row)[::-1][:k], atol=1e-5)
            assert [answer["label"] for answer in answers] == [str(i) for i in np.argsort(-row)[:k]]
    assert [set(answer) for answer in pipe(PAIRS, task="close", top_k=2)] == [{"score"}] * 5


def test_all_tasks(pipe):
    found = pipe(TEXTS, task="all")
    assert [set(answer) for answer in found] == [{"stars", "topics"}] * 5
    np.testing.assert_allclose(
        scores([answer["topics"] for answer in found]), scores(pipe(TEXTS, task="topics")), atol=1e-5
    )


def test_tasks_are_all_one_name_or_several(pipe):
    assert pipe(TEXTS, tasks="all") == pipe(TEXTS, task="all") == pipe(TEXTS, tasks=["stars", "topics"])
    assert pipe(TEXTS, tasks="stars") == pipe(TEXTS, task="stars")
    assert pipe(TEXTS, tasks=["stars"]) == [{"stars": answer} for answer in pipe(TEXTS, tasks="stars")]


def test_the_task_may_be_given_once_and_for_all(model, tokenizer):
    pipe = pipeline(PIPELINE_TASK, model=model, tokenizer=tokenizer, task_name="stars", top_k=None)
    assert len(pipe("a cat")) == 3
    assert pipe("a cat", task="topics", top_k=1)["label"] in ("cat", "dog", "bird")
    assert pipeline(PIPELINE_TASK, model=model, tokenizer=tokenizer, tasks="stars", top_k=None)("a cat") == pipe(
        "a cat"
    )


@pytest.mark.parametrize(
    ("rows", "which", "error", "message"),
    [
        (TEXTS, {}, ValueError, "give tasks: 'all', or one or more of: stars"),
        (TEXTS, {"task": "stars", "tasks": "all"}, TypeError, "tasks is 'all' and task is 'stars', but they are one"),
        (TEXTS, {"tasks": 3}, ValueError, "tasks is 3, but must be 'all', a name, or a list of names"),
        (TEXTS, {"task": "x"}, KeyError, "no task 'x'"),
        (TEXTS, {"task": "stars", "top_k": 0}, ValueError, "top_k is 0, but must be 1 or more"),
        (TEXTS, {"task": "stars", "top_k": True}, ValueError, "top_k is True, but must be 1 or more"),
        (TEXTS, {"task": "stars", "top_k": "2"}, ValueError, "top_k is '2', but must be 1 or more"),
        (
            TEXTS,
            {"task": "stars", "batch_size": 0},
            ValueError,
            "batch_size is 0, but must be a whole number, 1 or more",
        ),
        (TEXTS, {"task": "stars", "batch_size": "a"}, ValueError, "batch_size is 'a', but must be a whole number"),
        (None, {"task": "stars"}, ValueError, "None holds no rows; give a text"),
        (b"ab", {"task": "stars"}, ValueError, "b'ab' holds no rows; give a text"),
        (["a", 3], {"task": "stars"}, ValueError, "3 is no row; give a text"),
        (["\ud800"], {"task": "stars"}, ValueError, "character 0 is half of a surrogate pair"),
        (TEXTS, {"task": "stars", "wrong": 0}, TypeError, r"unknown arguments \['wrong'\]"),
        (["a", "b"], {"task": "same"}, ValueError, r"task 'same' takes 2 text\(s\) a row"),
    ],
)
def test_what_is_refused(rows, which, error, message, pipe):
    with pytest.raises(error, match=message):
        pipe(rows, **which)
