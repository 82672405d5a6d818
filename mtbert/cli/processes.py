"""Choose the devices of a command: one, or several through accelerate's launcher."""

from __future__ import annotations

import argparse
import os
import sys

from ..errors import InputError
from ..runs.bundled import folder

# environment variables by which accelerate detects that a launcher has started this process
OF_LAUNCHERS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
TRAINS = ("finetune", "pretrain")
ON_ONE_DEVICE = (
    *TRAINS,
    "calibrate",
    "evaluate",
    "search",
)  # `reproduce` uses all GPUs; the other commands use one anyway


def is_launched() -> bool:
    """Return whether a launcher, which sets the number of processes, has started this process."""
    return any(name in os.environ for name in OF_LAUNCHERS)


def number(args: argparse.Namespace) -> int:
    """Return the number of processes that the command line requests."""
    return getattr(args, "num_processes", None) or 1


def set_precision(args: argparse.Namespace) -> None:
    """Set accelerate's environment variable to `--mixed_precision`, before accelerate is imported."""
    if getattr(args, "mixed_precision", None):
        os.environ["ACCELERATE_MIXED_PRECISION"] = args.mixed_precision


def use_one_device(command: str) -> None:
    """Hide all GPUs but the first from this process, and print that; launched processes keep their GPUs."""
    if command not in ON_ONE_DEVICE or is_launched():
        return
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        return
    # torch reads the variable when it first uses a GPU, so that setting it here takes effect
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if command in TRAINS:
        print(f"training on 1 of {count} GPUs; --num_processes {count} uses {'both' if count == 2 else 'all'}")
    else:
        print(f"computing on 1 of {count} GPUs", file=sys.stderr)


def launch(command: str, args: argparse.Namespace) -> int:
    """Run a command in several processes, each on its own GPU, or all on the CPU if there is no GPU.

    Returns:
        The exit status.

    Raises:
        ValueError: there are fewer GPUs than processes.
    """
    import torch
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if command in TRAINS:
        from ..recipe import Recipe

        Recipe.from_cli(args.recipe_arguments)  # reports errors once instead of in every process
    count = torch.cuda.device_count()
    if 0 < count < args.num_processes:
        asked = f"--num_processes is {args.num_processes}"
        raise InputError(f"{asked}, but each takes a GPU, and this machine has {count}; give that or less")
    config = "ddp.yaml" if count else "cpu_two_processes.yaml"
    # mtbert's config file, so that accelerate does not read the user's default config, which is for other programs
    words = ["--config_file", str(folder() / "accelerate" / config), "--num_processes", str(args.num_processes)]
    words += ["--mixed_precision", getattr(args, "mixed_precision", None) or "no", "--main_process_port", "0"]
    words += ["--module", f"mtbert.cli.{command}", *args.process_arguments]
    launch_args = launch_command_parser().parse_args(words)
    try:
        launch_command(launch_args)
    except ChildFailedError as error:  # the failed process has printed the reason
        codes = [failure.exitcode for failure in error.failures.values()]
        print(f"mtbert {command}: {len(codes)} of {args.num_processes} processes failed", file=sys.stderr)
        return codes[0] if codes and 0 < codes[0] < 256 else 1
    return 0
