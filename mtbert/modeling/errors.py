"""Errors with messages for users: each says what was found, where, what is allowed, and what to do.

Each class also derives from the builtin error of its kind, so that `except ValueError` catches an InputError. A plain
builtin error is a bug of mtbert, or comes from a library.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .display import display, shortened


class MtBertError(Exception):
    """Base class of mtbert's errors. Long values in a message are shortened."""

    def __init__(self, *args: object):
        super().__init__(*(shortened(arg) if isinstance(arg, str) else arg for arg in args))


class InputError(MtBertError, ValueError):
    """A wrong value: of an argument, a setting, a row, or in a file.

    Attributes:
        values: the problems that the error lists, if it was raised by `refuse`; their paths begin at the checked
            object.
    """

    values: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Problem:
    """An invalid value: its place and an error message.

    Attributes:
        path: the keys that lead to the value, such as `("schedule", "mixed")`; empty for the whole object.
        message: the message, worded to follow the key: `is 2, but must be in [0, 1)`.
    """

    path: tuple[str, ...]
    message: str

    def under(self, *path: str) -> Problem:
        """The same problem with `path` put before its path."""
        return replace(self, path=(*path, *self.path))

    def __str__(self) -> str:
        key = ".".join(self.path)
        return f"{key}{'' if self.message.startswith(':') or not key else ' '}{self.message}"


def refuse(problems: Iterable[Problem], about: str = "") -> None:
    """Raise one InputError that lists all problems, one a line, if there are any.

    Args:
        about: prefix of every line, such as `task 'sst': ` or `adapter.`.

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
    """Warn of the use of a deprecated name or form, at the line that calls the calling function.

    Args:
        old: the deprecated form, such as `model.predict(task=...)`.
        new: the form to use instead.
        since: first version that warns, such as `0.2`; the next minor version may drop the old form.
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
    """A file, a folder or a repository that cannot be read or written."""


class MissingFileError(FileError, FileNotFoundError):
    """There is no such file."""


class FileInTheWayError(FileError, FileExistsError):
    """A file exists that may not be replaced."""


class FolderInTheWayError(FileError, IsADirectoryError):
    """A folder exists where a file is to be written."""


class PushError(FileError):
    """A push to a hub failed; the message gives the reason and a remedy."""

    def __init__(self, message: str):
        super().__init__(display(message, lines=True))


class MissingTokenizer(InputError, AttributeError):
    """A model has no tokenizer; also an AttributeError, so that `hasattr(model, "tokenizer")` is False."""
