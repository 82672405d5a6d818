"""Recipes of two tasks, command lines for them, and runs that are made up."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from table_runs import RECIPE, record

from mtbert.recipe import load_recipe
from mtbert.runs import finetuning
from mtbert.runs.budget_keys import load
from mtbert.runs.row_runs import Run

WORDS = "cat dog bird fish house tree runs sleeps eats flies good bad fine old new".split()  # noqa: SIM905


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


@pytest.fixture
def folder(tmp_path, encoder_dir):
    """A recipe of two tasks, whose texts repeat within and across the tasks, and candidates for it."""
    random = np.random.default_rng(0)

    def sentence() -> str:
        return " ".join(random.choice(WORDS, size=random.integers(2, 6)))

    texts = [sentence() for _ in range(40)]
    mood = [{"text": texts[i % 30] + "!" * (i // 30), "label": i % 2} for i in range(45)]
    close = [{"a": texts[i % 40], "b": texts[(i + 1) % 40] if i % 3 else sentence(), "label": i % 5} for i in range(60)]
    more = [{"text": texts[i].upper(), "label": i % 2} for i in range(40)]
    for name, rows in (("mood", mood), ("close", close), ("more", more), ("dev", mood[:9]), ("pairs-dev", close[:9])):
        (tmp_path / f"{name}.json").write_text("\n".join(map(json.dumps, rows)))
    close_data = {"text": ["a", "b"], "train": "close.json", "dev": "pairs-dev.json", "symmetric": True}
    recipe = {
        "tasks": {
            "mood": {"labels": 2, "data": {"train": "mood.json", "dev": "dev.json", "test": "dev.json"}},
            "close": {"range": [0, 4], "data": close_data},
        },
        "schedule": {"name": "proportional", "steps_per_epoch": 2},
        "training": {"num_train_epochs": 2, "per_device_train_batch_size": 4, "report_to": "none"},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    candidates = {
        "recipe": "recipe.yaml",
        "folds": 2,
        "candidates": {
            "plain": {},
            "auxiliary": {
                "training.learning_rate": 0.01,
                "tasks.more": {"labels": 2, "data": {"train": "more.json"}},
            },
        },
    }
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(candidates, sort_keys=False))
    return tmp_path


@pytest.fixture
def made_up(monkeypatch):
    """A function: candidate → accuracy; runs are then made up, without training. It returns the started ones."""

    def install(accuracy, failing=()):
        started = []

        def execute(run, log, device, threads):
            recipe = load(run.path, run.overrides)
            name, fold = run.row.split(",")[0], recipe.tasks["mood"].data.fold
            started.append((name, recipe.schedule.steps_per_epoch * recipe.training["num_train_epochs"], fold))
            if name in failing:
                run.failed = "ended with 1"
                return
            run.output.mkdir(parents=True)
            rows = install.table.rows[fold]
            random = np.random.default_rng([fold, run.seed, *map(ord, name)])
            labels = rows["mood"].held.labels.astype(int)
            right = random.random(len(labels)) < accuracy(name)
            logits = {"mood": np.eye(2, dtype=np.float32)[np.where(right, labels, 1 - labels)]}
            logits["close"] = rows["close"].held.labels[:, None].astype(np.float32)
            save_file(logits, run.output / "dev_logits.safetensors")
            (run.output / "scores.json").write_text('{"eval_overall": 0.5}')
            (run.output / "record.json").write_text('{"seconds": 1, "device": "cpu", "precision": "fp32"}')
            (run.output / "recipe.json").write_text(json.dumps(recipe.to_dict(), default=str))
            (run.output / "trainer_state.json").write_text('{"log_history": []}')
            assert run.finished()

        monkeypatch.setattr(Run, "_execute", execute)
        return started

    return install


@pytest.fixture
def command(folder, encoder_dir):
    """A function: further arguments → a command line."""

    def make(*more: str, results: str = "results", output: str = "runs", candidates: str = "few.yaml") -> list[str]:
        places = ["--encoder", encoder_dir, "--data_dir", str(folder), "--output", str(folder / output)]
        places += ["--results", str(folder / results), "--candidates", str(folder / candidates)]
        return [*places, "--mixed_precision", "no", *more]

    return make


@pytest.fixture
def runs(monkeypatch):
    """Runs in this process; a list of the texts that each of them was given, with `stop` after as many runs."""

    class Started(list):
        stop = 99

    started = Started()

    def execute(run, log, device, threads):
        if len(started) >= started.stop:
            raise KeyboardInterrupt
        keys = [*run.overrides, "--training.output_dir", str(run.output), "--training.disable_tqdm", "true"]
        finetuning.train(load_recipe(run.path, keys))
        assert run.finished()

    encode = finetuning._encode

    def noting(recipe, args, raw, *more):
        given = {"fold": recipe.tasks["mood"].data.fold, "recipe": recipe}
        for split in ("train", "dev", "test"):
            given[split] = {
                name: [tuple(row[c] for c in ("text", "text_pair") if c in row) for row in loaded.splits[split]]
                for name, loaded in raw.items()
                if split in loaded.splits
            }
        started.append(given)
        return encode(recipe, args, raw, *more)

    monkeypatch.setattr(finetuning, "_encode", noting)
    monkeypatch.setattr(Run, "_execute", execute)
    return started
