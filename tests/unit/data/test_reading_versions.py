"""Rows that were read and checked outlive a reworded comment, and are made anew where reading or checking changes."""

import gzip
import hashlib
import json
from dataclasses import replace

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from mtbert import data
from mtbert.data import given_rows, labels, readers, splits
from mtbert.data.delimited import ReadError
from mtbert.data.label_reading import LIST, VECTOR, LabelReader
from mtbert.modeling.task_spec import TaskSpec

# The version, and the SHA-256 of what `RowFile.dataset` makes of `FILES`. If the second changes, raise READING_VERSION
# in mtbert/data/readers.py, so that rows read by earlier versions are not used, and write both here.
STORED_READING = (1, "8bbfe3fe0eaf3a42a257ed07751e7f5dea09f498075c925790321aef19949995")
# The same of what `check_batch` and `_strip_batch` make of `COLUMNS`, and of CHECKING_VERSION in mtbert/data/labels.py.
STORED_CHECKING = (2, "382a9dfb4b72ada8f7d695dab870321ec957438e3f20c292924efe15dca529e2")

CSV = 'text,label\n"a ""cat"", asleep",1\n5" pipe,NA\nfirst\rhalf,007\n"two\nlines",\n\n a dog ,1e5\n'
JSON = [
    {"text": "a cat", "label": 1, "tags": ["x", "y"], "mixed": 1},
    {"text": 1.50, "label": 2.5, "tags": [], "mixed": "one"},
    {"text": None, "label": None, "tags": None, "mixed": {"a": [1, None]}},
    {"label": 1 << 40, "more": True, "text": "caf\u00e9 \u2028"},
]
LINES = "\n".join(map(json.dumps, JSON)).encode()
FILES = [  # content, format, separator, quoting
    (CSV.encode(), "csv", None, None),
    (CSV.replace("\n", "\r\n").encode("utf-8-sig"), "csv", None, None),
    (CSV.replace(",", ";").encode(), "csv", ";", None),
    (rb"text,label" + b"\n" + rb'"say \"hi\"",1' + b"\n", "csv", None, "backslash"),
    (b'text\tlabel\n"a" cat\t1\n', "tsv", None, "none"),
    (b'text\tlabel\n"a\tcat"\t1\nshort\n', "tsv", None, None),
    (b'text\tlabel\n"cat"\t1\n', "tsv", None, None),  # refused: are the quotes text?
    (b'\tid\tsentence\n0\tx\t"a cat"\n', "cs224n", None, None),
    (b"text,text\n1,2\n", "csv", None, None),  # refused
    (b"text,label\n", "csv", None, None),
    (gzip.compress(CSV.encode()), "csv", None, None),
    (LINES, "json", None, None),
    (LINES.replace(b"\n", b"\r\n\r\n"), "json", None, None),
    (json.dumps(JSON, indent=1).encode(), "json", None, None),
    (b'{"text": "a", "text": "b"}\n', "json", None, None),  # refused
    (b'{"text": ["a"]}\n', "json", None, None),  # refused
    (b'{"text": 1e400, "label": 123456789012345678901234567890}\n', "json", None, None),
]

MOOD = TaskSpec("mood", labels=("bad", "good"))
STARS = TaskSpec("stars", labels=("1", "2", "3"))
TRUTH = TaskSpec("same", "binary_classification", labels=("no", "yes"))
SCORE = TaskSpec("score", range=(0, 5))
TAGS = TaskSpec("tags", "multi_label_classification", labels=("cat", "dog", "bird"))
NAMES = ClassLabel(names=["good", "bad"])
CELLS = [None, "", " ", "good", " bad ", "Good", 0, 1, 2.0, "1", "1.0", -1, -100, True, "yes", 5.5, "4,5", "1_0"]
CELLS += [float("nan"), float("inf"), "nan", b"good", [], ["good"], [0, 1], ["1"], [[1]], {"bad": 1, "good": 0}]
MANY = [None, [], "", "cat", "cat|dog", "cat; bird", "cat,cat", "fish", 0, 1, "0", [0], [0, 2], [2, 1, 0], [1, 0, 1]]
MANY += [[True, False, True], [1.0, 0.0, 0.0], ["cat", "dog"], ["cat", "cat"], "['cat', 'bird']", '{"cat": 1}']
MANY += [{"cat": 1, "dog": 0, "bird": 1}, {"cat": None, "dog": None, "bird": None}, [None, None, None], "(0, 1)", -1]
COLUMNS = [  # task, type of the column, cells, whether -1 may mean that there is no label
    *((task, None, CELLS, minus_one) for task in (MOOD, STARS, TRUTH, SCORE) for minus_one in (False, True)),
    (TAGS, None, MANY, False),
    (MOOD, NAMES, [0, 1, -1], False),
    (TAGS, List(ClassLabel(names=["dog", "cat", "bird"])), [[0], [1, 2], [], [0, 1, 1]], False),
]
TEXTS = ["a cat", " a dog ", "", None, float("nan"), "nul \0", 7]


def check(
    batch: dict[str, list], text: tuple[str, ...], key: str | None, reader: LabelReader | None
) -> dict[str, list]:
    """What `check_batch` makes of rows that are numbered from 1."""
    rows = list(range(len(next(iter(batch.values())))))
    checked = labels.check_batch(batch, rows, text, "label", key, reader, labels.CHECKING_VERSION)
    return checked | {"_status": checked["_status"].tolist()}


def strip(batch: dict[str, list], lengths: tuple[str, ...], reader: LabelReader | None) -> dict:
    """What `_strip_batch` makes of rows of token ids."""
    return given_rows._strip_batch(batch, reader, lengths, labels.CHECKING_VERSION)


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_the_version_is_raised_where_rows_of_a_file_change(tmp_path):
    found = []
    for number, (content, *form) in enumerate(FILES):
        path = tmp_path / str(number)
        path.write_bytes(content)
        try:
            rows = readers.RowFile(path, *form).dataset(["text"])
            found.append([rows.features.to_dict(), rows.to_dict()])
        except ReadError:
            found.append("refused")
    features = Features({"text": Value("string"), "label": NAMES})
    Dataset.from_dict({"text": ["a", None], "label": [0, 1]}, features=features).to_parquet(tmp_path / "a.parquet")
    rows = readers.RowFile(tmp_path / "a.parquet", "parquet").dataset([])
    found.append([rows.features.to_dict(), rows.to_dict()])
    assert (readers.READING_VERSION, digest(found)) == STORED_READING, "files are read otherwise: see STORED_READING"


def test_the_version_is_raised_where_checked_rows_change():
    found = []
    for task, feature, cells, minus_one in COLUMNS:
        reader = LabelReader.of(task, {"label": feature}, "label", minus_one)
        for form in (None, LIST, VECTOR) if task is TAGS else (None,):
            found.append(check({"label": cells}, (), None, replace(reader, form=form)))
            found.append(strip({"input_ids": [[5]] * len(cells), "label": cells}, (), replace(reader, form=form)))
    batch = {"first": TEXTS, "second": TEXTS[::-1], "key": ["x", 1, None, 2.5, "", " y", True]}
    found.append(check(batch, ("first", "second"), "key", None))
    batch = {"input_ids": [[0, 5, 6, 7, 0]], "attention_mask": [[0, 1, 1, 1, 0]], "first_length": [2]}
    found.append(strip(batch, ("first_length",), None))
    assert (labels.CHECKING_VERSION, digest(found)) == STORED_CHECKING, "rows differ: see STORED_CHECKING"


@pytest.fixture
def keys(tmp_path):
    """A function that returns the names by which rows of a file, checked rows and given rows are cached."""
    path = tmp_path / "a.csv"
    path.write_text("text,label\na cat,good\na dog,bad\n")
    ids = Dataset.from_dict({"input_ids": [[5, 0]], "attention_mask": [[1, 0]], "label": [1]})

    def find() -> tuple[str, str, str]:
        rows = data.readers.RowFile(path, "csv").dataset([])
        checked, _ = data.splits.check_rows(MOOD, "train", rows, data.splits.DataSpec(), "a.csv")
        reader = data.labels.LabelReader.of_checked(MOOD)
        stripped = data.given_rows._without_padding(MOOD, "train", ids, reader, ("input_ids", "label"), "here")
        return rows._fingerprint, checked._fingerprint, stripped._fingerprint

    return find


def test_another_comment_keeps_the_keys(reword, keys):
    before = keys()
    for name in ("delimited", "json_rows", "label_reading", "labels", "readers", "given_rows", "splits"):
        reword(getattr(data, name))
    assert keys() == before


def test_another_version_of_reading_changes_the_keys_of_files(keys, monkeypatch):
    before = keys()
    monkeypatch.setattr(readers, "READING_VERSION", readers.READING_VERSION + 1)
    after = keys()
    assert after[0] != before[0] and after[1] != before[1] and after[2] == before[2]


def test_another_version_of_checking_changes_the_keys_of_checked_rows(keys, monkeypatch):
    before = keys()
    for module in (splits, given_rows):
        monkeypatch.setattr(module, "CHECKING_VERSION", labels.CHECKING_VERSION + 1)
    after = keys()
    assert after[0] == before[0] and after[1] != before[1] and after[2] != before[2]
