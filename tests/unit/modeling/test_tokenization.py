"""What encode_texts makes of texts, against the tokenizer called by hand."""

import pytest
from transformers import BertConfig, DistilBertConfig, RobertaConfig

from mtbert.modeling.task_spec import TaskSpec
from mtbert.modeling.tokenization import encode_texts, has_token_types, length_limit, separator_ids

TEXTS = ["the cat sleeps .", "a dog", "is the old house not very good ?"]
PAIRS = ["a bird flies over the tree", "the fish is not a cat or a dog .", "bad"]
CUSTOM = ("[SEP]", "[unused36]")
CLS, SEP, UNUSED = 2, 3, 5


@pytest.fixture(scope="module")
def encoder():
    return BertConfig(max_position_embeddings=64)


def words(count):
    return " ".join(["cat"] * count)


class TestOneText:
    def test_equals_the_tokenizer(self, tokenizer, encoder):
        columns = encode_texts(TaskSpec("t", labels=2), tokenizer, encoder, TEXTS)
        assert columns == {"input_ids": tokenizer(TEXTS)["input_ids"], "truncated": [0, 0, 0]}

    @pytest.mark.parametrize(("max_length", "cut"), [(3, [3, 1, 6]), (4, [2, 0, 5]), (6, [0, 0, 3]), (64, [0, 0, 0])])
    def test_truncation(self, tokenizer, encoder, max_length, cut):
        task = TaskSpec("t", labels=2, max_length=max_length)
        columns = encode_texts(task, tokenizer, encoder, [words(4), words(2), words(7)])
        assert columns["truncated"] == cut
        for ids, n in zip(columns["input_ids"], (4, 2, 7), strict=True):
            kept = min(n, max_length - 2)
            assert ids == [CLS] + [tokenizer.convert_tokens_to_ids("cat")] * kept + [SEP]

    def test_the_encoders_limit_holds_by_itself(self, tokenizer, encoder):
        columns = encode_texts(TaskSpec("t", labels=2), tokenizer, encoder, [words(62), words(63), words(100)])
        assert [len(ids) for ids in columns["input_ids"]] == [64, 64, 64]
        assert columns["truncated"] == [0, 1, 38]

    def test_other_rows_are_not_touched_by_a_long_one(self, tokenizer, encoder):
        task = TaskSpec("t", labels=2, max_length=6)
        alone = [encode_texts(task, tokenizer, encoder, [text]) for text in [*TEXTS, words(30)]]
        together = encode_texts(task, tokenizer, encoder, [*TEXTS, words(30)])
        for key in ("input_ids", "truncated"):
            assert together[key] == [each[key][0] for each in alone]


class TestCrossPair:
    def test_equals_the_tokenizer(self, tokenizer, encoder):
        columns = encode_texts(TaskSpec("t", labels=2, texts=2), tokenizer, encoder, TEXTS, PAIRS)
        expected = tokenizer(TEXTS, PAIRS, return_token_type_ids=True)
        assert columns["input_ids"] == expected["input_ids"]
        assert columns["token_type_ids"] == expected["token_type_ids"]
        assert columns["truncated"] == [0, 0, 0]
        assert all(1 in types for types in columns["token_type_ids"])

    def test_truncated_equals_the_tokenizer(self, tokenizer, encoder):
        task = TaskSpec("t", labels=2, texts=2, max_length=9)
        columns = encode_texts(task, tokenizer, encoder, TEXTS, PAIRS)
        expected = tokenizer(TEXTS, PAIRS, truncation=True, max_length=9, return_token_type_ids=True)
        full = tokenizer(TEXTS, PAIRS)["input_ids"]
        assert columns["input_ids"] == expected["input_ids"]
        assert columns["token_type_ids"] == expected["token_type_ids"]
        assert columns["truncated"] == [max(0, len(ids) - 9) for ids in full]

    def test_custom_separator(self, tokenizer, encoder):
        task = TaskSpec("t", labels=2, texts=2, separator=CUSTOM)
        columns = encode_texts(task, tokenizer, encoder, TEXTS, PAIRS)
        for i, (first, second) in enumerate(zip(TEXTS, PAIRS, strict=True)):
            u, v = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (first, second))
            assert columns["input_ids"][i] == [CLS, *u, SEP, UNUSED, *v, SEP]
            assert columns["token_type_ids"][i] == [0] * (len(u) + 3) + [1] * (len(v) + 1)
        assert columns["truncated"] == [0, 0, 0]

    def test_the_tokenizers_separator_given_by_name_changes_nothing(self, tokenizer, encoder):
        named = TaskSpec("t", labels=2, texts=2, separator=["[SEP]"], max_length=9)
        plain = TaskSpec("t", labels=2, texts=2, max_length=9)
        assert encode_texts(named, tokenizer, encoder, TEXTS, PAIRS) == encode_texts(
            plain, tokenizer, encoder, TEXTS, PAIRS
        )

    @pytest.mark.parametrize(("first", "second"), [(6, 6), (9, 3), (2, 20), (20, 1), (3, 3), (4, 3)])
    def test_truncation_counts_a_custom_separator(self, tokenizer, encoder, first, second):
        task = TaskSpec("t", labels=2, texts=2, separator=CUSTOM, max_length=10)
        columns = encode_texts(task, tokenizer, encoder, [words(first)], [words(second)])
        whole = first + second + 4
        assert columns["truncated"] == [max(0, whole - 10)]
        (ids,) = columns["input_ids"]
        assert len(ids) == min(10, whole) == len(columns["token_type_ids"][0])
        assert (ids[0], ids[-1], ids.count(SEP), ids.count(UNUSED)) == (CLS, SEP, 2, 1)
        assert ids[ids.index(SEP) + 1] == UNUSED

    @pytest.mark.parametrize(("max_length", "first", "second"), [(4, 0, 0), (5, 1, 0), (6, 1, 1)])
    def test_a_limit_that_leaves_almost_nothing_of_the_texts(self, tokenizer, encoder, max_length, first, second):
        task = TaskSpec("t", labels=2, texts=2, separator=CUSTOM, max_length=max_length)
        cat = tokenizer.convert_tokens_to_ids("cat")
        columns = encode_texts(task, tokenizer, encoder, [words(3)], [words(2)])
        assert columns["input_ids"] == [[CLS, *[cat] * first, SEP, UNUSED, *[cat] * second, SEP]]
        assert columns["truncated"] == [3 + 2 - first - second]

    def test_a_limit_below_the_special_tokens_is_refused(self, tokenizer, encoder):
        task = TaskSpec("t", labels=2, texts=2, separator=CUSTOM, max_length=3)
        with pytest.raises(ValueError, match="max_length"):
            encode_texts(task, tokenizer, encoder, [words(3)], [words(2)])

    def test_an_empty_separator(self, tokenizer, encoder):
        task = TaskSpec("t", labels=2, texts=2, separator=[])
        columns = encode_texts(task, tokenizer, encoder, ["a cat"], ["a dog"])
        u, v = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a cat", "a dog"))
        assert columns["input_ids"] == [[CLS, *u, *v, SEP]]
        assert columns["token_type_ids"] == [[0, 0, 0, 1, 1, 1]]

    @pytest.mark.parametrize("at", [0, 1])
    def test_a_first_text_without_any_token_leaves_every_row_whole(self, tokenizer, encoder, at):
        """A zero-width space is not empty, yet the normalizer leaves nothing of it."""
        task = TaskSpec("t", labels=2, texts=2, separator=CUSTOM, max_length=8)
        texts = ["\u200b", words(5)] if at == 0 else [words(5), "\u200b"]
        assert tokenizer.tokenize("\u200b") == []
        cat = tokenizer.convert_tokens_to_ids("cat")
        columns = encode_texts(task, tokenizer, encoder, texts, [words(2), words(2)])
        assert columns["input_ids"][at] == [CLS, SEP, UNUSED, cat, cat, SEP]
        assert columns["input_ids"][1 - at] == [CLS, cat, cat, SEP, UNUSED, cat, cat, SEP]
        assert columns["truncated"][at] == 0
        assert columns["truncated"][1 - at] == 3

    def test_a_second_text_without_any_token(self, tokenizer, encoder):
        task = TaskSpec("t", labels=2, texts=2, separator=CUSTOM)
        columns = encode_texts(task, tokenizer, encoder, [words(2)], ["\u200b"])
        cat = tokenizer.convert_tokens_to_ids("cat")
        assert columns["input_ids"] == [[CLS, cat, cat, SEP, UNUSED, SEP]]
        assert columns["token_type_ids"] == [[0, 0, 0, 0, 0, 1]]

    def test_token_types_can_be_left_out(self, tokenizer, encoder):
        task = TaskSpec("t", labels=2, texts=2, token_types=False)
        columns = encode_texts(task, tokenizer, encoder, TEXTS, PAIRS)
        assert columns == {"input_ids": tokenizer(TEXTS, PAIRS)["input_ids"], "truncated": [0, 0, 0]}

    @pytest.mark.parametrize("config", [BertConfig(type_vocab_size=1), DistilBertConfig()])
    def test_encoders_without_token_types_get_none(self, tokenizer, config):
        assert not has_token_types(config)
        assert "token_type_ids" not in encode_texts(TaskSpec("t", labels=2, texts=2), tokenizer, config, TEXTS, PAIRS)


class TestSiamesePair:
    def test_each_text_is_encoded_alone(self, tokenizer, encoder):
        task = TaskSpec("t", labels=2, texts=2, pair="siamese")
        columns = encode_texts(task, tokenizer, encoder, TEXTS, PAIRS)
        first, second = tokenizer(TEXTS)["input_ids"], tokenizer(PAIRS)["input_ids"]
        assert columns == {
            "input_ids": [u + v for u, v in zip(first, second, strict=True)],
            "first_length": [len(u) for u in first],
            "truncated": [0, 0, 0],
        }

    def test_each_text_is_cut_alone(self, tokenizer, encoder):
        task = TaskSpec("t", labels=2, texts=2, pair="siamese", max_length=5)
        columns = encode_texts(task, tokenizer, encoder, [words(9), words(1)], [words(4), words(2)])
        assert columns["truncated"] == [6 + 1, 0]
        assert columns["first_length"] == [5, 3]
        assert [len(ids) for ids in columns["input_ids"]] == [10, 7]


class TestBothWays:
    def test_each_text_and_then_both_in_one(self, tokenizer, encoder):
        own = {"labels": 2, "texts": 2, "separator": CUSTOM}
        columns = encode_texts(TaskSpec("t", pair="both", **own), tokenizer, encoder, TEXTS, PAIRS)
        apart = encode_texts(TaskSpec("t", labels=2, texts=2, pair="siamese"), tokenizer, encoder, TEXTS, PAIRS)
        in_one = encode_texts(TaskSpec("t", **own), tokenizer, encoder, TEXTS, PAIRS)
        rows = list(zip(apart["input_ids"], in_one["input_ids"], strict=True))
        assert columns["input_ids"] == [two + one for two, one in rows]
        assert columns["first_length"] == apart["first_length"]
        seconds = [len(two) - n for (two, _), n in zip(rows, apart["first_length"], strict=True)]
        assert columns["second_length"] == seconds
        types = [[0] * len(two) + of_one for (two, _), of_one in zip(rows, in_one["token_type_ids"], strict=True)]
        assert columns["token_type_ids"] == types

    def test_what_is_cut_adds_up(self, tokenizer, encoder):
        task = TaskSpec("t", labels=2, texts=2, pair="both", max_length=7)
        columns = encode_texts(task, tokenizer, encoder, [words(9)], [words(2)])
        assert columns["truncated"] == [4 + 0 + 7]
        assert (columns["first_length"], columns["second_length"]) == ([7], [4])
        assert [len(ids) for ids in columns["input_ids"]] == [7 + 4 + 7]


class TestErrorsAndEdges:
    def test_max_length_beyond_the_encoder(self, tokenizer, encoder):
        task = TaskSpec("t", labels=2, max_length=65)
        with pytest.raises(ValueError, match="'t': max_length is 65, but the encoder has positions for 64 tokens"):
            encode_texts(task, tokenizer, encoder, TEXTS)

    def test_roberta_begins_to_count_after_the_padding_index(self, tokenizer):
        config = RobertaConfig(max_position_embeddings=50, pad_token_id=1)
        assert length_limit(TaskSpec("t", labels=2), tokenizer, config) == 48
        assert length_limit(TaskSpec("t", labels=2, max_length=48), tokenizer, config) == 48
        with pytest.raises(ValueError, match="max_length is 49, but the encoder has positions for 48 tokens"):
            length_limit(TaskSpec("t", labels=2, max_length=49), tokenizer, config)

    def test_the_tokenizer_may_allow_less_than_the_encoder(self, tokenizer):
        assert length_limit(TaskSpec("t", labels=2), tokenizer, BertConfig(max_position_embeddings=512)) == 64

    def test_unknown_separator_token(self, tokenizer, encoder):
        task = TaskSpec("t", labels=2, texts=2, separator=["[SEP]", "[nowhere]"])
        with pytest.raises(
            ValueError, match=r"'t': separator has tokens \['\[nowhere\]'\] that the tokenizer does not"
        ):
            encode_texts(task, tokenizer, encoder, TEXTS, PAIRS)

    def test_separator_ids(self, tokenizer):
        assert separator_ids(TaskSpec("t", labels=2, texts=2), tokenizer) is None
        assert separator_ids(TaskSpec("t", labels=2, texts=2, separator=CUSTOM), tokenizer) == [SEP, UNUSED]

    def test_the_number_of_texts_must_fit(self, tokenizer, encoder):
        with pytest.raises(ValueError, match=r"task 't' takes 1 text\(s\) a row, got 2"):
            encode_texts(TaskSpec("t", labels=2), tokenizer, encoder, TEXTS, PAIRS)
        with pytest.raises(ValueError, match=r"task 't' takes 2 text\(s\) a row, got 1"):
            encode_texts(TaskSpec("t", labels=2, texts=2), tokenizer, encoder, TEXTS)

    @pytest.mark.parametrize(
        "values", [{}, {"texts": 2}, {"texts": 2, "pair": "siamese"}, {"texts": 2, "pair": "both"}]
    )
    def test_no_rows(self, tokenizer, encoder, values):
        task = TaskSpec("t", labels=2, **values)
        empty = encode_texts(task, tokenizer, encoder, [], [] if task.texts == 2 else None)
        some = encode_texts(task, tokenizer, encoder, TEXTS, PAIRS if task.texts == 2 else None)
        assert empty == {key: [] for key in some}

    def test_siamese_sides_must_have_as_many_rows(self, tokenizer, encoder):
        task = TaskSpec("t", labels=2, texts=2, pair="siamese")
        with pytest.raises(ValueError):
            encode_texts(task, tokenizer, encoder, TEXTS, PAIRS[:2])
