"""The benchmark of memory trains in a process of its own, and compares what that held with what was estimated."""

import json
import sys
from pathlib import Path

import pytest

FOLDER = str(Path(__file__).resolve().parents[2] / "benchmarks")


@pytest.fixture
def benchmark():
    """The module `memory` of the benchmarks, which are no package."""
    sys.path.insert(0, FOLDER)
    try:
        import memory

        yield memory
    finally:
        sys.path.remove(FOLDER)
        sys.modules.pop("memory", None)


@pytest.mark.slow  # it starts a process that trains
def test_a_run_is_measured(benchmark, encoder_dir, tmp_path):
    benchmark.main(["--runs", "plain", "--steps", "2", "--encoder", encoder_dir, "--results", str(tmp_path)])
    found = json.loads((tmp_path / "memory.json").read_text())["plain"]
    assert found["measured"] > found["before"] > found["weights"] > 0
    assert found["off"] == pytest.approx(found["estimated"] / found["measured"] - 1)
    assert abs(found["off"]) < 0.25  # nearly all of it is what the process itself takes
    assert "| plain |" in (tmp_path / "memory.md").read_text()
