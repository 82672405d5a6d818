"""Several processes share the rows of `mtbert predict`, and write the file of one process."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from forked import start, wait
from predicted_tasks import SPECS
from tagged import SLOTS
from tiny import WORDS
from transformers import AutoTokenizer, set_seed

from mtbert.cli import arguments
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask

SCRIPT = Path(__file__).with_name("many_predictions.py")
COMMAND = [sys.executable, "-m", "mtbert", "predict"]


def run(*words: str, **variables: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **variables}
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, env=env, timeout=300)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_two_processes_write_the_file_of_one(checkpoint, rows, tmp_path, suffix, predict):
    rows.to_json(tmp_path / "in.jsonl.gz", orient="records", lines=True)
    words = [checkpoint, str(tmp_path / "in.jsonl.gz"), "--id", "key", "--device", "cpu", "--chunk_size", "9"]
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))  # as each of two processes has
    predict.main([*words, "--output", str(tmp_path / f"one.{suffix}")])  # 5 chunks, so that the last turn has one
    ended = run(*words, "--output", str(tmp_path / f"two.{suffix}"), "--num_processes", "2")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / f"two.{suffix}").read_bytes() == (tmp_path / f"one.{suffix}").read_bytes()
    assert "41 rows" in ended.stderr and "cut for task" in ended.stderr
    assert not list(tmp_path.glob("*.part"))


def test_processes_of_an_exported_model_share_the_cores(predict, monkeypatch, tmp_path):
    """Each process computes with its own share of the cores; one process alone with all."""
    given = []

    def exported(folder, threads=None):
        given.append(threads)
        raise InterruptedError

    monkeypatch.setattr(predict, "is_export", lambda folder: True)
    monkeypatch.setattr(predict, "ExportedModel", exported)
    monkeypatch.setattr(predict, "join_processes", lambda args: torch.set_num_threads(3))
    for processes in ("1", "2"):
        monkeypatch.setenv("WORLD_SIZE", processes)
        with pytest.raises(InterruptedError):
            predict.main([str(tmp_path), "in.csv", "--output", str(tmp_path / "out.csv")])
    assert given == [None, 3]


def test_a_row_that_cannot_be_read_leaves_no_file(checkpoint, rows, tmp_path):
    lines = rows.to_json(orient="records", lines=True).splitlines()
    lines[30] = '{"text": ["a list"], "text_pair": "b"}'
    Path(tmp_path, "in.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    words = [checkpoint, str(tmp_path / "in.jsonl.gz"), "--device", "cpu", "--chunk_size", "9"]
    ended = run(*words, "--output", str(tmp_path / "out.csv"), "--num_processes", "2")
    assert ended.returncode != 0
    assert "row 31" in ended.stderr
    assert not list(tmp_path.glob("out*"))


CASES = {  # rows of the input, format of the output, more of the command
    "41 rows, csv": (41, "csv", ["--keep_columns"]),
    "41 rows, tsv": (41, "tsv", ["--keep_columns"]),
    "41 rows, jsonl": (41, "jsonl", ["--keep_columns"]),
    "41 rows, parquet": (41, "parquet", ["--keep_columns"]),
    "compressed": (41, "csv.gz", []),
    "some tasks": (41, "jsonl", ["--tasks", "slots,topics"]),
    "one task of words": (41, "parquet", ["--tasks", "slots"]),
    "as many chunks as processes": (18, "csv", []),
    "fewer rows than processes": (1, "csv", ["--keep_columns"]),
    "one row of words": (1, "jsonl", ["--tasks", "slots"]),
    "one row, parquet": (1, "parquet", []),
    "no row, csv": (0, "csv", ["--keep_columns"]),
    "no row, tsv": (0, "tsv", []),
    "no row, jsonl": (0, "jsonl", []),
    "no row, parquet": (0, "parquet", ["--keep_columns"]),
    "a split of sources": (41, "csv", ["--split", "dev"]),
    "a split of sources, parquet": (41, "parquet", ["--split", "dev", "--keep_columns"]),
}


@pytest.fixture(scope="module")
def written_by_both(encoder_dir, tmp_path_factory):
    """Each case's output of one process, and that of two processes, which run all cases in turn."""
    folder, random = tmp_path_factory.mktemp("both"), np.random.default_rng(0)
    set_seed(1)
    model = MtBertForMultiTask.from_encoder(encoder_dir, (*SPECS, SLOTS))
    model.save_pretrained(folder / "checkpoint")
    AutoTokenizer.from_pretrained(encoder_dir).save_pretrained(folder / "checkpoint")
    sentences = [" ".join(random.choice(WORDS, size=random.integers(1, 30))) for _ in range(82)]
    frame = pd.DataFrame({"key": [f"R{i}" for i in range(41)], "text": sentences[:41], "text_pair": sentences[41:]})
    frame["note"] = [None if i % 5 == 2 else f'a "note", {i}' for i in range(41)]
    frame.loc[3, "text"] = ""
    for rows in (0, 1, 18, 41):
        frame[:rows].to_csv(folder / f"{rows}.csv", index=False)
    source = {"text": ["text"], "id": "key", "train": "41.csv", "dev": "41.csv"}
    pairs = source | {"text": ["text", "text_pair"]}
    tree = {"data_dir": str(folder), "sources": {"alone": source, "pairs": pairs}, "tasks": {}}
    for task in (*SPECS, SLOTS):
        data = {"source": "pairs" if task.texts == 2 else "alone", "label": task.name, "text": None}
        tree["tasks"][task.name] = {"data": data}
    (folder / "checkpoint" / "recipe.json").write_text(json.dumps(tree))
    commands = []
    for number, (rows, suffix, more) in enumerate(CASES.values()):
        words = [str(folder / "checkpoint"), *([] if "--split" in more else [str(folder / f"{rows}.csv")])]
        words += ["--id", "key", "--device", "cpu", "--chunk_size", "9", *more]
        commands.append([*words, "--output", str(folder / f"WHO-{number}.{suffix}")])
    for who in ("one", "two"):
        (folder / f"{who}.json").write_text(json.dumps(commands).replace("WHO-", f"{who}-"))
    threads_of_two = {"LOCAL_WORLD_SIZE": "2", "HF_HUB_OFFLINE": "1"}
    alone = start(SCRIPT, folder / "one.json", log=folder / "log.txt", **threads_of_two)
    assert wait(alone, 300) == 0, (folder / "log.txt").read_text()[-3000:]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(probe.getsockname()[1]),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
        }
    started = []
    for rank in "01":
        variables = {**place, "RANK": rank, "LOCAL_RANK": rank, "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
        log = folder / f"log-{rank}.txt"
        started.append(start(SCRIPT, folder / "two.json", log=log, **variables))
    codes = [wait(process, 300) for process in started]
    assert codes == [0, 0], "\n".join((folder / f"log-{rank}.txt").read_text()[-3000:] for rank in "01")
    return folder


@pytest.mark.parametrize("case", CASES)
def test_the_bytes_are_those_of_one_process(written_by_both, case):
    number, (rows, suffix, _) = list(CASES).index(case), CASES[case]
    one, two = (written_by_both / f"{who}-{number}.{suffix}" for who in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert not list(written_by_both.glob("*.part"))
    if suffix in ("csv", "jsonl"):
        lines = one.read_text().splitlines()
        assert len(lines) == rows + (suffix == "csv")


class TestRefused:
    def test_standard_input(self, checkpoint, tmp_path, capsys):
        with pytest.raises(SystemExit):
            arguments.predict([checkpoint, "--output", str(tmp_path / "out.csv"), "--num_processes", "2"])
        assert "standard input can be read by one process" in capsys.readouterr().err

    def test_standard_input_under_a_launcher(self, checkpoint, predict, tmp_path, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ValueError, match="standard input can be read by one process"):
            predict.main([checkpoint, "--output", str(tmp_path / "out.csv")])

    def test_no_processes(self, checkpoint, capsys):
        with pytest.raises(SystemExit):
            arguments.predict([checkpoint, "in.csv", "--output", "out.csv", "--num_processes", "0"])
        assert "--num_processes is 0, but must be 1 or more" in capsys.readouterr().err
