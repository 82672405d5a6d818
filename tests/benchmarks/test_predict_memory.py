"""The benchmark of prediction's memory runs a process for each number of rows."""

import json
import sys
from pathlib import Path

import pytest

FOLDER = str(Path(__file__).resolve().parents[2] / "benchmarks")


@pytest.mark.slow  # it starts processes that predict
def test_it_measures_each_number_of_rows(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    import predict_memory

    predict_memory.main(["--rows", "50", "90", "--formats", "jsonl.gz → parquet", "--results", str(tmp_path)])
    del sys.modules["predict_memory"]
    fewest, most = json.loads((tmp_path / "predict_memory.json").read_text())["jsonl.gz → parquet"]
    assert (fewest["rows"], most["rows"]) == (50, 90) and most["measured"] > 100
    assert abs(most["measured"] - fewest["measured"]) < 50
    assert "| jsonl.gz → parquet |" in (tmp_path / "predict_memory.md").read_text()
