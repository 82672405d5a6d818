"""Prediction: the model's own logits row by row, in order, from and into every format, a chunk in memory at a time."""

from __future__ import annotations

import gzip
import io
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from predicted_tasks import SPECS
from scipy.special import expit, softmax

from mtbert import MtBertForMultiTask, TaskSpec
from mtbert.data.streaming import RowSource
from mtbert.evaluation.text_scorer import TextScorer


def one_by_one(model, tokenizer, task: TaskSpec, rows: pd.DataFrame) -> np.ndarray:
    """Each row through transformers' own padded call, alone."""
    found = []
    for text, pair in zip(rows["text"], rows["text_pair"], strict=True):
        limit = {
            "truncation": True,
            "max_length": task.max_length or 64,
            "return_tensors": "pt",
            "return_token_type_ids": True,
        }
        if task.pair == "both":
            sides = [tokenizer(*each, **limit) for each in ((text,), (pair,), (text, pair))]
            batch = tokenizer.pad([{key: value[0] for key, value in side.items()} for side in sides])
        elif task.siamese:
            batch = tokenizer([text, pair], padding=True, **limit)
        else:
            batch = tokenizer(text, pair if task.texts == 2 else None, **limit)
        if task.texts == 1 or not task.token_types or task.siamese:
            batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
        with torch.no_grad():
            found.append(model(**batch, task=task.name).logits)
    return torch.cat(found).numpy()


@pytest.mark.parametrize("settings", [{}, {"adapter": {"size": 12}}, {"packed": False}], ids=str)
def test_logits_are_the_model_s_own_row_by_row(make_model, tokenizer, rows, settings):
    model = make_model(SPECS, **settings).eval()
    scorer = TextScorer(model, tokenizer, [task.name for task in reversed(SPECS)], batch_size=7)
    passes = []
    model.encoder.register_forward_hook(lambda *_: passes.append(1))
    found = scorer(rows["text"], rows["text_pair"])
    assert len(passes) == 5 * math.ceil(41 / 7)  # stars and topics share a pass, so do same and alike
    assert list(found) == [task.name for task in reversed(SPECS)]
    for task in SPECS:
        expected = one_by_one(model, tokenizer, task, rows)
        assert found[task.name].shape == (41, task.num_labels)
        np.testing.assert_allclose(found[task.name], expected, atol=2e-5, err_msg=task.name)
        texts = [rows["text"], rows["text_pair"]] if task.texts == 2 else [rows["text"]]
        given = texts[0] if task.texts == 1 else list(zip(*texts, strict=True))
        assert scorer.cut[task.name] == np.count_nonzero(model.predict(given, task.name, tokenizer=tokenizer).truncated)
    assert sum(scorer.cut.values()) >= 30


def write(rows: pd.DataFrame, path: Path) -> None:
    if path.suffix in (".csv", ".tsv"):
        rows.to_csv(path, index=False, sep="," if path.suffix == ".csv" else "\t")
    elif path.suffix == ".parquet":
        rows.to_parquet(path)
    else:
        rows.to_json(path, orient="records", lines=path.suffix == ".jsonl")


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".csv":
        return pd.read_csv(path, keep_default_na=False)
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_json(path, lines=True)


@pytest.mark.parametrize("chunk", [4, 41, 1000])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("in.csv", "out.csv"),
        ("in.tsv", "out.jsonl"),
        ("in.jsonl", "out.parquet"),
        ("in.json", "sub/out.csv"),
        ("in.parquet", "out.csv"),
    ],
)
def test_every_format_holds_what_the_logits_say(predict, checkpoint, tokenizer, rows, tmp_path, source, target, chunk):
    write(rows.rename(columns={"text": "first", "text_pair": "second"}), tmp_path / source)
    columns = ["--text", "first", "--text_pair", "second", "--id", "key"]
    output = tmp_path / target
    predict.main(
        [checkpoint, str(tmp_path / source), *columns, "--output", str(output), f"--chunk_size={chunk}"]
        + ["--batch_size", "5", "--device", "cpu"]
    )
    found, model = read(output), MtBertForMultiTask.from_pretrained(checkpoint).eval()
    assert found["key"].tolist() == rows["key"].tolist()
    scorer = TextScorer(model, tokenizer, [task.name for task in SPECS])
    logits = scorer(rows["text"], rows["text_pair"])
    assert found["stars"].astype(str).tolist() == logits["stars"].argmax(1).astype(str).tolist()
    stars = found[["stars:0", "stars:1", "stars:2"]].to_numpy()
    np.testing.assert_allclose(stars, softmax(logits["stars"], axis=1), atol=1e-5)
    assert found["same"].tolist() == [("no", "yes")[each] for each in (logits["same"][:, 0] > 0).astype(int)]
    np.testing.assert_allclose(found["same:yes"], expit(logits["same"][:, 0]), atol=1e-5)
    np.testing.assert_allclose(found["same:no"] + found["same:yes"], 1, atol=1e-6)
    for name in ("alike", "close", "plain"):
        np.testing.assert_allclose(found[name], logits[name][:, 0], atol=1e-5)
    on = expit(logits["topics"]) > 0.5
    assert found["topics"].tolist() == ["|".join(np.array(["cat", "dog"])[row]) for row in on]
    assert not list(tmp_path.rglob("*.part"))


def test_the_course_s_files_are_what_its_code_writes(predict, checkpoint, tokenizer, course_dir, tmp_path):
    """Headings and rows as the starter code's `f.write` lines have them."""
    path = course_dir / "sts-test-student.csv"
    command = [checkpoint, str(path), "--input_format", "cs224n", "--format", "cs224n", "--id", "id"]
    columns = ["--text", "sentence1", "--text_pair", "sentence2"]
    predict.main([*command, *columns, "--tasks", "stars,same,close", "--output", str(tmp_path / "all")])
    rows = pd.read_csv(path, sep="\t")
    scorer = TextScorer(MtBertForMultiTask.from_pretrained(checkpoint), tokenizer, ["stars", "same", "close"])
    logits = scorer(rows["sentence1"], rows["sentence2"])
    expected = {
        "stars": ("Predicted_Sentiment", logits["stars"].argmax(1)),
        "same": ("Predicted_Is_Paraphrase", torch.tensor(logits["same"]).sigmoid().round().flatten().numpy()),
        "close": ("Predicted_Similiary", logits["close"].flatten()),
    }
    for task, (heading, values) in expected.items():
        text = f"id \t {heading} \n" + "".join(f"{i} , {v} \n" for i, v in zip(rows["id"], values, strict=True))
        assert (tmp_path / "all" / f"{task}.csv").read_bytes() == text.encode()
    predict.main([*command, *columns, "--tasks", "same", "--output", str(tmp_path / "one.csv")])
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "all" / "same.csv").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "second", "form"),
    [
        ("in.csv", 'key,text\na,the\rcat\nb,"a\rdog"\r\n\nc,\n', "a\rdog", []),
        ("in.tsv", 'key\ttext\na\tthe cat\nb\t"a" dog\nc\t\n', '"a" dog', ["--quoting", "none"]),
        (
            "in.csv",
            'key;text\na;"the; cat"\nb;"a \\"dog\\""\nc;\n',
            'a "dog"',
            ["--separator", ";", "--quoting", "backslash"],
        ),
        (
            "in.jsonl.gz",
            '{"key": "a", "text": "x"}\n\n{"key": "b", "text": "2020-01-01"}\n{"key": "c", "text": ""}',
            "2020-01-01",
            [],
        ),
    ],
)
def test_three_rows_are_three_answers(predict, checkpoint, tokenizer, tmp_path, name, content, second, form):
    raw = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    output = tmp_path / "out.csv"
    command = [checkpoint, str(tmp_path / name), "--tasks", "stars", "--id", "key", "--output", str(output), *form]
    predict.main(command)
    logits = TextScorer(MtBertForMultiTask.from_pretrained(checkpoint), tokenizer, ["stars"])([second, ""])["stars"]
    found = read(output)
    assert found["key"].tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(found[["stars:0", "stars:1", "stars:2"]][1:], softmax(logits, axis=1), atol=1e-5)


# ---- standard input ----


def feed(monkeypatch, text: str | bytes) -> None:
    content = text.encode() if isinstance(text, str) else text
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_standard_input_and_output(predict, checkpoint, tokenizer, monkeypatch, capsys):
    model = MtBertForMultiTask.from_pretrained(checkpoint).eval()
    expected = TextScorer(model, tokenizer, ["alike"])(["the cat", "a dog"], ["a cat", "the dog"])["alike"][:, 0]
    rows = [{"text": "the cat", "text_pair": "a cat", "n": 7}, {"text": "a dog", "text_pair": "the dog", "n": 8}]
    feed(monkeypatch, "\n\n".join(json.dumps(row) for row in rows))
    predict.main([checkpoint, "--tasks", "alike", "--output", "-", "--format", "jsonl", "--id", "n"])
    found = lines(capsys)
    assert [row["n"] for row in found] == ["7", "8"]
    assert [row["alike"] for row in found] == pytest.approx(expected.tolist(), abs=1e-5)
    feed(monkeypatch, "\ufeffthe cat\r\n\r\nlast")
    predict.main([checkpoint, "-", "--tasks", "stars", "--output", "-", "--format", "jsonl"])
    found = lines(capsys)
    assert [row["row"] for row in found] == [1, 2, 3]
    expected = TextScorer(model, tokenizer, ["stars"])(["the cat", "", "last"])["stars"]
    assert [row["stars"] for row in found] == [str(each) for each in expected.argmax(1)]


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.parquet", "-"])
def test_no_rows_give_an_output_without_rows(predict, checkpoint, rows, tmp_path, monkeypatch, name):
    feed(monkeypatch, b"")
    path = name if name == "-" else str(tmp_path / name)
    if name != "-":
        write(rows.iloc[:0], tmp_path / name)
    for suffix in ("csv", "jsonl", "parquet"):
        output = tmp_path / f"out.{suffix}"
        predict.main([checkpoint, path, "--tasks", "stars", "--output", str(output)])
        assert output.exists()
        if suffix != "jsonl":
            assert list(read(output)) == ["row", "stars", "stars:0", "stars:1", "stars:2"] and not len(read(output))


def test_a_huge_field_is_cut_and_told(predict, checkpoint, tmp_path, capsys):
    (tmp_path / "in.csv").write_text(f'text\nthe cat\n"{"a dog, " * 20_000}"\n')
    predict.main([checkpoint, str(tmp_path / "in.csv"), "--tasks", "stars", "--output", str(tmp_path / "out.csv")])
    assert len(read(tmp_path / "out.csv")) == 2
    assert capsys.readouterr().err.strip().endswith("2 rows; 1 cut for task stars")


# ---- memory ----


def test_no_more_than_a_chunk_of_100000_rows_is_held():
    drawn = 0

    def stream():
        nonlocal drawn
        for i in range(100_000):
            drawn += 1
            yield b'{"text": "row %d"}\n' % i

    seen = 0
    for chunk in RowSource("-", size=100).chunks(stream()):
        assert len(chunk["text"]) == 100 and drawn <= seen + 101
        assert chunk["text"][0] == f"row {seen}" and chunk["row"][0] == seen + 1
        seen += 100
    assert seen == drawn == 100_000


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_files_are_read_by_the_chunk_in_order(tmp_path, suffix):
    path = tmp_path / f"in{suffix}"
    write(pd.DataFrame({"text": [f"row {i}" for i in range(2_050)], "other": 1}), path)
    chunks = list(RowSource(str(path), size=100).chunks())
    assert [len(chunk["text"]) for chunk in chunks] == [100] * 20 + [50]
    assert [text for chunk in chunks for text in chunk["text"]] == [f"row {i}" for i in range(2_050)]
    assert [row for chunk in chunks for row in chunk["row"]] == list(range(1, 2_051))
