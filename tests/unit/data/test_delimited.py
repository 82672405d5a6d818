"""Delimited files as people have them are read exactly, alike for training and prediction, or refused."""

import csv
import io
import json
import random

import pytest
from read_files import both

from mtbert.data.delimited import DelimitedRows, Dialect, ReadError
from mtbert.data.spec import DataSpec
from mtbert.data.splits import load_task
from mtbert.data.streaming import RowSource
from mtbert.modeling.task_spec import TaskSpec

MOOD = TaskSpec("mood", labels=("bad", "good"))


def rows(content: str | bytes, dialect: Dialect | str = ",", size: int = 3, block: int = 7) -> list[list]:
    """The header and the rows of a file that is read in small blocks."""
    raw = content.encode() if isinstance(content, str) else content
    dialect = Dialect(dialect, doubtful=dialect == "\t") if isinstance(dialect, str) else dialect
    read = DelimitedRows([raw[i : i + block] for i in range(0, len(raw), block)], dialect, size)
    return [read.names, *([*row] for chunk in read for row in zip(*chunk, strict=True))]


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
    assert any(str(found).startswith(problem) for found in DataSpec(train="a.csv", **form).problems())
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
