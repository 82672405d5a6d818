"""How a run was started: how many processes train, on what and in which precision, and whether that was asked for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil
import torch
from transformers import Trainer

from ..console import print_lines

# Where a launcher tells its processes how many they are; srun and mpirun start any program, and may not be meant.
LAUNCHERS = {
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
    "SLURM_STEP_NUM_TASKS": "srun",
}
HALF = {torch.bfloat16: "bf16", torch.float16: "fp16"}
# What `torch.cpu.get_capabilities` calls a processor's instructions for each.
INSTRUCTIONS = {
    "bf16": ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "avx10_2", "fp16_arith"),
}


def accelerate_processes(command: Sequence[str]) -> int | None:
    """The number of processes that a command `accelerate launch …` names, itself or in its config file; else None."""
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    words = [Path(word).name for word in command[:5]]
    for place, word in enumerate(words):
        whole = word in ("accelerate", "accelerate.commands.accelerate_cli") and words[place + 1 :][:1] == ["launch"]
        if whole or word in ("accelerate-launch", "accelerate.commands.launch"):
            given = command[place + 1 + whole :]
            break
    else:
        return None
    try:
        args = launch_command_parser().parse_known_args(given)[0]
        number = args.num_processes
        if number is None and (args.config_file or (Path(default_config_file).is_file() and not args.cpu)):
            number = load_config_from_file(args.config_file).num_processes
    except (SystemExit, OSError, ValueError):  # another version's command, or a file that is gone
        return None
    return number if number is not None and number > 0 else None


def asked_processes(environment: Mapping[str, str], commands: Iterable[Sequence[str]]) -> tuple[int, str] | None:
    """How many processes were asked for, and of which launcher.

    Args:
        environment: of this process.
        commands: command lines of the processes that started it, the nearest first.

    Returns:
        The launcher that asked for the most; None if there is none.
    """
    if "WORLD_SIZE" in environment:
        return int(environment["WORLD_SIZE"]), "the launcher (WORLD_SIZE)"
    asked = [(int(environment[name]), launcher) for name, launcher in LAUNCHERS.items() if name in environment]
    numbers = map(accelerate_processes, commands)
    asked += [(number, "accelerate launch") for number in numbers if number is not None]
    return max(asked, default=None)


def parent_commands() -> list[list[str]]:
    """Command lines of the processes that started this one, as far as they can be read."""
    commands = []
    try:
        for process in psutil.Process().parents():
            commands.append(process.cmdline())
    except psutil.Error:
        pass
    return commands


def process_problem(processes: int, asked: tuple[int, str] | None) -> str | None:
    """What to do where another number of processes trains than was asked for; None where it is the same."""
    if asked is None or asked[0] == processes:
        return None
    number, launcher = asked
    return (
        f"{launcher} was asked for {number} processes, but this run trains in {processes}. accelerate starts several "
        "with distributed_type: MULTI_GPU (--multi_gpu), on CPUs too and there without --cpu, as in "
        f"recipes/accelerate/cpu_two_processes.yaml; or use torchrun --nproc_per_node {number}"
    )


def is_fast(precision: str) -> bool:
    """Whether this machine's processor has instructions for `bf16` or `fp16`."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return True  # not known
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in INSTRUCTIONS[precision])


def precision_problems(asked: str, weights: Iterable[torch.dtype], on_cpu: bool) -> list[str]:
    """What a CPU does badly in half precision, and what to do.

    Args:
        asked: `no`, `bf16` or `fp16`, as accelerate calls them.
        weights: of the model.
        on_cpu: whether it is trained on a CPU.
    """
    if not on_cpu:
        return []
    problems = []
    drop = f"drop --mixed_precision {asked} (training.{asked})"
    if asked == "fp16":
        problems.append(f"fp16 was asked for, but on CPUs accelerate has none: this run computes in fp32; {drop}")
    slow = {asked: drop} if asked == "bf16" else {}
    slow |= {HALF[dtype]: "make the model with dtype=torch.float32" for dtype in weights if dtype in HALF}
    for name, remedy in slow.items():
        if not is_fast(name):
            problems.append(
                f"this processor has no instructions for {name}: a step takes several times as long as in fp32, the "
                f"first one of a base-size encoder minutes; {remedy}, or train on a GPU, or on a processor with "
                "AVX512-BF16 or AMX"
            )
    return problems


def start_line(trainer: Trainer) -> str:
    """Number of processes, device, threads and precision of a run, as one line for the terminal."""
    args = trainer.args
    number = "1 process" if args.world_size == 1 else f"{args.world_size} processes"
    device = str(args.device.type)
    if device == "cpu":
        threads = torch.get_num_threads()
        device += f" ({threads} thread{'s' if threads > 1 else ''} each)"
    weights = {HALF.get(each.dtype, "fp32") for each in trainer.model.parameters() if each.is_floating_point()}
    precision = trainer.accelerator.mixed_precision if trainer.accelerator.native_amp else " and ".join(sorted(weights))
    return f"Training in {number} on {device}, in {precision}"


def print_start(trainer: Trainer) -> None:
    """Print where and how a run computes, and warn where that is slow, or is not what was asked for."""
    print_lines([start_line(trainer)])
    args = trainer.args
    asked = asked_processes(os.environ, parent_commands())
    weights = {each.dtype for each in trainer.model.parameters()}
    problems = precision_problems(trainer.accelerator.mixed_precision, weights, args.device.type == "cpu")
    for problem in (process_problem(args.world_size, asked), *problems):
        if problem is not None:
            warnings.warn(problem, stacklevel=3)
