"""Recipe files in a folder of their own."""

import pytest
from written_recipes import GOOD


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a recipe file into the current folder, which is empty at first."""
    monkeypatch.chdir(tmp_path)

    def write_file(name: str, text: str) -> str:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    write_file("good.yaml", GOOD)
    return write_file
