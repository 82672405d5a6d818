"""Files as people have them are read exactly, alike for training and prediction, or refused with row and remedy."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import zipfile
from pathlib import Path

import pytest
from datasets import Dataset, Json, List, Value

from mtbert.data.delimited import DelimitedRows, Dialect, ReadError
from mtbert.data.readers import RowFile, file_format
from mtbert.data.splits import DataSpec, check_rows, load_column, load_task
from mtbert.data.streaming import RowSource
from mtbert.modeling.configuration_mtbert import TaskSpec

MOOD = TaskSpec("mood", labels=("bad", "good"))
STS = TaskSpec("sts", range=(0, 5))


def rows(content: str | bytes, dialect: Dialect | str = ",", size: int = 3, block: int = 7) -> list[list]:
    """The header and the rows of a file that is read in small blocks."""
    raw = content.encode() if isinstance(content, str) else content
    dialect = Dialect(dialect, doubtful=dialect == "\t") if isinstance(dialect, str) else dialect
    read = DelimitedRows([raw[i : i + block] for i in range(0, len(raw), block)], dialect, size)
    return [read.names, *([*row] for chunk in read for row in zip(*chunk, strict=True))]


def both(tmp_path: Path, name: str, content: str | bytes, texts: tuple[str, ...] = ("text",), **form) -> list[tuple]:
    """The texts and ids of a file, which training and prediction must read alike."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    kind, separator, quoting = form.get("format"), form.get("separator"), form.get("quoting")
    spec = DataSpec(texts, train=name, id="id", **form)
    source = RowFile(path, spec.format_of(name), spec.separator, spec.quoting)
    task = TaskSpec("t", "regression", texts=len(texts))
    trained, _ = check_rows(task, "test", source.dataset([*texts, "id"]), spec, str(path))
    chunks = list(RowSource(str(path), texts, "id", kind, 2, separator, quoting).chunks())
    keys = ["id", *["text", "text_pair"][: len(texts)]]
    predicted = {key: [value for chunk in chunks for value in chunk[key]] for key in keys}
    assert predicted == {key: trained[key][:] for key in keys}
    assert trained["row"][:] == [row for chunk in chunks for row in chunk["row"]] == list(range(1, 1 + len(trained)))
    return list(zip(*predicted.values(), strict=True))


# Line ends

ENDS = {"lf": "\n", "crlf": "\r\n", "cr": "\r", "doubled": "\r\r\n"}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("block", [1, 2, 5, 1000])
def test_every_line_end(end, block):
    content = end.join(["id,text,label", "1,a,x", "", '2,"b",y', "  ", "3,c,", '"4","d","z"']) + end
    expected = [["id", "text", "label"], ["1", "a", "x"], ["2", "b", "y"], ["3", "c", ""], ["4", "d", "z"]]
    assert rows(content, block=block) == expected
    assert rows(content.removesuffix(end), block=block) == expected
    assert rows("\ufeff" + content.replace("id", '"id"', 1), block=block) == expected


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_a_carriage_return_in_a_field_is_a_character_of_it(block):
    content = 'text,label\nfirst\rsecond,bad\n"third\rfourth",good\n"a\r\nb",bad\r\n"c\n\nd",good\n\re,bad\nf\r,good\n'
    texts = ["first\rsecond", "third\rfourth", "a\r\nb", "c\n\nd", "\re", "f\r"]
    assert [row[0] for row in rows(content, block=block)[1:]] == texts


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_three_rows_with_carriage_returns_are_three_answers(tmp_path, suffix):
    content = 'id,text,label\n1,one\rhalf,0\n2,"two\rhalf",1\n3,three,0\n'.replace(
        ",", "\t" if suffix == "tsv" else ","
    )
    assert both(tmp_path, f"a.{suffix}", content) == [("1", "one\rhalf"), ("2", "two\rhalf"), ("3", "three")]


def test_other_line_separators_of_unicode_are_characters(tmp_path):
    odd = "a\u2028b\x85c\x0bd\x0ce\x1cf\u2029g"
    expected = [("1", odd), ("2", odd)]
    assert both(tmp_path, "a.csv", f'id,text\n1,{odd}\n2,"{odd}"\n') == expected
    lines = [json.dumps({"id": key, "text": text}, ensure_ascii=False) for key, text in expected]
    assert both(tmp_path, "a.jsonl", "\r\n".join(lines)) == expected
    chunks = list(RowSource("-", size=9).chunks(io.BytesIO(f"{odd}\nb\rc\n\n".encode())))
    assert [text for chunk in chunks for text in chunk["text"]] == [odd, "b\rc", ""]


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("text,label\na,x\rb,y\nc,z\n", r"row 1 \(line 2\) has 3 fields, but the header names 2; put a field"),
        ("text,label\ra,x\nb,y\r", "line 2: the lines end with a carriage return, but this one holds a line feed"),
        ('text,label\na,"b"\rc,d\n', r"row 1 \(line 2\), column 'label': characters follow a closing quote: .*quoting"),
    ],
)
def test_mixed_line_ends_are_refused(content, where):
    with pytest.raises(ReadError, match=where):
        rows(content)


# Quotes


def test_quotes_and_blanks_of_the_standard():
    content = (
        'a,b\n"say ""hi""",x\n5" pipe,it\'s\n"","\n"\n"a,b", "c" \n\'d,e\'\n"""",""\n#no,comment\nNA,null\n007,1e5\n'
    )
    expected = [
        ['say "hi"', "x"],
        ['5" pipe', "it's"],
        ["", "\n"],
        ["a,b", ' "c" '],
        ["'d", "e'"],
        ['"', ""],
        ["#no", "comment"],
        ["NA", "null"],
        ["007", "1e5"],
    ]
    for block in (1, 4, 1000):
        assert rows(content, block=block)[1:] == expected


def test_random_files_are_read_as_python_writes_them():
    draw = random.Random(0)
    for _ in range(300):
        separator, width = draw.choice([",", "\t", ";", "|"]), draw.randint(2, 4)
        fields = ['"', "\n", "\r", "\r\n", separator, "a", "é", "\u2028", " ", "\\"]
        table = [["".join(draw.choices(fields, k=draw.randint(0, 5))) for _ in range(width)] for _ in range(9)]
        file = io.StringIO(newline="")
        quoting = draw.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
        end = "\r\n" if any("\r" in field for row in table for field in row) else draw.choice(["\n", "\r\n"])
        writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=end)
        writer.writerows([[f"c{i}" for i in range(width)], *table])
        assert rows(file.getvalue(), Dialect(separator), draw.randint(1, 9), draw.randint(1, 40))[1:] == table


@pytest.mark.parametrize("text", ['"Hello," he said.', '"unbalanced', 'a "b" c', '"a" "b"', '"one" or "two"', '"'])
def test_quotes_that_are_text(tmp_path, text):
    content = f"id\ttext\tlabel\n1\t{text}\t0\n2\tfine\t1\n"
    expected = [("1", text), ("2", "fine")]
    assert both(tmp_path, "a.tsv", content, quoting="none") == expected
    if text.startswith('"'):
        (tmp_path / "b.tsv").write_text(content)
        for read in (
            lambda: load_task(MOOD, DataSpec(train="b.tsv"), tmp_path),
            lambda: list(RowSource(f"{tmp_path}/b.tsv").chunks()),
        ):
            with pytest.raises(ValueError, match=r"b.tsv.*row 1 .*column 'text'.*quoting to none.*backslash"):
                read()
    else:
        assert both(tmp_path, "b.tsv", content) == expected


def test_needless_quotes_of_a_tsv_are_doubtful(tmp_path):
    content = 'text\tlabel\n"Yes"\tgood\n'
    with pytest.raises(
        ReadError,
        match=r"row 1 \(line 2\): column 'text': the quotes of '\"Yes\"' may be .*to none if .*double",
    ):
        rows(content, "\t")
    for swallowing in ('text\n"one\ntwo"\n', 'text\tlabel\n"\t1\n"\t0\n', 'label\ttext\n1\t"one\nshort\n0\t"\n'):
        with pytest.raises(ReadError, match=r"row 1 \(line 2\): a quote that may be text swallowed .*quoting to none"):
            rows(swallowing, "\t")
    with pytest.raises(ReadError, match=r"row 2 \(line 4\): column 'b': the quotes of '\"x, y\"' may"):
        rows('a\tb\n"""c"""\td\n\n"e\tf"\t"x, y"\n', "\t")
    assert rows(content, Dialect("\t", "double", True))[1:] == [["Yes", "good"]]
    assert rows(content, Dialect("\t", "none", True))[1:] == [['"Yes"', "good"]]
    assert rows(content, Dialect("\t"))[1:] == [["Yes", "good"]]  # the course's files
    assert rows('"text"\t"label"\n"Yes"\t"good"\n', "\t")[1:] == [["Yes", "good"]]
    needed = 'text\tlabel\n"say ""hi"""\tgood\n"a\tb"\t""\n"c\nd"\tbad\n"e\rf"\tbad\n'
    assert [row[0] for row in rows(needed, "\t")[1:]] == ['say "hi"', "a\tb", "c\nd", "e\rf"]
    (tmp_path / "a.tsv").write_text('text\tlabel\n"one\tbad\ntwo"\tgood\n')
    with pytest.raises(ValueError, match="a.tsv.*a quote that may be text swallowed a tab.*quoting to none"):
        load_task(MOOD, DataSpec(train="a.tsv"), tmp_path)
    loaded = load_task(MOOD, DataSpec(train="a.tsv", quoting="double"), tmp_path)
    assert loaded.splits["train"]["text"][:] == ["one\tbad\ntwo"]


@pytest.mark.parametrize("block", [1, 2, 3, 1000])
def test_quotes_behind_a_backslash(block):
    content = 'a,b\n"say \\"hi\\", \\\\ C:\\new",x\n"two\nlines\\"",y\nn\\,o,\\"z\\\nw\n"\\\\",""\n'
    expected = [['say "hi", \\ C:\\new', "x"], ['two\nlines"', "y"], ["n,o", '"z\nw'], ["\\", ""]]
    assert rows(content, Dialect(",", "backslash"), block=block)[1:] == expected
    with pytest.raises(ReadError, match=r"row 1 \(line 2\), column 'a': characters follow .*to backslash if"):
        rows(content, block=block)
    with pytest.raises(ReadError, match="row 1 .*or set quoting to double or none"):
        rows('a,b\n"c""d",e\n', Dialect(",", "backslash"), block=block)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (
            'id,text\n1,a\n\n2,"b" c\n',
            r"row 2 \(line 4\), column 'text': characters follow a closing quote: '2,\"b\" c'",
        ),
        ('id,text\n1,"a\n2,"b"\n', r"row 1 \(line 2\), column 'text': characters follow"),
        ('id,text\n1,a\n2,"b\n3,c\n', r"row 2 \(line 3\), column 'text': a quote opens, but does not close; set quot"),
        ('"id,text\n1,a\n', "the header .line 1.: a quote opens, but does not close"),
        ("id,text\n1,a,\n", r"row 1 \(line 2\) has 3 fields, but the header names 2"),
        ("id,text\n1,a\n1;b,c;d,e\n", "row 2 .*has 3 fields"),
        ("id;text\n1;a, b\n", "row 1 .*has 2 fields, but the header names 1; .*separated by ';': set separator to it"),
        ("id,text,id\n1,a,2\n", r"the header names \['id'\] more than once"),
        ("sep=;\nid;text\n1;a\n", "line 1, 'sep=;', is for Excel; remove it, and set separator to ';'"),
        ("", "is empty"),
        (" \n\n", "is empty"),
        (b"id,text\n1,caf\xe9\n", "line 2 is no UTF-8 text; convert the file"),
        ("id,text\n1,a\n".encode("utf-16"), "line 1 is no UTF-8 text; convert"),
        ("id,text\n1,a\n".encode("utf-16-le"), "line 1 is no UTF-8 text; convert .*UTF-16"),
    ],
)
def test_what_can_not_be_read_exactly_is_refused(content, match):
    for block in (1, 1000):
        with pytest.raises(ReadError, match=match):
            rows(content, block=block)


def test_a_long_field_and_many_columns():
    text = "word, " * 100_000
    assert rows(f'text,label\n"{text}",x\n', block=9999)[1:] == [[text, "x"]]
    names = [str(i) for i in range(2000)]
    assert rows(",".join(names) + "\n" + ",".join(names) + "\n", block=999) == [names, names]


def test_nameless_and_spaced_columns():
    assert rows(",id, text,\n0,1,a,\n")[0] == ["Unnamed: 0", "id", " text", "Unnamed: 3"]


def test_a_short_row_is_told_or_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nfirst half\nsecond half,bad\n")
    (report,) = load_task(MOOD, DataSpec(train="a.csv"), tmp_path).reports
    assert report.short == (1,) and report.left_out == {"no label": (1,)}
    assert report.lines()[1].startswith("warning: mood train: 1 of 2 rows have fewer fields than the header (row 1)")
    with pytest.warns(UserWarning, match=r"a.csv: 1 of its rows have fewer fields than the header \(first: row 1\)"):
        list(RowSource(f"{tmp_path}/a.csv").chunks())
    (tmp_path / "b.csv").write_text("label,text\nbad,first half\nsecond half\n")
    for read in (
        lambda: load_task(MOOD, DataSpec(train="b.csv"), tmp_path),
        lambda: list(RowSource(f"{tmp_path}/b.csv").chunks()),
    ):
        with pytest.raises(ValueError, match="row 2:? has fewer fields than the header, so that it lacks 'text'; give"):
            read()


# Separators


@pytest.mark.parametrize("separator", [";", "|", "tab", "\t", "\\t", ",", ":", "^"])
def test_separators(tmp_path, separator):
    character = {"tab": "\t", "\\t": "\t"}.get(separator, separator)
    content = 'id_text_x\n1_"a_ b"_\n2_"c, d; e"_1\n'.replace("_", character)
    quoted = content.replace("id", '"id"', 1)  # else its quotes may be text where tabs separate the fields
    expected = [("1", f"a{character} b"), ("2", "c, d; e")]
    assert both(tmp_path, "a.csv", quoted, separator=separator) == expected


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ";"), ("a.csv", "|"), ("a.tsv", ","), ("a.tsv", ";")])
def test_a_wrong_separator_is_told_with_the_right_one(tmp_path, name, separator):
    (tmp_path / name).write_text(f"text{separator}label\na{separator}bad\n")
    for read in (
        lambda: load_task(MOOD, DataSpec(train=name), tmp_path),
        lambda: list(RowSource(str(tmp_path / name)).chunks()),
    ):
        with pytest.raises(ValueError, match=f"columns are separated by '[{separator}]': set separator to it"):
            read()


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ({"separator": "||"}, "separator is '||', but must be one character such as"),
        ({"separator": '"'}, "separator is '\"', but must be one character"),
        ({"separator": ""}, "separator is '', but must be one character"),
        ({"separator": "x"}, "separator is 'x', but must be one character"),
        ({"quoting": "some"}, "quoting is 'some', but must be one of: double, backslash, none"),
        ({"quoting": "none", "format": "json"}, "quoting is 'none', but is for csv and tsv files, not for json"),
        ({"separator": ";", "format": "cs224n"}, "separator is ';', but is for csv and tsv files, not for cs224n"),
        ({"separator": ";", "hub": "glue"}, "separator is ';', but is for csv and tsv files, not for hub"),
    ],
)
def test_forms_that_can_not_be(form, problem, tmp_path):
    assert DataSpec(train="a.csv", **form).problems("data") == [f"data: {problem}" for problem in [problem]][:0] or any(
        problem in found for found in DataSpec(train="a.csv", **form).problems("data")
    )
    if "hub" not in form:
        (tmp_path / "a.csv").write_text("text\na\n")
        source = RowSource(
            str(tmp_path / "a.csv"),
            format=form.get("format"),
            separator=form.get("separator"),
            quoting=form.get("quoting"),
        )
        with pytest.raises(ValueError, match="a.csv: (separator|quoting) is"):
            source.kind()


def test_a_separator_is_not_for_standard_input():
    with pytest.raises(
        ValueError, match="standard input: separator is ';', but is for csv and tsv files, not for json"
    ):
        list(RowSource("-", separator=";").chunks(io.BytesIO(b"a;b")))


# JSON


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
    assert DataSpec(train="a.txt.gz").problems("data")[0].startswith("data: train is 'a.txt.gz', whose suffix")


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
