"""Lists of words as texts, and where the words of a text stand."""

import copy
import pickle

import pandas as pd
import pytest
from datasets import Dataset

from mtbert.export import standalone
from mtbert.modeling.text_rows import as_rows
from mtbert.modeling.words import Words, find_words

LISTS = [
    ["New York", "", "b"],
    ["a", "b"],
    ["["],
    ['["a"]'],
    ["a\u00a0b", "c"],
    ["", "x"],
    ["é", "😀", "\u200b", "e\u0301"],
    ['"', "\\", "]"],
]


@pytest.mark.parametrize("words", LISTS, ids=repr)
def test_words_are_found_again(words):
    text = Words(words)
    for form in (text, text.as_plain_text(), copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        for find in (find_words, standalone.find_words):
            plain, spans = find(form)
            assert plain == " ".join(words)
            assert [plain[start:end] for start, end in spans] == words
    assert type(text.as_plain_text()) is str


@pytest.mark.parametrize(
    "text", ["a cat .", " a\tcat\n", "[1]", "[a]", '["a", 1]', "[]", "[[" * 5000 + "]]", ""], ids=len
)
def test_words_of_other_texts_stand_between_white_space(text):
    for find in (find_words, standalone.find_words):
        plain, spans = find(text)
        assert plain == text and [text[start:end] for start, end in spans] == text.split()


def test_a_row_may_be_a_list_of_words():
    old = [("the old cat", None), ("a", None)]
    lists = [["the", "old cat"], ["a"]]
    for rows in (
        [{"words": words} for words in lists],
        {"words": lists},
        pd.DataFrame({"words": lists, "more": [1, 2]}),
        Dataset.from_dict({"words": lists, "tags": lists}),
        Dataset.from_dict({"words": lists}),
    ):
        found = as_rows(rows)
        assert found == old and [list(text.words) for text, _ in found] == lists
    assert as_rows({"words": ["a", "b"]}) == [("a b", None)]  # one row
    assert as_rows(pd.DataFrame({"words": ["a b", "c"]})) == [("a b", None), ("c", None)]  # texts, as ever
    assert as_rows([["a", "b"]]) == [("a", "b")]  # a pair, as ever
    with pytest.raises(ValueError, match="row 0: .* is no row"):
        as_rows([{"words": ["a", 1]}])
