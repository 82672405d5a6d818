"""Leaks between tasks: found where they were put, by brute force, and in time that is linear in the rows."""

from __future__ import annotations

import re

import numpy as np
import pytest
from datasets import Dataset

from mtbert.data.leaks import Leak, WordTexts, containing, find_leaks
from mtbert.recipe import RecipeError, load_recipe
from mtbert.recipe.preflight import load_data

WORDS = ["a", "good", "film"]


def split(*rows) -> Dataset:
    pairs = [row if isinstance(row, tuple) else (row, None) for row in rows]
    columns = {"text": [first for first, _ in pairs], "row": [*range(1, len(rows) + 1)]}
    if any(second is not None for _, second in pairs):
        columns["text_pair"] = [second for _, second in pairs]
    return Dataset.from_dict(columns)


def leaks(train, held, other="b", split_name="dev"):
    tasks = {"a": {"train": split(*train)}, other: {split_name: split(*held)}}
    found = find_leaks(tasks)
    assert all((leak.task, leak.other, leak.split) == ("a", other, split_name) for leak in found)
    return [(leak.same, leak.phrases) for leak in found]


@pytest.mark.parametrize(
    ("train", "held", "expected"),
    [
        (["x y"], ["x y"], [((1,), ())]),  # the same text, however short
        (["p q", "x y z"], ["so x y z it is"], [((), (2,))]),
        (["so x y z it is"], ["x y z"], [((), (1,))]),
        (["X, y - Z!"], ["so (x y) z, it is"], [((), (1,))]),  # without case and punctuation
        (["x y"], ["so x y it is"], []),  # two words are too few
        (["y z w"], ["xy zw", "x y z", "z w"], []),
        (["wx y z"], ["w x y z"], []),  # whole words
        (["x y z", "x y z"], ["x y z", "x y z"], [((1, 2), ())]),
        (["Ünï cødé wörds"], ["die ünï cødé wörds sind"], [((), (1,))]),
        (["!!!", "..."], ["!!!"], [((1,), ())]),
        (["", "x"], ["", "y"], [((1,), ())]),
    ],
)
def test_single_texts(train, held, expected):
    assert leaks(train, held) == expected


@pytest.mark.parametrize(
    ("train", "held", "expected"),
    [
        ([("p q", "r s")], [("p q", "r s")], [((1,), ())]),
        ([("p q", "r s")], [("r s", "p q")], [((1,), ())]),
        ([("p q", "r s")], [("p q", "t u")], []),  # one text of a pair may be in others
        ([("a b c", "d e f")], [("x d e f", "a b c y")], [((), (1,))]),
        ([("a b c", "d e f")], [("x a b c", "y"), ("z", "d e f")], []),
        ([("a b c", "d e f")], [("a b c d e f", "x")], []),
        ([("a b c", "p q")], [("x a b c", "p q")], [((), (1,))]),
        ([("x a b c", "d e f")], [("a b c", "y d e f")], [((), (1,))]),
    ],
)
def test_pairs(train, held, expected):
    assert leaks(train, held) == expected


def test_a_single_text_and_a_pair():
    assert leaks(["a b c", "p q"], [("x a b c", "p q")]) == [((), (1, 2))]
    assert leaks([("x a b c", "p")], ["a b c"]) == [((), (1,))]


def test_every_task_and_split_and_a_task_s_own():
    tasks = {
        "a": {"train": split("p q r", "s t u", "v w x"), "dev": split("p q r")},
        "b": {"train": split("v w x y"), "dev": split("s t u"), "test": split("v w x", "p q r")},
    }
    assert find_leaks(tasks) == [
        Leak("a", "a", "dev", (1,), ()),
        Leak("a", "b", "dev", (2,), ()),
        Leak("a", "b", "test", (1, 3), ()),
        Leak("b", "b", "test", (), (1,)),
    ]


@pytest.mark.parametrize(
    "tasks",
    [{}, {"a": {"train": split("x y z")}}, {"a": {"dev": split("x y z")}}, {"a": {"train": split(), "dev": split()}}],
)
def test_nothing_to_compare(tasks):
    assert find_leaks(tasks) == []


def texts(random, count):
    return [" ".join(random.choice(WORDS, size=random.integers(0, 8))) for _ in range(count)]


def inside(phrase, text):
    words = phrase.split()
    return len(words) >= 3 and re.search(rf"(^| ){re.escape(phrase)}( |$)", text) is not None


@pytest.mark.parametrize("seed", range(5))
def test_phrases_by_brute_force(seed):
    random = np.random.default_rng(seed)
    phrases, whole = [*dict.fromkeys(texts(random, 60))], [*dict.fromkeys(texts(random, 60))]
    found = containing(WordTexts.of(phrases), WordTexts.of(whole))
    expected = {(i, j) for i, phrase in enumerate(phrases) for j, text in enumerate(whole) if inside(phrase, text)}
    assert {(int(i), int(j)) for i, j in zip(*found, strict=True)} == expected
    assert expected


@pytest.mark.parametrize("seed", range(5))
def test_rows_by_brute_force(seed):
    random = np.random.default_rng(seed)
    train, held = (list(zip(texts(random, 60), texts(random, 60), strict=True)) for _ in range(2))
    alike = lambda x, y: x == y or inside(x, y) or inside(y, x)  # noqa: E731
    same = {i for i, row in enumerate(train, 1) if row in held or row[::-1] in held}
    near = {
        i
        for i, (a, b) in enumerate(train, 1)
        if any((alike(a, c) and alike(b, d)) or (alike(a, d) and alike(b, c)) for c, d in held)
    }
    (leak,) = find_leaks({"a": {"train": split(*train)}, "b": {"dev": split(*held)}})
    assert set(leak.rows) == same | near
    assert set(leak.same) == same
    assert near - same


def test_many_rows_with_one_opening():
    """Openings and whole texts that all rows share cost no more than others: no pair of rows is looked at."""
    count = 20_000
    train = [f"what is the best way to learn number {i} of all things" for i in range(count)]
    held = [f"so what is the best way to learn number {i} of all" for i in range(count)]
    tasks = {"a": {"train": split(*train, "what is the")}, "b": {"dev": split(*held, "number 7 of all")}}
    (leak,) = find_leaks(tasks)
    assert (leak.same, leak.phrases) == ((), (8, count + 1))


class TestRecipes:
    """`leaks: report | drop`."""

    @pytest.fixture
    def recipe(self, tmp_path, encoder_dir):
        (tmp_path / "a-train.csv").write_text("text,label\nthe cat runs,0\na dog eats meat,1\nold tree,0\n")
        (tmp_path / "b-train.csv").write_text("text,label\na bird,0\nthe fish,1\n")
        (tmp_path / "b-dev.csv").write_text("text,label\nold tree,0\nso the cat runs away,1\n")
        data = {name: {"train": f"{name}-train.csv"} for name in "ab"}
        data["b"]["dev"] = "b-dev.csv"
        tasks = {name: {"labels": ["0", "1"], "data": {**data[name], "text": "text"}} for name in "ab"}
        training = {"output_dir": str(tmp_path / "out")}
        return {"encoder": encoder_dir, "data_dir": str(tmp_path), "tasks": tasks, "training": training}

    def test_report(self, recipe):
        loaded = load_data(load_recipe(recipe))
        assert len(loaded["a"].splits["train"]) == 3
        line = "warning: a train: 2 of 3 rows give away a row of b dev: 1 have its text, 1 share a phrase with it"
        assert f"{line} (rows 1, 3); leaks: drop trains without them" in loaded["a"].reports[0].lines()
        assert len(loaded["b"].reports[0].lines()) == 1

    def test_drop(self, recipe):
        loaded = load_data(load_recipe({**recipe, "leaks": "drop"}))
        assert loaded["a"].splits["train"]["text"][:] == ["a dog eats meat"]
        assert "a train: 1 rows are left without these (leaks: drop)" in loaded["a"].reports[0].lines()
        assert not any("warning" in line for line in loaded["a"].reports[0].lines())

    def test_no_row_left(self, recipe, tmp_path):
        (tmp_path / "a-train.csv").write_text("text,label\nthe cat runs,0\n")
        with pytest.raises(RecipeError, match="task 'a': leaks: drop leaves no train row"):
            load_data(load_recipe({**recipe, "leaks": "drop"}))

    def test_another_value(self, recipe):
        with pytest.raises(RecipeError, match="leaks is text 'keep', but must be report or drop"):
            load_recipe({**recipe, "leaks": "keep"})

    def test_not_in_a_stage(self, recipe):
        with pytest.raises(RecipeError, match="every stage trains on the same data"):
            load_recipe({**recipe, "stages": [{"leaks": "drop"}, {}]})
