"""Results are found by their settings and seed, whatever their file is named, and each new one is committed alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from mtbert.runs.result_files import Result
from mtbert.runs.result_folder import ResultFolder

RECIPE = Path("row.yaml")


def result(row: str, settings: str, seed: int, score: float) -> Result:
    logits = {"mood": np.zeros((2, 3), dtype=np.float16)}
    return Result(row, RECIPE, seed, settings, scores={"eval_overall": score}, logits=logits)


def found(folder: ResultFolder, name: str, settings: str, seed: int) -> float | None:
    there = folder.find(name, settings, seed, RECIPE)
    return None if there is None else there.scores["eval_overall"]


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    assert found(ResultFolder(tmp_path / "results"), "plain-1", "aa", 1) is None


def test_a_run_is_found_by_its_settings_and_seed(tmp_path, capsys):
    ResultFolder(tmp_path).keep("plain-1", result("plain", "aa", 1, 0.5))
    assert capsys.readouterr().out == "Result of plain, seed 1: overall 0.500\n"
    folder = ResultFolder(tmp_path)
    assert found(folder, "plain-1", "aa", 1) == found(folder, "other-1", "aa", 1) == 0.5
    for settings, seed in (("bb", 1), ("aa", 2)):
        assert found(folder, "plain-1", settings, seed) is None
    folder.keep("plain-1", result("plain", "bb", 1, 0.7))  # other settings take the name
    assert found(folder, "plain-1", "bb", 1) == found(folder, "third-1", "bb", 1) == 0.7
    assert found(folder, "plain-1", "aa", 1) is None
    result("late", "cc", 1, 0.9).write(tmp_path / "late-1.json")  # by another process
    assert found(folder, "late-1", "cc", 1) == 0.9


def test_other_files_are_left_alone_and_damaged_ones_are_named(tmp_path):
    (tmp_path / "forms.json").write_text('{"forms": [1]}')
    folder = ResultFolder(tmp_path)
    folder.keep_values("pilots/plain", {"chosen": 1e-4}, "Pilots of plain: learning rate 0.0001")
    assert found(folder, "plain-1", "aa", 1) is None
    for text in ("", "[1]", '{"settings": "aa", "seed": 1}'):
        (tmp_path / "plain-1.json").write_text(text)
        with pytest.raises(ValueError, match=r"plain-1\.json .*; remove it, and the run is run again"):
            found(ResultFolder(tmp_path), "plain-1", "aa", 1)


def test_each_file_is_committed_alone(tmp_path):
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(tmp_path), *words], capture_output=True, text=True, check=True).stdout

    git("init", "--quiet")
    git("config", "user.email", "someone@example.org")
    git("config", "user.name", "Someone")
    (tmp_path / "other.txt").write_text("")
    git("add", "other.txt")
    folder = ResultFolder(tmp_path / "results", commit=True)
    folder.keep("plain-1", result("plain", "aa", 1, 0.5), of="plain, fold 0")
    folder.keep_values("pilots/plain", {"chosen": 1e-4}, "Pilots of plain")
    assert git("log", "--format=%s", "--name-only").split() == [
        *("Pilots", "of", "plain", "results/pilots/plain.json"),
        *("Result", "of", "plain,", "fold", "0,", "seed", "1:", "overall", "0.500", "results/plain-1.json"),
    ]
    with pytest.raises(ValueError, match=r"plain-1\.json was not committed: git commit"):
        folder.keep("plain-1", result("plain", "aa", 1, 0.5), of="plain, fold 0")
