"""How a run was started, and what is said where that is not what was asked for."""

from __future__ import annotations

import re
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch

from mtbert.training.distributed import launch
from mtbert.training.distributed.launch import asked_processes, precision_problems, process_problem

ROOT = Path(__file__).resolve().parents[4]
RUN = ["recipes/finetune.py", "recipe.yaml", "--training.seed", "1"]
TWO = str(ROOT / "recipes" / "accelerate" / "cpu_two_processes.yaml")
ONE = str(ROOT / "accelerate_config.yaml")
ACCELERATE = ["/venv/bin/python", "/venv/bin/accelerate", "launch"]


@pytest.fixture(autouse=True)
def no_default_config(monkeypatch, tmp_path):
    """Whatever the user of this machine has configured does not count."""
    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ([*ACCELERATE, "--num_processes", "2", "--cpu", *RUN], 2),
        ([*ACCELERATE, "--cpu", "--num-processes=3", *RUN], 3),
        (["/usr/bin/accelerate-launch", "--num_processes", "4", *RUN], 4),
        (["python", "-m", "accelerate.commands.launch", "--num_processes", "5", *RUN], 5),
        ([*ACCELERATE, "--config_file", TWO, "--cpu", *RUN], 2),
        ([*ACCELERATE, "--config_file", TWO, "--num_processes", "6", *RUN], 6),
        ([*ACCELERATE, "--config_file", ONE, *RUN], 1),
        ([*ACCELERATE, "--cpu", *RUN], None),
        ([*ACCELERATE, "--config_file", "gone.yaml", *RUN], None),
        ([*ACCELERATE, "--num_processes", "two", *RUN], None),
        ([*ACCELERATE, *RUN, "--num_processes", "7"], None),  # the script's own argument
        (["/venv/bin/accelerate", "test"], None),
        (["bash", "-c", "accelerate launch --num_processes 8 run.py"], None),  # accelerate itself stands below it
        (["python", "recipes/finetune.py", "recipe.yaml"], None),
        ([], None),
    ],
)
def test_what_accelerate_was_asked_for(command, number):
    asked = asked_processes({}, [["python", "run.py"], command])
    assert asked == (None if number is None else (number, "accelerate launch"))


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({"WORLD_SIZE": "2"}, (2, "the launcher (WORLD_SIZE)")),
        (
            {"WORLD_SIZE": "2", "SLURM_STEP_NUM_TASKS": "1"},
            (2, "the launcher (WORLD_SIZE)"),
        ),  # once a machine
        ({"OMPI_COMM_WORLD_SIZE": "3"}, (3, "mpirun")),
        ({"PMI_SIZE": "4"}, (4, "mpirun")),
        ({"SLURM_STEP_NUM_TASKS": "5"}, (5, "srun")),
        ({"SLURM_NTASKS": "6"}, None),  # of the job; this step may have one
    ],
)
def test_what_other_launchers_were_asked_for(environment, asked):
    assert asked_processes(environment, []) == asked


def test_a_number_that_is_not_the_one_asked_for():
    assert process_problem(1, None) is None and process_problem(2, (2, "srun")) is None
    told = process_problem(1, (2, "accelerate launch"))
    assert told.startswith("accelerate launch was asked for 2 processes, but this run trains in 1. ")
    assert "distributed_type: MULTI_GPU" in told and "torchrun --nproc_per_node 2" in told


@pytest.mark.parametrize(
    ("asked", "weights", "on_cpu", "expected"),
    [
        ("no", torch.float32, True, []),
        ("bf16", torch.float32, False, []),
        ("bf16", torch.float32, True, ["no instructions for bf16.*drop --mixed_precision bf16 .training.bf16."]),
        ("no", torch.bfloat16, True, ["no instructions for bf16.*dtype=torch.float32"]),
        ("no", torch.float16, True, ["no instructions for fp16.*dtype=torch.float32"]),
        ("fp16", torch.float32, True, ["fp16 was asked for.*this run computes in fp32.*training.fp16"]),
        ("fp16", torch.bfloat16, True, ["fp16 was asked for", "no instructions for bf16"]),
    ],
)
@pytest.mark.parametrize("fast", [False, True])
def test_half_precision_on_a_cpu(asked, weights, on_cpu, expected, fast, monkeypatch):
    monkeypatch.setattr(launch, "is_fast", lambda name: fast)
    problems = precision_problems(asked, {weights, torch.int64}, on_cpu)
    expected = [each for each in expected if not fast or "no instructions" not in each]
    assert all(re.search(pattern, problem) for pattern, problem in zip(expected, problems, strict=True))


@pytest.mark.parametrize(
    ("capabilities", "bf16", "fp16"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_f": False}, False, False),
        ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": False}, False, False),
        ({"architecture": "x86_64", "avx512_bf16": True}, True, False),
        ({"architecture": "x86_64", "amx_bf16": True, "amx_fp16": False}, True, False),
        ({"architecture": "aarch64", "neon": True, "bf16": True, "fp16_arith": True}, True, True),
    ],
)
def test_which_processors_have_instructions(capabilities, bf16, fp16, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert (launch.is_fast("bf16"), launch.is_fast("fp16")) == (bf16, fp16)


@pytest.fixture
def make_trainer(make_trainer):
    return partial(make_trainer, max_steps=1, per_device_train_batch_size=4)


def test_a_run_says_how_it_computes(make_trainer, make_model, capsys, monkeypatch):
    monkeypatch.setattr(launch, "parent_commands", lambda: [])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        make_trainer().train()
    assert "Training in 1 process on cpu (1 thread each), in fp32\n" in capsys.readouterr().out
    monkeypatch.setattr(launch, "is_fast", lambda name: False)
    for settings, precision in (({"bf16": True}, "bf16"), ({"model": make_model().bfloat16()}, "bf16")):
        with pytest.warns(UserWarning, match="this processor has no instructions for bf16"):
            make_trainer(**settings).train()
        assert f"in 1 process on cpu (1 thread each), in {precision}\n" in capsys.readouterr().out


def test_a_run_warns_of_processes_that_are_missing(make_trainer, monkeypatch):
    monkeypatch.setattr(launch, "parent_commands", lambda: [[*ACCELERATE, "--num_processes", "2", "--cpu", *RUN]])
    with pytest.warns(UserWarning, match="asked for 2 processes, but this run trains in 1"):
        make_trainer().train()
