"""An exported folder answers as the model does: mtbert's class, the example's, and the example in a process alone."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tiny import make_tokenizer

from mtbert.export import ExportedModel, is_export, standalone
from mtbert.modeling.problem_types import PROBLEM_TYPES
from mtbert.modeling.task_spec import TaskSpec
from mtbert.modeling.tokenization import encode_texts, encoding_rules, plain_tokenizer

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

LONG = " ".join(["the cat runs . a dog eats fish"] * 12)
TEXTS = ("", " ", "the cat", "a dog eats .", LONG, "[SEP] the [CLS] cat", "the\ncat\tÉté ½ 漢字", "[PAD]", "good " * 61)
PAIRS = tuple((first, TEXTS[(number * 5 + 2) % len(TEXTS)]) for number, first in enumerate(TEXTS))


def check_equal(found, expected):
    """Two predictions are the same, but for the last digits of fp32."""
    assert found.task.name == expected.task.name and found.task.calibration == expected.task.calibration
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_array_equal(found.truncated, expected.truncated)
    columns = zip(found.to_dict().items(), expected.to_dict().items(), strict=True)
    for (name, values), (expected_name, expected_values) in columns:
        assert name == expected_name
        if isinstance(values[0], float):
            np.testing.assert_allclose(values, expected_values, atol=1e-4)
        else:
            assert values == expected_values


def check_example(answer, row, task):
    """The example's answer of a row is that of `to_dict`."""
    name, columns = task.name, {key: values[row] for key, values in task.columns.items()}
    if "score" in answer:
        assert answer["score"] == pytest.approx(columns[name], abs=1e-4)
        if f"{name}.low" in columns:
            assert answer["interval"] == pytest.approx([columns[f"{name}.low"], columns[f"{name}.high"]], abs=1e-4)
        return
    assert answer.get("label", answer.get("labels")) == columns[name]
    for label, probability in answer["probabilities"].items():
        assert probability == pytest.approx(columns[f"{name}:{label}"], abs=1e-4)
    confidence = answer["confidence"]
    given = list(confidence.values()) if isinstance(confidence, dict) else confidence
    assert given == pytest.approx(np.asarray(task.confidence[row]).tolist(), abs=1e-4)
    assert answer.get("set") == columns.get(f"{name}.set")
    assert answer.get("abstained") == columns.get(f"{name}.abstained")


class Columns:
    """A prediction as `check_example` reads it."""

    def __init__(self, prediction):
        self.name, self.columns = prediction.task.name, prediction.to_dict()
        self.confidence = None if prediction.task.kind.numeric else prediction.confidence


@pytest.mark.filterwarnings("ignore:of .* rows, some were cut")
@pytest.mark.parametrize("which", ["exported", "adapted"])
@pytest.mark.parametrize("batch_tokens", [1, 100, 4096])
def test_answers_are_those_of_predict(which, batch_tokens, request):
    model, folder = request.getfixturevalue(which)
    own = ExportedModel(folder, threads=1)
    assert is_export(folder) and [task.name for task in own.tasks] == [task.name for task in model.tasks]
    for rows in (list(TEXTS), list(PAIRS)):
        found, expected = own.predict(rows, "all", batch_tokens), model.predict(rows, "all")
        assert list(found) == list(expected)
        for name in expected:
            check_equal(found[name], expected[name])
        row_answers = standalone.Model(folder, threads=1).answer(
            [(row, None) if isinstance(row, str) else row for row in rows]
        )
        for name, prediction in expected.items():
            columns = Columns(prediction)
            for number, answer in enumerate(row_answers):
                check_example(answer[name], number, columns)


@pytest.mark.filterwarnings("ignore:of .* rows, some were cut")
def test_forms_of_rows_and_tasks_are_those_of_predict(exported):
    model, folder = exported
    own = ExportedModel(folder, threads=1)
    check_equal(own.predict("the cat", "stars"), model.predict("the cat", "stars"))
    table = {"text": ["the cat", "a"], "text_pair": ["", "dog"]}
    check_equal(own.predict(table, ["same"])["same"], model.predict(table, ["same"])["same"])
    assert own.predict([], "stars").labels == [] and own.predict([], ["same"])["same"].logits.shape == (0, 1)
    for rows, tasks in ((["a"], None), (["a"], "same"), ([("a", "b")], "stars"), (["a"], "none"), ([1], "stars")):
        with pytest.raises((ValueError, KeyError)) as expected:
            model.predict(rows, tasks)
        with pytest.raises(type(expected.value)) as found:
            own.predict(rows, tasks)
        assert str(found.value) == str(expected.value)


def test_threads_may_predict_at_the_same_time(exported):
    _, folder = exported
    own = ExportedModel(folder, threads=1)
    texts = [text for text in TEXTS if len(text) < 50] * 5
    alone = own.predict(texts, ["stars"])["stars"].logits
    with ThreadPoolExecutor(8) as pool:
        apart = list(pool.map(lambda text: own.predict([text], ["stars"])["stars"].logits[0], texts))
    np.testing.assert_allclose(np.stack(apart), alone, atol=1e-5)


def test_the_example_runs_without_torch_transformers_and_mtbert(exported, run_example):
    model, folder = exported
    done = run_example(folder, "the cat", "", "--pair", "a dog", "the cat", "--pair", "", "")
    assert done.returncode == 0 and not done.stderr, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["input"] for line in lines] == ["the cat", "", ["a dog", "the cat"], ["", ""]]
    for rows, answers in ((["the cat", ""], lines[:2]), ([("a dog", "the cat"), ("", "")], lines[2:])):
        for name, prediction in model.predict(rows, "all").items():
            for number, answer in enumerate(answers):
                check_example(answer[name], number, Columns(prediction))
    assert run_example(folder).returncode == 2


# ---- the parts ----

KINDS = sorted(PROBLEM_TYPES)


def test_the_example_knows_every_problem_type():
    assert set(standalone.PROBABILITIES) >= set(KINDS)
    assert {kind for kind in KINDS if not PROBLEM_TYPES[kind].numeric} <= set(standalone.DECISIONS)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_is_that_of_the_table(kind):
    import torch

    logits = np.random.default_rng(0).normal(0, 4, size=(200, 3)).astype(np.float32)
    logits[0], logits[1] = 0, [90, -90, 0]
    table = PROBLEM_TYPES[kind]
    if table.numeric or table.binary:
        logits = logits[:, :1]
    expected = table.probabilities(torch.from_numpy(logits)).numpy()
    found = standalone.PROBABILITIES[kind](logits)
    np.testing.assert_allclose(found[:, 0] if table.numeric else found, expected, atol=1e-6)
    if not table.numeric:
        np.testing.assert_array_equal(
            standalone.DECISIONS[kind](logits), table.decisions(torch.from_numpy(logits)).numpy()
        )


SIDES = [
    TaskSpec("one", labels=2, max_length=5),
    TaskSpec("cross", labels=2, texts=2, max_length=8),
    TaskSpec("separated", labels=2, texts=2, separator=["[MASK]"], max_length=11),
    TaskSpec("untyped", labels=2, texts=2, token_types=False),
    TaskSpec("apart", labels=2, texts=2, pair="siamese", max_length=6),
    TaskSpec("both", labels=2, texts=2, pair="both", max_length=9),
]


@pytest.mark.parametrize("task", SIDES, ids=lambda task: task.name)
@pytest.mark.parametrize("options", [{}, {"truncation_side": "left"}, {"split_special_tokens": True}], ids=str)
def test_encoding_is_that_of_encode_texts(task, options, exported):
    model, _ = exported
    tokenizer, config = make_tokenizer(), model.config.encoder
    for key, value in options.items():
        setattr(tokenizer, key, value)
    texts, pairs = zip(*PAIRS, strict=True)
    second = pairs if task.texts == 2 else None
    expected = encode_texts(task, tokenizer, config, texts, second)
    rows = list(PAIRS) if task.texts == 2 else [(text, None) for text in texts]
    found = standalone.encode(plain_tokenizer(tokenizer), encoding_rules(task, tokenizer, config), rows)
    for number, row in enumerate(found):
        assert sum((ids for ids, _ in row["inputs"]), []) == expected["input_ids"][number]
        types = sum((types for _, types in row["inputs"]), [])
        assert types == expected.get("token_type_ids", [[0] * len(types)] * len(found))[number]
        assert row["truncated"] == expected["truncated"][number]


@pytest.mark.parametrize(("tokens", "rows"), [(1, None), (64, None), (64, 3), (10**6, None), (10**6, 4)])
def test_batches_have_every_row_once_and_little_padding(tokens, rows):
    lengths = np.random.default_rng(0).integers(3, 60, size=200)
    chosen = list(standalone.batches(lengths, 2, tokens, rows))
    assert sorted(np.concatenate(chosen)) == list(range(200))
    for batch in chosen:
        padded = len(batch) * lengths[batch].max()
        assert len(batch) == 1 or padded * 2 <= tokens
        assert rows is None or len(batch) <= rows
        assert padded - lengths[batch].sum() <= max(standalone.PADDING * padded, lengths[batch].max())
    assert list(standalone.batches(lengths[:0], 2, 64, None)) == []
