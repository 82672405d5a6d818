"""All errors whose message is for the user, including those of `modeling/errors.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .modeling.display import display, shortened
from .modeling.errors import (
    FileError,
    FileInTheWayError,
    FolderInTheWayError,
    InputError,
    InputTypeError,
    MissingFileError,
    MissingTokenizer,
    MtBertError,
    Problem,
    PushError,
    UnknownTaskError,
    deprecated,
    refuse,
)

__all__ = [
    "CheckpointError",
    "FileError",
    "FileInTheWayError",
    "FolderInTheWayError",
    "FolderInUseError",
    "InputError",
    "InputTypeError",
    "MissingFileError",
    "MissingTokenizer",
    "MtBertError",
    "NotFinite",
    "Problem",
    "PushError",
    "ReadError",
    "RecipeError",
    "TrainingError",
    "UnknownTaskError",
    "deprecated",
    "refuse",
]

MOST_PROBLEMS = 50  # most problems that a RecipeError lists


class ReadError(InputError):
    """A file can not be read exactly; the message names the position, the reason and the remedy."""

    def about(self, file: object) -> str:
        """Return the message with the file's name in front."""
        message = str(self)
        return f"{file} {message[3:]}" if message.startswith("it ") else f"{file}: {message}"


class RecipeError(InputError):
    """A recipe is invalid; the message lists all its problems, one per line.

    Attributes:
        problems: the lines; each names the file and line (or the command line), the key, the value and the rule.
    """

    def __init__(self, problems: Sequence[str]):
        lines = list(dict.fromkeys(display(shortened(line), lines=True) for line in problems[: MOST_PROBLEMS + 1]))
        if len(problems) > MOST_PROBLEMS:
            lines[MOST_PROBLEMS:] = [f"and {len(problems) - MOST_PROBLEMS:,} more problems; mend these first"]
        self.problems = tuple(lines)
        super().__init__("\n".join(self.problems))

    def __str__(self) -> str:
        return "\n".join(self.problems)

    def __reduce__(self) -> tuple[Any, ...]:  # unpickling would pass the message to __init__ instead of the problems
        return type(self), (self.problems[:MOST_PROBLEMS],), {"problems": self.problems}


class CheckpointError(InputError):
    """A checkpoint cannot be written, or a run cannot resume from it."""


class FolderInUseError(InputError):
    """Another run writes into the output folder."""


class TrainingError(MtBertError, RuntimeError):
    """A run can not go on, because its model or its processes are set up wrongly."""


class NotFinite(MtBertError, FloatingPointError):
    """A step's loss or gradient is nan or infinite; the last checkpoint is of an earlier step."""
