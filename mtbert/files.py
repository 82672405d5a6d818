"""Files and folders that are there whole or not at all, whatever ends the process that writes them.

Each is written under a random name beside its target, brought to the disk, and renamed. Only a killed process leaves
such a name behind: `.<16 hexadecimal digits>.part`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

from .errors import FileError, FileInTheWayError, FolderInTheWayError, InputError

BELOW = 100  # characters that are left for the names of what is written into a folder
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)


@contextmanager
def writing_file(path: str | os.PathLike, mode: str = "w", overwrite: bool = True) -> Iterator[IO]:
    """An open file that gets the name `path` when the block ends; if the block raises, nothing is left of it.

    A device, a pipe or a socket is written to directly. A symbolic link stays, and what it points to is replaced. A
    file that is replaced keeps its permissions.

    Args:
        mode: `w` (UTF-8, line ends as they are given) or `wb`.
        overwrite: whether a file that is there is replaced.

    Raises:
        FileExistsError: there is a file and `overwrite` is false, also if it came while the block ran.
        OSError: the file cannot be written; where the disk is full, the error says how much room is left.
    """
    options = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    target = Path(os.path.realpath(path))
    if _is_special(target):
        with open(target, mode, **options) as file:
            yield file
        return
    if target.is_dir():
        raise FolderInTheWayError(f"{path} is a folder; give a file's name")
    if not overwrite and target.exists():
        raise _there_is(path)
    part = temporary_name(target.parent)
    with _no_room_explained(path):
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with open(handle, mode, **options) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _rename(part, target, path, overwrite)
        finally:
            part.unlink(missing_ok=True)
    to_disk(target.parent)


@contextmanager
def writing_folder(path: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """A new folder that gets the name `path` when the block ends; if the block raises, nothing is left of it.

    Args:
        overwrite: whether a folder that is there is replaced, with all that is in it.

    Raises:
        FileExistsError: there is something of this name, other than an empty folder, that may not be replaced.
        OSError: as `writing_file` does.
    """
    target = Path(os.path.realpath(path))
    with _temporary_folder(target.parent, path) as part:
        yield part
        _all_to_disk(part)
        old = temporary_name(target.parent)
        if overwrite and target.is_dir():
            target.rename(old)
        try:
            part.rename(target)
        except OSError as error:
            if old.is_dir():
                old.rename(target)
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise _there_is(path) from error
            raise
        shutil.rmtree(old, ignore_errors=True)
    to_disk(target.parent)


@contextmanager
def adding_files(folder: str | os.PathLike) -> Iterator[Path]:
    """A folder whose files get into `folder` when the block ends, in place of those of the same names.

    If the block raises, `folder` stays as it was.

    Raises:
        OSError: as `writing_file` does.
    """
    target = Path(os.path.realpath(folder))
    with _temporary_folder(target, folder) as part:
        yield part
        _all_to_disk(part)
        for inside in sorted(part.iterdir()):
            if inside.is_dir():
                shutil.rmtree(target / inside.name, ignore_errors=True)
            inside.replace(target / inside.name)
    to_disk(target)


@contextmanager
def _temporary_folder(parent: Path, path: str | os.PathLike) -> Iterator[Path]:
    """A new folder in `parent`, which is removed at the end unless it was renamed; errors name `path`."""
    part = temporary_name(parent)
    with _no_room_explained(path):
        part.mkdir()
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _all_to_disk(folder: Path) -> None:
    for inside in folder.rglob("*"):
        to_disk(inside)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file as `writing_file` does."""
    with writing_file(path) as file:
        file.write(text)


def write_json(path: str | os.PathLike, value: Any, **options: Any) -> None:
    """Write a JSON file, indented by two, as `writing_file` does; `options` are those of `json.dumps`."""
    write_text(path, json.dumps(value, **{"indent": 2, **options}) + "\n")


def to_disk(path: str | os.PathLike) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError) if os.path.isdir(path) else nullcontext():  # some file systems know no such thing
            os.fsync(handle)
    finally:
        os.close(handle)


def refuse_same_file(sources: Iterable[str | os.PathLike], target: str | os.PathLike) -> None:
    """ValueError if a command would write one of the files that it reads, under whatever name."""
    for source in sources if os.path.isfile(target) else ():
        if os.path.isfile(source) and os.path.samefile(source, target):
            raise InputError(f"{target} is a file that is read ({source}); give another output")


def path_problem(path: str | os.PathLike) -> str | None:
    """Why nothing can be written at a path, as the end of a sentence that begins with it; None if something can."""
    text = os.fspath(path)
    if "\0" in text:
        return "has a zero byte, which no path may have; give another"
    there = os.path.abspath(text)
    while not os.path.isdir(there) and there != os.path.dirname(there):
        there = os.path.dirname(there)
    name_max, path_max = os.pathconf(there, "PC_NAME_MAX"), os.pathconf(there, "PC_PATH_MAX")
    longest = max((len(os.fsencode(name)) for name in text.split(os.sep)), default=0)
    if longest > name_max:
        return f"has a name of {longest:,} bytes, but the file system takes at most {name_max}; give a shorter one"
    if (length := len(os.fsencode(os.path.abspath(text)))) > path_max - BELOW:
        return f"is {length:,} bytes long in full, but must be at most {path_max - BELOW:,}; give a shorter one"
    try:
        os.stat(text)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "leads round in a circle of symbolic links; remove them, or give another"
        if error.errno == errno.ENOTDIR:
            return "lies below a file; give another"
    return None


def refuse_path(path: str | os.PathLike, what: str) -> None:
    """Raise ValueError if nothing can be written at a path; `what` names the flag or the key that gives it."""
    if problem := path_problem(path):
        raise InputError(f"{what} is {os.fspath(path)[:100]!r}, which {problem}")


def check_room(folder: str | os.PathLike, needed: int, what: str) -> None:
    """OSError if less than `needed` bytes are free where `folder` is or will be."""
    place = Path(folder).absolute()
    while not place.is_dir():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise FileError(
            errno.ENOSPC,
            f"{what} takes about {needed / 2**20:,.1f} MiB, but {free / 2**20:,.1f} MiB are free in {place}; make room"
            ", or give another folder",
        )


def _is_special(target: Path) -> bool:
    """Whether a name is of something that is there and is neither a file nor a folder."""
    try:
        kind = target.stat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind))


def temporary_name(folder: Path) -> Path:
    """A name within `folder` that nothing has."""
    return folder / f".{secrets.token_hex(8)}.part"


def is_temporary(path: Path) -> bool:
    """Whether a file or folder has a name that `temporary_name` gives."""
    return re.fullmatch(r"\.[0-9a-f]{16}\.part", path.name) is not None


def _rename(part: Path, target: Path, path: str | os.PathLike, overwrite: bool) -> None:
    if overwrite:
        if target.exists():
            shutil.copymode(target, part)
        part.replace(target)
        return
    try:
        try:
            os.link(part, target)  # fails where a rename would replace what has come meanwhile
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))  # so does this
            part.replace(target)
    except FileExistsError as error:
        raise _there_is(path) from error


def _there_is(path: str | os.PathLike) -> FileInTheWayError:
    return FileInTheWayError(f"{path} exists; give another name, or --overwrite to replace it")


@contextmanager
def _no_room_explained(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of native writers, some without a type of its own
        cause = str(error) if getattr(error, "errno", None) is None else error.strerror
        number = next((each for each in _NO_ROOM if os.strerror(each) in cause), None)
        if number is None:
            raise
        place = Path(os.path.realpath(path))
        free = shutil.disk_usage(place if place.is_dir() else place.parent).free / 2**20
        raise FileError(
            number, f"{path} could not be written: {os.strerror(number)}; {free:,.1f} MiB are free there; make room"
        ) from error
