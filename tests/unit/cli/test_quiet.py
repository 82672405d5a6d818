"""Commands show no progress bars of other libraries; importing mtbert changes no setting of theirs."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
STATE = """
import datasets, json, os
from huggingface_hub.utils import are_progress_bars_disabled
from transformers.utils import logging
shown = [logging.is_progress_bar_enabled(), datasets.are_progress_bars_disabled(), are_progress_bars_disabled()]
print(json.dumps([*shown, os.environ.get("HF_DATASETS_DISABLE_PROGRESS_BARS")]))
"""
SILENCE = "from mtbert.cli.quiet import silence_libraries; silence_libraries(); "


def state_after(statement: str) -> list:
    """Whether transformers shows bars, datasets and the hub hide theirs, and the variable for further processes."""
    environment = {key: value for key, value in os.environ.items() if "PROGRESS_BARS" not in key}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", statement + STATE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_mtbert_leaves_the_bars():
    assert state_after("import mtbert; mtbert.MtBertTrainer, mtbert.train; ") == [True, False, False, None]


def test_a_command_turns_them_off():
    assert state_after(SILENCE) == [False, True, True, "1"]
    assert state_after(f"import datasets; {SILENCE}") == [False, True, True, "1"]
