"""Drafts of tables with lists of words, and tags for each word."""

import json
from pathlib import Path

import pytest
from datasets import ClassLabel as Names, Dataset, Features, List, Value

from mtbert.errors import InputError
from mtbert.runs.drafting.columns import Column
from mtbert.runs.drafting.tagged_words import find_words, read_tags

WORDS = [[str(i), *row] for i in range(15) for row in (["cat", "runs", "far"], ["dog", "house", "burns"])]
PETS = [["O", "B-PET", "O", "O"], ["O", "B-PET", "I-PET", "O"]] * 15
PARTS = [["NUM", "NOUN", "VERB", "ADV"], ["NUM", "NOUN", "NOUN", "VERB"]] * 15
MOODS = ["glad", "sad"] * 15


def parquet(columns: dict, features: Features | None = None) -> Path:
    Dataset.from_dict(columns, features).to_parquet("x.parquet")
    return Path("x.parquet")


def test_columns_are_found_by_their_items():
    words, tags = ["the", "cat", "in", "Rome"], ["O", "B-ANIMAL", "O", "B-PLACE"]
    columns = [Column("tokens", (words, ["a", "dog"]) * 3), Column("tags", (tags, ["O", "B-ANIMAL"]) * 3)]
    assert find_words(columns) == ("tokens", ("tags",))
    assert find_words(columns[:1]) == ("tokens", ())
    assert find_words(columns[1:]) == ("tags", ())  # without others, they may be words
    sentences = Column("texts", (["one text", "another text", "and a third"],) * 4)
    assert find_words([sentences]) is None
    assert find_words([Column("labels", (["vip"], ["new", "vip"]) * 20)]) is None


def test_tags_are_read():
    words, tags = ["the", "cat", "in", "Rome"], ["O", "B-ANIMAL", "O", "B-PLACE"]
    assert read_tags([words], [tags], None).labels == ("O", "B-ANIMAL", "B-PLACE")
    assert read_tags([words], [[0, 1, 0, 2]], ("O", "B-X", "B-Y")).labels == ("O", "B-X", "B-Y")
    assert "row 1 has 4 words, but 1 tags" in read_tags([words], [["O"]], None).doubt
    assert "its tags are numbers; write their names" in read_tags([words], [[0, 1, 0, 2]], None).doubt
    assert "['DET', 'NOUN'], but must be tags of the schemes" in read_tags([words[:2]], [["DET", "NOUN"]], None).doubt
    assert "it has 1 different tags" in read_tags([words], [["O"] * 4], None).doubt


def test_one_column_of_tags(drafted):
    made = drafted(parquet({"tokens": WORDS, "ner_tags": PETS}))
    assert made.kinds() == {"ner_tags": "token"} and made.tasks["ner_tags"].labels == ("O", "B-PET", "I-PET")


def test_labels_of_the_text_stand_beside_those_of_its_words(drafted):
    columns = {"id": [f"r{i}" for i in range(30)], "tokens": WORDS, "ner_tags": PETS, "mood": MOODS}
    made = drafted(parquet(columns))
    assert made.kinds() == {"ner_tags": "token", "mood": "binary"}
    assert {task.data.source for task in made.tasks.values()} == {"x"}
    assert "id id" in made.found
    assert made.splits["mood"]["train"][0]["text"] == "0 cat runs far"


def test_several_columns_of_tags_as_in_conll(drafted):
    chunks = [["O", "B-NP", "B-VP", "O"], ["O", "B-NP", "I-NP", "B-VP"]] * 15
    ids = {"pos_tags": ["NUM", "NOUN", "VERB", "ADV"], "chunk_tags": ["O", "B-NP", "I-NP", "B-VP"]}
    values = {"pos_tags": PARTS, "chunk_tags": chunks}
    features = Features({"tokens": List(Value("string")), **{name: List(Names(names=ids[name])) for name in ids}})
    numbers = {name: [[ids[name].index(tag) for tag in row] for row in values[name]] for name in ids}
    made = drafted(parquet({"tokens": WORDS, **numbers}, features))
    assert made.kinds() == {"chunk_tags": "token"}
    assert made.tasks["chunk_tags"].labels == tuple(ids["chunk_tags"])
    assert (
        "the column 'pos_tags' is not used: its tags have ['NUM', 'NOUN', 'VERB', 'ADV'], but must be" in made.comments
    )
    made = drafted(parquet({"tokens": WORDS, "ner": PETS, "chunk": chunks}))
    assert made.kinds() == {"ner": "token", "chunk": "token"}


def test_tags_that_no_task_takes_do_not_hide_other_labels(drafted):
    made = drafted(parquet({"tokens": WORDS, "pos": PARTS, "mood": MOODS}))
    assert made.kinds() == {"mood": "binary"}
    assert "the column 'pos' is not used" in made.comments
    texts = [" ".join(row) for row in WORDS]
    made = drafted(parquet({"tokens": WORDS, "pos": PARTS, "mood": MOODS, "text": texts}))
    assert made.kinds() == {"mood": "binary"} and made.tasks["mood"].data.text == ("text",)
    assert "'pos' is not used" in made.found


@pytest.mark.parametrize(("tags", "why"), [(PARTS, "its tags have"), ([[0, 1, 0, 2]] * 30, "its tags are numbers")])
def test_tags_that_no_task_takes_are_told(drafted, tags, why):
    with pytest.raises(InputError, match=rf"x.parquet: the texts are in 'tokens', but .*'tags': {why}"):
        drafted(parquet({"tokens": WORDS, "tags": tags}))


def test_words_without_tags_are_texts(drafted):
    made = drafted(parquet({"tokens": WORDS, "mood": MOODS}))
    assert made.kinds() == {"mood": "binary"} and made.tasks["mood"].data.text == ("tokens",)


def test_lists_of_labels_beside_a_text_are_no_words(drafted):
    texts = [f"a text of some words, number {i}" for i in range(30)]
    labels = [["new", "vip", "late"], ["new", "late"], ["lost", "vip", "old"]] * 10
    assert drafted(parquet({"text": texts, "labels": labels})).kinds() == {"x": "multi_label"}


def test_words_and_texts_of_one_table(drafted):
    texts = [f"a text of some words, number {i}" for i in range(30)]
    made = drafted(parquet({"tokens": WORDS, "ner": PETS, "text": texts, "mood": MOODS}))
    assert made.kinds() == {"mood": "binary", "ner": "token"}
    assert made.tasks["mood"].data.text == ("text",) and made.tasks["ner"].data.text == ("tokens",)


def test_choices_of_a_person(drafted):
    texts = [f"a text of some words, number {i}" for i in range(30)]
    file = parquet({"tokens": WORDS, "ner": PETS, "text": texts, "mood": MOODS})
    assert drafted(file, text=("tokens",)).kinds() == {"ner": "token", "mood": "binary"}
    assert drafted(file, text=("text",)).kinds() == {"mood": "binary"}
    assert drafted(file, text=("tokens",), label=("mood",)).kinds() == {"mood": "binary"}
    assert drafted(file, text=("tokens",), label=("ner",)).kinds() == {"ner": "token"}
    assert drafted(file, tasks={"ner": "tokens"}).kinds() == {"ner": "token"}
    for task, kind, held in (("ner", "binary", "tags of words"), ("mood", "tokens", "no tags of words")):
        with pytest.raises(InputError, match=f"--tasks reads {task} as {kind}, but column '{task}' holds {held}"):
            drafted(file, tasks={task: kind})


@pytest.mark.parametrize(
    "value", [{"text": ["a b", "c d"], "label": ["x", "y"]}, {"data": [{"text": "a", "label": 1}]}]
)
def test_a_json_object_of_columns_is_told(drafted, value):
    Path("x.json").write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(InputError, match="its only row holds all rows as lists; write one object a row"):
        drafted("x.json")
