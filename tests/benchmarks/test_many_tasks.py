"""The benchmark of many tasks on one encoder runs, and compares them with one."""

import json
import sys
from pathlib import Path

import pytest

FOLDER = str(Path(__file__).resolve().parents[2] / "benchmarks")


@pytest.fixture
def many_tasks(monkeypatch):
    """The module `many_tasks.py` of the benchmarks, which are no package."""
    monkeypatch.syspath_prepend(FOLDER)
    import many_tasks

    yield many_tasks
    del sys.modules["many_tasks"]


def test_it_times_one_task_and_all(many_tasks, encoder_dir, tmp_path):
    arguments = ["--encoder", encoder_dir, "--tasks", "3", "--rows", "8", "--rounds", "2", "--threads", "1"]
    many_tasks.main([*arguments, "--results", str(tmp_path)])
    found = json.loads((tmp_path / "many_tasks.json").read_text())
    assert found["one task"]["ratio"] == 1
    assert found["3 tasks"]["texts_per_second"] > 0
    assert "| 3 tasks |" in (tmp_path / "many_tasks.md").read_text()
