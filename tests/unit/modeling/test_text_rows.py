"""Rows in the forms that people have them in: the right ones in their order, or an error that says what to write."""

from collections import OrderedDict, UserDict, deque, namedtuple
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from mtbert.modeling.text_rows import as_rows

TEXTS = ["b cat", "a dog", "", "c"]
PAIRS = list(zip(TEXTS, TEXTS[::-1], strict=True))
SINGLE = [(text, None) for text in TEXTS]
COLUMNS = {"text": TEXTS, "text_pair": TEXTS[::-1]}
FRAME = pd.DataFrame({"label": range(4), **COLUMNS}, index=[7, 3, 3, 0])
DATA = datasets.Dataset.from_dict({"label": range(4), **COLUMNS})
TABLE = pa.table({"label": range(4), **COLUMNS})
Pair = namedtuple("Pair", ["text", "text_pair"])


class Polars:
    """The part of a polars frame that is read: names in `columns`, columns by name that iterate."""

    columns = ("label", "text", "text_pair")

    def __iter__(self):
        raise AssertionError("a frame of polars iterates over its columns")

    def __getitem__(self, name):
        return iter(COLUMNS[name])


@pytest.mark.parametrize(
    "values",
    [
        TEXTS,
        iter(TEXTS),
        deque(TEXTS),
        dict.fromkeys(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        pd.Series(TEXTS),
        pd.Series(TEXTS, index=["x", "y", "y", "z"]),
        pd.Series(TEXTS, index=[3, 2, 1, 0], dtype="string"),
        pd.Series(TEXTS, dtype="category"),
        pd.Series(TEXTS, dtype=pd.ArrowDtype(pa.string())),
        pd.Index(TEXTS),
        pd.DataFrame({"sentence": TEXTS}, index=list("dcba")),
        pd.DataFrame({"text": TEXTS, "stars": range(4)}),
        pd.DataFrame({"text": TEXTS, "text_pair": [None, np.nan, pd.NA, None]}),
        pa.array(TEXTS),
        pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
        pa.table({"headline": TEXTS}),
        DATA["text"],
        DATA.select_columns("text"),
        DATA.remove_columns("text_pair").with_format("pandas"),
        DATA.remove_columns("text_pair").to_iterable_dataset(),
        {"text": TEXTS},
        {"text": np.array(TEXTS), "text_pair": None, "label": [1, 2]},
        {"text": pd.Series(TEXTS, index=list("dcba"))},
        [{"text": text, "text_pair": np.nan} for text in TEXTS],
        [np.str_(text) for text in TEXTS],
        map(str, TEXTS),
        np.array([(text, 0) for text in TEXTS], dtype=[("text", "U9"), ("label", "i4")]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_single_texts(values):
    if isinstance(values, dict) and "text" not in values:
        values = values.keys()
    assert as_rows(values) == SINGLE


@pytest.mark.parametrize(
    "values",
    [
        PAIRS,
        zip(TEXTS, TEXTS[::-1], strict=True),
        [list(pair) for pair in PAIRS],
        np.array(PAIRS),
        np.array(PAIRS, dtype=object),
        FRAME,
        FRAME[["text_pair", "text"]],
        FRAME.astype("string"),
        FRAME.to_dict("list"),
        FRAME.to_dict("series"),
        FRAME.to_dict("records"),
        FRAME.itertuples(),
        FRAME.to_records(),
        TABLE,
        TABLE.to_batches()[0],
        Polars(),
        DATA,
        DATA.with_format("torch"),
        DATA.with_format("numpy"),
        DATA.with_format("pandas"),
        DATA.with_format("arrow"),
        DATA.to_iterable_dataset(),
        DATA[:],
        DATA.to_dict(),
        COLUMNS,
        OrderedDict(COLUMNS),
        UserDict(COLUMNS),
        MappingProxyType(COLUMNS),
        {"text": iter(TEXTS), "text_pair": tuple(TEXTS[::-1])},
        {"text": DATA["text"], "text_pair": FRAME["text_pair"]},
        [Pair(*pair) for pair in PAIRS],
        [UserDict(text=text, text_pair=pair) for text, pair in PAIRS],
        (pair for pair in PAIRS),
    ],
    ids=lambda value: type(value).__name__,
)
def test_pairs(values):
    assert as_rows(values) == PAIRS


@pytest.mark.parametrize(
    ("values", "row"),
    [
        ("a", ("a", None)),
        ("", ("", None)),
        (("a", "b"), ("a", "b")),
        (("a", None), ("a", None)),
        ({"text": "a"}, ("a", None)),
        ({"text": "a", "text_pair": "b", "id": 3}, ("a", "b")),
        (Pair("a", "b"), ("a", "b")),
        (DATA[0], PAIRS[0]),
        (np.str_("a"), ("a", None)),
    ],
)
def test_one_row(values, row):
    assert as_rows(values) == [row]


@pytest.mark.parametrize(
    "values",
    [
        *([], iter([]), np.array([]), np.array([], dtype=object), np.zeros((0, 2), dtype="U1"), pd.Series(dtype=str)),
        *(FRAME[:0], TABLE[:0], DATA.select([]), DATA.select([])["text"], pa.array([], pa.string()), {"text": []}),
        {"text": [], "text_pair": []},
    ],
    ids=lambda value: type(value).__name__,
)
def test_nothing(values):
    assert as_rows(values) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            pd.DataFrame({"sentence": ["a"], "stars": [1]}),
            r"no 'text' among the columns \['sentence', 'stars'\]; rename",
        ),
        (FRAME[["text_pair"]], r"no 'text' among the columns \['text_pair'\]"),
        (pd.DataFrame([["a", "b"]]), r"no 'text' among the columns \[0, 1\]"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "2 columns are called 'text'; keep one"),
        (pd.DataFrame([["a"]], columns=pd.MultiIndex.from_tuples([("text", "x")])).assign(b=1), "no 'text' among"),
        (pd.DataFrame(), r"no 'text' among the columns \[\]"),
        (pd.DataFrame({"text": ["a", None]}), "row 1: .* is no row; .*; fill a missing text in, or leave its row out"),
        (pd.DataFrame({"text": ["a", 3]}, index=[5, 9]), "row 1: {'text': 3} is no row"),
        (pd.DataFrame({"text": ["a", "b"], "text_pair": ["c", 4]}), "row 1: .* is no row"),
        (FRAME.iloc[0], r"a Series with an entry 'text' .*; give dict\(row\), or list\(texts\)"),
        (FRAME.iterrows(), "row 0: .* is no row"),
        (FRAME.items(), "row 0: .* is no row"),
        (FRAME[["label"]].itertuples(), "row 0: .*'label': 0} is no row; its keys are"),
        (FRAME.to_dict("split"), r"its keys are \['index', 'columns', 'data'\]"),
        (FRAME.to_dict(), "'text' is .*, which holds no rows; give a list of texts"),
        (FRAME.groupby("label"), "row 0: .* is no row"),
        (pd.Series(["a", None, "b"]), "row 1: .* is no row; .*fill a missing text in"),
        (pd.Series(["a", pd.NA], dtype="string"), "row 1: <NA> is no row; .*fill a missing text in"),
        (pd.Series([1.5, 2]), "row 0: 1.5 is no row"),
        (np.array(["a", np.nan], dtype=object), "row 1: nan is no row; .*fill a missing text in"),
        (np.array(["a", "b"], dtype="S1"), r"row 0: b'a' is no row; .*decode bytes \(value.decode\(\)\)"),
        (np.array("a"), "holds no rows"),
        (np.array([["a", "b", "c"]]), r"row 0: \['a', 'b', 'c'\] is no row"),
        (torch.zeros(2), "row 0: 0.0 is no row"),
        (datasets.DatasetDict(train=DATA, test=DATA), r"its keys are \['train', 'test'\]; .* or the value of one key"),
        (datasets.Dataset.from_dict({"a": ["x"], "b": ["y"]}), r"no 'text' among the columns \['a', 'b'\]"),
        (datasets.Dataset.from_dict({"a": ["x"], "b": ["y"]}).to_iterable_dataset(), r"no 'text' among the columns"),
        (DATA["label"], "row 0: 0 is no row"),
        (pa.table({"a": ["x"], "b": ["y"]}), r"no 'text' among the columns \['a', 'b'\]"),
        ({"sentence": ["a", "b"]}, r"its keys are \['sentence'\]"),
        ({}, r"its keys are \[\]"),
        ({"text": ["a", "b"], "text_pair": ["c"]}, "'text' and 'text_pair' have different numbers of rows"),
        ({"text": ["a"], "text_pair": "c"}, "'text_pair' is 'c', which holds no rows; give a list of texts"),
        ({"text": "a", "text_pair": ["c"]}, "is no row"),
        ({"text": {"a", "b"}}, "'text' is .*, which has no order; give a list"),
        ({"text": None}, "is no row"),
        ([{"text": "a"}, {"sentence": "b"}], r"row 1: {'sentence': 'b'} is no row; its keys are \['sentence'\]"),
        ([{"text": ["a", "b"]}], "row 0: .* is no row"),
        ({"a", "b"}, "has no order; give a list"),
        (frozenset("ab"), "has no order; give a list"),
        (("a",), "is no row; .*a tuple is one pair, and several rows go in a list"),
        (("a", "b", "c"), "is no row; .*a tuple is one pair, and several rows go in a list"),
        ((("a", "b"), ("c", "d")), "is no row; .*a tuple is one pair, and several rows go in a list"),
        ((), "is no row; .*a tuple is one pair"),
        ([("a", "b", "c")], "row 0: .* is no row"),
        ([["a"]], r"row 0: \['a'\] is no row"),
        ([None], "row 0: None is no row"),
        ([b"a"], r"row 0: b'a' is no row; .*decode bytes"),
        (b"a", r"b'a' holds no rows; .*decode bytes"),
        (Path("a.txt"), r"holds no rows; .*read the file \(path.read_text\(\)\)"),
        ([Path("a.txt")], r"row 0: .* is no row; .*read the file"),
        (enumerate(TEXTS), "row 0: .* is no row"),
        (3, "3 holds no rows"),
        (None, "None holds no rows"),
        (SimpleNamespace(text=["a"]), "holds no rows"),
        (["a", "\ud800"], "row 1: .* character 0 is half of a surrogate pair"),
        (np.array([("a", "b")], dtype=[("x", "U1"), ("y", "U1")]), r"no 'text' among the columns \['x', 'y'\]"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_refused(values, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        as_rows(values)
