"""Drafting for large tables: very long texts, many different cells, many columns, many files; in bounded work."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from mtbert.data import label_forms
from mtbert.runs.drafting import facts, readings, tables
from mtbert.runs.drafting.facts import suggest_length, text_keys
from mtbert.runs.drafting.readings import LabelCells, read_labels
from mtbert.runs.drafting.run import draft


def test_tokens_of_a_very_long_text_are_reckoned_from_its_beginning(tokenizer, monkeypatch):
    monkeypatch.setattr(facts, "LONGEST", 4000)
    texts = ["the cat sleeps", "a dog"] * 200 + ["the cat sleeps . " * 5000]
    seen = []

    def counting(*columns, **keys):
        seen.extend(len(text) for text in columns[0])
        return tokenizer(*columns, **keys)

    length = suggest_length(Dataset.from_dict({"text": texts}), ["text"], counting, 64)
    assert max(seen) == 4000 and not length.exact
    assert length.longest == pytest.approx(20_000, rel=0.01) and length.tokens == 16
    short = suggest_length(Dataset.from_dict({"text": texts[:10]}), ["text"], tokenizer, 64)
    assert short.exact and short.longest == 5
    reckoned = suggest_length(Dataset.from_dict({"text": texts}), ["text"], None, None)
    assert reckoned.longest == pytest.approx(1.3 * 20_000, rel=0.01)


def test_a_draft_says_that_a_length_is_reckoned(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "LONGEST", 1000)
    lines = [f"a text of {i} words,{'xy'[i % 2]}" for i in range(30)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines, f"{'long words ' * 900},x"]) + "\n")
    text = draft([str(tmp_path / "rows.csv")], tmp_path / "r.yaml", "no/encoder", encoder_is_chosen=False).text
    assert "the longest has about 2," in text


def test_keys_of_texts_do_not_depend_on_the_parts_in_which_they_are_read(monkeypatch):
    texts = [f" text {i % 70} " if i % 9 else "" for i in range(200)]
    rows = Dataset.from_dict({"a": texts, "b": texts[::-1]})
    for columns in (["a"], ["a", "b"]):
        whole = text_keys(rows, columns)
        with monkeypatch.context() as patch:
            patch.setattr(facts, "SAMPLE", 7)
            assert np.array_equal(text_keys(rows, columns), whole)
    assert not len(text_keys(rows.select([]), ["a"]))


def test_many_different_cells_are_refused_without_sorting_them(monkeypatch):
    cells = tuple((f"user {i}", 1) for i in range(3000))
    monkeypatch.setattr(readings, "_order", lambda name: pytest.fail("sorted"))
    reading = read_labels(LabelCells("user", cells))
    assert not reading.kind and reading.doubt == "it has 3,000 values in 3,000 rows, too many for labels"


@pytest.mark.parametrize("words", [["n/a"], ["b", "a", "?"]])
def test_numbers_with_a_few_words_name_these_in_order(words):
    cells = tuple((str(i / 7), 1) for i in range(1500)) + tuple((word, 2) for word in words)
    shown = ", ".join(map(repr, sorted(words)))
    assert read_labels(LabelCells("s", cells)).doubt == (
        f"it holds numbers, but for {shown}; empty these cells for a regression"
    )


def test_cells_without_a_separator_are_not_split(monkeypatch):
    class Text(str):
        def split(self, *args):
            pytest.fail("split")

    cells = [Text(f"name{i}") for i in range(20)]
    monkeypatch.setattr(label_forms, "plain", lambda cell: cell)
    assert label_forms.label_form(cells).form == label_forms.ONE


def test_the_cells_of_a_column_are_counted_once(tmp_path, monkeypatch):
    lines = [f"a text of {i} words,{'xyz'[i % 3]},{i % 4}" for i in range(60)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label,stars", *lines]) + "\n")
    counted, count = [], tables._counted
    monkeypatch.setattr(tables, "_counted", lambda rows, name: counted.append(name) or count(rows, name))
    draft([str(tmp_path / "rows.csv")], tmp_path / "r.yaml", "no/encoder", encoder_is_chosen=False)
    assert sorted(counted) == ["label", "stars"]


def test_many_files_of_a_folder_are_one_table(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(60):
        lines = [f"a text {number} of {i} words,{'xy'[i % 2]}" for i in range(3)]
        (folder / f"train-{number:03}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    drafted = draft([str(folder)], tmp_path / "r.yaml", "no/encoder", encoder_is_chosen=False)
    assert "180 train rows" in "\n".join(drafted.found)
