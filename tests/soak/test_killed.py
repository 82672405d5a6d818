"""Runs that are killed at random points end, once resumed, with the weights of runs that were not.

`make soak` kills 20 runs and more (`MTBERT_SOAK` is their number). A failure's seed is
printed; `MTBERT_SOAK_SEED` repeats it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soak_runs as runs

KILLS = int(os.environ.get("MTBERT_SOAK", 2))
SEED = int(os.environ.get("MTBERT_SOAK_SEED", 0)) or int(np.random.SeedSequence().entropy % 2**32)
LIMIT = 300  # seconds for one run, which takes a few
GRACEFUL = 128 + signal.SIGTERM


@pytest.fixture(scope="module")
def assert_same_weights():
    """The comparison of tests/invariants."""
    path = Path(__file__).parents[1] / "invariants" / "conftest.py"
    spec = importlib.util.spec_from_file_location("soak_comparison", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.assert_same_weights.__wrapped__()


@pytest.fixture
def data(make_model, splits, tasks, tokenizer, tmp_path) -> Path:
    """A folder with a model and encoded splits."""
    from mtbert import MtBertTrainer, MtBertTrainingArguments

    folder, model = tmp_path / "data", make_model()
    model.save_pretrained(folder / "model")
    args = MtBertTrainingArguments(str(tmp_path / "encoding"), use_cpu=True, report_to="none")
    trainer = MtBertTrainer(model, args, splits((20, 12, 17, 9)), splits((10, 9, 8, 7), 1), tokenizer)
    for split, rows in (("train", trainer.train_dataset), ("eval", trainer.eval_dataset)):
        for name, each in rows.items():
            each.save_to_disk(str(folder / split / name))
    return folder


@pytest.fixture
def launch(data, processes):
    """A function: folder, case, point → the exit code of a process that trains it."""

    def run(output: Path, case: str, point=None) -> int:
        process = processes.Process(target=runs.train, args=(data, output, case, point))
        process.start()
        process.join(LIMIT)
        if process.is_alive():
            process.kill()
            pytest.fail(f"a run of {case!r} hangs; seed {SEED}, {point}")
        return process.exitcode

    return run


def random_point(random: np.random.Generator):
    """A point of a run: in a step or in a save, right there or some milliseconds later."""
    event = str(random.choice(["step", "update", "save", "save", "seal"]))
    most = runs.STEPS * runs.EPOCHS if event in ("step", "update") else runs.STEPS * runs.EPOCHS // runs.SAVED
    number = signal.SIGTERM if random.random() < 0.25 else signal.SIGKILL
    delay = 0.0 if random.random() < 0.3 else float(random.uniform(0, 0.03))
    return runs.Point(event, int(random.integers(1, most + 1)), delay, number)


@pytest.mark.soak  # one killed run is in tests/invariants/test_resume.py, runs told to end in test_interruption.py
def test_killed_runs_end_with_the_weights_of_whole_ones(launch, assert_same_weights, tmp_path, capsys):
    random = np.random.default_rng(SEED)
    cases = list(random.permutation(list(runs.CASES)))
    killed = told = torn = passed = 0
    whole: set[str] = set()
    for number in range(KILLS):
        case = str(cases[number % len(cases)])
        if case not in whole:
            assert launch(tmp_path / "whole" / case, case) == 0
            whole.add(case)
        output, ends = tmp_path / f"killed-{number}", []
        for _ in range(int(random.integers(1, 3))):  # a run may be killed again after it was resumed
            point = random_point(random)
            ends.append(launch(output, case, point))
            if ends[-1] == 0:
                passed += 1  # it had ended before its fuse had
                break
            assert ends[-1] in (-signal.SIGKILL, -signal.SIGTERM, GRACEFUL), f"{case}, {point}: {ends}, seed {SEED}"
            killed += ends[-1] == -signal.SIGKILL
            told += ends[-1] in (GRACEFUL, -signal.SIGTERM)
            torn += sum(not (each / "checksums.json").is_file() for each in output.glob("checkpoint-*"))
        if ends[-1]:
            assert launch(output, case) == 0, (output.with_suffix(".log").read_text()[-3000:], SEED)
        last = json.loads((output / "ended.json").read_text())["step"]
        try:
            assert_same_weights(*(each / f"checkpoint-{last}" for each in (tmp_path / "whole" / case, output)))
        except AssertionError as error:
            raise AssertionError(f"{case}, seed {SEED}: {error}") from error
    with capsys.disabled():
        print(
            f"\nsoak, seed {SEED}: {killed} kills and {told} requests to end survived, {len(whole)} ways of training, "
            f"{torn} torn checkpoints passed over, {passed} points after the end, hangs 0, losses 0"
        )
    assert killed + told + passed >= KILLS
