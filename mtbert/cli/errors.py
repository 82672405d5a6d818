"""How a script ends on an error: with the message alone if it is for the user, else with the traceback.

Whatever is printed then, and every warning before it, has its tokens and passwords masked.
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

from ..errors import MtBertError
from ..modeling.display import display

PACKAGE = Path(__file__).resolve().parents[1]
OURS = (PACKAGE, PACKAGE.parent / "recipes")
_STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()
# States of the machine that no code can be blamed for: a full or broken disk, a reader that has left.
_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EPIPE)


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised in mtbert or `recipes/`, or by the standard library that they called."""
    files = [Path(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__)]
    files = [file.resolve() for file in files if not _is_standard(file)]  # a script names itself as it was called
    return bool(files) and any(files[-1].is_relative_to(folder) for folder in OURS)


def _is_standard(file: Path) -> bool:
    if str(file).startswith("<frozen "):
        return True
    return file.resolve().is_relative_to(_STANDARD_LIBRARY) and "site-packages" not in file.parts


def is_for_the_user(error: BaseException) -> bool:
    """Whether an error's message says what to do: a MtBertError, or a file that the machine refused to open or write.

    All other errors, a ValueError of `int` as much as an OSError that names no file, may be bugs.
    """
    if not is_ours(error):
        return False
    if isinstance(error, MtBertError):
        return True
    refused = isinstance(error, OSError) and error.errno is not None
    return refused and (error.filename is not None or error.errno in _OF_THE_MACHINE)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Within it, an error that is for the user ends the process with its message and status 1.

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
    """Within it, warnings are printed and logged without tokens."""
    before = warnings.formatwarning

    def formatwarning(*args, **kwargs) -> str:
        return display(before(*args, **kwargs), lines=True)

    warnings.formatwarning = formatwarning
    try:
        yield
    finally:
        warnings.formatwarning = before


def _mask_traceback(error: Exception) -> None:
    """Let Python print this error's traceback, and those of its causes, without tokens; other errors' as before."""
    before = sys.excepthook

    def excepthook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        sys.excepthook = before
        if value is not error:
            before(kind, value, trace)
            return
        text = "".join(traceback.format_exception(kind, value, trace))
        print(display(text, lines=True), end="", file=sys.stderr)

    sys.excepthook = excepthook
