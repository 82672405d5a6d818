"""Whether a file or folder that is to be written can be there at all; asked before any work."""

from __future__ import annotations

import errno
import os

BELOW = 100  # characters that are left for the names of what is written into a folder


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
        raise ValueError(f"{what} is {os.fspath(path)[:100]!r}, which {problem}")
