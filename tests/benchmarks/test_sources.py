"""The benchmark of sources runs, and compares every number of heads with one in the same round."""

import json
import sys
from pathlib import Path

import pytest

FOLDER = str(Path(__file__).resolve().parents[2] / "benchmarks")


@pytest.fixture
def sources(monkeypatch):
    """The module `sources.py` of the benchmarks, which are no package."""
    monkeypatch.syspath_prepend(FOLDER)
    import sources

    yield sources
    del sys.modules["sources"]


def test_it_times_every_number_of_heads(sources, encoder_dir, tmp_path):
    sources.main(["--smoke", "--encoder", encoder_dir, "--threads", "1", "--results", str(tmp_path)])
    values = json.loads((tmp_path / "sources.json").read_text())
    assert list(values["seconds"])[:4] == ["1 head", "2 heads", "4 heads", "8 heads"]
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in values["seconds"].values())
    assert "| 8 heads, rows apart |" in (tmp_path / "sources.md").read_text()


def test_a_source_is_encoded_once_and_rows_apart_k_times(sources, encoder_dir, tokenizer):
    table = sources.make_table(tokenizer, 8)
    tokens = [sources.make_step(encoder_dir, table, heads, 4, one)(0) for heads, one in ((1, True), (8, True))]
    assert tokens[0] == tokens[1]
    assert sources.make_step(encoder_dir, table, 4, 4, False)(0) == 4 * tokens[0]


def test_ratios_are_of_the_same_round(sources):
    rows = sources.rows_of_table({"1 head": [1.0, 2.0], "8 heads": [1.1, 2.4]})
    assert rows[0] == ["1 head", 1.5, 1.0, 1.0, 1.0]
    assert rows[1][2:] == pytest.approx([1.15, 1.1, 1.2])
