"""Drafting for large tables: very long texts, many different cells, many columns, many files; in bounded work."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import Dataset

from mtbert.data import label_forms
from mtbert.errors import InputError
from mtbert.recipe import Recipe
from mtbert.recipe.yaml_layers import parse_yaml
from mtbert.runs.drafting import facts, readings, tables
from mtbert.runs.drafting.facts import suggest_length, text_keys
from mtbert.runs.drafting.files import find_tables
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
    counted, count = [], tables.Table._count_cells
    monkeypatch.setattr(
        tables.Table, "_count_cells", lambda table, name, split: counted.append(name) or count(table, name, split)
    )
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


def test_a_table_of_2000_columns_asks_for_the_features_of_all_columns_a_few_times(tmp_path, monkeypatch):
    """A Dataset copies the features of all columns whenever it is asked for them: once a column would take minutes."""
    cells = [["1", "2", "3", "4", "5"], list("abc")]
    names = [f"c{number}" for number in range(2000)]
    rows = [
        [f"a text of {i} words", *(cells[j % 2][(i + j) % (5 - 2 * (j % 2))] for j in range(2000))] for i in range(100)
    ]
    lines = [",".join(row) for row in [["text", *names], *rows]]
    (tmp_path / "wide.csv").write_text("\n".join(lines) + "\n")
    copies, features = [], Dataset.features
    monkeypatch.setattr(Dataset, "features", property(lambda rows: copies.append(1) or features.fget(rows)))
    drafted = draft([str(tmp_path / "wide.csv")], tmp_path / "r.yaml", "no/encoder", encoder_is_chosen=False)
    assert len(copies) < 100
    tasks = Recipe.from_dict(parse_yaml(drafted.text, "r.yaml")[0]).tasks
    assert list(tasks) == names[:12]
    assert "c1999: classification, if this is a column of labels: 12 tasks of the table come first" in drafted.text


@pytest.mark.parametrize("column", ["text", "label", "note"])
def test_a_cell_of_10_megabytes(tmp_path, column):
    row = {"text": "a text of some words", "label": "x", "note": "one of two"}
    rows = [row | {"text": f"a text of {i} words", "label": "xyz"[i % 3]} for i in range(40)]
    rows[7][column] = "words " * 1_700_000
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")

    def drafted():
        return draft([str(tmp_path / "rows.jsonl")], tmp_path / "r.yaml", "no/encoder", encoder_is_chosen=False)

    if column == "label":
        with pytest.raises(InputError, match="has a name of 10,199,999 characters, but must be at most 1,000") as error:
            drafted()
        assert len(str(error.value)) < 1000
    else:
        assert len(drafted().text) < 5000


def test_1000_parts_of_one_table(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(1000):
        (folder / f"part-{number:04}.csv").write_text(f"text,label\na text of {number} words,x\nsome other words,y\n")
    drafted = draft([str(folder)], tmp_path / "r.yaml", "no/encoder", encoder_is_chosen=False)
    assert [line for line in drafted.found if "rows" in line] == ["parts: 2,000 train rows; text [text]"]


@pytest.mark.parametrize(
    ("names", "tables"),
    [
        (["part-0.csv", "part-1.csv", "part-2.csv"], {"data": {"train": 3}}),
        (["train/part-0.csv", "train/part-1.csv", "dev/part-0.csv"], {"data": {"train": 2, "dev": 1}}),
        (["Shard_1_of_2.csv", "Shard_2_of_2.csv"], {"data": {"train": 2}}),
        (["part-0.csv.gz", "part-1.csv.gz"], {"data": {"train": 2}}),
        (["party.csv", "parts.csv"], {"parts": {"train": 1}, "party": {"train": 1}}),
        (["part-a.csv", "part-b.csv"], {"part-a": {"train": 1}, "part-b": {"train": 1}}),
        (["1.csv", "2.csv"], {"1": {"train": 1}, "2": {"train": 1}}),
        (["x-part-0.csv", "y-part-0.csv"], {"x-part-0": {"train": 1}, "y-part-0": {"train": 1}}),
        (["part-0.csv", "train.csv"], {"data": {"train": 1}}),
        (["part-0.csv", "test-0.csv"], {"data": {"train": 1, "test": 1}}),
    ],
)
def test_files_that_are_parts(tmp_path, names, tables):
    for name in names:
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("text,label\n")
    found = find_tables([str(tmp_path / "data")])
    assert {table.name: {split: len(files) for split, files in table.splits.items()} for table in found} == tables


def test_a_table_for_each_of_many_files(tmp_path):
    for number in range(100):
        (tmp_path / f"t{number}.csv").write_text("text,label\na text of some words,x\nsome other words,y\n")
    drafted = draft([str(tmp_path)], tmp_path / "r.yaml", "no/encoder", encoder_is_chosen=False)
    assert len([line for line in drafted.found if "train rows" in line]) == 100
