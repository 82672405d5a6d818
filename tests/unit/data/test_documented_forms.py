"""The examples of docs/data.md are read as the page says."""

import json
import re
from pathlib import Path

import pytest
from datasets import Dataset

from mtbert.data.label_forms import label_form
from mtbert.data.spec import DataSpec
from mtbert.data.splits import check_rows
from mtbert.modeling.task_spec import TaskSpec

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
TABLE = PAGE.partition("| form | in a csv |")[2].partition("\n\n")[0].splitlines()[2:]
TAGS = TaskSpec("tags", "multi_label_classification", labels=("art", "law", "war"))


def cells(column: str) -> list[str]:
    return [cell.replace("\\|", "|") for cell in re.findall(r"`(.*?)`(?= <br>| *$)", column)]


@pytest.mark.parametrize("line", TABLE, ids=lambda line: line.split("|")[1].strip()[:30])
def test_a_form_of_labels(line):
    _, of_csv, of_json = re.split(r"(?<!\\)\|", line.strip("|"))
    for values in (cells(of_csv), [json.loads(cell) for cell in cells(of_json)]):
        assert len(values) == 2
        rows = Dataset.from_dict({"text": ["a", "b"], "label": values})
        assert check_rows(TAGS, "train", rows, DataSpec(), "page")[0]["label"][:] == [[1, 1, 0], [0, 1, 0]]
        assert label_form(values).several
