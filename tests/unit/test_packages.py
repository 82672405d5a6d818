"""Every package that is installed is pinned; the look-up of vulnerabilities fails for published ones alone."""

import configparser
import importlib.util
import json
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / ".ci" / "packages.py"
PINS = {
    canonicalize_name(name): version
    for name, _, version in (line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    if version
}
OF_TORCH = ("nvidia-", "cuda-", "triton")  # torch names the versions of CUDA's libraries itself


def extras() -> dict[str, list[str]]:
    """Extra → its requirements; `` is what mtbert always needs."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = {"": setup["options"]["install_requires"], **setup["options.extras_require"]}
    return {
        name: [line for line in text.splitlines() if line and not line.startswith("#")] for name, text in listed.items()
    }


def needed(line: str, seen: set[tuple[str, frozenset[str]]]) -> set[str]:
    """Names of all packages that a requirement installs, as far as they are installed here."""
    requirement = Requirement(line)
    name, wanted = canonicalize_name(requirement.name), frozenset(requirement.extras)
    if (name, wanted) in seen:
        return set()
    seen.add((name, wanted))
    try:
        lines = distribution(name).requires or []
    except PackageNotFoundError:
        return {name}
    names = {name}
    for further in map(Requirement, lines):
        if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
            further.marker = None
            names |= needed(str(further), seen)
    return names


@pytest.mark.parametrize("extra", extras())
def test_every_package_of_an_extra_is_pinned(extra):
    names = set().union(*(needed(line, set()) for line in extras()[extra]))
    assert not {name for name in names - PINS.keys() - {"pip"} if not name.startswith(OF_TORCH)}


def test_pins_fit_the_bounds():
    for lines in extras().values():
        for requirement in map(Requirement, lines):
            assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), requirement


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("target", "installs"),
    [
        ("venv", ["."]),
        ("quickstart", ["."]),
        ("encoder", ["."]),
        ("test", [".", "'.[test]'"]),
        ("lint", [".", "'.[test]'"]),
        ("docs", [".", "'.[docs]'"]),
    ],
)
def test_a_target_installs_what_it_needs_and_nothing_else(target, installs, tmp_path):
    command = ["make", "--dry-run", target, f"VENV={tmp_path / 'new'}"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = [line for line in shown.splitlines() if " -m pip install " in line]
    assert [line.split("--editable ")[1].split()[0] for line in lines if "--editable" in line] == installs
    assert all("--constraint constraints.txt" in line for line in lines if "--editable" in line)


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
