"""Errors whose message is for the user: it says what was found, where, what is allowed, and what to do.

Each class also derives from the builtin error of its kind, so that `except ValueError` catches an InputError. What is
raised as a plain builtin is a bug of mtbert, or an error of a library.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .display import display, shortened


class MtBertError(Exception):
    """Base of all errors that mtbert words for its users. A value of any size in a message is shortened."""

    def __init__(self, *args: object):
        super().__init__(*(shortened(each) if isinstance(each, str) else each for each in args))


class InputError(MtBertError, ValueError):
    """A wrong value: of an argument, a setting, a row, or in a file.

    Attributes:
        values: the problems, where the error lists several values of one object (see `refuse`); their paths begin at
            that object.
    """

    values: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Problem:
    """What is wrong with one value.

    Attributes:
        path: the keys that lead to the value, such as `("schedule", "mixed")`; empty for the whole.
        message: what is wrong, worded to follow the key: `is 2, but must be in [0, 1)`.
    """

    path: tuple[str, ...]
    message: str

    def under(self, *path: str) -> Problem:
        """The same problem, seen from a tree that holds this one at `path`."""
        return replace(self, path=(*path, *self.path))

    def __str__(self) -> str:
        key = ".".join(self.path)
        return f"{key}{'' if self.message.startswith(':') or not key else ' '}{self.message}"


def refuse(problems: Iterable[Problem], about: str = "") -> None:
    """Raise one InputError that lists all problems, one a line; none raise nothing.

    Args:
        about: what every line begins with, such as `task 'sst': ` or `adapter.`.

    Raises:
        InputError: its `values` are the problems.
    """
    problems = tuple(problems)
    if not problems:
        return
    lines = [str(problem) for problem in problems]
    lines = [f"{about.rstrip(':. ') if line.startswith(':') else about}{line}" for line in lines]
    error = InputError("\n".join(lines))
    error.values = problems
    raise error


def deprecated(old: str, new: str, since: str) -> None:
    """Warn whoever calls the caller of this that something public has another name or form now.

    Args:
        old: what was written, such as `model.predict(task=...)`.
        new: what to write instead.
        since: the version, such as `0.2`, that warns first; the next minor version may drop the old form.
    """
    line = f"{old} is deprecated since mtbert {since} and will be dropped; write {new}"
    warnings.warn(line, FutureWarning, stacklevel=3)


class InputTypeError(MtBertError, TypeError):
    """An argument of a wrong type, or one that does not exist."""


class UnknownTaskError(MtBertError, KeyError):
    """The model has no task of this name."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would put the message in quotes


class FileError(MtBertError, OSError):
    """A file, a folder or a repository that can not be read or written."""


class MissingFileError(FileError, FileNotFoundError):
    """There is no such file."""


class FileInTheWayError(FileError, FileExistsError):
    """There is a file that may not be replaced."""


class FolderInTheWayError(FileError, IsADirectoryError):
    """There is a folder where a file is to be written."""


class PushError(FileError):
    """A push to a hub that did not succeed: what was refused, and what to do about it."""

    def __init__(self, message: str):
        super().__init__(display(message, lines=True))


class MissingTokenizer(InputError, AttributeError):
    """A model has no tokenizer; also an AttributeError, so that `hasattr(model, "tokenizer")` is False."""
