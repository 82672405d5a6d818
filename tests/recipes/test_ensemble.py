"""`mtbert ensemble` on two tiny runs."""

import csv
import importlib
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

COURSE = {"format": "cs224n", "id": "id"}
SST = {**COURSE, "text": "sentence", "label": "sentiment", "train": "ids-sst-train.csv", "dev": "ids-sst-dev.csv"}
STS = {**COURSE, "text": ["sentence1", "sentence2"], "label": "similarity", "train": "sts-train.csv"}
RECIPE = {
    "tasks": {
        "sst": {"labels": 5, "data": {**SST, "test": "ids-sst-test-student.csv"}},
        "sts": {"range": [0, 5], "data": {**STS, "dev": "sts-dev.csv", "test": "sts-test-student.csv"}},
    },
    "schedule": {"name": "simultaneous", "steps_per_epoch": 3},
    "training": {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "cpu_threads": 1,
    },
}


@pytest.fixture(scope="module")
def ensemble():
    return importlib.import_module("mtbert.cli.ensemble")


@pytest.fixture(scope="module")
def runs(finetune, encoder_dir, course_dir, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        tree = json.loads(json.dumps(RECIPE)) | {"encoder": encoder_dir, "data_dir": str(course_dir)}
        tree["training"] |= {"seed": seed, "output_dir": str(folder / str(seed))}
        (folder / f"{seed}.yaml").write_text(yaml.safe_dump(tree))
        finetune.main([str(folder / f"{seed}.yaml")])
    return [str(folder / "1"), str(folder / "2")]


def test_an_ensemble_of_one_has_its_members_scores(ensemble, runs, tmp_path):
    scores = ensemble.main([runs[0], "--output", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == scores
    with pytest.raises(FileExistsError, match="scores.json exists; give another --output, or --overwrite to replace"):
        ensemble.main([runs[0], "--output", str(tmp_path / "out")])
    ensemble.main([runs[0], "--output", str(tmp_path / "out"), "--overwrite"])
    own = json.loads(Path(runs[0], "scores.json").read_text())
    assert list(scores) == ["ensemble", runs[0]]
    for each in scores.values():
        for key, value in each.items():
            assert value == pytest.approx(own[f"eval_{key}"], abs=1e-5), key


def test_two_members_and_their_predictions(ensemble, runs, course_dir, tmp_path):
    scores = ensemble.main([*runs, "--output", str(tmp_path), "--predict", "test"])
    assert list(scores) == ["ensemble", *runs]
    assert {"sst_accuracy", "sts_pearson", "overall", "raw_mean"} <= scores["ensemble"].keys()
    for name in ("sst", "sts"):
        with (tmp_path / f"{name}-test.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["id"] for row in rows] == [f"r{i}" for i in range(5)] and set(rows[0]) == {
            "row",
            "id",
            "prediction",
        }
    with (tmp_path / "sst-test.csv").open(newline="") as file:
        assert {row["prediction"] for row in csv.DictReader(file)} <= set("01234")


def test_another_recipe_and_folder(ensemble, runs, course_dir, tmp_path):
    tree = json.loads(json.dumps(RECIPE))
    del tree["tasks"]["sts"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    given = ["--recipe", str(tmp_path / "recipe.yaml"), "--data_dir", str(course_dir), "--encoder", "none"]
    scores = ensemble.main([*runs, *given, "--output", str(tmp_path / "out")])
    assert set(scores["ensemble"]) == {"sst_accuracy", "sst_f1_macro", "overall", "raw_mean"}


@pytest.mark.parametrize("count", [1, 9])
def test_a_narrow_terminal_cuts_no_folder_and_no_score(ensemble, count, capsys):
    folders = [f"runs/{'long_name_' * 9}{number}" for number in range(count)]
    scores = {name: {"sst_accuracy": 0.5, "sts_spearman": -0.25 - i / 1e3} for i, name in enumerate(["all", *folders])}
    ensemble.print_members(scores, Console(width=60))
    shown = capsys.readouterr().out
    assert "…" not in shown
    for number, name in enumerate(folders, 1):
        assert f"{number}: {name}\n" in shown and f"{scores[name]['sts_spearman']:.3f}" in shown
