"""Invariant 4: one process with batch B is two processes with batch B/2."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mtbert.data.collation import MultiTaskDataset
from mtbert.data.sampling import Step
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.training.arguments import MtBertTrainingArguments
from mtbert.training.trainer import MtBertTrainer

WORKER = Path(__file__).with_name("worker.py")
LIMIT = 240  # seconds for the launch, which takes about 15 where nothing else runs
TIMES = ("runtime", "per_second", "total_flos")
# train sizes leave uneven last steps of 4, 4, 1 and 1 rows; eval sizes leave uneven batches on two processes
TRAIN_ROWS, EVAL_ROWS = (20, 12, 17, 9), (13, 9, 8, 3)


def load_worker():
    spec = importlib.util.spec_from_file_location("two_processes_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


worker = load_worker()
every_case = pytest.mark.parametrize("case", worker.CASES)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def done() -> dict:
    """Holds the results, which come from fixtures that last one test: the first test that asks makes them."""
    return {}


@pytest.fixture
def results(done, make_model, splits, tasks, tokenizer, tmp_path_factory) -> dict[str, Path]:
    """The folders of the data, of the results of one process, and of those of two; all cases in one launch."""
    if done:
        return done
    folders = {name: tmp_path_factory.mktemp(name) for name in ("data", "one", "two")}
    still = [replace(task, dropout=0.0) for task in tasks]
    model = make_model(still, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model.save_pretrained(folders["data"] / "model")
    args = MtBertTrainingArguments(str(tmp_path_factory.mktemp("encoding")), use_cpu=True, report_to="none")
    encoded = MtBertTrainer(model, args, splits(TRAIN_ROWS), splits(EVAL_ROWS, 1), tokenizer)
    for split, data in (("train", encoded.train_dataset), ("eval", encoded.eval_dataset)):
        for name, rows in data.items():
            rows.save_to_disk(str(folders["data"] / split / name))

    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    path = os.pathsep.join([str(WORKER.parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with open(folders["two"] / "log.txt", "w+") as log:
        process = subprocess.Popen(
            [*launch, str(WORKER), str(folders["data"]), str(folders["two"])],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            code = f"still running after {LIMIT} s"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    done.update(folders, log=(folders["two"] / "log.txt").read_text(), code=code)
    worker.run_all(folders["data"], folders["one"], processes=1)
    return done


@pytest.fixture
def outcome(results):
    """A function: case, processes, rank → tensors and log."""

    def read(case: str, processes: int, rank: int = 0):
        folder = results["one" if processes == 1 else "two"]
        path = folder / f"{case}-{rank}.safetensors"
        assert path.exists(), results["log"][-6000:]
        return load_file(path), json.loads((folder / f"{case}-{rank}.json").read_text())

    return read


def without_times(values: dict) -> dict:
    return {key: value for key, value in values.items() if not any(word in key for word in TIMES)}


def assert_close(one: dict, other: dict):
    one, other = without_times(one), without_times(other)
    assert one.keys() == other.keys()
    assert one == pytest.approx(other, rel=1e-4, abs=1e-5, nan_ok=True)


def test_the_launch_of_two_processes_succeeds(results):
    assert results["code"] == 0, f"{results['code']}: {results['log'][-6000:]}"


@every_case
def test_two_processes_train_to_the_weights_of_one(case, outcome, results):
    (one, _), (two, _) = outcome(case, 1), outcome(case, 2)
    start = load_file(results["data"] / "model" / "model.safetensors")
    assert one.keys() == two.keys()
    assert max(float((one[f"weight.{name}"] - start[name]).abs().max()) for name in start) > 1e-3
    for name in start:
        torch.testing.assert_close(two[f"weight.{name}"], one[f"weight.{name}"], rtol=1e-5, atol=1e-5)


@every_case
def test_both_processes_end_with_the_same_weights_and_predictions(case, outcome):
    (zero, log_zero), (first, log_first) = outcome(case, 2, 0), outcome(case, 2, 1)
    assert all(torch.equal(zero[name], first[name]) for name in zero)
    assert without_times(log_zero["test"]) == without_times(log_first["test"])


@every_case
def test_two_processes_log_the_losses_of_one(case, outcome):
    """The loss, its gradient's norm, and the loss and number of examples of each task, step by step."""
    logs = [[each for each in outcome(case, count)[1]["log_history"] if "loss" in each] for count in (1, 2)]
    for one, two in zip(*logs, strict=True):
        assert any(key.startswith("loss_") for key in one)
        assert_close(two, one)


@every_case
def test_two_processes_evaluate_to_the_metrics_of_one(case, outcome):
    (_, one), (_, two) = outcome(case, 1), outcome(case, 2)
    assert_close(two["test"], one["test"])
    evaluations = [[each for each in log["log_history"] if "eval_overall" in each] for log in (one, two)]
    stages = 2 if case == "heads first" else 1
    assert len(evaluations[0]) == 3 * stages  # before the first step, and after each of two epochs
    for left, right in zip(*evaluations, strict=True):
        assert_close(right, left)


@every_case
@torch.no_grad()
def test_predictions_are_in_the_order_of_rows(case, outcome, results):
    """Each row alone through the trained model, in the order of the data set."""
    model = MtBertForMultiTask.from_pretrained(results["data"] / "model").eval()
    splits = {each.name: worker.load_from_disk(str(each)) for each in (results["data"] / "eval").iterdir()}
    dataset = MultiTaskDataset(model.tasks, splits, token_types=True)
    for processes in (1, 2):
        tensors, _ = outcome(case, processes)
        weights = {name.removeprefix("weight."): value for name, value in tensors.items() if "weight." in name[:7]}
        model.load_state_dict(weights)
        for number, task in enumerate(model.tasks):
            found = tensors[f"prediction.{task.name}"]
            assert found.shape == (EVAL_ROWS[number], task.num_labels)
            for row in range(len(found)):
                batch = dataset.__getitems__(Step(((number, np.array([row])),)))
                inputs = {key: batch[key] for key in ("input_ids", "token_type_ids", "layout")}
                torch.testing.assert_close(found[row], model(**inputs).logits[0], rtol=1e-4, atol=1e-5)
