"""The notebook runs from its first cell to its last, and is stored with what its cells print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "tickets.ipynb"
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
def pages(monkeypatch):
    """The module that runs notebooks and shows them."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_extensions"))
    import notebook_page

    return notebook_page


def test_it_runs_from_data_to_server(pages, encoder_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = pages.read(NOTEBOOK)
    assert any(ENCODER in pages.text_of(cell) for cell in notebook["cells"])
    shorter = {'"num_train_epochs": 6': '"num_train_epochs": 1', "range(600)": "range(120)", "240": "40", "320": "60"}
    names = pages.run(notebook, {ENCODER: encoder_dir, **shorter})
    assert names["answer"].status == 200 and names["server"].returncode == 0
    stored = [len(cell["outputs"]) for cell in pages.read(NOTEBOOK)["cells"] if cell["cell_type"] == "code"]
    assert [len(cell["outputs"]) for cell in notebook["cells"] if cell["cell_type"] == "code"] == stored


def test_it_is_a_notebook_of_format_4_with_outputs(pages):
    notebook = pages.read(NOTEBOOK)
    assert notebook["nbformat"] == 4 and notebook["metadata"]["language_info"]["name"] == "python"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell["outputs"]) for cell in code) >= 4
    assert "/tmp" not in NOTEBOOK.read_text(encoding="utf-8")


def test_a_cell_stores_what_it_prints_and_its_last_value(pages, tmp_path, capsys):
    cells = ["x = 2\nprint(x)", "x + 1", "x = 5", "None"]
    notebook = {"cells": [{"cell_type": "code", "source": cell, "outputs": []} for cell in cells]}
    pages.run(notebook, {"5": "7"})
    printed = [[pages._printed(output) for output in cell["outputs"]] for cell in notebook["cells"]]
    assert printed == [["2"], ["3"], [], []]
    (tmp_path / "a.ipynb").write_text(json.dumps(notebook))
    assert pages.markdown(tmp_path / "a.ipynb").startswith("```python\nx = 2\nprint(x)\n```\n\n```text\n2\n```")


def test_an_error_names_the_cell(pages):
    notebook = {"cells": [{"cell_type": "markdown", "source": "a"}, {"cell_type": "code", "source": "1 / 0"}]}
    with pytest.raises(ZeroDivisionError) as caught:
        pages.run(notebook)
    assert "cell 1" in str(caught.traceback[-1].path)
