"""When one of two processes ends or stops, the other ends in bounded time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
    path = os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")])
    with open(folder / "log.txt", "w+") as log:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(data), str(folder), str(free_port())],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            process.wait(timeout=LIMIT)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
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
