"""Open compressed files for reading and for writing: gzip, bzip2, xz, zstd and zip."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from ..errors import ReadError
from .bounds import BoundedStream

COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile, RuntimeError)
NAMES = 10  # members of an archive that a message lists
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that zip knows: the same rows give the same bytes


class Zstd(io.RawIOBase):
    """Bytes of a zstd file; raises ReadError where it is damaged."""

    def __init__(self, path: str | Path):
        self.stream = pa.CompressedInputStream(pa.OSFile(os.fspath(path)), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.stream.read(len(buffer))
        except OSError as error:
            raise ReadError(f"its compressed bytes are damaged ({error}); write the file again") from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.stream.close()
        super().close()


def open_file(path: str | Path, fits: Callable[[str], bool] | None = None) -> BoundedStream:
    """Open a file for reading; decompress gzip, bzip2, xz, zstd and zip files, which are known by their first bytes.

    Args:
        path: the file.
        fits: whether a member of a zip archive of several files is the one to read, by its name; None: none is.

    Raises:
        ReadError: a zip archive does not hold exactly one file that fits. While reading: a line or the unpacked file
            exceeds its limit.
    """
    with open(path, "rb") as file:
        head = file.read(10)
    unpackers: dict[bytes, Callable[..., Any]] = {
        b"\x1f\x8b": gzip.open,
        b"BZh" + head[3:4] + b"1AY&SY": bz2.open,
        b"\xfd7zXZ\0": lzma.open,
        b"\x28\xb5\x2f\xfd": lambda packed: io.BufferedReader(Zstd(packed)),
        b"PK\3\4": lambda packed: _member(packed, fits),
        b"PK\5\6": lambda packed: _member(packed, fits),
    }
    for start, unpack in unpackers.items():
        if head.startswith(start):
            return BoundedStream(unpack(path), os.path.getsize(path))
    return BoundedStream(open(path, "rb"))


def _member(path: str | Path, fits: Callable[[str], bool] | None) -> IO[bytes]:
    """Open the only file of a zip archive, or the only one that fits."""
    try:
        archive = zipfile.ZipFile(path)
        names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
        for fitting in (names, list(filter(fits, names)) if fits else []):
            if len(fitting) == 1:
                return archive.open(fitting[0])
    except DAMAGED as error:
        raise ReadError(f"it is a zip archive that can not be read ({error}); write it again") from error
    archive.close()
    shown = ", ".join(names[:NAMES]) + (", …" if len(names) > NAMES else "")
    what = f"it is a zip archive of {len(names)} files; give an archive of one file, or the file itself"
    raise ReadError(f"{what} (it holds {shown or 'none'})")


def intact(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the parts of a file unchanged; raise ReadError if its compressed bytes are damaged."""
    try:
        yield from parts
    except DAMAGED as error:
        raise ReadError(f"its compressed bytes are damaged ({error}); write the file again") from error


class _Open(io.RawIOBase):
    """Writes to a file and leaves it open when it is closed."""

    def __init__(self, file: IO[bytes]):
        self.file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self.file.write(data)


@contextmanager
def compressing(file: IO[bytes], name: str | Path) -> Iterator[Any]:
    """Compress what is written to `file`, by the suffix of its name; without such a suffix yield `file` itself.

    The same bytes give the same file: no time and no other name is stored. `file` stays open.

    Args:
        file: a file opened for writing bytes.
        name: the file's name; a zip archive holds one file, with this name less `.zip`.
    """
    suffix = Path(name).suffix.lower()
    if suffix == ".gz":
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
            yield packed
    elif suffix == ".bz2":
        with bz2.BZ2File(file, "wb") as packed:
            yield packed
    elif suffix == ".xz":
        with lzma.LZMAFile(file, "wb") as packed:
            yield packed
    elif suffix == ".zst":
        with pa.CompressedOutputStream(pa.PythonFile(_Open(file), mode="w"), "zstd") as packed:
            yield packed
    elif suffix == ".zip":
        member = zipfile.ZipInfo(Path(name).name[: -len(suffix)], ZIP_DATE)
        member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
        with zipfile.ZipFile(file, "w") as archive, archive.open(member, "w", force_zip64=True) as packed:
            yield packed
    else:
        yield file
