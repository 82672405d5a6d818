"""A lock file that lets only one run at a time write into an output folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from ...errors import FolderInUseError, InputError
from ...files import temporary_name, writing_file
from ...modeling.checkpoint_loading import read_json

LOCK = "running.json"


def refuse_file(folder: str | os.PathLike[str]) -> None:
    """Raise InputError if the output folder is a file."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f"output_dir {folder} is a file; give a folder, which is made if it is not there")


@contextmanager
def only_run_in(folder: str | os.PathLike[str], main_process: bool = True) -> Iterator[None]:
    """Within, no other run writes into `folder`, which is created if it is missing.

    The lock is the file `running.json`, with host, process id and start time of the process. A lock whose process has
    ended is replaced. This cannot be known of a process on another host: on a file system that several machines share,
    the user has to remove the lock of a machine that went down.

    Args:
        main_process: whether this process takes the lock; in other processes of a run nothing happens.

    Raises:
        FolderInUseError: with the other run's host and process id.
        ValueError: `folder` is a file.
    """
    refuse_file(folder)
    file, this_process = Path(folder, LOCK), _this_process()
    if not main_process or _read(file) == this_process or file.parent.is_file():
        yield
        return
    is_new_folder = not file.parent.exists()
    file.parent.mkdir(parents=True, exist_ok=True)
    while not _create(file, this_process):
        holder = _read(file)
        if holder is not None and not _has_ended(holder):
            raise FolderInUseError(
                f"output_dir {folder} is written to by another run (process {holder['pid']} on "
                f"{holder['host']!r}); give another output_dir, or wait for its end. If there is no such run, "
                f"remove {file}"
            )
        _remove_stale(file, holder)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        if is_new_folder:
            with suppress(OSError):  # fails if the run has written files into it
                file.parent.rmdir()


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _create(file: Path, content: dict[str, Any]) -> bool:
    """Write the lock atomically; return False if there is one already."""
    try:
        with writing_file(file, overwrite=False) as lock:
            lock.write(json.dumps(content) + "\n")
    except FileExistsError:
        return False
    return True


def _read(file: Path) -> dict[str, Any] | None:
    """The content of the lock; None if there is no lock, or the file is not one."""
    try:
        content = read_json(file)
    except InputError:
        return None
    kinds = {"host": str, "pid": int, "started": int | float}
    return content if all(isinstance(content.get(key), kind) for key, kind in kinds.items()) else None


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether the process that wrote a lock is known to have ended."""
    if holder["host"] != socket.gethostname():
        return False
    try:
        began = psutil.Process(holder["pid"]).create_time()
    except (psutil.NoSuchProcess, ValueError):  # ValueError: no valid process id
        return True
    except psutil.AccessDenied:
        return False
    return abs(began - holder["started"]) > 1  # then the id belongs to a later process


def _remove_stale(file: Path, holder: dict[str, Any] | None) -> None:
    """Remove the lock of an ended process, unless another process has replaced it meanwhile."""
    aside = temporary_name(file.parent)
    with suppress(FileNotFoundError):
        file.rename(aside)
        if _read(aside) != holder:
            with suppress(FileExistsError):
                os.link(aside, file)
        aside.unlink()
