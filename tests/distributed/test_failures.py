"""When one of two processes ends or stops, the other ends in bounded time; an elastic agent starts both again."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from forked import start, wait
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("failing.py")
LIMIT = 480  # seconds for all runs, which take about 20 where nothing else runs


@pytest.fixture(scope="module")
def done() -> dict:
    """Holds what the runs left, which comes from fixtures that last one test: the first test that asks makes it."""
    return {}


@pytest.fixture
def results(done, write_data, free_port, tmp_path_factory) -> dict:
    """The folder of the runs, and how they ended."""
    if done:
        return done
    data, folder = tmp_path_factory.mktemp("failing-data"), tmp_path_factory.mktemp("failing")
    write_data(data)
    wait(start(SCRIPT, data, folder, free_port(), log=folder / "log.txt", OMP_NUM_THREADS="1"), LIMIT)
    log = (folder / "log.txt").read_text()
    path = folder / "ends.json"
    ends = json.loads(path.read_text()) if path.exists() else {}
    done.update(folder=folder, log=log, ends=ends)
    return done


def test_both_processes_of_an_undisturbed_run_end_well(results):
    assert results["ends"], results["log"][-6000:]
    assert results["ends"]["whole"]["codes"] == [0, 0]


@pytest.mark.parametrize("failure", ["killed", "stopped"])
def test_the_other_process_ends_in_bounded_time(failure, results):
    """A killed process is noticed at once, a stopped one after `ddp_timeout` (10 s; 600 s where it is killed)."""
    ends = results["ends"][failure]
    assert ends["codes"] == [1, -signal.SIGKILL]
    assert ends["seconds"] < 120
    assert not (results["folder"] / failure / "began.json").exists()
    assert (results["folder"] / failure / "run" / "checkpoint-2").is_dir()


def test_the_agent_starts_both_again_from_the_last_checkpoint(results):
    folder = results["folder"]
    assert (folder / "restarted" / "began.json").exists(), results["log"][-6000:]
    assert json.loads((folder / "restarted" / "began.json").read_text()) == "checkpoint-2"
    assert json.loads((folder / "whole" / "began.json").read_text()) is None
    one, other = (load_file(folder / name / "run" / "model.safetensors") for name in ("whole", "restarted"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
