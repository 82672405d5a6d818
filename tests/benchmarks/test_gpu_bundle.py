"""The bundle for a machine without a network: pieces of limited size, which the machine joins and unpacks."""

import argparse
import json
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

FOLDER = str(Path(__file__).resolve().parents[2] / "benchmarks")


@pytest.fixture
def bundle(monkeypatch):
    """The module `gpu_bundle` of the benchmarks, which are no package."""
    monkeypatch.syspath_prepend(FOLDER)
    import gpu_bundle

    yield gpu_bundle
    del sys.modules["gpu_bundle"]


@pytest.fixture
def archives(bundle, encoder_dir, tmp_path, monkeypatch) -> list[Path]:
    """Archives as `build` makes them: a wheel, a file of data, and the tiny encoder in half precision."""
    work = tmp_path / "work"
    for folder in ("packages", "data"):
        (work / folder).mkdir(parents=True)
    with zipfile.ZipFile(work / "packages" / "given-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("given/__init__.py", "answer = 42\n")
    (work / "data" / "quora-train.csv").write_text("x" * 5000)
    result = argparse.Namespace(stdout=f"{encoder_dir}\n")
    monkeypatch.setattr(bundle.subprocess, "run", lambda *args, **kwargs: result)
    bundle.halve_encoder("base", tmp_path / "cache", work / "encoder-base-fp16")
    made = []
    for folder in ("packages", "data", "encoder-base-fp16"):
        made.append(work / f"{folder.split('-')[0]}.tar")
        with tarfile.open(made[-1], "w") as archive:
            archive.add(work / folder, folder)
    return made


def test_the_machine_unpacks_what_was_carried(bundle, archives, encoder_dir, tmp_path, capsys):
    sent, there = tmp_path / "bundle", tmp_path / "there"
    sent.mkdir()
    there.mkdir()
    size = 40_000
    complete = bundle.cut(archives, sent, size)
    assert len(complete) > 2 and sum(complete, []) == ["packages.tar", "data.tar", "encoder.tar"]
    place = there / "unpacked"
    unpacked: list[str] = []
    for number, names in enumerate(complete, 1):
        pieces = sent / f"call-{number}"
        assert sum(piece.stat().st_size for piece in pieces.glob("*.tar.*")) <= size
        pieces.rename(there / pieces.name)
        bundle.unpack(there, place)
        unpacked += names
        assert {file.name.removesuffix(".sha256") for file in place.glob("*.sha256")} == set(unpacked)
    assert "waits for more pieces: encoder.tar" in capsys.readouterr().out
    assert (place / "site" / "given" / "__init__.py").read_text() == "answer = 42\n"
    assert (place / "data" / "quora-train.csv").stat().st_size == 5000
    weights = dict(AutoModel.from_pretrained(encoder_dir).named_parameters())
    assert load_file(place / "encoder-base-fp16" / "model.safetensors")
    for name, weight in AutoModel.from_pretrained(place / "encoder-base-fp16").named_parameters():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, weights[name].half().float()), name


def test_a_damaged_piece_is_not_unpacked(bundle, archives, tmp_path, capsys):
    bundle.cut(archives[1:2], tmp_path, 100_000)
    piece = tmp_path / "call-1" / "data.tar.001"
    piece.write_bytes(piece.read_bytes().replace(b"xxx", b"xyx", 1))
    bundle.unpack(tmp_path, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked" / "data").exists()
    assert "waits for more pieces: data.tar" in capsys.readouterr().out


def test_without_a_piece_it_says_what_is_missing(bundle, tmp_path):
    with pytest.raises(SystemExit, match="was not carried here"):
        bundle.unpack(tmp_path, tmp_path / "unpacked")


def test_packages_are_those_that_torch_and_transformers_do_not_bring(bundle):
    names = [package.split("==")[0] for package in bundle.missing_packages([], "3.12")]
    assert {"datasets", "evaluate", "peft", "accelerate", "scikit-learn", "pyarrow", "dill"} <= {*names}
    assert not {"torch", "transformers", "numpy", "huggingface-hub", "matplotlib", "tensorboard", "mtbert"} & {*names}
    fewer = [package.split("==")[0] for package in bundle.missing_packages(["Scikit_Learn==1.0", "pyarrow"], "3.12")]
    assert {*names} - {*fewer} == {"scikit-learn", "pyarrow"}


def test_commands_measure_as_soon_as_the_packages_are_there(bundle):
    args = bundle.parse(["--data_dir", "somewhere", "--results", "out"])
    lines = bundle.commands([["packages.tar", "data.tar"], [], ["encoder.tar"]], args, "abc")
    assert all(line.startswith("python3 benchmarks/gpu_bundle.py --unpack") for line in lines)
    assert "--parts numerics speed inference" in lines[0] and "--commit abc" in lines[0]
    assert "gpu.py" not in lines[1]
    assert "--parts quality" in lines[2] and "best_base.yaml" in lines[2] and '--results "out"' in lines[2]
    (line,) = bundle.commands([["packages.tar"]], bundle.parse([]), "abc")
    assert "--data_dir" not in line and "quality" not in line


def test_options_of_the_commands_are_options_of_the_benchmark(bundle):
    import gpu

    args = bundle.parse(["--data_dir", "somewhere"])
    (line,) = bundle.commands([["packages.tar", "data.tar", "encoder.tar"]], args, "abc")
    first, last = (part.split() for part in line.split("gpu.py ")[1:])
    assert gpu.parse(first[: first.index(";")]).parts == ["numerics", "speed", "inference"]
    found = gpu.parse(last)
    assert found.parts == ["quality"] and Path(FOLDER).parent.joinpath(found.recipe).is_file()


def test_parts_of_several_runs_are_joined(bundle, tmp_path):
    import gpu

    for number, part in enumerate(["speed", "quality"]):
        folder = tmp_path / str(number)
        gpu.Results(folder, {"commit": "a", "device": "H200"}).put(part, {"value": number})
    files = [str(tmp_path / str(number) / "gpu.json") for number in (0, 1)]
    gpu.main(["--join", *files, "--results", str(tmp_path)])
    assert json.loads((tmp_path / "gpu.json").read_text())["parts"].keys() == {"speed", "quality"}
    gpu.Results(tmp_path / "1", {"commit": "b", "device": "H200"}).put("quality", {})
    with pytest.raises(SystemExit, match="differ in their commit or device"):
        gpu.main(["--join", *files, "--results", str(tmp_path)])
