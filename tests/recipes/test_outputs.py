"""Where commands write: devices stay devices, a user's files stay, and no command writes what it reads."""

from __future__ import annotations

import importlib
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from mtbert.evaluation.prediction_files import PredictionFile


@pytest.fixture(scope="module")
def script():
    """A function: a name → that command as a module."""

    return lambda name: importlib.import_module(f"mtbert.cli.{name}")


@pytest.fixture
def checkpoint(make_model, tokenizer, tasks, tmp_path) -> Path:
    folder = tmp_path / "checkpoint"
    make_model(tasks[:1]).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def rows(tmp_path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a cat"}\n' * 3)
    return path


def names(folder: Path) -> set[str]:
    return set(os.listdir(folder))


def test_a_device_is_written_to_and_stays_one(script, checkpoint, rows, tmp_path):
    command = [str(checkpoint), str(rows), "--format", "csv", "--overwrite", "--output"]
    with pytest.raises(OSError, match="No space left"):
        script("predict").main([*command, "/dev/full"])
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    script("predict").main([*command, "/dev/null"])
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    script("predict").main([*command, str(tmp_path / "link")])
    reader.join(10)
    assert len(read[0].splitlines()) == 4 and stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


def test_names_beside_the_output_are_the_users(script, checkpoint, rows, tmp_path):
    (tmp_path / "out.csv.part").write_text("mine")
    (tmp_path / "secret").write_text("mine")
    (tmp_path / ".out.csv.part").symlink_to("secret")
    before = names(tmp_path)
    script("predict").main([str(checkpoint), str(rows), "--output", str(tmp_path / "out.csv")])
    assert names(tmp_path) == before | {"out.csv"}
    assert {(tmp_path / name).read_text() for name in ("out.csv.part", "secret", ".out.csv.part")} == {"mine"}


@pytest.mark.parametrize("how", ["itself", "symlink", "hard link", "the checkpoint's", "a detour"])
def test_predict_does_not_write_what_it_reads(script, checkpoint, rows, tmp_path, how):
    output = {"itself": rows, "the checkpoint's": checkpoint / "config.json"}.get(how, tmp_path / "other.jsonl")
    if how == "symlink":
        output.symlink_to(rows)
    elif how == "hard link":
        output.hardlink_to(rows)
    elif how == "a detour":
        output = tmp_path / "checkpoint" / ".." / rows.name
    before = rows.read_bytes(), (checkpoint / "config.json").read_bytes(), names(tmp_path)
    command = [str(checkpoint), str(rows), "--format", "jsonl", "--output", str(output), "--overwrite"]
    with pytest.raises(ValueError, match=r"is a file that is read \(.*\); give another output"):
        script("predict").main(command)
    assert before == (rows.read_bytes(), (checkpoint / "config.json").read_bytes(), names(tmp_path))


def test_what_was_opened_is_removed_where_the_next_file_can_not_be(tasks, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    file = PredictionFile(str(folder), tasks[:2], "cs224n", "id")
    (folder / f"{tasks[1].name}.csv").write_text("mine")  # has come meanwhile
    with pytest.raises(FileExistsError, match=r"same.csv exists"), file:
        pytest.fail("it was opened")
    assert names(folder) == {"same.csv"} and (folder / "same.csv").read_text() == "mine"


@pytest.fixture
def members(make_model, tokenizer, tasks, tmp_path) -> list[str]:
    """Two checkpoints, and a recipe in the first whose data lie in `data/`."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "stars-dev.csv").write_text("text,label\n" + "a cat,1\na dog,0\n" * 3)
    task = {"labels": 3, "pooling": "mean", "data": {"text": "text", "label": "label"}}
    task["data"] |= {"train": "stars-dev.csv", "dev": "stars-dev.csv"}
    recipe = {"encoder": "any", "data_dir": str(tmp_path / "data"), "tasks": {"stars": task}}
    folders = []
    for name in ("one", "two"):
        make_model(tasks[:1]).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        folders.append(str(tmp_path / name))
    Path(folders[0], "recipe.json").write_text(json.dumps(recipe | {"training": {"output_dir": "any"}}))
    Path(folders[1], "scores.json").write_text("its own")
    return folders


@pytest.mark.parametrize("where", ["two", "data"])
def test_an_ensemble_does_not_write_what_it_reads(script, members, tmp_path, where):
    ensemble = script("ensemble")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    command = [*members, "--output", str(tmp_path / where), "--predict", "dev", "--overwrite", "--device", "cpu"]
    with pytest.raises(ValueError, match=r"(scores.json|stars-dev.csv) is a file that is read"):
        ensemble.main(command)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_average_leaves_a_users_folders_and_nothing_of_a_failure(script, members, tmp_path, monkeypatch):
    average = script("average")
    (tmp_path / "mean.part").mkdir()
    (tmp_path / "mean.part" / "mine").write_text("mine")
    before = names(tmp_path)

    def fail(self, folder, **kwargs):
        Path(folder, "half").write_text("half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        from mtbert import MtBertForMultiTask

        patch.setattr(MtBertForMultiTask, "save_pretrained", fail)
        with pytest.raises(OSError, match=r"mean could not be written: No space left on device; .* free there; make"):
            average.main([*members, "--out", str(tmp_path / "mean")])
    assert names(tmp_path) == before and (tmp_path / "mean.part" / "mine").read_text() == "mine"
    average.main([*members, "--out", str(tmp_path / "mean")])
    assert names(tmp_path) == before | {"mean"}
