"""Byte streams that limit the length of a line and the unpacked size, so that no file or pipe exhausts the memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import BinaryIO

from ..errors import ReadError
from ..modeling.limits import beyond, limit

RATIO = 200  # text compresses to about a tenth; the unpacked size is limited only where it is beyond this ratio


class BoundedStream(io.BufferedIOBase):
    """A stream that raises ReadError if a line or the unpacked file exceeds its limit.

    Args:
        stream: the stream to read from.
        packed: size in bytes of the compressed file that `stream` unpacks; None: `stream` is not compressed.
        closes: whether closing this stream closes `stream`; standard input must stay open.
    """

    def __init__(self, stream: BinaryIO, packed: int | None = None, closes: bool = True):
        self.stream, self.packed, self.unpacked = stream, packed, 0
        self.longest, self.line = limit("line_bytes"), 0
        self.closes = closes

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(io.DEFAULT_BUFFER_SIZE), b""))
        data = self._counted(self.stream.read(size))
        ended = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        self.line = len(data) - ended if ended else self.line + len(data)
        self._refuse_line(self.line)
        return data

    def readline(self, size: int | None = -1) -> bytes:
        if size is not None and size >= 0:
            return self._counted(self.stream.readline(size))
        line = self.stream.readline(self.longest + 1)
        self._refuse_line(len(line))
        return self._counted(line)

    def _refuse_line(self, length: int) -> None:
        problems = beyond("line_bytes", length, "a line has at least", " bytes")
        if problems:
            raise ReadError(problems[0])

    def __next__(self) -> bytes:
        if line := self.readline():
            return line
        raise StopIteration

    def _counted(self, data: bytes) -> bytes:
        if self.packed is None:
            return data
        self.unpacked += len(data)
        if self.unpacked > RATIO * self.packed:
            problems = beyond("unpacked_bytes", self.unpacked, f"its {self.packed:,} bytes unpack to at least")
            if problems:
                raise ReadError(problems[0])
        return data

    def close(self) -> None:
        if self.closes:
            self.stream.close()
        super().close()


def column_problems(names: Sequence[str]) -> list[str]:
    """Return a list with one sentence if a file has too many columns, else an empty list."""
    return beyond("columns", len(names), "it has", " columns")
