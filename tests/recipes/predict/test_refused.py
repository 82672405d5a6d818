"""Rows, outputs, devices and checkpoints that `mtbert predict` refuses, and what they leave."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from predicted_tasks import SPECS

from mtbert.cli import arguments
from mtbert.data.streaming import RowSource
from mtbert.evaluation.prediction_files import PredictionFile
from mtbert.runs.text_scorer import TextScorer
from mtbert.training.peft import wrap


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".csv":
        return pd.read_csv(path, keep_default_na=False)
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_json(path, lines=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "in.csv",
            b"txt,b\n1,2\n",
            r"in\.csv: there is no column 'text'; did you mean 'txt'\? The columns are: \['txt'",
        ),
        ("in.csv", b"a\tb\n1\t2\n", r"in\.csv: there is no column 'text'; the columns are separated by tabs"),
        ("in.csv", b"text,b\n1,2\n1,2,3\n", r"in\.csv: row 2 \(line 3\) has 3 fields, but the header names 2"),
        ("in.csv", b"text\n1,2\n", r"in\.csv: row 1 \(line 2\) has 2 fields, but the header names 1"),
        ("in.csv", b"text\nfine\ngr\xfcn\n", r"in\.csv: line 3 is no UTF-8 text; convert the file"),
        ("in.csv", b"", r"in\.csv is empty"),
        ("in.csv", b"text\na\0b\n", r"in\.csv: row 1: 'text' holds a NUL character"),
        ("in.tsv", b'text\tb\n"a\t1\nb\t2\n"\t3\n', r"in\.tsv: row 1 \(line 2\): a quote that may be text swallowed"),
        ("in.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', r"in\.jsonl: line 2 has no 'text'; it has: txt"),
        ("in.jsonl", b'{"text": "a"}\n{"text": \n', r"in\.jsonl: line 2 is no JSON: Expecting value"),
        (
            "in.jsonl",
            b'{"text": "a"}\n3\n',
            r"in\.jsonl: line 2 is int, but must be an object with the columns",
        ),
        ("in.jsonl", b'{"text": "a"}\n\n{"text": ["b"]}\n', r"in\.jsonl: row 2: 'text' is a list, but must be text"),
        ("in.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', r"in\.jsonl: line 2 is no UTF-8 text"),
        ("in.json", b'[{"text": "a"}, {"b": 1}]', r"in\.json: row 2 has no 'text'; it has: b"),
        (
            "in.csv",
            b"text,b,b\n1,2,3\n",
            r"in\.csv: the header names \['b'\] more than once; give each column its name",
        ),
        ("in.csv", "text\na\n".encode("utf-16"), r"in\.csv: line 1 is no UTF-8 text; convert the file"),
        (
            "in.jsonl",
            b'{"text": "a"}\n{"text": "\\ud800"}',
            r"in\.jsonl: row 2: 'text' has half of a surrogate pair as",
        ),
        ("in.jsonl", b'{"text":' + b"[" * 99999, r"in\.jsonl: line 1 is no JSON: "),
        ("in.json", b"[" * 99999, r"in\.json is no JSON array: "),
        ("a" * 999 + ".csv", None, r"a\.csv does not exist; give a file, or - for standard input"),
        ("in.json", b'[{"text": "a"},', r"in\.json is no JSON array"),
        ("in.parquet", b"PAR", r"in\.parquet can not be read as parquet"),
        ("in.txt", b"a", r"in\.txt: its suffix is none of \.csv, .*; give its format"),
        ("none.csv", None, r"none\.csv does not exist; give a file, or - for standard input"),
    ],
)
def test_rows_that_can_not_be_read(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        list(RowSource(str(tmp_path / name)).chunks())


def test_a_parquet_file_that_is_broken_after_some_rows(tmp_path):
    path, rows = tmp_path / "in.parquet", pd.DataFrame({"text": [f"word {i}" for i in range(4)]})
    rows.to_parquet(path, row_group_size=2, compression=None)
    content = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(1).column(0)
    first = start.dictionary_page_offset or start.data_page_offset
    content[first : first + start.total_compressed_size] = b"\xff" * start.total_compressed_size
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"in\.parquet can not be read as parquet after row 2: .*; write the file"):
        list(RowSource(str(path), size=2).chunks())


def test_standard_input_that_can_not_be_read(monkeypatch):
    for text, message in ((b"a\n\xff\n", "standard input: line 2 is no UTF-8"), (b'{"a": 1}', "line 1 has no 'text'")):
        with pytest.raises(ValueError, match=message):
            list(RowSource("-").chunks(io.BytesIO(text)))
    with pytest.raises(ValueError, match="standard input can be json or text, not csv"):
        list(RowSource("-", format="csv").chunks(io.BytesIO(b"")))
    with pytest.raises(ValueError, match="there is no column 'text_pair'"):
        list(RowSource("-", ("text", "text_pair")).chunks(io.BytesIO(b"a text")))


def test_a_failure_leaves_no_output_and_nothing_is_overwritten_unasked(predict, checkpoint, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{}\n')
    output = tmp_path / "out.csv"
    command = [checkpoint, str(tmp_path / "in.jsonl"), "--tasks", "stars", "--output", str(output), "--chunk_size=1"]
    with pytest.raises(ValueError, match="line 3 has no 'text'"):
        predict.main(command)
    assert not output.exists() and not list(tmp_path.glob("*.part"))
    output.write_text("mine")
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(FileExistsError, match="out.csv exists; give another name, or --overwrite"):
        predict.main(command)
    assert output.read_text() == "mine"
    predict.main([*command, "--overwrite"])
    assert len(read(output)) == 1


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        ("out.txt", {}, "the suffix of out.txt says no format; give one of: csv, tsv, jsonl, parquet, cs224n"),
        ("out.csv", {"format": "xml"}, "format is 'xml'; give one of"),
        ("-", {"format": "parquet"}, "standard output can be csv, tsv or jsonl, not parquet"),
        ("out", {"format": "cs224n"}, "name its column with --id"),
        ("out", {"format": "cs224n", "id": "key"}, "task 'topics' is a multi_label_classification, which the course"),
        ("out.csv", {"id": "stars"}, "two columns would have one name"),
    ],
)
def test_outputs_that_are_refused(path, settings, message):
    with pytest.raises(ValueError, match=message):
        PredictionFile(path, SPECS, **settings)


def test_an_output_that_is_a_folder(tmp_path):
    with pytest.raises(FileExistsError, match="is a folder; give a file's name"):
        PredictionFile(str(tmp_path), SPECS[:1], "csv")


def test_devices_and_tokenizers_that_are_refused(predict, checkpoint):
    command = [checkpoint, "in.csv", "--output", "out.csv"]
    with pytest.raises(ValueError, match="--device is 'gpu', which can not be used: "):
        predict.main([*command, "--device", "gpu"])
    Path(checkpoint, "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=f"{checkpoint} has no tokenizer that can be loaded; save it there: "):
        predict.main(command)
    Path(checkpoint, "config.json").write_text("{")
    with pytest.raises(ValueError, match=f"{checkpoint} has no config that can be read: "):
        predict.main(command)
    with pytest.raises(ValueError, match="gone is no folder, and no hub gives it: "):
        predict.main([f"{checkpoint}/gone", "in.csv", "--output", "out.csv"])


def test_tasks_and_checkpoints_that_are_refused(predict, checkpoint, encoder_dir):
    command = ["in.csv", "--output", "out.csv"]
    with pytest.raises(ValueError, match=r"--tasks has \['sstt'\], but the checkpoint's tasks are: stars, topics"):
        predict.main([checkpoint, *command, "--tasks", "sstt"])
    with pytest.raises(ValueError, match="--tasks names a task twice: same,same"):
        predict.main([checkpoint, *command, "--tasks", "same,same"])
    assert arguments.predict([checkpoint, *command, "--task", "same"]).tasks == "same"
    assert arguments.predict([checkpoint, *command]).tasks == "all"
    with pytest.raises(SystemExit):
        arguments.predict([checkpoint, *command, "--task", "same", "--tasks", "same"])
    with pytest.raises(ValueError, match="is a checkpoint of bert, not of mtbert"):
        predict.main([encoder_dir, *command])
    with pytest.raises(SystemExit):
        predict.main([checkpoint, *command, "--batch_size", "0"])


def test_a_checkpoint_of_peft_needs_its_encoder(predict, make_model, tokenizer, encoder_dir, rows, tmp_path):
    folder = str(tmp_path / "peft")
    model = wrap(make_model(SPECS), {"r": 2, "target_modules": ["query"]})
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    model.save_pretrained(folder)
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="holds what peft has added only; name the encoder with --encoder"):
        predict.load(folder, None, "cpu")
    loaded = predict.load(folder, encoder_dir, "cpu")
    assert isinstance(loaded, PeftModel)
    found = [TextScorer(each, tokenizer, ["stars"])(rows["text"])["stars"] for each in (model, loaded)]
    np.testing.assert_array_equal(*found)


def test_help_names_every_format(predict, capsys):
    with pytest.raises(SystemExit) as ended:
        predict.main(["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and "cs224n" in shown and "standard input" in shown and "--overwrite" in shown
