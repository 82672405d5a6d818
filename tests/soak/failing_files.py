"""A process whose n-th file operation below a folder fails, or is where it ends.

Operations are: opening a file to write, each write to it, fsync, rename, link, unlink, mkdir, rmdir and chmod, and the
writers that are not Python's: `torch.save`, safetensors, tokenizers and sendfile. A write that fails has written half.
"""

from __future__ import annotations

import builtins
import errno
import gc
import io
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

KILLED = 77  # the exit status of a process that was ended
WAYS = ("error", "full", "kill")  # one I/O error; a disk that is full from then on; the end of the process
_CHANGES = {
    "os.rename": "rename",
    "os.link": "link",
    "os.remove": "unlink",
    "os.mkdir": "mkdir",
    "os.rmdir": "rmdir",
    "os.chmod": "chmod",
}
_NEEDS_ROOM = ("open", "write", "fsync", "mkdir", "link")


class Failure:
    """Counts the operations below a folder, and lets one fail.

    Args:
        folder: operations elsewhere do not count.
        at: the number of the one that fails, from 1; 0: none.
        way: one of `WAYS`.
    """

    active: Failure | None = None

    def __init__(self, folder: Path, at: int = 0, way: str = "error"):
        self.folder, self.at, self.way = os.path.realpath(folder), at, way
        self.seen: list[str] = []

    def happens(self, kind: str, path: str) -> bool:
        """Count an operation; whether it fails."""
        self.seen.append(f"{kind} {os.path.relpath(path, self.folder)}")
        full = self.way == "full" and 0 < self.at < len(self.seen) and kind in _NEEDS_ROOM
        return len(self.seen) == self.at or full

    def error(self, path: str) -> OSError:
        """What the operation raises; the process ends here if that is the way."""
        if self.way == "kill":
            os._exit(KILLED)
        number = errno.ENOSPC if self.way == "full" else errno.EIO
        return OSError(number, os.strerror(number), path)


def _place(path: Any, folder: int = -1) -> str | None:
    """The path of a file below the active failure's folder; None for any other."""
    if Failure.active is None:
        return None
    if isinstance(path, int):
        path = os.readlink(f"/proc/self/fd/{path}")
    path = os.fsdecode(path)
    if isinstance(folder, int) and folder >= 0:
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    path = os.path.abspath(path)
    inside = path.startswith(Failure.active.folder + os.sep)
    return path if inside else None


def _note(kind: str, path: str | None) -> None:
    if path is not None and Failure.active.happens(kind, path):
        raise Failure.active.error(path)


def _audit(event: str, args: tuple) -> None:
    if Failure.active is None:
        return
    if event == "open":
        if not isinstance(args[0], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            _note("open", _place(args[0]))
    elif event in _CHANGES:
        folder = args[-1] if event in ("os.remove", "os.mkdir", "os.rmdir", "os.chmod") else args[2]
        _note(_CHANGES[event], _place(args[0], folder))


class _File(io.FileIO):
    """A file of which a write can fail after its first half."""

    def write(self, data) -> int:
        place = _place(self.fileno())
        if place is not None and Failure.active.happens("write", place):
            super().write(memoryview(data)[: len(data) // 2])
            raise Failure.active.error(place)
        return super().write(data)


def _open(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
    if Failure.active is None or not set(mode) & set("wax") or _place(file) is None:
        return _OPEN(file, mode, buffering, encoding, errors, newline, closefd, opener)
    raw = _File(file, mode.replace("b", "").replace("t", ""), closefd, opener)
    binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
    return binary if "b" in mode else io.TextIOWrapper(binary, encoding, errors, newline)


def _halved(function: Callable, place: Callable[..., Any], error: Callable[[str], Exception]) -> Callable:
    """A native writer that can leave half a file and raise what it raises where the system has refused a write."""

    def write(*args, **kwargs):
        path = place(*args, **kwargs)
        path = _place(path) if isinstance(path, str | os.PathLike) else None
        if path is None or not Failure.active.happens("write", path):
            return function(*args, **kwargs)
        active, Failure.active = Failure.active, None
        function(*args, **kwargs)
        os.truncate(path, os.path.getsize(path) // 2)
        Failure.active = active
        raise error(str(active.error(path)))

    return write


_OPEN = builtins.open


def install() -> None:
    """Watch this process's file operations from now on; nothing fails before `Failure.active` is set."""
    import safetensors.torch
    import torch
    from safetensors import SafetensorError
    from transformers import PreTrainedTokenizerFast

    sys.addaudithook(_audit)
    builtins.open = io.open = _open
    sendfile = os.sendfile

    def synced(handle: int) -> None:  # nothing waits: what is ended here is the process, not the machine
        _note("fsync", _place(handle))

    def sent(target: int, *args):
        _note("write", _place(target))
        return sendfile(target, *args)

    os.fsync, os.sendfile = synced, sent
    torch.save = _halved(torch.save, lambda value, file, *_, **__: file, RuntimeError)
    safetensors.torch.serialize_file = _halved(
        safetensors.torch.serialize_file, lambda tensors, file, *_, **__: file, SafetensorError
    )
    gc.collect()
    gc.freeze()  # else each training searches all that was imported, in every copy of this process
    PreTrainedTokenizerFast._save_pretrained = _halved(
        PreTrainedTokenizerFast._save_pretrained,
        lambda self, save_directory, **_: os.path.join(save_directory, "tokenizer.json"),
        Exception,  # what the tokenizers' library raises
    )


def in_child(body: Callable[[], Any], failure: Failure | None = None, log: Path | None = None) -> dict[str, Any]:
    """Run `body` in a copy of this process.

    Returns:
        `status` (0, 1 or `KILLED`), `error` (its type and message), `trace`, `warnings`, `operations`, `result`.
    """
    source, target = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(source)
            _child(body, failure, log, target)
        finally:
            os._exit(99)
    os.close(target)
    with os.fdopen(source, "rb") as pipe:
        report = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"error": "", "warnings": [], "operations": [], **json.loads(report or b"{}"), "status": status}


def _child(body: Callable, failure: Failure | None, log: Path | None, pipe: int) -> None:
    handle = os.open(log or os.devnull, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    report: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Failure.active = failure
        try:
            report["result"] = body()
        except BaseException as error:
            report |= {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        Failure.active = None
    report["warnings"] = [str(each.message) for each in caught]
    report["operations"] = [] if failure is None else failure.seen
    sys.stdout.flush()
    with _OPEN(pipe, "wb") as file:
        file.write(json.dumps(report, default=str).encode())
    os._exit(1 if "error" in report else 0)
