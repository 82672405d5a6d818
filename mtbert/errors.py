"""All errors whose message is for the user; see `modeling/errors.py`, whose classes are here, too."""

from __future__ import annotations

from collections.abc import Sequence

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

MOST_PROBLEMS = 50  # that a RecipeError lists


class ReadError(InputError):
    """A file that can not be read exactly; the message says where, why, and what to do."""

    def about(self, file: object) -> str:
        """The message with the file's name before it."""
        message = str(self)
        return f"{file} {message[3:]}" if message.startswith("it ") else f"{file}: {message}"


class RecipeError(InputError):
    """Everything that is wrong with a recipe, one problem a line.

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

    def __reduce__(self) -> tuple:  # a pickle would give the message to __init__, in place of the problems
        return type(self), (self.problems[:MOST_PROBLEMS],), {"problems": self.problems}


class CheckpointError(InputError):
    """A checkpoint that cannot be written, or that a run cannot go on from."""


class FolderInUseError(InputError):
    """Another run writes into the output folder."""


class TrainingError(MtBertError, RuntimeError):
    """A run that can not go on, because of how its model or its processes are set up."""


class NotFinite(MtBertError, FloatingPointError):
    """A step's loss or gradient is nan or infinite; the last checkpoint is of a step before it."""
