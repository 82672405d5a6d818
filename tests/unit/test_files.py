"""What is written is there whole or not at all, and nothing that somebody else wrote is lost."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading

import pytest

from mtbert.files import check_room, refuse_same_file, write_json, write_text, writing_file, writing_folder


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


class TestFile:
    def test_it_is_written_whole(self, tmp_path):
        write_text(tmp_path / "a.txt", "ä\r\nb")
        assert (tmp_path / "a.txt").read_bytes() == "ä\r\nb".encode() and names(tmp_path) == ["a.txt"]
        write_json(tmp_path / "a.json", {"b": 1.5})
        assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1.5}

    def test_its_permissions_follow_the_umask_or_the_file_it_replaces(self, tmp_path):
        before = os.umask(0o027)
        try:
            write_text(tmp_path / "new", "x")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
        (tmp_path / "new").chmod(0o604)
        write_text(tmp_path / "new", "y")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604

    @pytest.mark.parametrize("there", [True, False])
    def test_a_failure_leaves_what_was_there(self, tmp_path, there):
        if there:
            (tmp_path / "a").write_text("old")
        with pytest.raises(KeyboardInterrupt), writing_file(tmp_path / "a") as file:
            file.write("half")
            raise KeyboardInterrupt
        assert names(tmp_path) == (["a"] if there else [])
        assert not there or (tmp_path / "a").read_text() == "old"

    @pytest.mark.parametrize("call", ["fsync", "replace", "write"])
    def test_a_full_disk_is_told_and_leaves_what_was_there(self, tmp_path, monkeypatch, call):
        (tmp_path / "a").write_text("old")

        def fail(*args, **kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        if call != "write":
            monkeypatch.setattr("mtbert.files.os." + call if call == "fsync" else "pathlib.Path.replace", fail)
        message = r"a could not be written: No space left on device; [\d,.]+ MiB are free"
        with pytest.raises(OSError, match=message), writing_file(tmp_path / "a") as file:
            file.write("new")
            if call == "write":
                fail()
        assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"

    def test_one_that_is_there_is_kept(self, tmp_path):
        (tmp_path / "a").write_text("mine")
        message = r"a exists; give another name, or --overwrite"
        with pytest.raises(FileExistsError, match=message), writing_file(tmp_path / "a", overwrite=False):
            pytest.fail("it was opened")
        with pytest.raises(FileExistsError, match="exists"), writing_file(tmp_path / "b", overwrite=False) as file:
            file.write("mine")
            (tmp_path / "b").write_text("another's")
        assert (tmp_path / "b").read_text() == "another's" and names(tmp_path) == ["a", "b"]

    def test_a_file_system_without_links(self, tmp_path, monkeypatch):
        def no_links(*args):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", no_links)
        with writing_file(tmp_path / "a", overwrite=False) as file:
            file.write("x")
        assert (tmp_path / "a").read_text() == "x" and names(tmp_path) == ["a"]
        with pytest.raises(FileExistsError, match="exists"), writing_file(tmp_path / "b", overwrite=False):
            (tmp_path / "b").write_text("another's")
        assert (tmp_path / "b").read_text() == "another's" and names(tmp_path) == ["a", "b"]

    def test_names_that_a_user_has_chosen_are_left_alone(self, tmp_path):
        (tmp_path / "out.csv.part").write_text("mine")
        write_text(tmp_path / "out.csv", "x")
        assert (tmp_path / "out.csv.part").read_text() == "mine"

    def test_the_temporary_name_is_in_the_folder_and_nobody_can_foresee_it(self, tmp_path):
        seen = set()
        for _ in range(3):
            with writing_file(tmp_path / "a"):
                seen |= set(names(tmp_path)) - {"a"}
        assert len(seen) == 3 and all(name.endswith(".part") for name in seen)

    def test_a_name_as_long_as_names_may_be(self, tmp_path):
        write_text(tmp_path / ("a" * 255), "x")
        assert names(tmp_path) == ["a" * 255]

    def test_a_link_stays_and_its_target_is_replaced(self, tmp_path):
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "a").write_text("old")
        (tmp_path / "link").symlink_to(tmp_path / "there" / "a")
        write_text(tmp_path / "link", "new")
        assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "a").read_text() == "new"
        assert names(tmp_path / "there") == ["a"]

    def test_a_link_to_itself(self, tmp_path):
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        with pytest.raises(OSError, match="symbolic links"):
            write_text(tmp_path / "loop", "x")
        assert names(tmp_path) == ["loop"]

    def test_a_folder(self, tmp_path):
        with pytest.raises(IsADirectoryError, match="is a folder"):
            write_text(tmp_path, "x")

    def test_devices_and_pipes_are_written_to(self, tmp_path):
        write_text("/dev/null", "x")
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
        with pytest.raises(OSError, match="No space left"):
            write_text("/dev/full", "x")
        assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
        os.mkfifo(tmp_path / "pipe")
        read = []
        reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
        reader.start()
        write_text(tmp_path / "pipe", "through")
        reader.join(10)
        assert read == ["through"] and stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


class TestFolder:
    def test_it_is_written_whole(self, tmp_path):
        with writing_folder(tmp_path / "out") as part:
            (part / "inner").mkdir()
            (part / "inner" / "a").write_text("x")
            assert not (tmp_path / "out").exists()
        assert (tmp_path / "out" / "inner" / "a").read_text() == "x" and names(tmp_path) == ["out"]

    def test_a_failure_leaves_nothing(self, tmp_path):
        (tmp_path / "out.part").mkdir()
        with pytest.raises(KeyboardInterrupt), writing_folder(tmp_path / "out") as part:
            (part / "a").write_text("x")
            raise KeyboardInterrupt
        assert names(tmp_path) == ["out.part"]

    @pytest.mark.parametrize("kind", [Exception, RuntimeError])  # as tokenizers' and safetensors' errors are
    def test_a_full_disk_that_a_native_writer_tells(self, tmp_path, kind):
        told = r"out could not be written: No space left on device; [\d,.]+ MiB are free there"
        with pytest.raises(OSError, match=told) as raised, writing_folder(tmp_path / "out"):
            raise kind("No space left on device (os error 28)")
        assert raised.value.errno == errno.ENOSPC and names(tmp_path) == []
        with pytest.raises(kind, match="other"), writing_folder(tmp_path / "out"):
            raise kind("other")

    @pytest.mark.parametrize("kind", ["folder", "file"])
    def test_what_has_come_meanwhile_is_kept(self, tmp_path, kind):
        with pytest.raises(FileExistsError, match="out exists"), writing_folder(tmp_path / "out") as part:
            (part / "a").write_text("x")
            if kind == "file":
                (tmp_path / "out").write_text("mine")
            else:
                (tmp_path / "out").mkdir()
                (tmp_path / "out" / "b").write_text("mine")
        mine = tmp_path / "out" if kind == "file" else tmp_path / "out" / "b"
        assert mine.read_text() == "mine" and names(tmp_path) == ["out"]

    def test_overwrite_replaces_the_whole_folder(self, tmp_path):
        for name in ("one", "two"):
            with writing_folder(tmp_path / "out", overwrite=True) as part:
                (part / name).write_text(name)
        assert names(tmp_path / "out") == ["two"] and names(tmp_path) == ["out"]

    def test_a_failed_rename_brings_the_old_folder_back(self, tmp_path, monkeypatch):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "old").write_text("x")
        rename = type(tmp_path).rename

        def fail(self, target):
            if self.name.endswith(".part") and str(target).endswith("out") and (self / "new").exists():
                raise OSError(errno.EIO, "Input/output error")
            return rename(self, target)

        monkeypatch.setattr(type(tmp_path), "rename", fail)
        with pytest.raises(OSError, match="Input/output"), writing_folder(tmp_path / "out", overwrite=True) as part:
            (part / "new").write_text("x")
        assert names(tmp_path / "out") == ["old"] and names(tmp_path) == ["out"]


def test_the_same_file(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "hard").hardlink_to(tmp_path / "a")
    (tmp_path / "soft").symlink_to(tmp_path / "a")
    for name in ("a", "hard", "soft"):
        with pytest.raises(ValueError, match=rf"{name} is a file that is read \(.*a\); give another output"):
            refuse_same_file([tmp_path / "new", tmp_path / "a"], tmp_path / name)
    refuse_same_file([tmp_path / "a"], tmp_path / "new")
    refuse_same_file([tmp_path / "new", tmp_path], tmp_path / "a")
    refuse_same_file(["/dev/null"], "/dev/null")  # of which nothing is lost


def test_room(tmp_path):
    check_room(tmp_path / "not" / "there", 1, "the model")
    with pytest.raises(OSError, match=r"the model takes about [\d,.]+ MiB, but [\d,.]+ MiB are free in"):
        check_room(tmp_path / "not" / "there", 2**60, "the model")
