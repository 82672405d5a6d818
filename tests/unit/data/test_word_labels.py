"""Words and tags in data: every form that is read, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from tagged import SLOTS, TAGS, tagged_split

from mtbert.data.collation import MultiTaskDataset, label_array, unit_shape
from mtbert.data.found_labels import find_labels
from mtbert.data.given_rows import prepare
from mtbert.data.sampling import Step
from mtbert.data.spec import DataSpec
from mtbert.data.splits import check_rows, load_task
from mtbert.data.streaming import RowSource
from mtbert.data.tokenize import encode_dataset
from mtbert.modeling.task_spec import TaskSpec
from mtbert.modeling.words import find_words

ROWS = [
    {"words": ["the", "old", "cat"], "tags": ["O", "B-ANIMAL", "I-ANIMAL"]},
    {"words": ["New York", "", "tree"], "tags": ["O", "O", "B-PLACE"]},
    {"words": ["a"], "tags": ["O"]},
]
IDS = [[0, 1, 2], [0, 0, 3], [0]]
DATA = {"text": "words", "label": "tags"}


def write(path, rows, quoted=json.dumps):
    suffix = path.suffix
    if suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        cells = [[str(quoted(row[key])).replace('"', '""') for key in ("words", "tags")] for row in rows]
        path.write_text("words,tags\n" + "".join(f'"{a}","{b}"\n' for a, b in cells), encoding="utf-8")
    return path.name


@pytest.fixture
def load(tmp_path):
    def of(rows, suffix=".jsonl", task=SLOTS, **data):
        name = rows if isinstance(rows, str) else write(tmp_path / f"rows{suffix}", rows)
        return load_task(task, DataSpec(**{**DATA, "train": name, **data}), tmp_path)

    return of


def words_of(split):
    found = (find_words(text) for text in split["text"])
    return [[plain[start:end] for start, end in spans] for plain, spans in found]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_every_kind_of_file(load, suffix):
    split = load(ROWS, suffix).splits["train"]
    assert split["label"][:] == IDS and split.features["label"] == List(Value("int64"))
    assert words_of(split) == [row["words"] for row in ROWS]
    assert split["text"][0] == "the old cat"  # as sentence tasks have it, so that leaks between tasks are found


@pytest.mark.parametrize(
    "cell",
    ["O B-ANIMAL I-ANIMAL", "['O', 'B-ANIMAL', 'I-ANIMAL']", '["O", "B-ANIMAL", "I-ANIMAL"]', "0 1 2", "[0,1,2]"],
)
def test_tags_as_text(cell):
    rows = Dataset.from_dict({"text": ["the old cat"], "label": [cell]})
    checked, _ = check_rows(SLOTS, "train", rows, DataSpec(), "rows")
    assert checked["label"][:] == [[0, 1, 2]]


def test_class_labels_are_matched_by_name_and_given_ids_as_ids():
    features = Features({"text": List(Value("string")), "label": List(ClassLabel(names=["B-PLACE", "O", "B-ANIMAL"]))})
    rows = Dataset.from_dict({"text": [["a", "tree", "cat"]], "label": [[1, 0, 2]]}, features=features)
    assert check_rows(SLOTS, "train", rows, DataSpec(), "rows")[0]["label"][:] == [[0, 3, 1]]
    rows = Dataset.from_dict({"text": [["a", "tree", "cat"]], "label": [[1, 0, -100]]})
    assert check_rows(SLOTS, "train", rows, DataSpec(), "rows")[0]["label"][:] == [[1, 0, -100]]


def test_missing_tags(load, tmp_path):
    rows = [*ROWS, {"words": ["a", "cat"], "tags": None}, {"words": ["a", "cat"], "tags": [None, "B-ANIMAL"]}]
    rows += [{"words": [], "tags": []}, {"words": ["a"], "tags": [None]}]
    loaded = load(rows, test=write(tmp_path / "test.jsonl", rows))
    assert loaded.splits["train"]["label"][:] == [*IDS, [-100, 1]]
    assert loaded.reports[0].left_out == {"no label": (4, 6, 7)}
    assert loaded.splits["test"]["label"][:] == [*IDS, [], [-100, 1], [], []]
    (tmp_path / "bare.jsonl").write_text('{"words": ["a", "cat"]}\n')
    assert "label" not in load(ROWS, test="bare.jsonl").splits["test"].column_names


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (
            [*ROWS, {"words": ["a", "b"], "tags": ["O"]}],
            r"rows.jsonl: column 'tags' is wrong in 1 row: row 4: 2 words, 1 labels; give as many labels as words",
        ),
        (
            [*ROWS, {"words": ["a"], "tags": ["B-CAR"]}],
            "wrong in 1 row: row 4: 'B-CAR'; labels must be a list with one label for each word, one of: O, B-ANIMAL",
        ),
        ([*ROWS, {"words": ["a"], "tags": ["b-animal"]}], "row 4: 'b-animal'"),
        ([{"words": ["a"], "tags": [7]}], "row 1: 7; labels must"),
        ([{"words": ["a\0"], "tags": ["O"]}], "column 'words' is wrong in 1 row: .* NUL characters"),
        ([*ROWS, {"words": "a b", "tags": ["O", "O"]}], "line 1: 'words' is a list, but must be text"),
        ([{"words": [1, 2], "tags": ["O", "O"]}], "line 1: 'words' is a list, but must be text"),
        ([{"words": ["a", "b"], "tags": "O"}], "2 words, 1 labels"),
        ([{"words": ["a", "b"], "tags": {"O": 1}}], "labels must be a list"),
        ([{"words": ["\ud800"], "tags": ["O"]}], "line 1: 'words' has half of a surrogate pair"),
    ],
)
def test_wrong_rows_are_refused_with_file_row_and_numbers(load, tmp_path, rows, match):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    with pytest.raises(ValueError, match=match):
        load("rows.jsonl")


def test_a_sentence_task_may_read_the_same_lists_of_words(tmp_path):
    rows = [{**row, "queue": "ab"[i % 2]} for i, row in enumerate(ROWS)]
    name = write(tmp_path / "rows.jsonl", rows)
    task = TaskSpec("queue", labels=("a", "b"))
    split = load_task(task, DataSpec(text="words", label="queue", train=name), tmp_path).splits["train"]
    assert split["text"][:] == ["the old cat", "New York  tree", "a"] and split["label"][:] == [0, 1, 0]


class TestFoundLabels:
    def find(self, tmp_path, rows, **data):
        name = write(tmp_path / "rows.jsonl", rows)
        return find_labels("slots", "token_classification", DataSpec(**{**DATA, "train": name, **data}), tmp_path)

    def test_they_are_those_of_train_and_dev(self, tmp_path):
        dev = write(tmp_path / "dev.jsonl", [{"words": ["a"], "tags": ["S-CAR"]}])
        found = self.find(tmp_path, ROWS, dev=dev)
        assert found == ("O", "B-ANIMAL", "I-ANIMAL", "S-CAR", "B-PLACE")

    @pytest.mark.parametrize(
        ("tags", "match"),
        [
            (["L-X"], r"they have \['L-X'\], but must be tags of the schemes .*; write E- for L-"),
            (["NOUN"], r"they have \['NOUN'\]"),
            (["O"], "no word has another label than 'O'"),
        ],
    )
    def test_what_is_no_tag_is_named(self, tmp_path, tags, match):
        with pytest.raises(ValueError, match=match):
            self.find(tmp_path, [{"words": ["a"], "tags": tags}])

    def test_a_missing_column_is_named(self, tmp_path):
        with pytest.raises(ValueError, match=r"rows.jsonl: no column 'slot' for label"):
            self.find(tmp_path, ROWS, label="slot")


class TestEncoded:
    @pytest.fixture
    def encode(self, make_model, tokenizer):
        encoder = make_model().config.encoder

        def of(rows, task=SLOTS):
            rows = Dataset.from_list([{"text": row["words"], "label": row["tags"]} for row in rows])
            checked, _ = check_rows(task, "train", rows, DataSpec(), "rows")
            return encode_dataset(task, checked, tokenizer, encoder)

        return of

    def test_the_first_token_of_each_word_has_its_label(self, encode):
        rows = [{"words": ["a", "cat.dog", "\u200b", "tree"], "tags": ["O", "B-ANIMAL", "O", "B-PLACE"]}, *ROWS]
        encoded, report = encode(rows)
        assert encoded["words"][0] == [1, 2, -2, 5]
        assert report.line() == (
            "slots train: of 11 words, 2 have no token: they are not trained on, and score as O"
        )  # fmt: skip
        batch = MultiTaskDataset([SLOTS], {"slots": encoded}, True).__getitems__(Step(((0, np.array([0, 3])),)))
        assert batch["labels"]["slots"].tolist() == [-100, 0, 1, -100, -100, 3, -100, -100, 0, -100]
        assert batch["labelled"].tolist() == [2] and batch["units"].tolist() == [4]
        assert unit_shape(SLOTS, encoded) == (4, 4)
        assert label_array(encoded).tolist()[1] == [0, 1, 2, -100]

    def test_cut_words_are_counted(self, encode):
        _, report = encode(ROWS, replace(SLOTS, max_length=4))
        assert report.line() == (
            "slots train: 2 of 3 inputs were cut, by 2 tokens in all; of 7 words, 3 were cut: they are not trained "
            "on, and score as O"
        )

    def test_rows_of_token_ids_are_refused(self, encode, make_model, tokenizer):
        encoded, _ = encode(ROWS)
        encoder = make_model().config.encoder
        again, _ = prepare(SLOTS, "train", encoded, tokenizer, encoder, "rows")
        assert again["words"][:] == encoded["words"][:]
        with pytest.raises(ValueError, match="rows: no column 'words', which says where the words are"):
            prepare(SLOTS, "train", encoded.remove_columns("words"), tokenizer, encoder, "rows")
        bare = Dataset.from_dict({name: encoded[name][:] for name in ("input_ids", "words", "label")})
        with pytest.raises(ValueError, match="rows with 'words' must be as mtbert encoded them"):
            prepare(SLOTS, "train", bare, tokenizer, encoder, "rows")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_rows_to_predict_have_the_same_words(tmp_path, suffix):
    name = write(tmp_path / f"rows{suffix}", ROWS)
    (chunk,) = RowSource(str(tmp_path / name), ("words",), words=True).chunks()
    found = [[plain[a:b] for a, b in spans] for plain, spans in map(find_words, chunk["text"])]
    assert found == [row["words"] for row in ROWS]


def test_lists_are_no_texts_for_a_model_without_labels_of_words(tmp_path):
    name = write(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(ValueError, match="'words' is a list, but must be text"):
        list(RowSource(str(tmp_path / name), ("words",)).chunks())


def test_the_tags_of_the_test_data_follow_their_words():
    assert {tag for tags in tagged_split(50)["label"] for tag in tags} == set(TAGS)
