"""Read the rows of csv and tsv files exactly.

A scan of the quotes splits a file into records, and Python's `csv` splits the records into fields. The two readings
are independent and must agree on the number of rows. Lines end with `\\n` or `\\r\\n`, or with `\\r` if the header
does; any other carriage return is a character of its field.
"""

from __future__ import annotations

import codecs
import csv
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NoReturn

from ..errors import ReadError
from .bounds import column_problems

QUOTING = ("double", "backslash", "none")
LONGEST = 1 << 27  # most characters of a record with an open quote
# Surrogates, which UTF-8 can not encode, replace escaped characters, so that they do not act as quotes or separators.
QUOTE, BACKSLASH, NEWLINE, RETURN, SEPARATOR = map(chr, range(0xD800, 0xD805))
HINTS = {"\t": "separated by tabs: use format: tsv, or cs224n for the course's files"}

csv.field_size_limit(sys.maxsize)  # a text may be longer than the 128 KB that `csv` allows by default


@dataclass(frozen=True)
class Dialect:
    """How fields are separated and quoted.

    Attributes:
        separator: one character.
        quoting: `double` (a quote within quotes is written twice), `backslash` (it is written `\\"`) or `none` (quotes
            are text); None: `double`.
        doubtful: whether to reject fields with needless quotes, because quotes may be text in such a file. Has no
            effect if the header has quotes or `quoting` is given.
    """

    separator: str
    quoting: str | None = None
    doubtful: bool = False

    @property
    def quoted(self) -> bool:
        """Whether a quote at the beginning of a field opens a quoted field."""
        return self.quoting != "none"

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments for `csv.reader`."""
        quoting = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        doubled = self.quoting != "backslash"
        return {"delimiter": self.separator, "strict": True, "quoting": quoting, "doublequote": doubled}

    def closed_line(self) -> re.Pattern[str]:
        """Pattern of a line that leaves no quote open and has no characters between a closing quote and a separator."""
        other = "[^" + re.escape(self.separator)
        inside = '[^"]*+' if self.quoting == "backslash" else '[^"]*+(?:""[^"]*+)*+'
        value = f'(?:"{inside}"|{other}"]{other}]*+|)'
        return re.compile(f"{value}(?:{re.escape(self.separator)}{value})*+\r*")

    def needless_quotes(self) -> re.Pattern[str]:
        """Pattern of a quoted field without a separator, line end or quote in it."""
        separator = re.escape(self.separator)
        return re.compile(f'(?:^|{separator})("[^"{separator}\n{RETURN}]+")(?={separator}|\\Z)')


class DelimitedRows:
    """Iterator over the rows below a header line, in chunks.

    Blank lines are skipped. A row may lack its last fields.

    Args:
        blocks: the file's bytes, in pieces of any size.
        dialect: how the fields are separated and quoted.
        size: number of rows of a chunk.

    Attributes:
        names: the column names; a column without one is called `Unnamed: N`, N counted from 0.
        short: numbers (from 1) of the rows read so far that lack their last fields.

    Raises:
        ReadError: there is no header, or it names a column twice. While iterating: a row can not be read exactly.
    """

    def __init__(self, blocks: Iterable[bytes], dialect: Dialect, size: int = 2000):
        self.dialect, self.size = dialect, size
        self.names: list[str] = []
        self.short: list[int] = []
        self.closed, self.needless, self.count = dialect.closed_line(), dialect.needless_quotes(), 0
        self.open: list[str] = []  # lines of a record with an open quote
        self.first, self.length = 0, 0  # the number of its first line, its characters so far
        self.stand_ins = dialect.quoting == "backslash"
        self.end, lines = _lines(_escaped(_decoded(blocks), dialect), dialect.quoted)
        self.records: Iterator[tuple[Sequence[int], list[str]]] = self._split(lines)
        numbers, records = next(self.records, ([], []))
        if not records:
            raise ReadError("it is empty; write a header and a row for each text")
        self.records = chain([(numbers[1:], records[1:])], self.records)
        if "\0" in records[0]:
            raise ReadError("line 1 is no UTF-8 text; convert the file (it holds NUL characters, as UTF-16 does)")
        if excel := re.fullmatch('"?sep=(.?)"?', records[0]):
            raise ReadError(f"line 1, {records[0]!r}, is for Excel; remove it, and set separator to {excel[1]!r}")
        names = [name or f"Unnamed: {i}" for i, name in enumerate(self._fields(records[:1])[0])]
        if problems := column_problems(names):
            raise ReadError(problems[0])
        if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
            raise ReadError(f"the header names {repeated} more than once; give each column its name")
        self.names = names
        plain = not any(field.startswith('"') for field in records[0].split(dialect.separator))
        self.doubtful = dialect.doubtful and dialect.quoting is None and plain

    def __iter__(self) -> Iterator[list[list[str | None]]]:
        """Yield chunks of at most `size` rows, as columns in the order of `names`. A missing field is None."""
        before = 0
        numbers: list[int] = []
        records: list[str] = []
        for more_numbers, more_records in self.records:
            numbers, records = [*numbers, *more_numbers], [*records, *more_records]
            full = len(records) - len(records) % self.size
            for start in range(0, full, self.size):
                stop = start + self.size
                yield self._columns(numbers[start:stop], records[start:stop], before)
                before += self.size
            numbers, records = numbers[full:], records[full:]
        if records:
            yield self._columns(numbers, records, before)

    def _columns(self, numbers: Sequence[int], records: list[str], before: int) -> list[list[Any]]:
        def place(i: int) -> str:
            return f"row {before + i + 1:,} (line {numbers[i]:,})"

        if self.doubtful:
            for i, record in enumerate(records):
                doubt = self._doubt(record) if '"' in record else None
                if doubt:
                    raise ReadError(f"{place(i)}: {doubt}")
        width = len(self.names)
        fields: list[Any]
        fields, widths = self._fields(records)
        if len(widths) != len(records):
            counts = f"{len(records):,} rows by their quotes, but {len(widths):,} by Python's csv"
            raise ReadError(f"{place(0)} to {place(len(records) - 1)} are {counts}; {self._fields_remedy()}")
        if set(widths) != {width}:
            rest = iter(fields)
            fields = []
            for i, fields_of_row in enumerate(widths):
                if fields_of_row > width:
                    counts = f"has {fields_of_row:,} fields, but the header names {width:,}"
                    raise ReadError(f"{place(i)} {counts}; {self._fields_remedy()}")
                fields += [*islice(rest, fields_of_row), *[None] * (width - fields_of_row)]
                if fields_of_row < width:
                    self.short.append(before + i + 1)
        return [fields[i::width] for i in range(width)]

    def _doubt(self, record: str) -> str | None:
        """Return why the quotes of a record may be text, and the remedy; None if they are not in doubt."""
        separator = self.dialect.separator
        if field := self.needless.search(record):
            column = self.names[len(self._fields([f"{record[: field.start(1)]}x"])[0]) - 1]
            why = f"column {column!r}: the quotes of {_short(field[1])} may be text"
        elif "\n" in record and (
            len(self.names) == 1 or any("\n" in field and separator in field for field in self._fields([record])[0])
        ):
            why = f"a quote that may be text swallowed a tab and a line break: {_short(record)}"
        else:
            return None
        return f"{why}; set quoting to none if quotes are text, or to double if they enclose it"

    def _fields(self, records: list[str]) -> tuple[list[str], list[int]]:
        """Parse records with `csv`; return the fields of all rows, concatenated, and the number of fields per row."""
        fields, widths = [], []
        for row in csv.reader(records, **self.dialect.options):  # one flat list keeps the garbage collector idle
            fields += row
            widths.append(len(row))
        if self.stand_ins:
            characters = dict(zip(range(0xD800, 0xD805), ('"', "\\", "\n", "\r", self.dialect.separator), strict=True))
            fields = [field.translate(characters) for field in fields]
        return fields, widths

    def _fields_remedy(self) -> str:
        check = separator_hint(self.names) or f"check separator, which is {self.dialect.separator!r}"
        if self.dialect.quoted:
            return f"put a field that holds the separator or a line break in quotes; {check}"
        return f"give every row as many fields as the header; {check}; check quoting, which is 'none'"

    def _split(self, lines: Iterable[tuple[Sequence[int], list[str]]]) -> Iterator[tuple[Sequence[int], list[str]]]:
        """Yield the numbers of the records' first lines and the records; blank ones and line ends are dropped."""
        for numbers, records in lines:
            if self.open or (self.dialect.quoted and any('"' in line for line in records)):
                numbers, records = self._joined(numbers, records)
            if any("\r" in record for record in records):
                self.stand_ins = True
                records = [record.rstrip("\r").replace("\r", RETURN) for record in records]
            if self.end == "\r":
                self._refuse_line_feeds(numbers, records)
            if not all(records) or any(map(str.isspace, records)):
                kept = [i for i, record in enumerate(records) if not self._blank(record)]
                numbers, records = [numbers[i] for i in kept], [records[i] for i in kept]
            if records:
                yield numbers, records
                self.count += len(records)
        if self.open:
            self._refuse("a quote opens, but does not close", self.open, [])

    def _blank(self, record: str) -> bool:
        return not record.strip(" \t\r") and self.dialect.separator not in record

    def _joined(self, numbers: Iterable[int], lines: Iterable[str]) -> tuple[list[int], list[str]]:
        """Join each line that ends within quotes with the next; return first lines' numbers and records."""
        starts: list[int] = []
        records: list[str] = []
        for number, line in zip(numbers, lines, strict=True):
            if not self.open:
                self.first, self.length = number, 0
                is_open = '"' in line and not self.closed.fullmatch(line) and self._leaves_open(line, records)
            else:
                is_open = '"' not in line or self._leaves_open(line, records)
            if is_open:
                self.open.append(line)
                self.length += len(line)
                if self.length > LONGEST:
                    self._refuse("a quote opens, but does not close", self.open, records)
                continue
            starts.append(self.first)
            records.append(self.end.join([*self.open, line]) if self.open else line)
            self.open.clear()
        return starts, records

    def _leaves_open(self, line: str, records: Sequence[str]) -> bool:
        """Return whether a line ends within quotes; `records` are those not yet counted in `count`."""
        separator, at, last, inside = self.dialect.separator, 0, len(line.rstrip("\r")), bool(self.open)
        doubled = self.dialect.quoting != "backslash"
        while True:
            if not inside:
                if line[at : at + 1] != '"':
                    at = line.find(separator, at) + 1
                    if not at:
                        return False
                    continue
                at += 1
            inside, at = False, line.find('"', at)
            while doubled and at >= 0 and line[at + 1 : at + 2] == '"':
                at = line.find('"', at + 2)
            if at < 0:
                return True
            at += 1
            if at >= last:
                return False
            if line[at] != separator:
                shown = _short(line[max(0, at - 20) : at + 20])
                self._refuse(f"characters follow a closing quote: {shown}", [*self.open, line[:at]], records)
            at += 1

    def _refuse(self, why: str, before: Sequence[str], records: Sequence[str]) -> NoReturn:
        """Raise a ReadError about the last field of the lines `before`, which follow `records`."""
        records = [record for record in records if not self._blank(record)]
        names = self.names or (self._fields([records[0].rstrip("\r")])[0] if records else [])
        loose = {**self.dialect.options, "strict": False}
        fields = len(next(csv.reader([self.end.join(before).replace("\r", RETURN)], **loose)))
        row = self.count + len(records)
        place = f"row {row:,} (line {self.first:,})" if row else f"the header (line {self.first:,})"
        place += f", column {names[fields - 1]!r}" if fields <= len(names) else ""
        remedy = (
            'set quoting to none if quotes are text, or to backslash if a quote within quotes is written \\"; '
            "otherwise close the quote, and write one within quotes twice"
        )
        if self.dialect.quoting == "backslash":
            remedy = 'close the quote, and write one within quotes as \\"; or set quoting to double or none'
        raise ReadError(f"{place}: {why}; {remedy}")

    def _refuse_line_feeds(self, numbers: Sequence[int], records: Sequence[str]) -> None:
        for number, record in zip(numbers, records, strict=True):
            if "\n" in re.sub('"[^"]*"', "", record):
                what = "the lines end with a carriage return, but this one holds a line feed"
                raise ReadError(f"line {number:,}: {what}; write one kind of line end, or put the text in quotes")


def separator_hint(names: Sequence[str]) -> str:
    """Return the setting to change if the only column's name contains a usual separator, else an empty string."""
    if len(names) == 1:
        for character in ("\t", ";", "|", ","):
            if character in names[0]:
                return "the columns are " + HINTS.get(character, f"separated by {character!r}: set separator to it")
    return ""


def _short(text: str) -> str:
    text = text.translate(dict(zip(range(0xD800, 0xD804), '"\\\n\r', strict=True)))
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _decoded(blocks: Iterable[bytes]) -> Iterator[str]:
    """Decode UTF-8 and drop a byte order mark."""
    decoder, lines = codecs.getincrementaldecoder("utf-8-sig")(), 1
    for block in chain(blocks, [b""]):
        try:
            yield decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            before = error.object[: error.start]
            line = lines + max(before.count(b"\n"), before.count(b"\r"))
            raise ReadError(f"line {line:,} is no UTF-8 text; convert the file ({error})") from error
        lines += max(block.count(b"\n"), block.count(b"\r"))


def _escaped(blocks: Iterable[str], dialect: Dialect) -> Iterable[str]:
    """With `quoting: backslash`, replace escaped characters by their stand-ins; otherwise yield the blocks unchanged.

    A backslash escapes a quote, a backslash, the separator and a line break; before another character it is text.
    """
    if dialect.quoting != "backslash":
        yield from blocks
        return
    stand_ins = {'"': QUOTE, "\\": BACKSLASH, "\n": NEWLINE, "\r": RETURN, dialect.separator: SEPARATOR}
    escape = re.compile(rf'\\(\r\n|[\\"\r\n{re.escape(dialect.separator)}])')
    unfinished = re.compile(r"(?:\\+\r?)?\Z")
    kept = ""
    for block in chain(blocks, [None]):
        text = kept + (block or "")
        ending: Any = unfinished.search(text)  # matches every text
        kept = "" if block is None else ending[0]  # an escape may go on in the next block
        yield escape.sub(lambda pair: "".join(map(stand_ins.__getitem__, pair[1])), text[: len(text) - len(kept)])


def _lines(blocks: Iterable[str], quoted: bool) -> tuple[str, Iterator[tuple[Sequence[int], list[str]]]]:
    """Return the line end, `\n` or `\r`, and an iterator over the line numbers and lines of each block.

    The `\r` of a `\r\n` stays at the end of its line.
    """
    blocks, parts, last = iter(blocks), [], ""
    for block in blocks:
        parts.append(block)
        if re.search(r"\n|\r[^\r]", last + block):
            break
        last = block[-1:] or last
    start = "".join(parts)
    header: Any = re.match(r'(?:"[^"]*"|[^"\r\n])*+' if quoted else r"[^\r\n]*+", start)  # matches every text
    first = re.compile(r"\r*\n|\r").search(start, header.end())
    end = "\r" if first and first[0] == "\r" else "\n"

    def numbered() -> Iterator[tuple[Sequence[int], list[str]]]:
        number, rest = 1, []
        for block in chain([start], blocks, [None]):
            rest.append(end if block is None else block)
            if block is None or end in block:
                *lines, last = "".join(rest).split(end)
                rest = [last]
                yield range(number, number + len(lines)), lines
                number += len(lines) + sum(line.count(NEWLINE) for line in lines if NEWLINE in line)

    return end, numbered()
