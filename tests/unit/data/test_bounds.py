"""A line without an end, a file that unpacks to nothing but zeros: read no further than the limit."""

import bz2
import gzip
import io
import lzma

import pytest

from mtbert.data.bounds import BoundedStream, column_problems
from mtbert.data.readers import RowFile, file_format
from mtbert.data.streaming import RowSource
from mtbert.errors import ReadError
from tests.support.bounded import bounded


class Endless(io.RawIOBase):
    """The same byte for ever; counts how many were taken."""

    taken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        buffer[:] = b"x" * len(buffer)
        self.taken += len(buffer)
        return len(buffer)


def test_an_endless_line(monkeypatch):
    monkeypatch.setenv("MTBERT_MAX_LINE_BYTES", "10000000")
    endless = Endless()
    buffered = io.BufferedReader(endless)
    with pytest.raises(ValueError, match=r"a line has at least 10,000,001 bytes, .* MTBERT_MAX_LINE_BYTES raises that"):
        next(BoundedStream(buffered, closes=False))
    assert not buffered.closed
    blocks = BoundedStream(buffered)
    with pytest.raises(ValueError, match=r"a line has at least 10,.* MTBERT_MAX_LINE_BYTES raises that"):
        while blocks.read(2**20):
            pass
    assert endless.taken < 30_000_000


@pytest.mark.parametrize("module", [gzip, bz2, lzma])
def test_a_bomb(module, tmp_path):
    file = tmp_path / "bomb"
    with module.open(file, "wb") as out:
        for _ in range(40):
            out.write(bytes(2**20))
    packed = file.stat().st_size
    with (
        bounded(),
        pytest.raises(ValueError, match=rf"its {packed:,} bytes unpack to at least 3.,.* MTBERT_MAX_UNPACKED_BYTES"),
    ):
        BoundedStream(module.open(file), packed).read()


def test_the_environment_raises_the_limits(monkeypatch):
    monkeypatch.setenv("MTBERT_MAX_LINE_BYTES", "3")
    assert list(BoundedStream(io.BytesIO(b"ab\ncd\n"))) == [b"ab\n", b"cd\n"]
    for read in (list, lambda stream: stream.read()):
        with pytest.raises(ValueError, match=r"a line has at least \d bytes, but must be at most 3"):
            read(BoundedStream(io.BytesIO(b"ab\ncdefghi")))


def test_what_is_within_is_read_as_it_is():
    data = b"\n".join([b"one", b"", b"three\r", b"4" * 100_000])
    for read in (lambda s: s.read(), lambda s: b"".join(s), lambda s: b"".join(iter(lambda: s.read(7), b""))):
        assert read(BoundedStream(io.BytesIO(data), 1)) == data
    stream = io.BytesIO(data)
    with BoundedStream(stream) as bounded:
        assert bounded.readline(2) == b"on" and bounded.readline() == b"e\n"
    assert stream.closed


def test_columns():
    assert column_problems(["x"] * 10_000) == []
    assert column_problems(["x"] * 10**5) == [
        "it has 100,000 columns, but must be at most 10,000; MTBERT_MAX_COLUMNS raises that"
    ]


def zeros(path):
    with gzip.open(path, "wb", 1) as file:
        for _ in range(100):
            file.write(bytes(10**6))


def write_wide(path):
    path.write_text(",".join(f"c{i}" for i in range(10**5)) + "\n")


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.csv", write_wide, "has 100,000 columns, but must be at most 10,000; MTBERT_MAX_COLUMNS raises"),
        ("a.csv.gz", zeros, "a line has at least .* bytes, but must be at most .*; MTBERT_MAX_LINE_BYTES raises"),
        ("a.jsonl.gz", zeros, "a line has at least .* bytes, but must be at most .*; MTBERT_MAX_LINE_BYTES raises"),
        ("a.json", lambda path: path.write_text("[" * 5000 + "]" * 5000), "values lie more than 100 levels deep"),
        (
            "b.json",
            lambda path: path.write_text('{"text": ' + "[" * 500 + "]" * 500 + "}\n"),
            "levels deep .*; MTBERT_MAX_DEPTH raises",
        ),
    ],
)
def test_files_without_a_bound_are_refused_at_once(tmp_path, name, write, message):
    write(tmp_path / name)
    with bounded(), pytest.raises(ReadError, match=message):
        RowFile(tmp_path / name, file_format(name)).dataset(["text"])
    with bounded(), pytest.raises(ReadError, match=message):
        list(RowSource(str(tmp_path / name), ("text",), None, None, 100).chunks())
