"""Drafts of recipes that are read back."""

from pathlib import Path

import pytest
from drafts import Draft

from mtbert.runs.drafting.run import draft
from mtbert.runs.drafting.wishes import Wishes


@pytest.fixture
def drafted(tmp_path, monkeypatch, encoder_dir):
    """A function: files, choices → the Draft; it works in `tmp_path`."""
    monkeypatch.chdir(tmp_path)

    def make(*given, encoder=encoder_dir, **wishes) -> Draft:
        made = draft([str(name) for name in given], Path("mine.yaml"), encoder, Wishes(**wishes))
        return Draft(made.text, made.found, tmp_path / "mine.yaml")

    return make
