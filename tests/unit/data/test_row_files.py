"""The files of a split: lists, patterns, folders of save_to_disk, compressed ones; errors name the file and the row."""

import gzip
import io
import json
import lzma
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from mtbert.data.compression import compressing, open_file
from mtbert.data.row_files import Parts, files_of
from mtbert.data.spec import DataSpec
from mtbert.data.splits import load_column, load_task
from mtbert.data.streaming import RowSource
from mtbert.errors import ReadError
from mtbert.modeling.task_spec import TaskSpec
from tests.support.bounded import bounded

MOOD = TaskSpec("mood", labels=("bad", "good"))


@pytest.fixture
def shards(tmp_path):
    """Three shards of five rows; the second has none."""
    for name, text in (
        ("b", "text,label\nc,bad\nd,good\n"),
        ("a", "text,label\na,bad\nb,good\n"),
        ("c", "text,label\ne,bad\n"),
    ):
        (tmp_path / f"part-{name}.csv").write_text(text)
    (tmp_path / "part-aa.csv").write_text("text,label\n")
    return tmp_path


def texts(folder, task=MOOD, split="train", **keys) -> list[str]:
    return load_task(task, DataSpec(**keys), folder).splits[split]["text"][:]


class TestShards:
    def test_a_pattern_is_sorted_and_a_list_is_not(self, shards):
        assert texts(shards, train="part-*.csv") == list("abcde")
        assert texts(shards, train=str(shards / "part-?.csv")) == list("abcde")
        assert texts(shards, train=["part-c.csv", "part-a.csv"]) == list("eab")
        assert texts(shards.parent, train=f"{shards.name}/**/part-[ab].csv") == list("abcd")

    def test_rows_are_numbered_over_all_files(self, shards):
        loaded = load_task(MOOD, DataSpec(train="part-*.csv"), shards)
        assert loaded.splits["train"]["row"][:] == [1, 2, 3, 4, 5]
        assert loaded.reports[0].lines() == ["mood train: 5 rows read from 4 files, part-a.csv to part-c.csv, 5 kept"]
        assert load_column(MOOD, DataSpec(train="part-*.csv"), "train", "text", shards)[4] == "d"

    def test_errors_and_reports_name_the_file_and_its_row(self, shards):
        (shards / "part-b.csv").write_text("text,label\nc,bad\nd,great\n")
        with pytest.raises(ValueError, match=r"column 'label' is wrong in 1 row: row 2 of part-b\.csv: 'great'"):
            texts(shards, train="part-*.csv")
        (shards / "part-b.csv").write_text("text,label\nc,bad\nd,\n,good\n")
        lines = load_task(MOOD, DataSpec(train="part-*.csv"), shards).reports[0].lines()
        assert "no label (row 2 of part-b.csv); 1 left out: empty text in text (row 3 of part-b.csv)" in lines[0]
        (shards / "part-b.csv").write_text("text,label\nc,bad,1\n")
        with pytest.raises(ValueError, match=r"part-b\.csv can not be read as csv: row 1 \(line 2\) has 3 fields"):
            texts(shards, train="part-*.csv")

    def test_places(self):
        parts = Parts(("a", "b", "c"), (2, 0, 3))
        assert [parts.place(i) for i in range(5)] == [
            f"row {n} of {f}" for n, f in ((1, "a"), (2, "a"), (1, "c"), (2, "c"), (3, "c"))
        ]

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ("prt-*.csv", r"data\.train: 'prt-\*\.csv' matches no file in .*; the nearest names there are 'part-"),
            ("none/part-*.csv", r"matches no file: there is no folder .*none"),
            (["part-a.csv", "part-*.csv"], r"names .*part-a\.csv twice; name each file once"),
            (["part-a.csv", "gone.csv"], "gone.csv: there is no such file"),
            (["part-a.csv", "more.jsonl"], "part-a.csv is csv, but .*more.jsonl is json; give files of one format"),
            (["part-a.csv", "other.csv"], "other.csv lacks the column 'label' of .*part-a.csv"),
            (["part-aa.csv"], "no row after the header"),
        ],
    )
    def test_names_that_are_refused(self, shards, names, message):
        (shards / "more.jsonl").write_text('{"text": "a", "label": 0}\n')
        (shards / "other.csv").write_text("text,mood\na,bad\n")
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            texts(shards, train=names)

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            (
                {"train": "part-*.csv", "dev": "part-b.csv"},
                r"data\.dev: .*part-b\.csv is also a file of data\.train, which is 'part-\*",
            ),
            ({"train": ["part-a.csv", "part-b.csv"], "test": "part-b.csv"}, r"data\.test: .*part-b\.csv is also"),
            ({"train": "part-a.csv", "dev": "part-*.csv"}, r"data\.dev: .*part-a\.csv is also a file of data\.train"),
            ({"train": "part-*.csv", "dev": "link.csv"}, r"data\.dev: .*link\.csv is also a file of data\.train"),
        ],
    )
    def test_a_file_of_two_splits(self, shards, keys, message):
        (shards / "link.csv").symlink_to(shards / "part-b.csv")
        with pytest.raises(ValueError, match=message):
            texts(shards, **keys)
        assert texts(shards, train="part-a.csv", dev="part-a.csv") == ["a", "b"]  # one file, as a first try has

    def test_hubs_have_splits(self):
        (problem,) = DataSpec(hub="glue", train=["train", "validation"]).problems()
        assert str(problem) == "train is ['train', 'validation'], but a hub has splits; write 'train+validation'"
        assert "is an empty list" in str(DataSpec(train="a.csv", dev=[]).problems()[0])

    def test_json_files_of_other_types(self, tmp_path):
        rows = (
            [{"text": "a", "label": None, "n": 1}],
            [{"text": 7, "label": "good", "n": "x"}],
            [{"text": "c", "label": 0}],
        )
        for i, lines in enumerate(rows):
            (tmp_path / f"{i}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        loaded = load_task(MOOD, DataSpec(train="*.jsonl"), tmp_path)
        assert loaded.splits["train"].to_list() == [
            {"text": "7", "label": 1, "row": 2},
            {"text": "c", "label": 0, "row": 3},
        ]
        assert load_column(MOOD, DataSpec(train="*.jsonl"), "train", "n", tmp_path) == {1: "1", 2: "x", 3: ""}
        (tmp_path / "3.jsonl").write_text('{"txt": "a", "label": 0}\n')
        with pytest.raises(ValueError, match=r"3\.jsonl lacks the column 'text'"):
            load_task(MOOD, DataSpec(train="*.jsonl"), tmp_path)

    def test_parquet_files_of_other_types(self, tmp_path):
        for name, kind in (("a", pa.int32()), ("b", pa.int64()), ("c", pa.null())):
            values = pa.array([None] if pa.types.is_null(kind) else [1], kind)
            pq.write_table(pa.table({"text": ["t" + name], "label": values}), tmp_path / f"{name}.parquet")
        assert texts(tmp_path, train="*.parquet") == ["ta", "tb"]
        features = Features({"text": Value("string"), "label": ClassLabel(names=["good", "bad"])})
        Dataset.from_dict({"text": ["d"], "label": [0]}, features=features).to_parquet(tmp_path / "d.parquet")
        with pytest.raises(ValueError, match=r"d\.parquet: column 'label' holds ClassLabel.*; write them alike"):
            texts(tmp_path, train="*.parquet")


class TestSaved:
    def test_a_folder_of_one_split(self, tmp_path):
        rows = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0], "id": [7, 8]})
        rows.save_to_disk(tmp_path / "train")
        rows.select([1]).save_to_disk(tmp_path / "dev.saved")
        loaded = load_task(MOOD, DataSpec(train="train", dev="dev.saved", id="id", format="saved"), tmp_path)
        assert loaded.splits["train"].to_list()[1] == {"text": "b", "label": 0, "row": 2, "id": "8"}
        assert texts(tmp_path, train=["train", "dev.saved/"], format="saved") == ["a", "b", "b"]
        assert texts(tmp_path, train="train") == ["a", "b"]
        chunks = list(RowSource(str(tmp_path / "train"), ("text",), "id", size=1, keep=True).chunks())
        assert [(c["text"], c["id"], c["row"], c["kept"]["label"]) for c in chunks] == [
            (["a"], ["7"], [1], [1]),
            (["b"], ["8"], [2], [0]),
        ]

    def test_what_is_refused(self, tmp_path):
        DatasetDict({"train": Dataset.from_dict({"text": ["a"]})}).save_to_disk(tmp_path / "all")
        (tmp_path / "plain").mkdir()
        for name, message in (
            ("all", "all holds the splits train; name the folder of one, such as .*all/train"),
            ("plain", "it is a folder, and none that save_to_disk of datasets has written"),
            ("gone", "there is no such file"),
        ):
            with pytest.raises((ValueError, FileNotFoundError), match=message):
                texts(tmp_path, train=name)
        (tmp_path / "file").write_text("text,label\na,bad\n")
        with pytest.raises(ValueError, match=r"file: its suffix is none of \.csv.*; give format, or a folder"):
            texts(tmp_path, train="file")


def zipped(**members: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return file.getvalue()


CSV = "text,label\na,bad\nb,good\n"


class TestCompressed:
    def test_zstd(self, tmp_path):
        packed = pa.compress(CSV.encode(), "zstd", asbytes=True)
        (tmp_path / "a.csv.zst").write_bytes(packed)
        (tmp_path / "two.csv.zst").write_bytes(packed + pa.compress(b"c,bad\n", "zstd", asbytes=True))
        assert texts(tmp_path, train="a.csv.zst") == ["a", "b"] and texts(tmp_path, train="two.csv.zst") == [
            "a",
            "b",
            "c",
        ]
        assert [c["text"] for c in RowSource(str(tmp_path / "a.csv.zst")).chunks()] == [["a", "b"]]

    @pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst", "zip"])
    def test_a_cut_file_is_named(self, tmp_path, suffix):
        with open(tmp_path / f"a.csv.{suffix}", "wb") as file, compressing(file, f"a.csv.{suffix}") as packed:
            packed.write(b"text,label\n" + b"".join(b"%d,bad\n" % (i**7) for i in range(5000)))
        whole = (tmp_path / f"a.csv.{suffix}").read_bytes()
        assert len(texts(tmp_path, train=f"a.csv.{suffix}")) == 5000
        (tmp_path / f"a.csv.{suffix}").write_bytes(whole[: len(whole) * 2 // 3])
        for read in (
            lambda: texts(tmp_path, train=f"a.csv.{suffix}"),
            lambda: list(RowSource(str(tmp_path / f"a.csv.{suffix}")).chunks()),
        ):
            with pytest.raises(
                ValueError, match=rf"a\.csv\.{suffix}.*(damaged|can not be read).*write (the file|it) again"
            ):
                read()

    def test_a_zip_of_several_files(self, tmp_path):
        (tmp_path / "a.csv.zip").write_bytes(zipped(read__md="hello", rows__csv=CSV))
        assert texts(tmp_path, train="a.csv.zip") == ["a", "b"]
        (tmp_path / "b.csv.zip").write_bytes(zipped(one__csv=CSV, two__csv=CSV))
        what = r"b\.csv\.zip is a zip archive of 2 files; give an archive of one file, or the file itself"
        message = rf"{what} \(it holds one\.csv, two\.csv\)"
        with pytest.raises(ValueError, match=message):
            texts(tmp_path, train="b.csv.zip")
        with pytest.raises(ValueError, match=message):
            list(RowSource(str(tmp_path / "b.csv.zip")).chunks())

    def test_a_zstd_bomb(self, tmp_path):
        (tmp_path / "a.csv.zst").write_bytes(pa.compress(bytes(200 * 2**20), "zstd", asbytes=True))
        with bounded(), pytest.raises(ReadError, match=r"MTBERT_MAX_(LINE|UNPACKED)_BYTES raises that"):
            open_file(tmp_path / "a.csv.zst").read()

    @pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst", "zip", "csv"])
    def test_the_same_bytes_give_the_same_file(self, tmp_path, suffix):
        written = []
        for name in ("first", "second"):
            file = io.BytesIO()
            with compressing(file, f"a.{suffix}") as packed:
                packed.write(CSV.encode())
            written.append(file.getvalue())
            (tmp_path / name).write_bytes(written[-1])
            assert b"".join(open_file(tmp_path / name)) == CSV.encode()
        assert written[0] == written[1]
        assert suffix != "gz" or gzip.decompress(written[0]) == CSV.encode()
        assert suffix != "xz" or lzma.decompress(written[0]) == CSV.encode()


def test_predicting_several_files_counts_their_rows(shards):
    source = RowSource(str(shards / "part-?.csv"), size=2)
    assert [(c["text"], c["row"]) for c in source.chunks()] == [
        (["a", "b"], [1, 2]),
        (["c", "d"], [3, 4]),
        (["e"], [5]),
    ]
    (shards / "part-b.csv").write_text("text,label\nc,bad\nd\0,bad\n")
    with pytest.raises(ReadError, match=r"part-b\.csv: row 2: 'text' holds a NUL"):
        list(source.chunks())
    assert [path.name for path in files_of(str(shards / "part-*.csv"), None)][0] == "part-a.csv"
