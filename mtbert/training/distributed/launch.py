"""Launch check: print processes, device and precision of a run; warn if they are slow or differ from the request."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from ..console import print_lines

# Environment variables in which launchers give the number of processes.
LAUNCHERS = {
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
    "SLURM_STEP_NUM_TASKS": "srun",
}
HALF = {torch.bfloat16: "bf16", torch.float16: "fp16"}
# Names in `torch.cpu.get_capabilities` of a processor's instructions for each precision.
INSTRUCTIONS = {
    "bf16": ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "avx10_2", "fp16_arith"),
}


def accelerate_processes(command: Sequence[str]) -> int | None:
    """The number of processes of a command `accelerate launch …`, from its arguments or its config file; else None."""
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    words = [Path(word).name for word in command[:5]]
    for place, word in enumerate(words):
        next_word = words[place + 1] if place + 1 < len(words) else None
        is_subcommand = word in ("accelerate", "accelerate.commands.accelerate_cli") and next_word == "launch"
        if is_subcommand or word in ("accelerate-launch", "accelerate.commands.launch"):
            options = command[place + 1 + is_subcommand :]
            break
    else:
        return None
    try:
        args = launch_command_parser().parse_known_args(options)[0]
        number = args.num_processes
        if number is None and (args.config_file or (Path(default_config_file).is_file() and not args.cpu)):
            number = load_config_from_file(args.config_file).num_processes
    except (SystemExit, OSError, ValueError):  # a command of another version, or a missing file
        return None
    return number if number is not None and number > 0 else None


def asked_processes(environment: Mapping[str, str], commands: Iterable[Sequence[str]]) -> tuple[int, str] | None:
    """The number of processes that a launcher was asked to start, and the name of the launcher.

    Args:
        environment: environment of this process.
        commands: command lines of its parent processes, the nearest first.

    Returns:
        The largest number, with its launcher; None if no launcher was used.
    """
    if "WORLD_SIZE" in environment:
        return int(environment["WORLD_SIZE"]), "the launcher (WORLD_SIZE)"
    asked = [(int(environment[name]), launcher) for name, launcher in LAUNCHERS.items() if name in environment]
    numbers = map(accelerate_processes, commands)
    asked += [(number, "accelerate launch") for number in numbers if number is not None]
    return max(asked, default=None)


def parent_commands() -> list[list[str]]:
    """Command lines of this process's parents, as far as they can be read."""
    commands = []
    try:
        for process in psutil.Process().parents():
            commands.append(process.cmdline())
    except psutil.Error:
        pass
    return commands


def process_problem(processes: int, asked: tuple[int, str] | None) -> str | None:
    """A warning with a remedy if the number of processes is not the one asked for; None if it is."""
    if asked is None or asked[0] == processes:
        return None
    number, launcher = asked
    return (
        f"{launcher} was asked for {number} processes, but this run trains in {processes}. accelerate starts several "
        "with distributed_type: MULTI_GPU (--multi_gpu), on CPUs too and there without --cpu, as in "
        f"recipes/accelerate/cpu_two_processes.yaml; or use torchrun --nproc_per_node {number}"
    )


def is_fast(precision: str) -> bool:
    """Whether this machine's processor has instructions for `bf16` or `fp16`; True if that is unknown."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return True
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in INSTRUCTIONS[precision])


def precision_problems(asked: str, weights: Iterable[torch.dtype], on_cpu: bool) -> list[str]:
    """Warnings, with remedies, about half precision on a CPU that does not support it.

    Args:
        asked: the precision asked for: `no`, `bf16` or `fp16`, as in accelerate.
        weights: types of the model's weights.
        on_cpu: whether the run trains on a CPU.
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


def start_line(trainer: Any) -> str:
    """Number of processes, device, threads and precision of a run, as one line for the terminal."""
    args = trainer.args
    number = "1 process" if args.world_size == 1 else f"{args.world_size} processes"
    device = str(args.device.type)
    if device == "cpu":
        threads = torch.get_num_threads()
        device += f" ({threads} thread{'s' if threads > 1 else ''} each)"
    weights = {
        HALF.get(parameter.dtype, "fp32") for parameter in trainer.model.parameters() if parameter.is_floating_point()
    }
    precision = trainer.accelerator.mixed_precision if trainer.accelerator.native_amp else " and ".join(sorted(weights))
    return f"Training in {number} on {device}, in {precision}"


def print_start(trainer: Any) -> None:
    """Print processes, device and precision of a run, and warn if they are slow or not those asked for."""
    print_lines([start_line(trainer)])
    args = trainer.args
    asked = asked_processes(os.environ, parent_commands())
    weights = {parameter.dtype for parameter in trainer.model.parameters()}
    problems = precision_problems(trainer.accelerator.mixed_precision, weights, args.device.type == "cpu")
    for problem in (process_problem(args.world_size, asked), *problems):
        if problem is not None:
            warnings.warn(problem, stacklevel=3)
