"""Data sets that the user tokenised: padding is taken out, and inputs and labels are checked as those of texts are."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, LargeList, List, Value

from mtbert.data.given_rows import prepare
from mtbert.data.spec import DataSpec
from mtbert.data.splits import check_rows
from mtbert.data.tokenize import encode_dataset
from mtbert.modeling.task_spec import TaskSpec

STARS = TaskSpec("stars", labels=3, max_length=12)
CLOSE = TaskSpec("close", range=(0, 5), texts=2, pair="siamese")
SAME = TaskSpec("same", "binary_classification", labels=["no", "yes"], texts=2)
TEXTS = ["a cat", "the dog runs .", "is the bird very good ?", "a fish"]
PAIRS = ["the cat eats", "a dog", "old tree", "a new house . "]


@pytest.fixture(scope="module")
def encoder(encoder_dir):
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(encoder_dir)


@pytest.fixture
def given(tokenizer, encoder):
    """A function: columns → what the trainer makes of them."""

    def prepared(task, columns, split="train", tokenizer=tokenizer):
        rows = columns if isinstance(columns, Dataset) else Dataset.from_dict(columns)
        return prepare(task, split, rows, tokenizer, encoder, "train_dataset['t']")[0]

    return prepared


@pytest.fixture
def of_texts(given):
    return given(STARS, {"text": TEXTS, "label": [0, 1, 2, 0]})


def padded(tokenizer, side="right", texts=TEXTS, pairs=None, **more) -> dict:
    options = {"padding": "max_length", "max_length": 12, "padding_side": side, "return_token_type_ids": True}
    columns = tokenizer(texts, pairs, **options)
    return {**columns, "label": [0, 1, 2, 0], **more}


def same(one: Dataset, other: Dataset) -> bool:
    names = [name for name in ("input_ids", "token_type_ids", "first_length", "label") if name in other.column_names]
    return all(one[name][:] == other[name][:] for name in names)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("form", ["lists", "int64", "fixed", "large", "numpy", "torch", "bool", "float", "masks"])
def test_padding_is_taken_out_whatever_the_form(given, of_texts, tokenizer, side, form):
    rows = Dataset.from_dict(padded(tokenizer, side))
    kinds = {
        "int64": List(Value("int64")),
        "fixed": List(Value("int32"), length=12),
        "large": LargeList(Value("int64")),
    }
    if form in kinds:
        rows = rows.cast_column("input_ids", kinds[form]).cast_column("attention_mask", kinds[form])
    elif form in ("bool", "float"):
        rows = rows.cast_column("attention_mask", List(Value("bool" if form == "bool" else "float32")))
    elif form in ("numpy", "torch"):
        rows = rows.with_format(form)
    elif form == "masks":
        extra = [[0] * 12] * 4
        rows = rows.add_column("special_tokens_mask", extra).add_column("offset_mapping", extra)
    found = given(STARS, rows)
    assert same(found, of_texts) and set(found.column_names) <= {"input_ids", "token_type_ids", "label"}


def test_padding_on_both_sides_and_ids_below_it(given, tokenizer):
    ids = tokenizer("a cat")["input_ids"]
    rows = {"input_ids": [[-100, *ids, -100]], "attention_mask": [[0, 1, 1, 1, 1, 0]], "label": [1]}
    assert given(STARS, rows)["input_ids"][:] == [ids]


def test_without_padding_nothing_is_copied(given, of_texts, tokenizer):
    rows = Dataset.from_dict({**tokenizer(TEXTS), "label": [0, 1, 2, 0]})
    for some in (rows, rows.remove_columns("attention_mask"), rows.cast_column("input_ids", List(Value("int16")))):
        assert same(given(STARS, some).select_columns(["input_ids", "label"]), of_texts)
    assert given(STARS, of_texts).data.table.equals(of_texts.data.table)


def test_pairs(given, tokenizer, encoder):
    texts = given(SAME, {"text": TEXTS, "text_pair": PAIRS, "label": [0, 1, 1, 0]})
    for side in ("right", "left"):
        rows = {**padded(tokenizer, side, pairs=PAIRS), "label": ["no", "yes", "yes", "no"]}
        assert same(given(SAME, rows), texts)
    del rows["token_type_ids"]
    with pytest.raises(ValueError, match="no column 'token_type_ids', by which the encoder tells the two texts apart"):
        given(SAME, rows)


def test_pairs_that_are_encoded_apart(given, tokenizer):
    texts = given(CLOSE, {"text": TEXTS, "text_pair": PAIRS, "label": [0, 1, 2, 0]})
    first, second = padded(tokenizer), padded(tokenizer, texts=PAIRS)
    rows = {name: [a + b for a, b in zip(first[name], second[name])] for name in ("input_ids", "attention_mask")}
    rows |= {"first_length": [12] * 4, "label": [0, 1, 2, 0]}
    assert same(given(CLOSE, rows), texts)
    lengths = texts["first_length"][:]
    row_padded = {
        "input_ids": [ids + [0] * (30 - len(ids)) for ids in texts["input_ids"]],
        "attention_mask": [[1] * len(ids) + [0] * (30 - len(ids)) for ids in texts["input_ids"]],
        "first_length": lengths,
        "label": [0, 1, 2, 0],
    }
    assert same(given(CLOSE, row_padded), texts)
    with pytest.raises(ValueError, match="no column 'first_length'; a row of this task holds 2 inputs"):
        given(CLOSE, {key: values for key, values in rows.items() if key != "first_length"})
    with pytest.raises(ValueError, match="an input of several must be padded at its right"):
        left = {key: [values[::-1] for values in row_padded[key]] for key in ("input_ids", "attention_mask")}
        given(CLOSE, row_padded | left)
    with pytest.raises(ValueError, match="'first_length' is wrong in 4 rows .*do not fit"):
        given(CLOSE, rows | {"first_length": [25] * 4})


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"label": ["bad", "good", None]}, [0, 1, -100]),
        ({"labels": [1, 0, -100]}, [1, 0, -100]),
        ({"labels": [1.0, 0.0, 1.0]}, [1, 0, 1]),
        ({"labels": [[1], [0], [1]]}, [1, 0, 1]),
        ({"label": ["good", "bad", "good"], "labels": ["good", "bad", "good"]}, [1, 0, 1]),
    ],
)
@pytest.mark.parametrize("text", [False, True])
def test_labels_are_read_as_those_of_texts(given, tokenizer, labels, expected, text):
    if text and -100 in expected:
        return
    rows = {"text": TEXTS[:3]} if text else padded(tokenizer, texts=TEXTS[:3])
    rows.pop("label", None)
    assert given(TaskSpec("mood", labels=("bad", "good")), rows | labels)["label"][:] == expected


def test_numbers_that_are_names_are_read_by_value(given, tokenizer):
    rows = padded(tokenizer, label=[1, 3, 2, 1])
    task = TaskSpec("stars", labels=("1", "2", "3"))
    assert given(task, rows)["label"][:] == [0, 2, 1, 0]
    unpadded = Dataset.from_dict({**tokenizer(TEXTS), "label": [1, 3, 2, 1]})
    assert given(task, unpadded)["label"][:] == [0, 2, 1, 0]
    ours = given(task, {"text": TEXTS, "label": [1, 3, 2, 1]})
    assert given(task, ours)["label"][:] == [0, 2, 1, 0]
    several = TaskSpec("t", "multi_label_classification", labels=("a", "b"))
    assert given(several, padded(tokenizer, label=[[0.0, 1.0]] * 4))["label"][:] == [[0, 1]] * 4
    with pytest.raises(ValueError, match="may mean"):
        given(several, padded(tokenizer, label=[[0, 1]] * 4))


def test_class_labels_in_another_order(given, tokenizer):
    rows = Dataset.from_dict(padded(tokenizer, label=[0, 1, 1, 0])).cast_column(
        "label", ClassLabel(names=["yes", "no"])
    )
    assert given(TaskSpec("t", labels=("no", "yes")), rows)["label"][:] == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"attention_mask": [[1, 0, 1, 1]]},
            "'attention_mask' is wrong in 1 row (row 1): padding must",
        ),
        (
            {"attention_mask": [[1, 1, 1]]},
            "'attention_mask' is wrong in 1 row (row 1): it must have",
        ),
        ({"attention_mask": [[1, 2, 1, 1]]}, "whole numbers from 0 to 1"),
        ({"attention_mask": [[1, -1, 1, 1]]}, "whole numbers from 0 to 1"),
        ({"attention_mask": [[1.0, 0.5, 1, 1]]}, "whole numbers from 0 to 1"),
        ({"attention_mask": [[0, 0, 0, 0]]}, "inputs must not be empty"),
        ({"attention_mask": [[[1, 1, 1, 1]]]}, "'attention_mask' holds List"),
        ({"input_ids": [[], [2]], "attention_mask": [[], [1]], "label": [0, 1]}, "inputs must not be empty"),
        (
            {"input_ids": [None, [2]], "attention_mask": [[1], [1]], "label": [0, 1]},
            "'attention_mask' is wrong in 1 row",
        ),
        ({"input_ids": [[2, 6, 99, 3]]}, "ids must be from 0 to 29"),
        ({"input_ids": [[2, 6, -1, 3]]}, "ids must be from 0 to 29"),
        ({"input_ids": [[2, 6, None, 3]]}, "'input_ids' is wrong"),
        ({"input_ids": [[2.0, 6.0, 7.0, 3.0]]}, "'input_ids' holds List"),
        ({"input_ids": [[[2, 6, 7, 3]]]}, "'input_ids' holds List"),
        ({"input_ids": ["a cat"]}, "'input_ids' holds Value('string')"),
        ({"input_ids": [[2, 6, 3, 0]]}, "begins or ends with padding (id 0) that attention_mask does not hide"),
        ({"input_ids": [[0, 0, 6, 3]], "attention_mask": [[0, 1, 1, 1]]}, "begins or ends with padding (id 0)"),
        ({"input_ids": [[2, 6, 3, 0]], "attention_mask": None}, "begins or ends with padding (id 0)"),
        ({"input_ids": [[0, 2, 6, 3]], "attention_mask": None}, "begins or ends with padding (id 0)"),
        ({"input_ids": [[2, 3, 0, 0]], "attention_mask": [[1, 1, 0, 0]]}, "special tokens only; remove the row"),
        (
            {"input_ids": [[6] * 13], "attention_mask": None},
            "at most 12 tokens; cut them (truncation=True, max",
        ),
        ({"token_type_ids": [[0, 0, 2, 0]]}, "'token_type_ids' is wrong in 1 row (row 1): it must hold whole numbers"),
        ({"token_type_ids": [[0, 0]]}, "'token_type_ids' is wrong in 1 row (row 1): it must have one number"),
        ({"label": [7]}, "labels must be one of: 0, 1, 2"),
        ({"label": ["good"]}, "labels must be one of: 0, 1, 2"),
        ({"label": [1], "labels": [2]}, "the columns 'label' and 'labels' differ (row 1: 1 and 2); remove one"),
        ({"label": None}, "no column 'label' or 'labels'"),
        ({"label": [None]}, "no row has a label"),
        ({"label": [-100]}, "no row has a label"),
        ({"position_ids": [[0, 1, 2, 3]]}, "column 'position_ids' is not used by this model; remove it"),
        ({"inputs_embeds": [[0.1]]}, "column 'inputs_embeds' is not used by this model; remove it"),
    ],
)
def test_wrong_rows_are_refused(given, change, problem):
    rows = {"input_ids": [[2, 6, 7, 3]], "attention_mask": [[1, 1, 1, 1]], "label": [1]} | change
    with pytest.raises(ValueError) as error:
        given(STARS, {key: values for key, values in rows.items() if values is not None})
    assert str(error.value).startswith("train_dataset['t']: ") and problem in str(error.value)


def test_a_row_is_named_whatever_the_lengths_of_others(given):
    rows = {"input_ids": [[], [2, 99]], "label": [0, 1]}
    with pytest.raises(ValueError) as error:
        given(STARS, rows)
    assert "(row 1): inputs must not be empty" in str(error.value) and "(row 2): ids must be" in str(error.value)


def test_rows_are_counted_over_all_batches(given, monkeypatch):
    monkeypatch.setattr("mtbert.data.given_rows.BATCH", 2)
    rows = {"input_ids": [[2, 6, 3]] * 3 + [[2, 99, 3]] * 7, "label": [0] * 10}
    with pytest.raises(ValueError, match=r"wrong in 7 rows \(row 4, 5, 6, 7, 8 and 2 more\)"):
        given(STARS, rows)


def test_texts_to_predict_may_be_empty_and_without_labels(given):
    rows = {"input_ids": [[2, 3], [2, 6, 3]]}
    assert given(STARS, rows, "test")["input_ids"][:] == rows["input_ids"]
    assert "label" not in given(STARS, rows, "test").column_names


def test_without_a_tokenizer_the_encoder_says_what_padding_is(given):
    rows = {"input_ids": [[2, 6, 3, 0]], "label": [1]}
    with pytest.raises(ValueError, match="begins or ends with padding"):
        given(STARS, rows, tokenizer=None)
    assert given(STARS, rows | {"attention_mask": [[1, 1, 1, 0]]}, tokenizer=None)["input_ids"][:] == [[2, 6, 3]]


def test_only_data_sets_are_taken(given, tokenizer):
    rows = Dataset.from_dict(padded(tokenizer))
    with pytest.raises(TypeError, match=r"train_dataset\['t'\]: a streamed dataset is refused"):
        prepare(STARS, "train", rows.to_iterable_dataset(), tokenizer, None, "train_dataset['t']")
    with pytest.raises(TypeError, match="expected a datasets.Dataset, but got a dict"):
        prepare(STARS, "train", rows.to_dict(), tokenizer, None, "train_dataset['t']")


def test_what_is_left_out_and_cut_is_told(tokenizer, encoder):
    rows = Dataset.from_dict({"text": ["a cat", "cat " * 20, ""], "label": [0, 1, 1]})
    lines = prepare(STARS, "train", rows, tokenizer, encoder, "train_dataset['t']")[1]
    assert lines == [
        "stars train: 3 rows read from train_dataset['t'], 2 kept; 1 left out: empty text in text (row 3)",
        "stars train: 1 of 2 inputs were cut, by 10 tokens in all",
    ]


def test_checked_rows_that_the_user_tokenises(given, tokenizer, encoder):
    task = TaskSpec("stars", labels=("3", "2", "1"))
    checked, _ = check_rows(task, "train", Dataset.from_dict({"text": TEXTS, "label": [1, 2, 3, 3]}), DataSpec(), "m")
    rows = checked.map(lambda batch: dict(tokenizer(batch["text"], padding=True)), batched=True)
    assert same(given(task, rows), encode_dataset(task, checked, tokenizer, encoder)[0])
    assert np.array_equal(given(task, rows)["label"][:], [2, 1, 0, 0])
