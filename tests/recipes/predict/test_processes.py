"""Several processes share the rows of `mtbert predict`, and write the file of one process."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtbert.cli import arguments

COMMAND = [sys.executable, "-m", "mtbert", "predict"]


def run(*words: str, **variables: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **variables}
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, env=env, timeout=300)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_two_processes_write_the_file_of_one(checkpoint, rows, tmp_path, suffix, predict):
    rows.to_json(tmp_path / "in.jsonl.gz", orient="records", lines=True)
    words = [checkpoint, str(tmp_path / "in.jsonl.gz"), "--id", "key", "--device", "cpu", "--chunk_size", "9"]
    predict.main([*words, "--output", str(tmp_path / f"one.{suffix}")])  # 5 chunks, so that the last turn has one
    ended = run(*words, "--output", str(tmp_path / f"two.{suffix}"), "--num_processes", "2")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / f"two.{suffix}").read_bytes() == (tmp_path / f"one.{suffix}").read_bytes()
    assert "41 rows" in ended.stderr and "cut for task" in ended.stderr
    assert not list(tmp_path.glob("*.part"))


def test_a_row_that_cannot_be_read_leaves_no_file(checkpoint, rows, tmp_path):
    lines = rows.to_json(orient="records", lines=True).splitlines()
    lines[30] = '{"text": ["a list"], "text_pair": "b"}'
    Path(tmp_path, "in.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    words = [checkpoint, str(tmp_path / "in.jsonl.gz"), "--device", "cpu", "--chunk_size", "9"]
    ended = run(*words, "--output", str(tmp_path / "out.csv"), "--num_processes", "2")
    assert ended.returncode != 0
    assert "row 31" in ended.stderr
    assert not list(tmp_path.glob("out*"))


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
