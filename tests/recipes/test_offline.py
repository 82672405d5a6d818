"""With a switch for offline work set, nothing asks the network: not to load, to train, to predict or to report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OF_HUB = {"HF_HUB_OFFLINE": "1"}
OF_OTHERS = {"TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@pytest.mark.parametrize("switches", [OF_HUB, pytest.param(OF_OTHERS, marks=pytest.mark.soak)], ids=["hub", "others"])
def test_a_run_without_a_network(switches, encoder_dir, tmp_path):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    environment = {**kept, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", **switches}
    recipe = ROOT / "recipes" / "configs" / "quickstart.yaml"
    command = [sys.executable, Path(__file__).with_name("offline.py"), recipe, encoder_dir, tmp_path / "run"]
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-4000:]
    *lines, asked = done.stdout.strip().splitlines()
    assert json.loads(asked) == []
    assert sum(line.startswith("refused: ") for line in lines) == 2
    assert (tmp_path / "run" / "out.csv").stat().st_size
    assert (tmp_path / "run" / "report" / "report.html").stat().st_size
