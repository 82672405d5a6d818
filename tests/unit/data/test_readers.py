"""JSON and compressed files are read exactly, alike for training and prediction, or refused with row and remedy."""

import bz2
import gzip
import io
import json
import lzma
import zipfile

import pytest
from datasets import Dataset, Json, List, Value
from read_files import both

from mtbert.data.delimited import DelimitedRows, Dialect
from mtbert.data.readers import RowFile, file_format
from mtbert.data.spec import DataSpec
from mtbert.data.splits import load_column, load_task
from mtbert.data.streaming import RowSource
from mtbert.modeling.task_spec import TaskSpec

MOOD = TaskSpec("mood", labels=("bad", "good"))
STS = TaskSpec("sts", range=(0, 5))


def rows(content: str | bytes, dialect: Dialect | str = ",", size: int = 3, block: int = 7) -> list[list]:
    """The header and the rows of a file that is read in small blocks."""
    raw = content.encode() if isinstance(content, str) else content
    dialect = Dialect(dialect, doubtful=dialect == "\t") if isinstance(dialect, str) else dialect
    read = DelimitedRows([raw[i : i + block] for i in range(0, len(raw), block)], dialect, size)
    return [read.names, *([*row] for chunk in read for row in zip(*chunk, strict=True))]


def lines(*objects: dict) -> str:
    return "".join(json.dumps(each) + "\n" for each in objects)


def test_json_texts_and_ids_are_what_is_written(tmp_path):
    texts = [
        "2020-01-01",
        "2020-01-01T10:00:00Z",
        "1.0",
        "true",
        "null",
        "NaN",
        "007",
        "1e5",
        "12345678901234567890123",
    ]
    texts += ["10:30", "\\N", '"quoted"', "a\r\nb", "é", "😀"]
    objects = [{"id": f"2021-02-{i + 1:02d}", "text": text} for i, text in enumerate(texts)]
    expected = [(each["id"], each["text"]) for each in objects]
    assert both(tmp_path, "a.jsonl", lines(*objects)) == expected
    assert both(tmp_path, "a.json", json.dumps(objects, indent=2)) == expected
    raw = '{"id": 1, "text": 1.10}\n{"id": 12345678901234567890123, "text": true}\n{"id": 1.50, "text": 7}\n'
    raw += '{"id": "x", "text": "b"}\n{"id": 1e3, "text": Infinity}\n'
    expected = [("1", "1.10"), ("12345678901234567890123", "true"), ("1.50", "7"), ("x", "b"), ("1e3", "inf")]
    assert both(tmp_path, "b.jsonl", raw) == expected


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_forms_of_json_files(tmp_path, end):
    objects, expected = [{"id": "1", "text": "a"}, {"id": "2", "text": "b"}], [("1", "a"), ("2", "b")]
    each = [json.dumps(row) for row in objects]
    for content in (
        end.join(each),
        "\ufeff" + end.join(["", *each, "", ""]),
        "\ufeff " + json.dumps(objects),
        end + json.dumps(objects, indent=1).replace("\n", end),
    ):
        assert both(tmp_path, "a.json", content) == expected


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"id": 1, "text": "a", "text": "b"}\n', "line 1 is no JSON: an object names 'text' more than once"),
        ('{"id": 1, "text": "a"}{"id": 2, "text": "b"}\n', "line 1 is no JSON: Extra data"),
        ('{\n"id": 1,\n"text": "a"\n}\n', "line 1 is no JSON: .*; write one JSON object a line, or one array"),
        ('{"data": [{"id": 1, "text": "a"}]}\n', "(no column 'text'|line 1 has no 'text')"),
        ('{"id": [1, 2], "text": ["a", "b"]}\n', "(line|row) 1: '(id|text)' is a list, but must be text"),
        ('{"id": 1, "text": {"0": "a"}}\n', "(line|row) 1: 'text' is a dict, but must be text"),
        ('["a", "b"]\n', "row 1 is str, but must be an object"),
        ('{"id": 1, "text": "a"}\n"b"\n', "line 2 is str, but must be an object"),
        ('[[1, "a"]]', "row 1 is list, but must be an object"),
        ('{"id": 1, "text": "a\tb"}\n', "line 1 is no JSON: Invalid control character"),
        ('{"id": 1, "text": "\\ud800"}\n', "(line|row) 1: 'text' has half of a surrogate pair"),
    ],
)
def test_json_that_is_refused(tmp_path, content, match):
    (tmp_path / "a.json").write_text(content)
    spec = DataSpec(train="a.json", id="id")
    for read in (
        lambda: load_task(MOOD, spec, tmp_path),
        lambda: list(RowSource(f"{tmp_path}/a.json", id="id").chunks()),
    ):
        with pytest.raises(ValueError, match=f"a.json.*{match}"):
            read()


def test_json_columns_hold_their_values_exactly(tmp_path):
    """Also where later rows hold other types than the first 2,000."""
    first = [{"text": "a", "label": 1, "n": 1, "b": True, "tags": ["x"], "m": 1}] * 2000
    last = {"text": "2020-01-01", "label": "good", "n": 2.5, "when": "2020-01-01", "tags": [], "m": {"k": [1]}}
    (tmp_path / "a.jsonl").write_text(lines(*first, last, {"text": None, "label": None, "huge": 1 << 70}))
    rows = RowFile(tmp_path / "a.jsonl", "json").dataset(["text"])
    kinds = {"text": Value("string"), "label": Json(), "n": Value("float64"), "b": Value("bool")}
    kinds |= {"tags": List(Value("string")), "m": Json(), "when": Value("string"), "huge": Value("string")}
    assert rows.features == kinds and len(rows) == 2002
    assert rows[0] == {**first[0], "when": None, "huge": None}
    assert rows[2000] == {**last, "b": None, "huge": None}
    assert rows[2001]["huge"] == str(1 << 70) and rows[2001]["text"] is None
    (tmp_path / "b.jsonl").write_text(
        '{"text": "a", "label": 2}\n{"text": "b", "label": NaN}\n{"text": NaN, "label": 3}'
    )
    loaded = load_task(STS, DataSpec(train="b.jsonl"), tmp_path)
    assert loaded.splits["train"].to_list() == [{"text": "a", "label": 2.0, "row": 1}]
    assert loaded.reports[0].left_out == {"no label": (2,), "empty text in text": (3,)}
    (tmp_path / "c.jsonl").write_text('{"text": "a", "label": Infinity}\n')
    with pytest.raises(ValueError, match="row 1: inf"):
        load_task(STS, DataSpec(train="c.jsonl"), tmp_path)
    (tmp_path / "d.jsonl").write_text(lines({"text": "a", "label": 0, "day": "2020-01-01"}))
    assert load_column(MOOD, DataSpec(train="d.jsonl"), "train", "day", tmp_path) == {1: "2020-01-01"}


# Compressed files


def zipped(content: bytes, *more: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("folder/rows", content)
        archive.writestr("__MACOSX/folder/._rows", b"junk")
        for name in more:
            archive.writestr(name, content)
    return file.getvalue()


PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zip": zipped}


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json"])
def test_compressed_files(tmp_path, suffix, name):
    content = lines({"id": "1", "text": "2020-01-01"}, {"id": "2", "text": "b"})
    if name == "a.csv" or name == "a.tsv":
        content = "id,text\n1,2020-01-01\n2,b\n".replace(",", "," if name == "a.csv" else "\t")
    assert both(tmp_path, name + suffix, PACK[suffix](content.encode())) == [("1", "2020-01-01"), ("2", "b")]
    assert file_format(f"X/{name.upper()}{suffix.upper()}") == file_format(name)


def test_compressed_files_are_known_by_their_content(tmp_path):
    assert both(tmp_path, "a.csv", gzip.compress(b"id,text\n1,a\n")) == [("1", "a")]
    assert both(tmp_path, "b.csv.gz", b"id,text\n1,a\n") == [("1", "a")]
    assert both(tmp_path, "c.csv", b"BZhid,id,text\n0,1,a\n") == [("1", "a")]
    assert str(DataSpec(train="a.txt.gz").problems()[0]).startswith("train is 'a.txt.gz', whose suffix")


@pytest.mark.parametrize("suffix", PACK)
def test_damaged_archives_are_refused(tmp_path, suffix):
    content = PACK[suffix](b"id,text\n" + b"".join(b"%d,%d\n" % (i, i**9) for i in range(3000)))
    (tmp_path / "a.csv").write_bytes(content[: len(content) // 2])
    for read in (
        lambda: load_task(MOOD, DataSpec(train="a.csv"), tmp_path),
        lambda: list(RowSource(f"{tmp_path}/a.csv").chunks()),
    ):
        with pytest.raises(ValueError, match="a.csv.*(damaged|can not be read).*; write (the file|it) again"):
            read()
    (tmp_path / "b.csv").write_bytes(zipped(b"id,text\n1,a\n", "second"))
    with pytest.raises(ValueError, match="b.csv is a zip archive of 2 files; give an archive of one file"):
        list(RowSource(f"{tmp_path}/b.csv").chunks())


# The cache


def test_rows_are_cached_by_content(tmp_path):
    def read(name: str, content: str, **form) -> Dataset:
        (tmp_path / name).write_text(content)
        return RowFile(tmp_path / name, "csv", **form).dataset([])

    first, same = read("a.csv", "text,n\na,1\n"), read("b.csv", "text,n\na,1\n")
    assert first._fingerprint == same._fingerprint and first.cache_files == same.cache_files
    assert read("a.csv", "text,n\nb,1\n")["text"][:] == ["b"]
    assert read("a.csv", 'text,n\n"b",1\n')["text"][:] == ["b"]
    assert read("a.csv", 'text,n\n"b",1\n', quoting="none")["text"][:] == ['"b"']
    assert len(read("a.csv", "text,n\n")) == 0


# Numbers of rows


def test_header_only_files_and_texts_on_standard_input(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n")
    (tmp_path / "a.jsonl").write_text("")
    assert [list(RowSource(f"{tmp_path}/a.{suffix}").chunks()) for suffix in ("csv", "jsonl")] == [[], []]
    with pytest.raises(ValueError, match="a.csv.*no row after the header"):
        load_task(MOOD, DataSpec(train="a.csv"), tmp_path)
    for content, expected in ((b"a\r\n\r\nb", ["a", "", "b"]), (b"a\rb\r", ["a", "b"]), (b"\xef\xbb\xbfa\n", ["a"])):
        (chunk,) = RowSource("-").chunks(io.BytesIO(content))
        assert chunk["text"] == expected
