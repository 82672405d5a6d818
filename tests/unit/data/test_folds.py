"""Folds of training rows: by the text's hash, texts that rows share in one fold, nothing held out is trained on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from mtbert.data.folds import fold_of_rows, row_keys, text_groups, text_key, without_held_out
from mtbert.data.spec import DataSpec
from mtbert.data.splits import load_task
from mtbert.errors import InputError
from mtbert.modeling.task_spec import TaskSpec

MOOD = TaskSpec("mood", labels=2)
SAME = TaskSpec("same", "binary_classification", labels=2, texts=2)
PAIR = DataSpec(text=("a", "b"), train="pairs.json")
ONE = DataSpec(train="texts.json")


def words(rows: Dataset) -> set[int]:
    return set(row_keys(rows).ravel().tolist())


@pytest.fixture
def folder(tmp_path):
    """Pairs in chains, such as t1–t2, t2–t3; texts of a single task, of which some stand in pairs; further texts."""
    random = np.random.default_rng(0)
    pairs = [
        {"a": f"text {i}", "b": f"text {i + 1 if random.random() < 0.5 else i + 1000}", "label": i % 2}
        for i in range(200)
    ]
    pairs += [{"a": f"TEXT {i}!", "b": f"other {i}", "label": 0} for i in range(0, 200, 7)]
    texts = [{"text": f"text, {i}", "label": i % 2} for i in range(0, 200, 3)]
    texts += [{"text": f"mood {i // 2}", "label": i % 2} for i in range(100)]
    more = [{"text": row["text"].upper()} for row in texts[:80]] + [{"text": f"new {i}"} for i in range(20)]
    for name, rows in (("pairs", pairs), ("texts", texts), ("more", more)):
        (tmp_path / f"{name}.json").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_every_row_is_held_out_once_and_no_text_of_it_is_trained_on(folder, folds):
    for task, data in ((MOOD, replace(ONE, unlabelled="more.json")), (SAME, replace(PAIR, symmetric=True))):
        rows = load_task(task, replace(data, unlabelled=None, symmetric=False), folder).splits["train"]
        held = []
        for fold in range(folds):
            splits = load_task(task, replace(data, folds=folds, fold=fold), folder).splits
            assert not words(splits["train"]) & words(splits["dev"])
            held += splits["dev"]["row"]
            if not data.symmetric:
                assert len(words(splits["train"]) & {text_key(f"new {i}") for i in range(20)}) == 20
        assert sorted(held) == rows["row"]


def test_folds_of_single_rows_would_leak(folder):
    """The data of the test above are no easy ones."""
    rows = load_task(SAME, PAIR, folder).splits["train"]
    random = np.random.default_rng(0).integers(2, size=len(rows))
    assert words(rows.select(np.flatnonzero(random == 0))) & words(rows.select(np.flatnonzero(random)))


def test_no_task_trains_on_a_text_that_another_holds_out(folder):
    for fold in range(3):
        tasks = {
            "mood": load_task(MOOD, replace(ONE, folds=3, fold=fold), folder),
            "same": load_task(SAME, replace(PAIR, folds=3, fold=fold), folder),
            "more": load_task(replace(MOOD, name="more"), ONE, folder),
        }
        held = words(tasks["mood"].splits["dev"]) | words(tasks["same"].splits["dev"])
        assert held & words(tasks["more"].splits["train"])
        cleaned = without_held_out(tasks, ["mood", "same"])
        assert list(cleaned) == list(tasks)
        for name, loaded in cleaned.items():
            assert not held & words(loaded.splits["train"])
            dropped = len(tasks[name].splits["train"]) - len(loaded.splits["train"])
            assert loaded.reports[0].of_held_out == dropped
            lines = " ".join(line for report in loaded.reports for line in report.lines())
            assert (f"; {dropped} dropped, which have a text of a held-out row" in lines) == (dropped > 0)
    assert without_held_out(tasks, []) == tasks


def test_a_task_of_held_out_texts_alone_is_refused(folder):
    tasks = {
        "mood": load_task(MOOD, replace(ONE, folds=2, fold=0), folder),
        "copy": load_task(replace(MOOD, name="copy"), ONE, folder),
    }
    held = tasks["mood"].splits["dev"]
    tasks["copy"].splits["train"] = held
    with pytest.raises(InputError, match="task 'copy': each training row has a text of a held-out row of some task"):
        without_held_out(tasks, ["mood"])


def test_the_order_of_rows_and_other_rows_change_no_fold():
    """A row's fold follows from its group's texts alone."""
    random = np.random.default_rng(1)
    keys = random.integers(2**63, size=(400, 2)).astype(np.uint64)
    fold = fold_of_rows(keys, 4)
    order = random.permutation(400)
    assert np.array_equal(fold_of_rows(keys[order], 4), fold[order])
    assert np.array_equal(fold_of_rows(keys[:, ::-1], 4), fold)
    assert np.array_equal(fold_of_rows(keys[:300], 4), fold[:300])
    assert all(70 < count < 130 for count in np.bincount(fold))


def test_groups_are_those_of_a_walk_over_shared_texts():
    random = np.random.default_rng(2)
    keys = random.integers(300, size=(200, 2)).astype(np.uint64)
    groups, smallest = text_groups(keys)
    for row in range(200):
        reached, texts = {row}, set(keys[row].tolist())
        while True:
            more = {i for i in range(200) if texts & set(keys[i].tolist())}
            texts |= {text for i in more for text in keys[i].tolist()}
            if more == reached:
                break
            reached = more
        assert set(np.flatnonzero(groups == groups[row]).tolist()) == reached
        assert smallest[groups[row]] == min(texts)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A good film.", "a GOOD  film", True),
        ("Caf\u00e9", "cafe\u0301", True),  # composed and decomposed
        ("ﬁne", "fine", True),  # a ligature
        ("STRASSE", "straße", True),
        ("a b", "ab", False),
        ("don't", "don t", True),
        ("good film", "film good", False),
        ("🙂", "🙁", False),  # no words
        ("!!", "?!", False),
        ("🙂 ", " 🙂", True),
        ("no", "no \ud800", True),
    ],
)
def test_texts_of_the_same_words_are_the_same(one, other, same):
    assert (text_key(one) == text_key(other)) == same


def test_the_hash_is_the_same_on_every_machine():
    assert text_key("A good film.") == text_key("a good film") == 0x43AC5BBF28C07AE6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 1, "fold": 0}, "data.folds is 1, but must be 2 or more"),
        ({"folds": 3, "fold": 3}, "data.fold is 3, but must be from 0 to 2, as folds is 3"),
        ({"folds": 3, "fold": -1}, "data.fold is -1, but must be from 0 to 2"),
        ({"folds": 3}, "data.fold is missing, but folds is 3; give both or neither"),
        ({"fold": 0}, "data.folds is missing, but fold is 0; give both or neither"),
        ({"folds": 3, "fold": 0, "dev": "texts.json"}, "data.folds is 3, but dev is 'texts.json'; drop one of them"),
        ({"folds": 5000, "fold": 1}, r"data.folds is 5000, but of the 167 usable rows of .*texts.json fold 1 has 0"),
    ],
)
def test_wrong_folds_are_refused(folder, changes, message):
    with pytest.raises(InputError, match=message):
        load_task(MOOD, replace(ONE, **changes), folder)


def test_rows_that_all_share_a_text_have_no_folds(tmp_path):
    rows = [{"a": "the hub", "b": f"text {i}", "label": i % 2} for i in range(30)]
    (tmp_path / "pairs.json").write_text("\n".join(map(json.dumps, rows)))
    messages = []
    for fold in (0, 1):
        with pytest.raises(
            InputError, match="rows that share a text, directly or through others, are in one fold"
        ) as e:
            load_task(SAME, replace(PAIR, folds=2, fold=fold), tmp_path)
        messages.append(str(e.value))
    assert sorted("has 30;" in message for message in messages) == [False, True]


def test_the_report_names_fold_and_rows(folder):
    loaded = load_task(MOOD, replace(ONE, folds=4, fold=2), folder)
    lines = [report.lines()[0] for report in loaded.reports]
    train, dev = len(loaded.splits["train"]), len(loaded.splits["dev"])
    assert lines[0].endswith(f"; {train} of these are the folds without 2 of 4 (0 to 3)")
    assert lines[1].endswith(f"; {dev} of these are the held-out fold 2 of 4 (0 to 3)") and train + dev == 167


@pytest.mark.parametrize(
    "cut", [{"dev": "20%"}, {"dev": "20%", "test": "10%"}, {"test": "10%"}, {"dev_share": 0.2, "sample_seed": 3}]
)
def test_rows_that_are_cut_off_for_dev_and_test_are_in_no_fold(folder, cut):
    """Not trained on, not held out, and the same whatever the fold: the choice is made without them."""
    data = replace(ONE, **cut)
    whole = load_task(MOOD, data, folder).splits
    aside = {row for split in ("dev", "test") if split in whole for row in whole[split]["row"]}
    assert aside
    held = []
    for fold in range(3):
        loaded = load_task(MOOD, replace(data, folds=3, fold=fold), folder)
        splits = loaded.splits
        assert sorted([*splits["train"]["row"], *splits["dev"]["row"]]) == whole["train"]["row"]
        assert ("test" in splits) == ("test" in cut)
        held += splits["dev"]["row"]
        lines = [report.lines()[0] for report in loaded.reports]
        assert all(("of these are" in line and "which no fold has" in line) for line in lines[:2])
    assert sorted(held) == whole["train"]["row"] and not aside & set(held)


def test_a_sample_is_drawn_before_the_folds(folder):
    held = [load_task(MOOD, replace(ONE, sample=60, folds=2, fold=fold), folder).splits for fold in (0, 1)]
    assert sum(len(splits["dev"]) for splits in held) == 60
    assert len(held[0]["train"]) + len(held[0]["dev"]) == 60
