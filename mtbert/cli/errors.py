"""End a command on an error: print only the message if the error is for the user, otherwise the traceback.

Tokens and passwords are masked in these outputs and in all warnings.
"""

from __future__ import annotations

import errno
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import MtBertError
from ..modeling.display import display

PACKAGE = Path(__file__).resolve().parents[1]
OURS = (PACKAGE, PACKAGE.parent / "recipes")
_STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()
# Errors of the machine rather than of the code: a full or broken disk, a closed pipe.
_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EPIPE)


def is_ours(error: BaseException) -> bool:
    """Return whether an error was raised in mtbert or `recipes/`, or in the standard library as called from there."""
    files = [Path(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__)]
    files = [file.resolve() for file in files if not _is_standard(file)]  # a script's file name is as it was called
    return bool(files) and any(files[-1].is_relative_to(folder) for folder in OURS)


def _is_standard(file: Path) -> bool:
    if str(file).startswith("<frozen "):
        return True
    return file.resolve().is_relative_to(_STANDARD_LIBRARY) and "site-packages" not in file.parts


def is_for_the_user(error: BaseException) -> bool:
    """Return whether an error is for the user: a MtBertError, or an OSError about a file or the machine.

    All other errors, such as a ValueError of `int` or an OSError that names no file, may be bugs.
    """
    if not is_ours(error):
        return False
    if isinstance(error, MtBertError):
        return True
    if not isinstance(error, OSError) or error.errno is None:
        return False
    return error.filename is not None or error.errno in _OF_THE_MACHINE


@contextmanager
def clear_errors() -> Iterator[None]:
    """Context manager that ends the process with message and status 1 on an error for the user.

    Any other error keeps its traceback. Tokens and passwords are masked in messages, tracebacks and warnings.
    """
    with _masked_warnings():
        try:
            yield
        except Exception as error:
            if is_for_the_user(error):
                sys.exit(display(error, lines=True))
            _mask_traceback(error)
            raise


@contextmanager
def _masked_warnings() -> Iterator[None]:
    """Context manager that masks tokens and passwords in warnings."""
    before = warnings.formatwarning

    def formatwarning(*args: Any, **kwargs: Any) -> str:
        return display(before(*args, **kwargs), lines=True)

    warnings.formatwarning = formatwarning
    try:
        yield
    finally:
        warnings.formatwarning = before


def _mask_traceback(error: Exception) -> None:
    """Make Python mask tokens in the traceback of this error and its causes; other errors are printed as before."""
    before = sys.excepthook

    def excepthook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        sys.excepthook = before
        if value is not error:
            before(kind, value, trace)
            return
        text = "".join(traceback.format_exception(kind, value, trace))
        print(display(text, lines=True), end="", file=sys.stderr)

    sys.excepthook = excepthook
