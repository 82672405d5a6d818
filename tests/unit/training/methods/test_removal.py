"""A method is one file and one line of the registry: without both, the rest of mtbert works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mtbert
from mtbert.training.methods import REGISTRY

PACKAGE = Path(mtbert.__file__).parent
# What a recipe or a trainer says where it names a method that is not there.
PROGRAM = """
import sys
import mtbert
from mtbert.data.sampling import Schedule
from mtbert.errors import InputError, RecipeError
from mtbert.recipe import Recipe
from mtbert.training.methods import REGISTRY, method_classes, settings_class

section, value = sys.argv[1], eval(sys.argv[2])
assert section not in REGISTRY
for name in mtbert.__all__:
    getattr(mtbert, name)
for other in REGISTRY:
    settings_class(other)
assert {each.section for each in method_classes()} == set(REGISTRY)
tree = {"encoder": "e", "tasks": {"a": {"labels": 2, "data": {"train": "a.csv"}}}, "training": {"output_dir": "o"}}
Recipe.from_dict(tree)
parent, _, key = section.rpartition(".")
tree |= {parent: {key: value}} if parent else {section: value}
try:
    Recipe.from_dict(tree)
except RecipeError as error:
    (line,) = error.problems
    print(line)
else:
    sys.exit("the recipe was taken")
"""
VALUES = {
    "distillation": {"teachers": ["t"]},
    "group_weights": {"columns": {"a": "source"}},
    "rdrop": {"weight": 1.0},
    "smart": {"weight": 1.0},
    "proximal": {"weight": 1.0},
    "simcse": {"tasks": ["a"]},
    "loss": {"weighting": "uncertainty"},
    "surgery": {"method": "pcgrad"},
    "averaging": {"type": "ema"},
    "optimizer.per_task": "separate",
    "affinity": {"every": 10},
}


def test_every_method_is_tried():
    assert set(VALUES) == set(REGISTRY)


@pytest.mark.parametrize("section", VALUES)
def test_without_its_file_and_its_line_all_else_works(tmp_path, section):
    copy = tmp_path / "mtbert"
    shutil.copytree(PACKAGE, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "bundled"))
    registry = copy / "training" / "methods" / "__init__.py"
    lines = registry.read_text(encoding="utf-8").splitlines(keepends=True)
    left = [line for line in lines if not line.startswith(f'    "{section}": "')]
    assert len(left) == len(lines) - 1
    registry.write_text("".join(left), encoding="utf-8")
    module = REGISTRY[section].partition(":")[0]
    (copy / "training" / "methods" / f"{module}.py").unlink()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", PROGRAM, section, repr(VALUES[section])]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert section.partition(".")[0] in done.stdout
