"""Recipes of two tasks, command lines for them, and runs that are made up."""

from __future__ import annotations

import json

import pytest
import yaml
from table_runs import RECIPE, record

from mtbert.runs.row_runs import Run


@pytest.fixture
def arguments(encoder_dir, course_dir, tmp_path):
    """A function: rows and further arguments → a command line whose runs take four steps."""

    def make(*more: str) -> list[str]:
        paths = ["--encoder", encoder_dir, "--data_dir", str(course_dir), "--output", str(tmp_path / "runs")]
        return [*more, *paths, "--schedule.steps_per_epoch", "2", "--training.num_train_epochs", "2"]

    return make


@pytest.fixture
def write_recipe(tmp_path):
    """A function: name, changes of the tree → a recipe file."""

    def write(name: str, **changes) -> str:
        path = tmp_path / f"{name}.yaml"
        path.write_text("# What it is.\n" + yaml.safe_dump({**RECIPE, **changes}))
        return str(path)

    return write


@pytest.fixture
def make_run(tmp_path):
    """A function: row, seed, … → a finished Run with made-up scores and files."""

    def make(row="A1", seed=1, values=(0.5, 0.6), schedule="annealed", adapter=None, failed="", **changes):
        parts = ("surgery", "rdrop", "smart", "proximal", "stages")
        settings = {key: changes.pop(key) for key in parts if key in changes}
        folder = tmp_path / "made" / row / f"seed-{seed}"
        run = Run(row, tmp_path / f"{row}.yaml", seed, folder, [], "no", failed)
        run.path.write_text("# Its sentence.\n# accelerate launch x\n")
        run.output.mkdir(parents=True)
        recipe = {
            "encoder": "not/used",
            "tasks": {"sst": {}, "sts": {}},
            "schedule": {"name": schedule},
            "model": {"adapter": adapter},
        }
        recipe |= settings
        sst, sts = values
        scores = {"eval_sst_loss": 1.0, "eval_sst_accuracy": sst, "eval_sst_f1_macro": 0.1, "eval_sts_loss": 2.0}
        scores |= {"eval_sts_pearson": sts, "eval_raw_mean": (sst + sts) / 2, "eval_overall": (2 * sst + 1 + sts) / 4}
        for name, content in (("recipe", recipe), ("scores", scores), ("record", record(**changes))):
            (run.output / f"{name}.json").write_text(json.dumps(content))
        assert failed or run.finished()
        return run

    return make
