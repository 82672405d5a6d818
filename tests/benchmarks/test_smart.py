"""The benchmark of SMART runs, and adds up its bound."""

import json
import sys
from pathlib import Path

import pytest

FOLDER = str(Path(__file__).resolve().parents[2] / "benchmarks")


@pytest.fixture
def smart(monkeypatch):
    """The module `smart.py` of the benchmarks, which are no package."""
    monkeypatch.syspath_prepend(FOLDER)
    import smart

    yield smart
    del sys.modules["smart"]


def test_it_times_every_pass_and_case(smart, encoder_dir, monkeypatch, tmp_path):
    arguments = ["--encoder", encoder_dir, "--batch", "4", "--rounds", "2", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["smart.py", *arguments, "--results", str(tmp_path)])
    smart.main()
    seconds = json.loads((tmp_path / "smart.json").read_text())["seconds"]
    assert seconds.keys() >= {"plain", "forward", *smart.CASES}
    assert all(value > 0 for value in seconds.values())
    assert "| smart, 3 steps |" in (tmp_path / "smart.md").read_text()


def test_the_bound_is_the_sum_of_its_passes(smart):
    seconds = {"plain": 1.0, "forward and backward": 10.0, "forward and input gradient": 100.0, "forward": 1000.0}
    found = {name: smart.bound(seconds, *case) for name, case in smart.CASES.items()}
    assert found == {"smart": 111.0, "smart, 3 steps": 311.0, "proximal": 1001.0, "both": 1111.0}
