"""The benchmark of gradient surgery times every method against the plain sum, and writes what it found."""

import json
import sys
from pathlib import Path

import pytest

FOLDER = str(Path(__file__).resolve().parents[2] / "benchmarks")


@pytest.fixture
def benchmark():
    """The module `surgery` of the benchmarks, which are no package."""
    sys.path.insert(0, FOLDER)
    try:
        import surgery

        yield surgery
    finally:
        sys.path.remove(FOLDER)


def test_every_method_is_timed_against_the_plain_sum(benchmark, encoder_dir, course_pairs, tmp_path):
    arguments = ["--rounds", "2", "--steps", "1", "--batch", "4", "--threads", "1", "--encoder", encoder_dir]
    methods = ["pcgrad", "cagrad", "mgda", "upgrad"]
    benchmark.main([*arguments, "--data_dir", course_pairs, "--methods", *methods, "--results", str(tmp_path)])
    found = json.loads((tmp_path / "surgery.json").read_text())
    assert found["plain"]["ratios"] == [1.0, 1.0] and found["plain"]["gradients_mib"] == 0
    for method in methods:
        assert len(found[method]["ratios"]) == 2 and min(found[method]["ratios"]) > 0
        assert found[method]["gradients_mib"] > 0
        assert f"| {method} |" in (tmp_path / "surgery.md").read_text()


@pytest.fixture
def course_pairs(tmp_path) -> str:
    """A folder with a small file of sentence pairs."""
    rows = [f"{i}\tr{i}\tthe cat runs\ta dog sleeps {i % 7}\t{i % 2}.0" for i in range(60)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "quora-train.csv").write_text(
        "\n".join(["\tid\tsentence1\tsentence2\tis_duplicate", *rows]) + "\n"
    )
    return str(tmp_path / "data")
