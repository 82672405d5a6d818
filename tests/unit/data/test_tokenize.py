"""What encode_dataset adds and keeps, what it reports, and when it works again."""

import pytest
from datasets import Dataset, Features, List, Value
from transformers import AutoTokenizer, BertConfig

from mtbert.data.spec import DataSpec
from mtbert.data.splits import check_rows
from mtbert.data.tokenize import EncodingReport, encode_dataset
from mtbert.modeling import tokenization
from mtbert.modeling.task_spec import TaskSpec
from mtbert.modeling.tokenization import encode_texts


@pytest.fixture(scope="module")
def encoder():
    return BertConfig(max_position_embeddings=64)


@pytest.fixture
def checked(tasks, splits):
    """Checked rows of each task, by name."""
    raw = splits()
    return {t.name: check_rows(t, "train", raw[t.name], columns_of(t), "memory")[0] for t in tasks}


def columns_of(task):
    return DataSpec(text=("text", "text_pair")[: task.texts])


class TestColumns:
    def test_values_are_those_of_encode_texts(self, tasks, checked, tokenizer, encoder):
        for task in tasks:
            rows = checked[task.name]
            encoded, _ = encode_dataset(task, rows, tokenizer, encoder)
            pairs = rows["text_pair"][:] if task.texts == 2 else None
            expected = encode_texts(task, tokenizer, encoder, rows["text"][:], pairs)
            del expected["truncated"]
            assert {key: encoded[key][:] for key in expected} == expected
            assert set(encoded.column_names) == {*expected, "label", "row"}
            assert encoded["label"][:] == rows["label"][:]
            assert encoded["row"][:] == list(range(1, len(rows) + 1))

    def test_features(self, tasks, checked, tokenizer, encoder):
        ids = {"input_ids": List(Value("int32"))}
        own = {
            "stars": {"label": Value("int64")},
            "same": {"label": Value("int64"), "token_type_ids": List(Value("int8"))},
            "close": {"label": Value("float32"), "first_length": Value("int32")},
            "topics": {"label": List(Value("float32"))},
        }
        for task in tasks:
            encoded, _ = encode_dataset(task, checked[task.name], tokenizer, encoder)
            assert encoded.features == Features({"row": Value("int64")} | ids | own[task.name])

    def test_id_is_kept_and_other_columns_are_not(self, tokenizer, encoder):
        rows = Dataset.from_dict({"text": ["a cat", "a dog"], "id": ["x", "y"], "note": ["?", "!"]})
        encoded, _ = encode_dataset(TaskSpec("t", labels=2), rows, tokenizer, encoder)
        assert sorted(encoded.column_names) == ["id", "input_ids"]
        assert encoded["id"][:] == ["x", "y"]

    def test_no_rows(self, tasks, checked, tokenizer, encoder):
        for task in tasks:
            some, _ = encode_dataset(task, checked[task.name], tokenizer, encoder)
            none, report = encode_dataset(task, checked[task.name].select([]), tokenizer, encoder)
            assert len(none) == 0 and none.features == some.features
            assert (report.total, report.rows, report.tokens) == (0, 0, 0)

    def test_slow_tokenizers_are_refused(self, checked, tasks, tokenizer, encoder, monkeypatch):
        monkeypatch.setattr(type(tokenizer), "is_fast", property(lambda self: False))
        message = "is a slow tokenizer; give one with a fast version"
        with pytest.raises(ValueError, match=f"{type(tokenizer).__name__} {message}"):
            encode_dataset(tasks[0], checked["stars"], tokenizer, encoder)


class TestReport:
    def test_counts(self, tokenizer, encoder):
        rows = Dataset.from_dict({"text": ["cat " * n for n in (1, 3, 4, 10)]})
        task = TaskSpec("t", labels=2, max_length=5)
        _, report = encode_dataset(task, rows, tokenizer, encoder, "dev")
        assert report == EncodingReport("t", "dev", 4, 2, 1 + 7)
        assert report.line() == "t dev: 2 of 4 inputs were cut, by 8 tokens in all"

    def test_both_sides_of_a_siamese_pair_count(self, tokenizer, encoder):
        rows = Dataset.from_dict({"text": ["cat " * 9, "cat"], "text_pair": ["cat " * 6, "cat"]})
        task = TaskSpec("t", labels=2, texts=2, pair="siamese", max_length=5)
        _, report = encode_dataset(task, rows, tokenizer, encoder)
        assert (report.total, report.rows, report.tokens) == (2, 1, 6 + 3)

    def test_nothing_cut_is_nothing_said(self, tokenizer, encoder):
        _, report = encode_dataset(TaskSpec("t", labels=2), Dataset.from_dict({"text": ["a"]}), tokenizer, encoder)
        assert report.line() is None

    def test_large_numbers_are_readable(self):
        assert EncodingReport("t", "train", 12345, 1000, 7654321).line() == (
            "t train: 1,000 of 12,345 inputs were cut, by 7,654,321 tokens in all"
        )


class TestCache:
    """Rows that come from a file are encoded once, as long as nothing that matters changes."""

    @pytest.fixture
    def calls(self, monkeypatch):
        """Number of rows that were tokenized, one entry a call."""
        rows = []
        original = tokenization.encode_texts

        def counting(task, tokenizer, encoder, texts, pairs=None):
            if len(texts):  # a look at the columns is no work
                rows.append(len(texts))
            return original(task, tokenizer, encoder, texts, pairs)

        monkeypatch.setattr(tokenization, "encode_texts", counting)
        return rows

    @pytest.fixture
    def read(self, tmp_path):
        """A function that opens the same file again."""
        path = tmp_path / "rows.csv"
        path.write_text("text,label\n" + "".join(f"{'cat ' * (i % 20 + 1)},{i % 2}\n" for i in range(50)))
        return lambda: Dataset.from_csv(str(path), cache_dir=str(tmp_path / "cache"))

    def test_a_second_call_tokenizes_nothing(self, calls, read, encoder_dir, encoder):
        task = TaskSpec("t", labels=2)
        results = []
        for _ in range(2):  # with objects of its own, as a second run has
            fresh = AutoTokenizer.from_pretrained(encoder_dir)
            results.append(encode_dataset(task, read(), fresh, BertConfig(max_position_embeddings=64)))
        assert calls == [50]
        (one, report), (other, again) = results
        assert one._fingerprint == other._fingerprint
        assert one.cache_files == other.cache_files and one.cache_files
        assert report == again
        assert one[:] == other[:]

    @pytest.mark.parametrize("max_length", [None, 8])
    def test_a_tokenizer_that_was_used_is_the_same_tokenizer(self, calls, read, encoder_dir, encoder, max_length):
        task, tokenizer = TaskSpec("t", labels=2, max_length=max_length), AutoTokenizer.from_pretrained(encoder_dir)
        for _ in range(2):
            encode_dataset(task, read(), tokenizer, encoder)
        assert calls == [50]

    def test_what_other_tasks_did_to_the_tokenizer_does_not_matter(self, calls, read, encoder_dir, encoder):
        task, short = TaskSpec("t", labels=2), TaskSpec("short", labels=2, max_length=5)
        encode_dataset(task, read(), AutoTokenizer.from_pretrained(encoder_dir), encoder)
        assert calls == [50]
        used = AutoTokenizer.from_pretrained(encoder_dir)
        encode_dataset(short, read(), used, encoder)
        assert calls == [50, 50]
        encode_dataset(task, read(), used, encoder)
        assert calls == [50, 50]

    def test_what_matters_is_seen(self, calls, read, encoder_dir, encoder):
        tokenizer = AutoTokenizer.from_pretrained(encoder_dir)
        encode_dataset(TaskSpec("t", labels=2), read(), tokenizer, encoder)
        encode_dataset(TaskSpec("t", labels=2, max_length=9), read(), tokenizer, encoder)
        assert len(calls) == 2
        other = AutoTokenizer.from_pretrained(encoder_dir)
        other.add_tokens(["catcat"])
        encode_dataset(TaskSpec("t", labels=2), read(), other, encoder)
        assert len(calls) == 3
        encode_dataset(TaskSpec("t", labels=2), read(), tokenizer, BertConfig(max_position_embeddings=16))
        assert len(calls) == 4
