"""A run that fails has a status other than 0, prints one message, and sends its parent no signal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
# Runs a command, and says which signals came besides the one of a child that ended.
PARENT = """
import signal, subprocess, sys
came = []
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
    try:
        signal.signal(number, lambda number, frame: came.append(number))
    except (OSError, ValueError):
        pass
status = subprocess.run(sys.argv[1:], restore_signals=True).returncode
print("status", status, "signals", came)
"""
MTBERT = ["-m", "mtbert", "finetune"]
ACCELERATE = [
    "-m",
    "accelerate.commands.accelerate_cli",
    "launch",
    "--config_file",
    str(ROOT / "accelerate_config.yaml"),
]
ACCELERATE += ["--cpu", "--quiet", "-m", "mtbert.cli.finetune"]


@pytest.fixture
def fail(encoder_dir, tmp_path):
    """A function: how to start, changes of the recipe → standard output and error of a parent that starts the run."""
    (tmp_path / "rows.csv").write_text("text,label\n" + "the cat runs,0\na dog eats,1\n" * 8)

    def run(words, changes) -> tuple[str, str]:
        task = {"labels": 2, "data": {"train": "rows.csv"}}
        training = {"output_dir": "out", "report_to": "none", "use_cpu": True, "cpu_threads": 1, "max_steps": 4}
        tree = {"encoder": encoder_dir, "tasks": {"one": task}, "training": training}
        for path, value in changes.items():
            *parents, last = path.split(".")
            place = tree
            for key in parents:
                place = place[key]
            place[last] = value
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-c", PARENT, sys.executable, *words, "recipe.yaml"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        return done.stdout, done.stderr

    return run


@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [
        (MTBERT, {"training.learning_rat": 1.0}, "training.learning_rat = 1.0: there is no such key"),
        (MTBERT, {"training.learning_rate": 1e30}, "the loss of task 'one' is nan"),  # fails in the training
        (ACCELERATE, {"training.learning_rat": 1.0}, "training.learning_rat = 1.0: there is no such key"),
    ],
    ids=["recipe", "training", "launched"],
)
def test_a_failed_run(fail, words, changes, message):
    out, err = fail(words, changes)
    assert out.splitlines()[-1] == "status 1 signals []", err
    assert message in err and "Traceback" not in err
