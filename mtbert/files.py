"""Write files and folders atomically: they exist completely or not at all, even if the process is killed.

A file or folder is written under a temporary name in the target's folder, flushed to the disk, and renamed. Only a
killed process leaves a temporary name behind: `.<16 hexadecimal digits>.part`.
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

BELOW = 100  # bytes of a path that are reserved for names inside a folder
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)


@contextmanager
def writing_file(path: str | os.PathLike[str], mode: str = "w", overwrite: bool = True) -> Iterator[IO[Any]]:
    """Open a file that gets the name `path` when the block ends; if the block raises, the file is removed.

    A device, a pipe or a socket is written to directly. A symbolic link is kept and its target replaced. A replaced
    file keeps its permissions.

    Args:
        path: name of the file.
        mode: `w` (UTF-8, line ends are not converted) or `wb`.
        overwrite: whether an existing file may be replaced.

    Raises:
        FileExistsError: the file exists and `overwrite` is false, even if it was created while the block ran.
        OSError: the file cannot be written; if the disk is full, the error names the free space.
    """
    options: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
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
def writing_folder(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Create a folder that gets the name `path` when the block ends; if the block raises, the folder is removed.

    Args:
        path: name of the folder.
        overwrite: whether an existing folder may be replaced with all its contents.

    Raises:
        FileExistsError: `path` exists, is no empty folder, and may not be replaced.
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
def adding_files(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Create a folder whose files are moved into `folder` when the block ends; files of the same names are replaced.

    If the block raises, `folder` is unchanged.

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
def _temporary_folder(parent: Path, path: str | os.PathLike[str]) -> Iterator[Path]:
    """Create a folder in `parent` that is removed at the end unless it was renamed; errors name `path`."""
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


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file as `writing_file` does."""
    with writing_file(path) as file:
        file.write(text)


def write_json(path: str | os.PathLike[str], value: Any, **options: Any) -> None:
    """Write a JSON file, indented by two, as `writing_file` does; `options` are passed to `json.dumps`."""
    write_text(path, json.dumps(value, **{"indent": 2, **options}) + "\n")


def to_disk(path: str | os.PathLike[str]) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError) if os.path.isdir(path) else nullcontext():  # some file systems can not sync folders
            os.fsync(handle)
    finally:
        os.close(handle)


def refuse_same_file(sources: Iterable[str | os.PathLike[str]], target: str | os.PathLike[str]) -> None:
    """Raise ValueError if a command's output file is one of its input files, even under another name."""
    if not os.path.isfile(target):
        return
    for source in sources:
        if os.path.isfile(source) and os.path.samefile(source, target):
            raise InputError(f"{target} is a file that is read ({source}); give another output")


def path_problem(path: str | os.PathLike[str]) -> str | None:
    """Return why nothing can be written to a path, as a clause that follows its name; None if it is usable."""
    text = os.fspath(path)
    if "\0" in text:
        return "has a zero byte, which no path may have; give another"
    existing = os.path.abspath(text)
    while not os.path.isdir(existing) and existing != os.path.dirname(existing):
        existing = os.path.dirname(existing)
    name_max, path_max = os.pathconf(existing, "PC_NAME_MAX"), os.pathconf(existing, "PC_PATH_MAX")
    longest = max((len(os.fsencode(name)) for name in text.split(os.sep)), default=0)
    if longest > name_max:
        return f"has a name of {longest:,} bytes, but the file system takes at most {name_max}; give a shorter one"
    length = len(os.fsencode(os.path.abspath(text)))
    if length > path_max - BELOW:
        return f"is {length:,} bytes long in full, but must be at most {path_max - BELOW:,}; give a shorter one"
    try:
        os.stat(text)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "leads round in a circle of symbolic links; remove them, or give another"
        if error.errno == errno.ENOTDIR:
            return "lies below a file; give another"
    return None


def refuse_path(path: str | os.PathLike[str], what: str) -> None:
    """Raise ValueError if nothing can be written to a path; `what` is the flag or key that sets it."""
    problem = path_problem(path)
    if problem:
        raise InputError(f"{what} is {os.fspath(path)[:100]!r}, which {problem}")


def check_room(folder: str | os.PathLike[str], needed: int, what: str) -> None:
    """Raise OSError if fewer than `needed` bytes are free on the file system of `folder`, which need not exist yet."""
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
    """Return whether `target` exists and is neither a file nor a folder, such as a pipe."""
    try:
        kind = target.stat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind))


def temporary_name(folder: Path) -> Path:
    """Return an unused random name in `folder`."""
    return folder / f".{secrets.token_hex(8)}.part"


def is_temporary(path: Path) -> bool:
    """Return whether a file or folder has a name as `temporary_name` returns them."""
    return re.fullmatch(r"\.[0-9a-f]{16}\.part", path.name) is not None


def _rename(part: Path, target: Path, path: str | os.PathLike[str], overwrite: bool) -> None:
    if overwrite:
        if target.exists():
            shutil.copymode(target, part)
        part.replace(target)
        return
    try:
        try:
            os.link(part, target)  # fails if the target exists by now; a rename would replace it
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))  # so does this
            part.replace(target)
    except FileExistsError as error:
        raise _there_is(path) from error


def _there_is(path: str | os.PathLike[str]) -> FileInTheWayError:
    return FileInTheWayError(f"{path} exists; give another name, or --overwrite to replace it")


@contextmanager
def _no_room_explained(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # native writers raise errors of various types
        cause = str(error) if getattr(error, "errno", None) is None else getattr(error, "strerror", "")
        number = next((code for code in _NO_ROOM if os.strerror(code) in cause), None)
        if number is None:
            raise
        place = Path(os.path.realpath(path))
        free = shutil.disk_usage(place if place.is_dir() else place.parent).free / 2**20
        raise FileError(
            number, f"{path} could not be written: {os.strerror(number)}; {free:,.1f} MiB are free there; make room"
        ) from error
