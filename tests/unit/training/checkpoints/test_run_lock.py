"""One run at a time writes into a folder, and a lock that nobody holds is in nobody's way."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys

import psutil
import pytest

from mtbert.training.checkpoints.run_lock import LOCK, FolderInUseError, only_run_in

HERE = socket.gethostname()


@pytest.fixture(scope="module")
def other():
    """Another process."""
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate(b"\n", timeout=10)


def held_by(folder, pid, host=HERE, **more) -> None:
    (folder / LOCK).write_text(json.dumps({"host": host, "pid": pid, **more}))


def test_a_second_run_is_refused_and_names_the_first(tmp_path, other):
    held_by(tmp_path, other, started=psutil.Process(other).create_time())
    before = (tmp_path / LOCK).read_bytes()
    told = rf"output_dir {tmp_path} is written to by another run \(process {other} on '{HERE}'\); give another output"
    with pytest.raises(FolderInUseError, match=told), only_run_in(tmp_path):
        pytest.fail("it was let in")
    assert (tmp_path / LOCK).read_bytes() == before and os.listdir(tmp_path) == [LOCK]


def test_the_lock_of_another_machine_is_kept_and_the_error_says_how_to_remove_it(tmp_path, other):
    held_by(tmp_path, other, host="elsewhere", started=1.0)
    told = rf"process {other} on 'elsewhere'\); .* If there is no such run, remove {tmp_path / LOCK}"
    with pytest.raises(FolderInUseError, match=told), only_run_in(tmp_path):
        pytest.fail("it was let in")
    assert (tmp_path / LOCK).exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '"running"',
        '{"host": "HERE"}',
        '{"host": "HERE", "pid": "x"}',
        '{"host": "HERE", "pid": -1}',
        "\0\0",
    ],
)
def test_a_torn_lock_is_nobodys(tmp_path, text):
    (tmp_path / LOCK).write_text(text.replace("HERE", HERE))
    with only_run_in(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == []


def test_a_process_that_has_ended_holds_nothing(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    held_by(tmp_path, ended.pid, started=psutil.Process().create_time())
    with only_run_in(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("started", [1.0, "x", None, [1]])
def test_a_number_that_another_process_has_got_since(tmp_path, other, started):
    held_by(tmp_path, other, started=started)
    with only_run_in(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("end", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_it_goes_whatever_ends_the_run(tmp_path, end):
    folder = tmp_path / "new"
    try:
        with only_run_in(folder):
            assert json.loads((folder / LOCK).read_text())["host"] == HERE
            if end is not None:
                raise end
    except BaseException as error:
        assert type(error) is end
    assert os.listdir(tmp_path) == []


def test_a_folder_that_was_there_or_has_been_written_to_stays(tmp_path):
    with only_run_in(tmp_path / "new"):
        (tmp_path / "new" / "model").write_text("x")
    (tmp_path / "empty").mkdir()
    with only_run_in(tmp_path / "empty"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["empty", "new"] and os.listdir(tmp_path / "new") == ["model"]


def test_a_run_inside_the_run_holds_the_same_lock_and_other_processes_none(tmp_path):
    with only_run_in(tmp_path):
        with only_run_in(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()
        with only_run_in(tmp_path / "new", main_process=False):
            assert not (tmp_path / "new").exists()
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mtbert.files.os.fsync", full)
    with pytest.raises(OSError, match=f"{LOCK} could not be written: No space left on device"), only_run_in(tmp_path):
        pytest.fail("it was let in")
    assert os.listdir(tmp_path) == []
