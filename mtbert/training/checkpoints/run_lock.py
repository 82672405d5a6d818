"""One run at a time in an output folder: a file that names the process which writes there."""

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


def refuse_file(folder: str | os.PathLike) -> None:
    """ValueError for an output folder that is a file."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f"output_dir {folder} is a file; give a folder, which is made if it is not there")


@contextmanager
def only_run_in(folder: str | os.PathLike, main_process: bool = True) -> Iterator[None]:
    """Within, no other run of this machine writes into `folder`, which is made if it is not there.

    The lock is the file `running.json`, with host, process id and the time at which that process began. A lock whose
    process has ended is replaced. Of a process on another host that cannot be known: where several machines share a
    file system, whoever starts runs has to remove what a machine left that went down.

    Args:
        main_process: false: another process of this run holds the lock.

    Raises:
        FolderInUseError: with the other run's host and process id.
        ValueError: `folder` is a file.
    """
    refuse_file(folder)
    file, mine = Path(folder, LOCK), _this_process()
    if not main_process or _read(file) == mine or file.parent.is_file():  # a file is refused elsewhere
        yield
        return
    made = not file.parent.exists()
    file.parent.mkdir(parents=True, exist_ok=True)
    while not _create(file, mine):
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
        if made:
            with suppress(OSError):  # of a folder that the run has written to
                file.parent.rmdir()


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _create(file: Path, content: dict[str, Any]) -> bool:
    """Write the lock whole, unless there is one."""
    try:
        with writing_file(file, overwrite=False) as lock:
            lock.write(json.dumps(content) + "\n")
    except FileExistsError:
        return False
    return True


def _read(file: Path) -> dict[str, Any] | None:
    """Who holds the lock; None if nobody does, or the file is no lock of ours."""
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
    except (psutil.NoSuchProcess, ValueError):  # the latter for numbers that no process has
        return True
    except psutil.AccessDenied:
        return False
    return abs(began - holder["started"]) > 1  # another process has got the number since


def _remove_stale(file: Path, holder: dict[str, Any] | None) -> None:
    """Remove a lock, unless another process has replaced it meanwhile."""
    aside = temporary_name(file.parent)
    with suppress(FileNotFoundError):
        file.rename(aside)
        if _read(aside) != holder:
            with suppress(FileExistsError):
                os.link(aside, file)
        aside.unlink()
