"""Tiny data files in every format that a recipe names, and the fine-tuning command as a module."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

WORDS = "a an the cat dog bird fish house tree runs sleeps eats flies is was not very good bad fine old new".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def finetune():
    """`mtbert.cli.finetune`, imported."""
    return importlib.import_module("mtbert.cli.finetune")


@pytest.fixture(scope="session")
def course_dir(tmp_path_factory) -> Path:
    """The course's files with the columns they have, a few random rows each."""
    folder, random = tmp_path_factory.mktemp("course"), np.random.default_rng(0)

    def sentence() -> str:
        return " ".join(random.choice(WORDS, size=random.integers(3, 12)))

    def write(name: str, columns: list[str], rows: list[list[str]]) -> None:
        lines = ["\t".join(["", "id", *columns]), *("\t".join([str(i), f"r{i}", *r]) for i, r in enumerate(rows))]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")

    for split, rows in (("train", 30), ("dev", 12)):
        for name, classes in (("sst", 5), ("cfimdb", 2)):
            values = [[" " + sentence(), str(i % classes)] for i in range(rows)]
            write(f"ids-{name}-{split}.csv", ["sentence", "sentiment"], values)
        pairs = [[sentence(), sentence()] for _ in range(2 * rows)]
        duplicates = [[*pair, f"{i % 2}.0"] for i, pair in enumerate(pairs)]
        write(f"quora-{split}.csv", ["sentence1", "sentence2", "is_duplicate"], duplicates)
        scores = [[*pair, f"{i % 26 / 5}"] for i, pair in enumerate(pairs)]
        write(f"sts-{split}.csv", ["sentence1", "sentence2", "similarity"], scores)
    for name in ("sst", "cfimdb"):
        write(f"ids-{name}-test-student.csv", ["sentence"], [[sentence()] for _ in range(5)])
    write("sts-test-student.csv", ["sentence1", "sentence2"], [[sentence(), sentence()] for _ in range(5)])
    return folder
