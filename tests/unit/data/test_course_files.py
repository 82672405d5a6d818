"""The course's own files, where they are here, are read whole."""

import csv
from pathlib import Path

import pytest

from mtbert.data.spec import DataSpec
from mtbert.data.splits import load_task
from mtbert.modeling.task_spec import TaskSpec

COURSE = Path(__file__).parents[3].parent / "shared/data/cs224n"
PAIR = TaskSpec("pair", "binary_classification", labels=("no", "yes"), texts=2)
SIZES = {
    "ids-sst": (TaskSpec("sst", labels=5), ("sentence",), "sentiment", (8544, 1101, 2210)),
    "ids-cfimdb": (TaskSpec("cfimdb", "binary_classification", 2), ("sentence",), "sentiment", (1707, 245, 488)),
    "sts": (TaskSpec("sts", range=(0, 5), texts=2), ("sentence1", "sentence2"), "similarity", (6040, 863, 1725)),
    "quora": (PAIR, ("sentence1", "sentence2"), "is_duplicate", (14214, 2016)),
}


@pytest.mark.skipif(not COURSE.is_dir(), reason="the course's files (../shared/data/cs224n) are not here")
@pytest.mark.parametrize("prefix", SIZES)
def test_course_files(prefix):
    task, text, label, sizes = SIZES[prefix]
    names = [f"{prefix}-{end}.csv" for end in ("train", "dev", "test-student")][: len(sizes)]
    spec = DataSpec(text, label, *names, format="cs224n", id="id")
    loaded = load_task(task, spec, COURSE)
    assert tuple(report.read for report in loaded.reports) == sizes
    expected = {"no label": (1785, 10001)} if prefix == "quora" else {}
    assert [report.left_out for report in loaded.reports] == [expected] + [{}] * (len(sizes) - 1)
    assert "label" in loaded.splits["dev"].column_names
    for split, name in zip(loaded.splits.values(), names):
        read = course_rows(COURSE / name)
        keys = ["text", "text_pair"][: len(text)]
        for row, got in zip((read[number - 1] for number in split["row"]), split):
            assert got["id"] == row["id"] and [got[key] for key in keys] == [row[column].strip() for column in text]
            if "label" in got:
                assert got["label"] == pytest.approx(float(row[label]))


def course_rows(path: Path) -> list[dict[str, str]]:
    """The file as the course's own code reads it."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.skipif(not COURSE.is_dir(), reason="the course's files (../shared/data/cs224n) are not here")
def test_course_reports():
    task, text, label, _ = SIZES["quora"]
    (report,) = load_task(task, DataSpec(text, label, "quora-train.csv", format="cs224n"), COURSE).reports
    assert report.lines() == [
        "pair train: 14,214 rows read from quora-train.csv, 14,212 kept; 2 left out: no label (rows 1,785, 10,001)"
    ]
