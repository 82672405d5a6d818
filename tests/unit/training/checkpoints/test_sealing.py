"""Checkpoints are complete, or known not to be."""

import hashlib
import json

import pytest
from safetensors import SafetensorError

from mtbert.training.checkpoints.sealing import (
    CHECKSUMS,
    CheckpointError,
    by_step,
    damage,
    forget_checked_files,
    last_complete,
    remove_older,
    seal,
    start,
    writing,
)

FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


@pytest.fixture
def checkpoint(tmp_path):
    """A function that writes a sealed checkpoint of a step."""

    def make(step, files=FILES):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for number, name in enumerate(files):
            (folder / name).write_bytes(bytes([step, number]) * 100)
        seal(folder)
        return folder

    return make


def test_a_sealed_checkpoint_is_complete(checkpoint):
    folder = checkpoint(1)
    assert damage(folder) == ""
    assert json.loads((folder / CHECKSUMS).read_text()).keys() == set(FILES)


def test_a_file_is_read_once_while_nobody_writes_to_it(checkpoint, monkeypatch):
    folder = checkpoint(1)
    read = []
    original = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: read.append(str(file.name)) or original(file, name))
    assert damage(folder) == "" and len(read) == len(FILES)
    assert damage(folder) == "" and len(read) == len(FILES)
    weights = folder / "model.safetensors"
    weights.write_bytes(b"\0" + weights.read_bytes()[1:])
    assert damage(folder) == "model.safetensors is not what was written: its SHA-256 differs"
    assert read[len(FILES) :] == [str(weights)]
    forget_checked_files()
    assert "SHA-256 differs" in damage(folder) and len(read) == len(FILES) + 2


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("how", "told"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "has 199 bytes, but was written with 200"),
        (lambda path: path.write_bytes(b"\0" + path.read_bytes()[1:]), "its SHA-256 differs"),
    ],
    ids=["missing", "truncated", "a byte changed"],
)
def test_damage_is_found(checkpoint, name, how, told):
    folder = checkpoint(7)
    how(folder / name)
    assert damage(folder).startswith(name) and told in damage(folder)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "there is no checksums.json"),
        ("{", "checksums.json can not be read as JSON: "),
        ("[]", "checksums.json holds a list, but must hold an object"),
        ('{"a": 1}', "checksums.json can not be read: it must map each file to its bytes and sha256"),
        ('{"a": {}}', "checksums.json can not be read: it must map each file to its bytes and sha256"),
    ],
)
def test_a_broken_seal_is_damage(checkpoint, text, told):
    path = checkpoint(1) / CHECKSUMS
    path.unlink() if text is None else path.write_text(text)
    assert told in damage(path.parent)


def test_a_resume_needs_all_that_a_run_leaves(checkpoint):
    folder = checkpoint(1, ["model.safetensors", "trainer_state.json"])
    assert "saved without optimizer*, scheduler.pt, rng_state*.pth" in damage(folder)


def test_the_last_complete_checkpoint_is_found_by_its_step(checkpoint, tmp_path):
    assert last_complete(tmp_path) is None
    for step in (9, 10, 100):
        checkpoint(step)
    (tmp_path / "checkpoint-best").mkdir()
    assert [path.name for path in by_step(tmp_path)] == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    (tmp_path / "checkpoint-100" / "optimizer.pt").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"checkpoint-100 is not complete \(optimizer.pt has 0 bytes"):
        assert last_complete(tmp_path) == str(tmp_path / "checkpoint-10")


@pytest.mark.parametrize(
    ("limit", "kept", "left"),
    [(None, (), [1, 2, 3, 4]), (3, (), [2, 3, 4]), (1, (1, 4), [1, 4]), (2, (4,), [3, 4]), (0, (), [1, 2, 3, 4])],
)
def test_older_checkpoints_are_removed(checkpoint, tmp_path, limit, kept, left):
    for step in (1, 2, 3, 4):
        checkpoint(step)
    remove_older(tmp_path, limit, [None, *(str(tmp_path / f"checkpoint-{step}") for step in kept)])
    assert [path.name for path in by_step(tmp_path)] == [f"checkpoint-{step}" for step in left]


def test_damaged_checkpoints_are_removed_first(checkpoint, tmp_path):
    for step in (1, 2, 3):
        checkpoint(step)
    (tmp_path / "checkpoint-2" / CHECKSUMS).unlink()
    remove_older(tmp_path, 2, [str(tmp_path / "checkpoint-3")])
    assert [path.name for path in by_step(tmp_path)] == ["checkpoint-1", "checkpoint-3"]


def test_a_checkpoint_makes_way_for_its_like(checkpoint, tmp_path):
    folder = checkpoint(1)
    start(folder)
    assert not folder.exists()
    start(folder)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("torn"), SafetensorError("I/O")]
)
def test_what_could_not_be_written_is_removed_and_told(checkpoint, tmp_path, error):
    earlier, folder = checkpoint(1), tmp_path / "checkpoint-2"
    told = rf"checkpoint-2 could not be written: .*MiB are free there, {earlier} is the last one .* make room"
    with pytest.raises(CheckpointError, match=told) as raised, writing(folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise error
    assert raised.value.__cause__ is error
    assert not folder.exists() and damage(earlier) == ""
