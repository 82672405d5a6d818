"""Malformed data files: their rows are read and checked, or one error names the file and says what to do."""

from __future__ import annotations

import io
import json

import pandas as pd
import pytest
from hypothesis import given, strategies as st
from malformed import tries, untouched

from mtbert.data.spec import DataSpec
from mtbert.data.splits import LoadedTask, load_task
from mtbert.data.streaming import RowSource
from mtbert.modeling.task_spec import TaskSpec

TASKS = (
    TaskSpec("mood", labels=["bad", "good"]),
    TaskSpec("score", range=(0, 5)),
    TaskSpec("topics", "multi_label_classification", labels=["art", "law"]),
    TaskSpec("same", "binary_classification", labels=["no", "yes"], texts=2),
)
LABELS = {"mood": ["bad", "good"], "score": ["1", "4.5"], "topics": ["art", "art|law"], "same": ["no", "yes"]}
ODD = st.one_of(
    st.sampled_from(
        ["", " ", "\0", '"', '""', "a\tb\nc", "\r", "nan", "-1", "1e400", "9" * 400, "x" * 300_000, "\ud800"]
    ),
    st.text(max_size=6),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.lists(st.integers() | st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
PIECES = [
    b'"',
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b",",
    b"\t",
    b"[" * 3000,
    b"{",
    b"}",
    b"\\ud800",
    b"NaN",
    b"9" * 5000,
]


def rows_of(draw, task: TaskSpec) -> list[dict]:
    """A few good rows with up to three values, keys or rows that are odd."""
    columns = ["text", "second"][: task.texts]
    rows = [{**{c: f"{c} {i}" for c in columns}, "label": LABELS[task.name][i % 2], "key": f"r{i}"} for i in range(4)]
    for _ in range(draw(st.integers(0, 3))):
        row, key = draw(st.sampled_from(rows)), draw(st.sampled_from([*columns, "label", "key", "new"]))
        if draw(st.booleans()):
            row[key] = draw(ODD)
        else:
            row.pop(key, None)
    return rows


def written(rows: list[dict], suffix: str) -> bytes:
    if suffix == "parquet":
        file = io.BytesIO()
        pd.DataFrame(rows).to_parquet(file)
        return file.getvalue()
    if suffix in ("csv", "tsv"):
        return (
            pd.DataFrame(rows)
            .to_csv(index=False, sep="," if suffix == "csv" else "\t")
            .encode("utf-8", "surrogatepass")
        )
    lines = [json.dumps(row) for row in rows]
    return ("\n".join(lines) if suffix == "jsonl" else f"[{','.join(lines)}]").encode("utf-8", "surrogatepass")


@st.composite
def files(draw) -> tuple[TaskSpec, str, bytes]:
    """A task, a suffix, and the bytes of a file with such rows, spoilt once or twice or not at all."""
    task, suffix = draw(st.sampled_from(TASKS)), draw(st.sampled_from(["csv", "tsv", "json", "jsonl", "parquet"]))
    try:
        raw = written(rows_of(draw, task), suffix)
    except Exception:  # what a format does not hold is no file of it
        raw = written([{"text": "a", "second": "b", "label": "x"}], suffix)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(raw)))
        how = draw(st.sampled_from(["flip", "flip", "cut", "piece", "piece", "double", "utf-16", "crlf", "latin-1"]))
        if how == "flip" and at < len(raw):
            raw = raw[:at] + bytes([raw[at] ^ draw(st.integers(1, 255))]) + raw[at + 1 :]
        elif how == "cut":
            raw = raw[:at]
        elif how == "piece":
            raw = raw[:at] + draw(st.sampled_from(PIECES)) + raw[at:]
        elif how == "double":
            raw = raw[:at] + raw[max(0, at - 20) :]
        elif how in ("utf-16", "latin-1"):
            raw = raw.decode("utf-8", "replace").encode(how, "replace")
        else:
            raw = raw.replace(b"\n", b"\r\n")
    return task, suffix, raw


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    """The cache of datasets goes with the test."""
    import datasets

    kept = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    yield
    datasets.config.HF_DATASETS_CACHE = kept


def write(folder, suffix: str, raw: bytes):
    for old in folder.iterdir():
        old.unlink()
    path = folder / f"train.{suffix}"
    path.write_bytes(raw)
    return path


@tries(40)
@given(file=files())
def test_files_to_train_on(tally, folder, file):
    task, suffix, raw = file
    path = write(folder, suffix, raw)
    text = ("text", "second")[: task.texts]
    with untouched(folder):
        found = tally.judge(lambda: load_task(task, DataSpec(text, train=path.name), folder), str(path))
        if isinstance(found, LoadedTask):
            rows = found.splits["train"].to_list()
            assert rows and all(row["text"].strip() and row["label"] is not None for row in rows)


@tries(40)
@given(file=files())
def test_files_to_predict(tally, folder, file):
    task, suffix, raw = file
    path = write(folder, suffix, raw)
    source = RowSource(str(path), ("text", "second")[: task.texts], "key", size=2)
    with untouched(folder):
        found = tally.judge(lambda: list(source.chunks()), str(path))
        if isinstance(found, list):
            assert [row for chunk in found for row in chunk["row"]] == list(
                range(1, 1 + sum(len(c["row"]) for c in found))
            )


@tries(30)
@given(
    raw=st.lists(
        st.sampled_from([*PIECES, b'{"text": "a", "key": 1}\n', b"a text\n"]) | st.binary(max_size=9), max_size=5
    )
)
def test_standard_input(tally, raw):
    tally.judge(lambda: list(RowSource("-", id=None).chunks(io.BytesIO(b"".join(raw)))), "standard input")
