"""Candidates of a folder, and the words of the rows that runs of them were given."""

from __future__ import annotations

import yaml

from mtbert.data.folds import text_key


def words_of(rows) -> set[int]:
    return {text_key(text) for row in rows for text in row}


def write(folder, **changes) -> None:
    file = folder / "few.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}, sort_keys=False))
