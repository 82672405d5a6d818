"""Invariant 4: one process with batch B is N processes with batch B/N, for N = 2 and 4.

In fp32, weights and predictions agree within 1e-5, losses, gradients' norms and scores within 1e-4 of their size.
Two processes run `worker.EVERY_TIME`, four those of `FOUR`; with MTBERT_ALL_CASES in the environment both run all.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import start, wait
from safetensors.torch import load_file

from mtbert.data.collation import MultiTaskDataset
from mtbert.data.sampling import Step

WORKER = Path(__file__).with_name("worker.py")
TIMES = ("runtime", "per_second", "total_flos")


def load_worker():
    spec = importlib.util.spec_from_file_location("many_processes_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


worker = load_worker()
ALL = bool(os.environ.get("MTBERT_ALL_CASES"))
LIMIT = 1800 if ALL else 600  # seconds for a launch, of which the longest takes about 20 where nothing else runs
pytestmark = pytest.mark.timeout(3 * LIMIT)
# what goes another way with the number of processes: tasks that some lack, gradients that are not DDP's to average
FOUR = ("mixed", "simultaneous", "separate", "few rows", "pal in pcgrad", "sharded moments")
LAUNCHED = {2: worker.chosen(), 4: worker.chosen() if ALL else FOUR}
every_case = pytest.mark.parametrize(
    ("case", "processes"), [(case, processes) for processes, cases in LAUNCHED.items() for case in cases]
)


@pytest.fixture(scope="module")
def done() -> dict:
    """Holds the results, which come from fixtures that last one test: the first test that asks makes them."""
    return {}


@pytest.fixture
def results(done, write_data, tmp_path_factory) -> dict:
    """The folders of the data and, by number of processes, of the results; all cases in one launch of each."""
    if done:
        return done
    folders = {name: tmp_path_factory.mktemp(f"processes-{name}") for name in ("data", 1, 2, 4)}
    write_data(folders["data"])
    ends = {count: fork(folders["data"], folders[count], count, cases) for count, cases in LAUNCHED.items()}
    done.update(folders, ends=ends)
    worker.run_all(folders["data"], folders[1], 1, worker.chosen())
    return done


def fork(data: Path, folder: Path, count: int, cases: Sequence[str]) -> tuple[int | str, str]:
    """How so many processes ended (an exit status, or that they did not end in time), and what they printed.

    They share what was imported before. Those of a real launcher are in tests/unit/cli/test_processes.py.
    """
    arguments = (data, folder, "--fork", count, *cases)
    code = wait(start(WORKER, *arguments, log=folder / "log.txt", OMP_NUM_THREADS="1"), LIMIT)
    return code, (folder / "log.txt").read_text()


@pytest.fixture
def outcome(results):
    """A function: case, processes, rank → tensors and log."""

    def read(case: str, processes: int, rank: int = 0):
        path = results[processes] / f"{case}-{rank}.safetensors"
        assert path.exists(), results["ends"].get(processes, ("", ""))[1][-6000:]
        return load_file(path), json.loads(path.with_suffix(".json").read_text())

    return read


def without_times(values: dict) -> dict:
    return {key: value for key, value in values.items() if not any(word in key for word in TIMES)}


def assert_close(one: dict, other: dict):
    one, other = without_times(one), without_times(other)
    assert one.keys() == other.keys()
    assert one == pytest.approx(other, rel=1e-4, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("processes", LAUNCHED)
def test_a_launch_succeeds(processes, results):
    code, log = results["ends"][processes]
    assert code == 0, f"{code}: {log[-6000:]}"


@every_case
def test_processes_train_to_the_weights_of_one(case, processes, outcome):
    (one, _), (many, _) = outcome(case, 1), outcome(case, processes)
    names = [name.removeprefix("start.") for name in one if name.startswith("start.")]
    assert one.keys() == many.keys()
    assert max(float((one[f"weight.{name}"] - one[f"start.{name}"]).abs().max()) for name in names) > 1e-3
    for name in names:
        assert torch.equal(one[f"start.{name}"], many[f"start.{name}"])
        torch.testing.assert_close(many[f"weight.{name}"], one[f"weight.{name}"], rtol=1e-5, atol=1e-5)


@every_case
def test_all_processes_end_with_the_same_weights_and_predictions(case, processes, outcome):
    zero, log_zero = outcome(case, processes, 0)
    for rank in range(1, processes):
        other, log_other = outcome(case, processes, rank)
        assert all(torch.equal(zero[name], other[name]) for name in zero)
        assert without_times(log_zero["test"]) == without_times(log_other["test"])


@every_case
def test_processes_log_the_losses_of_one(case, processes, outcome):
    """The loss, its gradient's norm, and the loss and number of examples of each task, step by step."""
    logs = [[each for each in outcome(case, count)[1]["log_history"] if "loss" in each] for count in (1, processes)]
    for one, many in zip(*logs, strict=True):
        assert any(key.startswith("loss_") for key in one)
        assert_close(many, one)


@every_case
def test_processes_evaluate_to_the_metrics_of_one(case, processes, outcome):
    (_, one), (_, many) = outcome(case, 1), outcome(case, processes)
    assert_close(many["test"], one["test"])
    evaluations = [[each for each in log["log_history"] if "eval_overall" in each] for log in (one, many)]
    stages = 2 if worker.CASES[case].get("heads_first") else 1
    assert len(evaluations[0]) == 3 * stages  # before the first step, and after each of two epochs
    for left, right in zip(*evaluations, strict=True):
        assert_close(right, left)


@every_case
@torch.no_grad()
def test_predictions_are_in_the_order_of_rows(case, processes, outcome, results, eval_rows):
    """Each row alone through the trained model, in the order of the data set."""
    model = worker.make_model(case, results["data"]).eval()
    splits = worker.read_splits(case, results["data"])["eval"]
    dataset = MultiTaskDataset(model.tasks, splits, token_types=True)
    one, many = outcome(case, 1)[0], outcome(case, processes)[0]
    weights = {name.removeprefix("weight."): value for name, value in one.items() if name.startswith("weight.")}
    model.load_state_dict(weights)
    for number, task in enumerate(model.tasks):
        rows, *of_units, labels = one[f"prediction.{task.name}"].shape
        assert (rows, labels, 1 + len(of_units)) == (eval_rows[number], task.num_labels, task.kind.units.dims)
        for row in range(eval_rows[number]):
            batch = dataset.__getitems__(Step(((number, np.array([row])),)))
            inputs = {key: batch[key] for key in ("input_ids", "token_type_ids", "layout")}
            expected = model(**inputs).logits  # of the row, or of each of its tokens
            expected = expected[splits[task.name][row][task.kind.units.column]] if of_units else expected[0]
            for found in (one, many):
                logits = found[f"prediction.{task.name}"][row]
                logits = logits[: len(expected)] if of_units else logits  # then come the places of longer rows
                torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
