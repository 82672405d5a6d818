"""The benchmark of the server runs, and compares one server of all heads with one for each."""

import json
import sys
from pathlib import Path

import pytest

FOLDER = str(Path(__file__).resolve().parents[2] / "benchmarks")


@pytest.fixture
def serving(monkeypatch):
    """The module `serving.py` of the benchmarks, which are no package."""
    monkeypatch.syspath_prepend(FOLDER)
    import serving

    yield serving
    for name in ("serving", "serving_load"):
        del sys.modules[name]


def test_it_measures_rising_load_half_load_and_long_texts(serving, encoder_dir, tmp_path):
    arguments = ["--smoke", "--encoder", encoder_dir, "--results", str(tmp_path), "--options", "--threads", "1"]
    assert serving.main(arguments) == 0
    found = json.loads((tmp_path / "serving.json").read_text())["rounds"]
    assert len(found) == 1 and found[0]["all"].keys() == found[0]["apart"].keys() == {"1", "8"}
    for side in ("all", "apart"):
        for each in found[0][side].values():
            assert each["rate"] > 0 and each["refused"] == 0 and each["p50"] <= each["p99"]
    assert found[0]["half"]["short texts beside long ones"]["rate"] > 0
    text = (tmp_path / "serving.md").read_text()
    assert "| greatest load, × the servers with one head each |" in text and "| one server, 2 heads |" in text


def test_times_of_requests_do_not_depend_on_other_kinds(serving):
    from serving_load import Load, _schedule

    short, long = Load(["a"], 50.0), Load(["b"], 2.5)
    alone = _schedule({"short": short}, 20, seed=3)
    both = _schedule({"short": short, "long": long}, 20, seed=3)
    assert [event for event in both if event[1] == "short"] == alone
    assert 900 < len(alone) < 1100 and 30 < len(both) - len(alone) < 70
    assert both == sorted(both) and both[-1][0] < 20
