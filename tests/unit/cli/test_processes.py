"""One device unless more are asked for; several processes are those of accelerate's launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from mtbert.cli import arguments, processes
from mtbert.cli.main import run

ROOT = Path(__file__).resolve().parents[3]
QUICKSTART = str(ROOT / "recipes" / "configs" / "quickstart.yaml")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No launcher, and no choice of GPUs; what a test sets in the environment is undone."""
    for name in (*processes.OF_LAUNCHERS, "CUDA_VISIBLE_DEVICES", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)


@pytest.mark.parametrize(("shown", "first"), [(None, "0"), ("3,5", "3"), ("GPU-a,GPU-b", "GPU-a")])
def test_one_of_several_gpus_is_used_and_it_is_said(monkeypatch, capsys, shown, first):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    processes.use_one_device("finetune")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == first
    assert capsys.readouterr().out == "training on 1 of 2 GPUs; --num_processes 2 uses both\n"


CASES = [("finetune", 0, False), ("finetune", 1, False), ("finetune", 2, True), ("reproduce", 2, False)]


@pytest.mark.parametrize(("command", "count", "launched"), CASES)
def test_nothing_is_chosen_where_there_is_no_choice(monkeypatch, capsys, command, count, launched):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if launched:
        monkeypatch.setenv("WORLD_SIZE", "2")
    processes.use_one_device(command)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("gpus", [0, 4])
def test_the_launcher_gets_the_recipe_and_the_number_of_processes(monkeypatch, gpus):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    asked = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", asked.append)
    words = [QUICKSTART, "--num_processes=3", "--training.output_dir", "out", "--mixed_precision", "bf16"]
    assert processes.launch("finetune", arguments.finetune(words)) == 0
    (given,) = asked
    assert (given.num_processes, given.mixed_precision, given.module) == (3, "bf16", True)
    assert given.training_script == "mtbert.cli.finetune"
    assert given.training_script_args == [QUICKSTART, "--training.output_dir=out"]
    assert given.config_file.endswith("accelerate/ddp.yaml" if gpus else "accelerate/cpu_two_processes.yaml")


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    args = arguments.finetune([QUICKSTART, "--num_processes", "3", "--training.output_dir", "out"])
    with pytest.raises(ValueError, match="^--num_processes is 3, but each takes a GPU, and this machine has 2; give"):
        processes.launch("finetune", args)


def test_the_status_is_that_of_the_process_that_failed(monkeypatch, capsys):
    def fail(_):
        raise ChildFailedError("x", {1: Namespace(exitcode=1, timestamp=0, error_file="", local_rank=1)})

    monkeypatch.setattr(ChildFailedError, "format_msg", lambda *_: "")
    monkeypatch.setattr("accelerate.commands.launch.launch_command", fail)
    args = arguments.finetune([QUICKSTART, "--num_processes", "2", "--training.output_dir", "out"])
    assert processes.launch("finetune", args) == 1
    assert capsys.readouterr().err == "mtbert finetune: 1 of 2 processes failed\n"


def test_a_launched_process_launches_no_others(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as left:
        run("finetune", [QUICKSTART, "--num_processes", "2"])
    assert left.value.code == 2
    assert "a launcher has started this process and says how many; drop one" in capsys.readouterr().err


def test_the_precision_is_where_accelerate_reads_it():
    processes.set_precision(arguments.finetune([QUICKSTART, "--mixed_precision", "bf16"]))
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"


@pytest.fixture
def finetune(encoder_dir, tmp_path):
    """A function that trains in two processes, with the folder `out` for the run."""
    (tmp_path / "rows.csv").write_text("text,label\n" + "the cat runs,0\na dog eats,1\n" * 8)
    task = {"labels": 2, "data": {"train": "rows.csv", "dev": "rows.csv"}}
    training = {"output_dir": "out", "report_to": "none", "disable_tqdm": True, "cpu_threads": 1, "use_cpu": True}
    training |= {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 2}
    tree = {"encoder": encoder_dir, "tasks": {"one": task}, "training": training}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}

    def run() -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "mtbert", "finetune", "recipe.yaml", "--num_processes", "2"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)

    return run


@pytest.mark.soak  # tests/distributed trains in two processes, and the cases above hold the command that starts them
def test_two_processes_train_on_cpus_and_go_on(finetune, tmp_path):
    done = finetune()
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Training in 2 processes on cpu" in done.stdout
    assert done.stdout.count("The model is in out") == 1 and "next: mtbert evaluate out" in done.stdout
    assert json.loads((tmp_path / "out" / "record.json").read_text())["processes"] == 2


@pytest.mark.soak  # test_the_status_is_that_of_the_process_that_failed starts no process
def test_two_processes_refuse_a_folder_with_files(finetune, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    refused = finetune()
    assert refused.returncode == 1
    assert "output_dir out has files in it" in refused.stderr and "processes failed" in refused.stderr
