"""Malformed requests of model.predict, the pipeline and `mtbert predict`: answers for every row, or one error."""

from __future__ import annotations

import importlib

import pytest
from hypothesis import given, strategies as st
from malformed import tries, untouched
from transformers import pipeline

from mtbert import TaskSpec

TEXTS = st.text(max_size=12) | st.sampled_from(
    ["a cat", "\ud800", "\0", "x " * 5000, "", "[SEP]", "é\u0301", "\U0010ffff"]
)
ROWS = st.one_of(
    TEXTS,
    st.tuples(TEXTS, TEXTS),
    st.fixed_dictionaries({"text": TEXTS}, optional={"text_pair": TEXTS | st.none(), "label": st.integers()}),
    st.none(),
    st.integers(),
    st.floats(),
    st.binary(max_size=3),
    st.tuples(TEXTS, st.none()),
    st.lists(TEXTS, max_size=3),
)
INPUTS = st.lists(TEXTS, max_size=3) | st.lists(st.tuples(TEXTS, TEXTS), max_size=3) | st.lists(ROWS, max_size=3) | ROWS
NAMES = st.sampled_from(["stars", "same", "close", "topics", "all"]) | TEXTS | st.none() | st.integers()
COUNTS = st.none() | st.integers(-2, 9) | st.sampled_from([10**12, True, 1.5, "3", float("nan")])
DOCUMENTED = (ValueError, KeyError)  # KeyError: a task that there is not


@pytest.fixture(scope="module")
def model(encoder_dir):
    from mtbert import MtBertForMultiTask

    tasks = [
        TaskSpec("stars", labels=3),
        TaskSpec("same", "binary_classification", labels=["no", "yes"], texts=2),
        TaskSpec("close", range=(0, 5), texts=2, pair="siamese"),
        TaskSpec("topics", "multi_label_classification", labels=["cat", "dog"]),
    ]
    return MtBertForMultiTask.from_encoder(encoder_dir, tasks).eval()


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "in.csv").write_text("text,text_pair\na cat,a dog\nfine,\n")
    return folder


@tries(60)
@given(rows=INPUTS, task=NAMES, tasks=NAMES | st.lists(NAMES, max_size=3), size=COUNTS)
def test_predict(tally, model, tokenizer, rows, task, tasks, size):
    more = {} if size is None else {"batch_tokens": size}
    kwargs = {"task": task, "tasks": tasks} if size == 7 else {"task": task} if task is not None else {"tasks": tasks}
    found = tally.judge(lambda: model.predict(rows, tokenizer=tokenizer, **kwargs, **more), allowed=DOCUMENTED)
    if not isinstance(found, Exception):
        count = len(rows) if isinstance(rows, list) else 1
        for each in found.values() if isinstance(found, dict) else [found]:
            assert len(each.labels) == count and each.logits.shape[0] == count


@tries(40)
@given(texts=INPUTS, task=NAMES, size=COUNTS)
def test_embed(tally, model, tokenizer, texts, task, size):
    more = {} if size is None else {"batch_tokens": size}
    tally.judge(lambda: model.embed(texts, task=task, tokenizer=tokenizer, **more), allowed=DOCUMENTED)


@tries(40)
@given(rows=INPUTS, task=NAMES, top_k=COUNTS, size=COUNTS)
def test_pipeline(tally, model, tokenizer, rows, task, top_k, size):
    pipe = pipeline("multi-task-text-classification", model=model, tokenizer=tokenizer)
    more = {} if size is None else {"batch_size": size}
    found = tally.judge(lambda: pipe(rows, task=task, top_k=top_k, **more), allowed=DOCUMENTED)
    if isinstance(rows, list) and not isinstance(found, Exception):
        assert len(found) == len(rows)


@pytest.fixture(scope="module")
def predict():
    return importlib.import_module("mtbert.cli.predict")


ARGUMENTS = {
    "--tasks": ["stars", "same", "stars,stars", "x", "", "stars,close", "all", "../a"],
    "--text": ["text", "txt", "", "\0"],
    "--text_pair": ["text_pair", "text", "b"],
    "--id": ["text", "key", "stars", ""],
    "--batch_size": ["1", "0", "-1", "a", "9999999999"],
    "--chunk_size": ["1", "0", "x"],
    "--input_format": ["csv", "tsv", "json", "parquet", "cs224n", "text", "xml"],
    "--format": ["csv", "jsonl", "parquet", "cs224n", "xml"],
    "--device": ["cpu", "gpu", "cuda:99", "meta"],
}


@tries(12)
@given(
    given=st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in ARGUMENTS.items()}),
    name=st.sampled_from(["in.csv", "gone.csv", "", ".", "a" * 999, "config.json", "model.safetensors"]),
    output=st.sampled_from(["in.csv", ".", "config.json", "model.safetensors", "a" * 999 + ".csv"]),
)
def test_command_lines(tally, predict, folder, given, name, output):
    """No output that is asked for can be written here, so that nothing may change."""
    command = [str(folder), str(folder / name) if name else "", "--output", str(folder / output)]
    command += [f"{key}={value}" for key, value in given.items()]

    def run():
        try:
            predict.main(command)
        except SystemExit as ended:  # argparse has printed what is wrong
            assert ended.code == 2
            raise ValueError("usage") from None

    with untouched(folder):
        tally.tried += 1
        with pytest.raises((ValueError, OSError)):
            run()
