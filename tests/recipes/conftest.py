"""Tiny data files in every format that a recipe names, and the fine-tuning command as a module."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from mtbert.recipe import load_recipe

WORDS = "a an the cat dog bird fish house tree runs sleeps eats flies is was not very good bad fine old new".split()  # noqa: SIM905

CONFIGS = Path(__file__).resolve().parents[2] / "recipes" / "configs"


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


@pytest.fixture(scope="session")
def wide_dir(course_dir, tmp_path_factory) -> Path:
    """A folder with the course's files in `cs224n/` and a few random rows of each wide file in `wide/`."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(1)
    shutil.copytree(course_dir, folder / "cs224n")
    (folder / "wide").mkdir()
    tasks = load_recipe(CONFIGS / "wide" / "all.yaml", ["--training.output_dir", "unused"]).tasks
    by_file: dict[str, dict[str, list]] = {}
    for task in tasks.values():
        for split, rows in (("train", 16), ("dev", 8)):
            name = getattr(task.data, split)
            columns = by_file.setdefault(name, {}) if name.startswith("wide/") else {}
            for column in task.data.text:
                words = [random.choice(WORDS, size=random.integers(3, 12)) for _ in range(rows)]
                columns.setdefault(column, [f"{split} " + " ".join(each) for each in words])
            classes = task.labels if isinstance(task.labels, tuple) else ["1", "2.5", "4.1"]
            columns[task.data.label] = [classes[row % len(classes)] for row in range(rows)]
    for name, columns in by_file.items():
        lines = [",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True))]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
