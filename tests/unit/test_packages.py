"""The look-up of vulnerabilities fails for those that are published, and for nothing else."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / ".ci" / "packages.py"


@pytest.fixture
def packages():
    spec = importlib.util.spec_from_file_location("packages", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answer(*dependencies):
    """A stand-in for pip-audit, which asks the network."""

    def run(command, timeout, **kwargs):
        Path(command[command.index("--output") + 1]).write_text(json.dumps({"dependencies": dependencies}))

    return run


GOOD = {"name": "good", "version": "1", "vulns": []}
BAD = {"name": "bad", "version": "1.2", "vulns": [{"id": "CVE-1", "fix_versions": ["1.3"]}]}
OPEN = {"name": "open", "version": "2", "vulns": [{"id": "CVE-2", "fix_versions": []}]}
UNKNOWN = {"name": "unknown", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("dependencies", "code", "line"),
    [
        ([GOOD, UNKNOWN], 0, "packages: 1 of 2 audited, no known vulnerabilities"),
        ([GOOD, BAD], 1, "bad 1.2: CVE-1: take 1.3"),
        ([OPEN, GOOD], 1, "open 2: CVE-2: take another package"),
        ([UNKNOWN], 0, "packages: not audited"),
    ],
)
def test_what_is_said_of_an_answer(packages, monkeypatch, capsys, dependencies, code, line):
    monkeypatch.setattr(packages.subprocess, "run", answer(*dependencies))
    assert packages.main("constraints.txt") == code
    assert line in capsys.readouterr().out


@pytest.mark.parametrize("error", [subprocess.TimeoutExpired("pip-audit", 1), FileNotFoundError("no python")])
def test_no_answer_is_no_failure(packages, monkeypatch, capsys, error):
    def run(*args, **kwargs):
        raise error

    monkeypatch.setattr(packages.subprocess, "run", run)
    assert packages.main("constraints.txt") == 0
    assert "packages: not audited" in capsys.readouterr().out
