"""Streams of bytes whose lines and unpacked size are bounded, so that no file or pipe takes all memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import BinaryIO

from ..errors import ReadError
from ..modeling.limits import beyond, limit

RATIO = 200  # text packs to a tenth; what unpacks to so many times its size holds next to nothing


class BoundedStream(io.BufferedIOBase):
    """A stream that raises ReadError for a line, or an unpacked file, that is beyond its limit.

    Args:
        stream: what is read.
        packed: bytes of the compressed file that `stream` unpacks; None: it unpacks none.
        closes: whether `stream` is closed with this one; standard input is not.
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
        if found := beyond("line_bytes", length, "a line has at least", " bytes"):
            raise ReadError(found[0])

    def __next__(self) -> bytes:
        if line := self.readline():
            return line
        raise StopIteration

    def _counted(self, data: bytes) -> bytes:
        if self.packed is not None:
            self.unpacked += len(data)
            if self.unpacked > RATIO * self.packed and (
                found := beyond("unpacked_bytes", self.unpacked, f"its {self.packed:,} bytes unpack to at least")
            ):
                raise ReadError(found[0])
        return data

    def close(self) -> None:
        if self.closes:
            self.stream.close()
        super().close()


def column_problems(names: Sequence[str]) -> list[str]:
    """No sentence, or why a file has too many columns."""
    return beyond("columns", len(names), "it has", " columns")
