"""`mtbert unlabelled_texts` writes what `data.unlabelled` reads."""

import importlib
from pathlib import Path

import pytest

from mtbert.cli import arguments
from mtbert.data.splits import load_task
from mtbert.recipe import load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
BEST = RECIPES / "configs" / "cs224n" / "best.yaml"


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("mtbert.cli.unlabelled_texts")


@pytest.mark.parametrize(("task", "more"), [("sst", ["--shortest", "1"]), ("sts", ["--number", "3"])])
def test_what_is_written_can_be_trained_on(script, task, more, course_dir, tmp_path):
    out = tmp_path / "new" / "texts.tsv"
    given = [str(BEST), "--task", task, "--data_dir", str(course_dir), "--out", str(out), *more]
    count = script.write_texts(arguments.unlabelled_texts(given))
    overrides = ["--encoder=x", "--training.output_dir=y", f"--data_dir={course_dir}", "--distillation.teachers=[z]"]
    recipe = load_recipe(BEST, [*overrides, f"--tasks.{task}.data.unlabelled={out}"])
    spec = recipe.tasks[task].spec(task)
    reports = load_task(spec, recipe.tasks[task].data, recipe.data_dir).reports
    (report,) = [each for each in reports if each.split == "unlabelled"]
    assert report.kept == report.read == count > 0
    before = out.read_bytes()
    with pytest.raises(FileExistsError, match="exists; give another --out, or remove it"):
        script.write_texts(arguments.unlabelled_texts(given))
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--task", "stars"], "--task is 'stars', but the recipe's tasks are: sst, para, sts"),
        (["--task", "sst", "--shortest", "9", "--longest", "8"], "--longest is 8, but must be 9 or more"),
        (["--task", "sst", "--shortest", "900", "--longest", "900"], "task 'sst' gives no text; see --shortest"),
        (["--task", "sts", "--number", "0"], "--number is 0, but must be 1 or more"),
    ],
)
def test_what_cannot_be_made_is_told_and_nothing_written(script, given, message, course_dir, tmp_path):
    out = tmp_path / "texts.tsv"
    with pytest.raises(ValueError, match=message):
        script.write_texts(
            arguments.unlabelled_texts([str(BEST), "--data_dir", str(course_dir), "--out", str(out), *given])
        )
    assert not out.exists()
