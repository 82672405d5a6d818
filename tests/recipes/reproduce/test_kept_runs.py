"""`mtbert reproduce ROWS --results DIR`: results as small files, from which the table goes on elsewhere."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file
from table_runs import record

from mtbert.cli.arguments import reproduce as arguments_of
from mtbert.cli.reproduce import main
from mtbert.recipe import load_recipe
from mtbert.runs.row_runs import Run


@pytest.fixture
def started(monkeypatch):
    """Runs are made up; a list of the started ones. The first with seed 3 fails."""
    runs = []

    def execute(run, log, device, threads):
        runs.append((run.row, run.seed))
        if run.seed == 3 and runs.count((run.row, 3)) == 1:
            run.failed = "ended with 1"
            return
        recipe = load_recipe(run.path, [*run.overrides, "--training.output_dir", "o"])
        assert recipe.training["save_logits"]
        run.output.mkdir(parents=True)
        scores = {"eval_sst_accuracy": run.seed / 10, "eval_sts_pearson": 0.5, "eval_overall": 0.5}
        contents = {"scores": scores, "record": record(), "recipe": recipe.to_dict(), "trainer_state": {}}
        contents["trainer_state"] = {"log_history": [{"step": 1, "epoch": 1, **scores}]}
        for name, content in contents.items():
            (run.output / f"{name}.json").write_text(json.dumps(content, default=str))
        (run.output / "model.safetensors").write_text("weights")
        save_file({"sst": np.zeros((3, 5), np.float32)}, run.output / "dev_logits.safetensors")
        assert run.finished()

    monkeypatch.setattr(Run, "_execute", execute)
    return runs


def test_a_table_goes_on_from_its_files(started, arguments, write_recipe, tmp_path):
    path = write_recipe("one")
    results = tmp_path / "results"
    argv = arguments(path, "--seeds", "1,2,3", "--budget", "published", "--results", str(results), "--title", "final")
    assert main(argv) == 1 and started == [("one", 1), ("one", 2), ("one", 3)]
    assert len(list(results.glob("one-seed*.json"))) == 2
    assert len(list((tmp_path / "runs").rglob("model.safetensors"))) == 2  # the weights of final runs stay
    shutil.rmtree(tmp_path / "runs")
    assert main(argv) == 0 and started[3:] == [("one", 3)]
    rows = json.loads((tmp_path / "runs" / "final.json").read_text())["rows"]
    assert rows[0]["scores"]["sst"] == [0.1, 0.2, 0.3] and rows[0]["seeds"] == [1, 2, 3] and not rows[0]["failed"]
    changed = arguments(path, "--seeds", "1", "--budget", "published", "--results", str(results))
    assert main([*changed, "--training.learning_rate", "0.5"]) == 0 and len(started) == 5


def test_without_a_folder_nothing_is_kept(arguments, write_recipe, capsys):
    assert arguments_of(arguments(write_recipe("one"))).results is None
    for option in ("--commit", "--finished_only"):
        with pytest.raises(SystemExit):
            arguments_of(arguments(write_recipe("one"), option))
    errors = capsys.readouterr().err
    assert "without --results, the folder of the result files, there are none" in errors
    assert "--finished_only is for --folds and budgets with a protocol" in errors
