"""`predict` and `embed` against the model called one row at a time with transformers' own padding."""

import copy
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from predicted_tasks import MORE, PAL
from texts_alone import PAIRS, TEXTS
from transformers import AutoTokenizer

from mtbert.modeling.answers import Prediction
from mtbert.modeling.errors import InputTypeError
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import TaskSpec


@pytest.fixture(params=["shared", "adapters"])
def model(request, make_model, tasks) -> MtBertForMultiTask:
    return make_model([*tasks, *MORE], adapter=PAL if request.param == "adapters" else None).eval()


@torch.no_grad()
def one_by_one(model, task: TaskSpec, tokenizer, rows) -> np.ndarray:
    """A task's logits, each row alone."""
    found, limit = [], {"truncation": True, "return_token_type_ids": True, "max_length": task.max_length or 64}
    for row in rows:
        if task.siamese:
            batch = tokenizer(list(row), padding=True, return_tensors="pt", **limit)
        else:
            batch = tokenizer(*([row] if task.texts == 1 else row), return_tensors="pt", **limit)
        found.append(model(**batch, task=task.name).logits[0])
    return torch.stack(found).numpy()


@pytest.mark.parametrize("batch_tokens", [1, 20, 8192])
def test_every_task_equals_one_row_at_a_time(model, tokenizer, batch_tokens):
    for task in model.tasks:
        rows = TEXTS if task.texts == 1 else PAIRS
        found = model.predict(rows, task=task.name, tokenizer=tokenizer, batch_tokens=batch_tokens)
        expected = one_by_one(model, task, tokenizer, rows)
        np.testing.assert_allclose(found.logits, expected, atol=1e-5)
        assert found.task == task and found.logits.dtype == np.float32


def test_a_prediction_as_a_table_and_as_one_line():
    single, sets, score = (
        TaskSpec("mood", labels=["sad", "glad"]),
        TaskSpec("tags", labels=["a", "b"], problem_type="multi_label_classification"),
        TaskSpec("close", range=(0, 5)),
    )
    found = Prediction.of(single, np.array([[0, np.log(3)], [0, -np.log(3)]], np.float32))
    assert found.to_dict() == {
        "mood": ["glad", "sad"],
        "mood:sad": pytest.approx([0.25, 0.75]),
        "mood:glad": pytest.approx([0.75, 0.25]),
    }
    assert found.to_pandas().columns.tolist() == ["mood", "mood:sad", "mood:glad"]
    assert repr(found) == "Prediction of 'mood' for 2 rows: 'glad', 'sad'"
    found = Prediction.of(sets, np.array([[1, -1], [1, 1], [-1, -1]], np.float32))
    assert found.to_dict()["tags"] == [["a"], ["a", "b"], []] and found.to_pandas().shape == (3, 3)
    found = Prediction.of(score, np.arange(1000, dtype=np.float32)[:, None] / 8)
    assert found.to_dict() == {"close": (np.arange(1000) / 8).tolist()}
    assert repr(found) == "Prediction of 'close' for 1,000 rows: 0, 0.125, 0.25, 0.375, 0.5, …"
    diverged = Prediction.of(single, np.array([[0, np.nan]], np.float32))
    assert repr(diverged) == "Prediction of 'mood' for 1 rows, some of which are not finite"
    none = Prediction.of(single, np.zeros((0, 2), np.float32))
    assert none.to_pandas().empty and repr(none) == "Prediction of 'mood' for 0 rows: "


@pytest.mark.parametrize("adapter", [None, PAL], ids=["shared", "adapters"])
def test_pairs_in_both_ways(adapter, make_model, tasks, tokenizer):
    """Beside tasks that encode the pair in one of these ways, and each row as three padded sequences of its own."""
    both = TaskSpec("both", labels=3, texts=2, pair="both", pooling="mean", head={"type": "mlp", "layers": 1})
    model = make_model([*tasks, both], adapter=adapter).eval()
    found = model.predict(PAIRS, tasks="all", tokenizer=tokenizer, batch_tokens=60)
    assert set(found) == {"same", "close", "both"}
    for row, (first, second) in enumerate(PAIRS):
        ids = [tokenizer(first)["input_ids"], tokenizer(second)["input_ids"], tokenizer(first, second)["input_ids"]]
        batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        types = torch.zeros_like(batch["input_ids"])
        types[2, len(ids[0]) : len(ids[2])] = 1
        with torch.no_grad():
            logits = model(**batch, token_type_ids=types, task="both").logits[0]
        np.testing.assert_allclose(found["both"].logits[row], logits.numpy(), atol=1e-5)
    assert model.embed("a cat", task="both", tokenizer=tokenizer).shape == (1, 32)


def test_all_tasks_equal_one_after_the_other(model, tokenizer):
    for rows, names in ((TEXTS, {"stars", "topics", "mood", "stars2"}), (PAIRS, {"same", "close"})):
        found = model.predict(rows, tasks="all", tokenizer=tokenizer, batch_tokens=30)
        assert set(found) == names
        for name, prediction in found.items():
            alone = model.predict(rows, task=name, tokenizer=tokenizer)
            np.testing.assert_allclose(prediction.logits, alone.logits, atol=1e-5)


def test_the_encoder_runs_once_for_tasks_that_share_their_input(make_model, tasks, tokenizer):
    for adapter, expected in ((None, 2), (PAL, 1)):  # `stars2` cuts its inputs shorter: a pass of its own
        model, calls = make_model([*tasks, *MORE], adapter=adapter), []
        model.encoder.register_forward_hook(lambda *args, calls=calls: calls.append(1))
        model.predict(TEXTS, tasks="all", tokenizer=tokenizer)
        assert len(calls) == expected


def test_encoders_without_packing_predict_the_same(make_model, tokenizer):
    one, other = make_model(), make_model(packed=False)
    for name, rows in (("stars", TEXTS), ("close", PAIRS)):
        found = [model.predict(rows, task=name, tokenizer=tokenizer).logits for model in (one, other)]
        np.testing.assert_allclose(*found, atol=1e-5)


class TestAnswers:
    def test_probabilities_and_labels(self, make_model, tokenizer):
        model = make_model()
        stars = model.predict(TEXTS, task="stars", tokenizer=tokenizer)
        exponents = np.exp(stars.logits - stars.logits.max(1, keepdims=True))
        np.testing.assert_allclose(stars.scores, exponents / exponents.sum(1, keepdims=True), atol=1e-6)
        assert stars.labels == [str(i) for i in stars.logits.argmax(1)]
        topics = model.predict(TEXTS, task="topics", tokenizer=tokenizer)
        np.testing.assert_allclose(topics.scores, 1 / (1 + np.exp(-topics.logits)), atol=1e-6)
        names = np.array(["cat", "dog", "bird"])
        assert topics.labels == [names[row > 0].tolist() for row in topics.logits]
        same = model.predict(PAIRS, task="same", tokenizer=tokenizer)
        assert same.scores.shape == (6, 2)
        np.testing.assert_allclose(same.scores.sum(1), 1, atol=1e-6)
        assert same.labels == ["yes" if logit > 0 else "no" for (logit,) in same.logits]
        close = model.predict(PAIRS, task="close", tokenizer=tokenizer)
        assert close.labels == close.scores.tolist() == close.logits[:, 0].tolist()

    def test_large_logits_do_not_overflow(self):
        task = TaskSpec("t", "binary_classification", labels=["no", "yes"])
        found = Prediction.of(task, np.array([[-200.0], [200.0]], dtype=np.float32))
        assert found.scores.tolist() == [[1, 0], [0, 1]] and found.labels == ["no", "yes"]


class TestInputs:
    @pytest.mark.parametrize(
        "rows",
        [
            [list(pair) for pair in PAIRS],
            [{"text": text, "text_pair": pair} for text, pair in PAIRS],
            (pair for pair in PAIRS),
            Dataset.from_dict({"text": [t for t, _ in PAIRS], "text_pair": [p for _, p in PAIRS]}),
        ],
        ids=["lists", "mappings", "generator", "data set"],
    )
    def test_pairs_in_every_form(self, rows, make_model, tokenizer):
        model = make_model()
        found = model.predict(rows, task="same", tokenizer=tokenizer)
        np.testing.assert_array_equal(found.logits, model.predict(PAIRS, task="same", tokenizer=tokenizer).logits)

    def test_tables_are_no_lists_of_their_columns(self, make_model, tokenizer):
        """`rows.iterate_rows` reads every form; these are the ways in to it."""
        model = make_model()
        frame = pd.DataFrame({"id": range(6), "text": TEXTS}, index=list("fedcba"))
        pairs = pd.DataFrame(PAIRS, columns=["text", "text_pair"], index=[9] * 6)
        expected = model.predict(TEXTS, task="stars", tokenizer=tokenizer).logits
        for rows in (
            frame,
            frame["text"],
            frame["text"].to_numpy(),
            frame.to_dict("list"),
            frame[["text"]].astype("string"),
        ):
            np.testing.assert_array_equal(model.predict(rows, task="stars", tokenizer=tokenizer).logits, expected)
            embedded = model.embed(rows, tokenizer=tokenizer)
            np.testing.assert_array_equal(embedded, model.embed(TEXTS, tokenizer=tokenizer))
        expected = model.predict(PAIRS, task="same", tokenizer=tokenizer).logits
        np.testing.assert_array_equal(model.predict(pairs, task="same", tokenizer=tokenizer).logits, expected)
        for call in (model.predict, model.embed):
            with pytest.raises(ValueError, match=r"no 'text' among the columns \['id', 'review'\]"):
                call(frame.rename(columns={"text": "review"}), task="stars", tokenizer=tokenizer)
        with pytest.raises(ValueError, match="texts has pairs"):
            model.embed(pairs, tokenizer=tokenizer)
        with pytest.raises(ValueError, match=r"takes 2 text\(s\) a row, but row 2 "):
            model.predict(pairs.assign(text_pair=["a", "b", np.nan, "c", "d", "e"]), task="same", tokenizer=tokenizer)

    def test_one_row_and_none(self, make_model, tokenizer):
        model = make_model()
        assert model.predict("a cat", task="stars", tokenizer=tokenizer).logits.shape == (1, 3)
        assert model.predict(("a cat", "a dog"), task="same", tokenizer=tokenizer).logits.shape == (1, 1)
        empty = model.predict([], task="stars", tokenizer=tokenizer)
        assert empty.logits.shape == (0, 3) and empty.labels == []

    def test_the_only_task_needs_no_name(self, make_model, tokenizer):
        model = make_model([TaskSpec("only", labels=2)])
        assert model.predict(TEXTS, tokenizer=tokenizer).logits.shape == (6, 2)

    @pytest.mark.parametrize(
        ("rows", "which", "message"),
        [
            (TEXTS, {}, "give tasks: 'all', or one or more of: stars, same, close, topics"),
            (TEXTS, {"task": "same"}, r"task 'same' takes 2 text\(s\) a row, but row 0 \('the cat sleeps .'\) has 1"),
            ([("a", "b")], {"task": "stars"}, r"task 'stars' takes 1 text\(s\) a row, but row 0 \('a'\) has 2"),
            ([1], {"task": "stars"}, "1 is no row; give a text, a pair"),
            ([("a", None)], {"task": "same"}, r"takes 2 text\(s\)"),
            ([{"sentence": "a"}], {"task": "stars"}, "is no row"),
            (["a", "b\ud800"], {"task": "stars"}, "row 1: 'b.ud800': character 1 is half of a surrogate pair; decode"),
            (["a", None], {"task": "stars"}, "row 1: None is no row; give a text"),
            ([b"a"], {"task": "stars"}, "row 0: b'a' is no row; give a text"),
            (b"ab", {"task": "stars"}, "b'ab' holds no rows; give a text, a pair"),
            (3, {"task": "stars"}, "3 holds no rows; give a text, a pair"),
            (None, {"task": "stars"}, "None holds no rows"),
            (TEXTS, {"tasks": 3}, "tasks is 3, but must be 'all', a name, or a list of names"),
            (TEXTS, {"task": "stars", "batch_tokens": "9"}, "batch_tokens is '9', but must be 1 or more"),
            (
                TEXTS,
                {"task": "stars", "batch_tokens": 1.5},
                "batch_tokens is 1.5, but must be 1 or more, a whole number",
            ),
            (TEXTS, {"task": "stars", "batch_tokens": 0}, "batch_tokens is 0, but must be 1 or more"),
        ],
    )
    def test_what_is_refused(self, rows, which, message, make_model, tokenizer):
        with pytest.raises(ValueError, match=message):
            make_model().predict(rows, tokenizer=tokenizer, **which)

    def test_task_is_another_name_of_tasks(self, make_model, tokenizer):
        model = make_model()
        one = model.predict(TEXTS, tasks="stars", tokenizer=tokenizer)
        for found in (
            model.predict(TEXTS, task="stars", tokenizer=tokenizer),
            model.predict(TEXTS, "stars", tokenizer=tokenizer),
            model.predict(TEXTS, tasks=["stars"], tokenizer=tokenizer)["stars"],
        ):
            np.testing.assert_array_equal(found.logits, one.logits)
        assert list(model.predict(TEXTS, task="all", tokenizer=tokenizer)) == ["stars", "topics"]
        message = "^tasks is 'all' and task is 'stars', but they are one argument; give tasks alone$"
        with pytest.raises(InputTypeError, match=message):
            model.predict(TEXTS, task="stars", tasks="all", tokenizer=tokenizer)

    def test_one_name_as_tasks_used_to_give_a_mapping(self, make_model, tokenizer):
        found = make_model().predict(TEXTS, tasks="stars", tokenizer=tokenizer)
        with pytest.warns(FutureWarning, match=r'deprecated since mtbert 0.2 .*; write predict\(..., tasks="NAME"'):
            assert found["stars"] is found
        with pytest.raises(KeyError, match="no task 'topics': this is the Prediction of 'stars'"):
            found["topics"]

    def test_a_tokenizer_of_another_encoder(self, make_model, tokenizer):
        model = make_model()
        model.config.encoder.vocab_size = 5
        with pytest.raises(ValueError, match=r"tokenizer gives token \d+, but the encoder has embeddings for 5 tokens"):
            model.predict(TEXTS, task="stars", tokenizer=tokenizer)

    def test_unknown_task(self, make_model, tokenizer):
        with pytest.raises(KeyError, match="no task 'x'; this model has: stars"):
            make_model().predict(TEXTS, task="x", tokenizer=tokenizer)

    def test_all_without_a_fitting_task(self, make_model, tokenizer):
        with pytest.raises(ValueError, match=r"no task of this model takes 2 text\(s\) a row"):
            make_model([TaskSpec("only", labels=2)]).predict(PAIRS, tasks="all", tokenizer=tokenizer)


class TestTokenizer:
    def test_is_found_beside_the_checkpoint(self, make_model, tokenizer, tmp_path):
        model = make_model()
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        loaded = MtBertForMultiTask.from_pretrained(tmp_path)
        expected = model.predict(TEXTS, task="stars", tokenizer=tokenizer)
        np.testing.assert_allclose(loaded.predict(TEXTS, task="stars").logits, expected.logits, atol=1e-6)
        assert loaded.tokenizer is loaded.tokenizer

    def test_of_a_new_model_is_the_encoders(self, make_model, tokenizer):
        """Also for copies of it and for what is taken out of it, by name, by pickle and by copying."""
        model = make_model()
        expected = model.predict(TEXTS, task="stars", tokenizer=tokenizer).logits
        assert "_source" not in str(model.config.to_dict())
        for same in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.extract_task("stars")):
            np.testing.assert_allclose(same.predict(TEXTS, task="stars").logits, expected, atol=1e-6)

    def test_is_saved_with_the_model(self, make_model, tokenizer, tmp_path):
        """A model that is made or loaded, edited, saved and loaded again predicts the same."""
        model = make_model()
        model.save_pretrained(tmp_path / "new")
        assert MtBertForMultiTask.from_pretrained(tmp_path / "new").tokenizer.get_vocab() == tokenizer.get_vocab()
        loaded = MtBertForMultiTask.from_pretrained(tmp_path / "new")
        loaded.remove_task("topics")
        loaded.add_task(TaskSpec("other", labels=2))
        expected = loaded.predict(TEXTS, tasks="all", tokenizer=tokenizer)
        loaded.save_pretrained(tmp_path / "edited")
        found = MtBertForMultiTask.from_pretrained(tmp_path / "edited").predict(TEXTS, tasks="all")
        assert list(found) == ["stars", "other"]
        for name, each in found.items():
            np.testing.assert_allclose(each.logits, expected[name].logits, atol=1e-6)

    def test_replaces_another_one_in_the_folder(self, make_model, tokenizer, encoder_dir, tmp_path):
        def saved_words() -> dict:
            return AutoTokenizer.from_pretrained(tmp_path / "saved").get_vocab()

        other = AutoTokenizer.from_pretrained(encoder_dir)
        other.add_tokens(["zork"])
        other.save_pretrained(tmp_path / "saved")
        make_model().save_pretrained(tmp_path / "saved")
        assert "zork" in saved_words()  # the encoder's own one, which nothing has used yet, does not replace it
        make_model().save_pretrained(tmp_path / "source")
        MtBertForMultiTask.from_pretrained(tmp_path / "source").save_pretrained(tmp_path / "saved")
        assert saved_words() == tokenizer.get_vocab()
        other.save_pretrained(tmp_path / "saved")
        model = make_model()
        model.predict(TEXTS, tasks="stars")
        model.save_pretrained(tmp_path / "saved")
        assert saved_words() == tokenizer.get_vocab()

    def test_of_a_model_without_one_is_left_alone(self, make_model, tokenizer, tmp_path):
        tokenizer.save_pretrained(tmp_path)
        before = (tmp_path / "tokenizer.json").read_bytes()
        MtBertForMultiTask(make_model().config).save_pretrained(tmp_path)
        assert (tmp_path / "tokenizer.json").read_bytes() == before

    def test_is_asked_for_where_there_is_none(self, make_model, tmp_path):
        with pytest.raises(ValueError, match="tokenizer is missing; this model was not loaded from a checkpoint"):
            MtBertForMultiTask(make_model().config).predict(TEXTS, task="stars")
        make_model().save_pretrained(tmp_path)
        for file in tmp_path.glob("tokenizer*"):
            file.unlink()
        with pytest.raises(ValueError, match=f"tokenizer is missing; {tmp_path} has none that can be loaded"):
            MtBertForMultiTask.from_pretrained(tmp_path).predict(TEXTS, task="stars")
        (tmp_path / "tokenizer.json").write_text("{}")
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
        with pytest.raises(ValueError, match=f"tokenizer is missing; {tmp_path} has none that can be loaded"):
            MtBertForMultiTask.from_pretrained(tmp_path).predict(TEXTS, task="stars")


class TestEmbeddings:
    def test_they_are_what_a_siamese_head_is_given(self, model, tokenizer):
        found = model.embed(TEXTS, tokenizer=tokenizer, batch_tokens=12)
        with torch.no_grad():
            for row, text in enumerate(TEXTS):
                batch = tokenizer([text, text], return_tensors="pt")
                np.testing.assert_allclose(found[row], model(**batch, task="close").pooled["close"][0], atol=1e-5)
        heads = model.heads["close"].eval()
        u, v = (
            model.embed([a for a, _ in PAIRS], tokenizer=tokenizer),
            model.embed([b for _, b in PAIRS], tokenizer=tokenizer),
        )
        joined = torch.from_numpy(np.stack([u, v], axis=1).reshape(-1, 32))
        scores = 5 * heads(joined).sigmoid().detach().numpy()[:, 0]
        np.testing.assert_allclose(model.predict(PAIRS, task="close", tokenizer=tokenizer).scores, scores, atol=1e-5)

    def test_of_an_odd_number_and_of_one(self, make_model, tokenizer):
        model = make_model()
        assert model.embed(TEXTS[:3], tokenizer=tokenizer).shape == (3, 32)
        assert model.embed("a cat", tokenizer=tokenizer).shape == (1, 32)

    def test_normalized(self, make_model, tokenizer):
        found = make_model().embed(TEXTS, tokenizer=tokenizer, normalize=True)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)

    def test_what_is_refused(self, make_model, tasks, tokenizer):
        model = make_model()
        with pytest.raises(ValueError, match="task 'same' reads a pair as one input"):
            model.embed(TEXTS, task="same", tokenizer=tokenizer)
        with pytest.raises(ValueError, match="texts has pairs"):
            model.embed(PAIRS, tokenizer=tokenizer)
        two = make_model([*tasks, replace(tasks[2], name="near")])
        with pytest.raises(
            ValueError, match="give the task whose embeddings are meant; .*: stars, close, topics, near"
        ):
            two.embed(TEXTS, tokenizer=tokenizer)


class TestCuts:
    ROWS = [" ".join(["cat"] * count) for count in (3, 1, 70, 100)]

    def test_each_row_says_how_many_tokens_it_lost(self, make_model, tasks, tokenizer):
        model = make_model([*tasks, *MORE])
        with pytest.warns(UserWarning, match="of 4 rows, some were cut") as caught:
            found = model.predict(self.ROWS, tasks="all", tokenizer=tokenizer)
        assert [str(each.message).split(": ")[1] for each in caught] == [
            "2 for task 'stars', 2 for task 'topics', 2 for task 'mood', 2 for task 'stars2'"
        ]
        assert found["stars"].truncated.tolist() == [0, 0, 8, 38]
        assert found["stars2"].truncated.tolist() == [0, 0, 67, 97]
        with pytest.warns(UserWarning, match="of 4 rows, .*: 4 for task 'close'"):
            pairs = model.predict([(text, "a " * 90) for text in self.ROWS], task="close", tokenizer=tokenizer)
        assert pairs.truncated.tolist() == [28, 28, 28 + 8, 28 + 38]
        with pytest.warns(UserWarning, match="of 4 rows, .*: 2 for task 'close'"):
            model.embed(self.ROWS, tokenizer=tokenizer)

    def test_nothing_is_said_of_whole_rows(self, make_model, tokenizer):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = make_model().predict(TEXTS, tasks="all", tokenizer=tokenizer)
            assert found["stars"].truncated.tolist() == [0] * 6
            assert make_model().predict([], task="stars", tokenizer=tokenizer).truncated.tolist() == []
