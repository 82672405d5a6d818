"""What runs by itself, in public CI and before a commit, calls targets and tools that there are."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
PLACES = (".github/workflows/ci.yml", ".pre-commit-config.yaml", ".ci/run")


@pytest.mark.parametrize("place", PLACES)
def test_targets_of_make_exist(place):
    named = re.findall(r"\bmake ([\w-]+)", (ROOT / place).read_text(encoding="utf-8"))
    assert named and set(named) <= TARGETS


def test_public_ci_runs_what_a_change_must_pass_on_every_version_of_python():
    workflow = yaml.safe_load((ROOT / PLACES[0]).read_text(encoding="utf-8"))
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert {"make lint", "make types", "make audit", "make test", "make quickstart"} <= set(commands)
    setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    versions = re.findall(r"Programming Language :: Python :: (3\.\d+)", setup)
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"] == versions


def test_hooks_run_the_tools_of_the_environment():
    config = yaml.safe_load((ROOT / PLACES[1]).read_text(encoding="utf-8"))
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert {hook["language"] for hook in hooks} == {"system"}
    for hook in hooks:
        program = hook["entry"].split()[0]
        assert program == "make" or Path(program).parent == Path(".venv/bin")
