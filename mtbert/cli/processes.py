"""On how many devices a command computes: on one, or on several through accelerate's launcher."""

from __future__ import annotations

import argparse
import os
import sys

from ..errors import InputError
from .bundled import folder

# set where a launcher has started this process, as accelerate reads them
OF_LAUNCHERS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
TRAINS = ("finetune", "pretrain")
ON_ONE_DEVICE = (*TRAINS, "evaluate", "search")  # `reproduce` shares all out, the others use one by themselves


def is_launched() -> bool:
    """Whether a launcher has started this process, and so says how many there are."""
    return any(name in os.environ for name in OF_LAUNCHERS)


def number(args: argparse.Namespace) -> int:
    """The number of processes that the command line asks for."""
    return getattr(args, "num_processes", None) or 1


def set_precision(args: argparse.Namespace) -> None:
    """Set `--mixed_precision` where accelerate reads it, before it is imported."""
    if getattr(args, "mixed_precision", None):
        os.environ["ACCELERATE_MIXED_PRECISION"] = args.mixed_precision


def use_one_device(command: str) -> None:
    """Show this process the first GPU alone, and say so; a process that a launcher has started keeps what it has."""
    if command not in ON_ONE_DEVICE or is_launched():
        return
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        return
    # torch asks for the devices when it first computes on one, so that this still counts
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if command in TRAINS:
        print(f"training on 1 of {count} GPUs; --num_processes {count} uses {'both' if count == 2 else 'all'}")
    else:
        print(f"computing on 1 of {count} GPUs", file=sys.stderr)


def launch(command: str, args: argparse.Namespace) -> int:
    """Run a command in several processes, each on a GPU of its own, or on the CPUs where there is none.

    Raises:
        ValueError: there are GPUs, but not as many as processes.
    """
    import torch
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from ..recipe import Recipe

    Recipe.from_cli(args.recipe_arguments)  # what is wrong with it is said once, and not by every process
    count = torch.cuda.device_count()
    if 0 < count < args.num_processes:
        asked = f"--num_processes is {args.num_processes}"
        raise InputError(f"{asked}, but each takes a GPU, and this machine has {count}; give that or less")
    config = "ddp.yaml" if count else "cpu_two_processes.yaml"
    # a config file of ours, so that accelerate leaves the one alone that the user may have for other programs
    words = ["--config_file", str(folder() / "accelerate" / config), "--num_processes", str(args.num_processes)]
    words += ["--mixed_precision", args.mixed_precision or "no", "--main_process_port", "0"]
    given = launch_command_parser().parse_args([*words, "--module", f"mtbert.cli.{command}", *args.recipe_arguments])
    try:
        launch_command(given)
    except ChildFailedError as error:  # the process that failed has said why
        codes = [failure.exitcode for failure in error.failures.values()]
        print(f"mtbert {command}: {len(codes)} of {args.num_processes} processes failed", file=sys.stderr)
        return codes[0] if codes and 0 < codes[0] < 256 else 1
    return 0
