"""Set up a process that trains on a CPU: its number of threads, and how it reuses memory."""

from __future__ import annotations

import ctypes
import os

import torch

from ...errors import InputError, InputTypeError
from ..arguments import MtBertTrainingArguments, PretrainingArguments

# Parameters of glibc's mallopt (malloc.h), and their values in bytes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEPT = {_MMAP_THRESHOLD: 2**30, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26}


def share_cores(args: MtBertTrainingArguments | PretrainingArguments) -> None:
    """Set `cpu_threads` so that the processes of this machine share all its cores, unless it is set.

    `accelerate launch` gives a process on a CPU one thread, whatever the number of cores.
    """
    if args.device.type == "cpu" and args.cpu_threads is None:
        args.cpu_threads = cores_of_process()


def cores_of_process() -> int:
    """This process's share of the cores that the processes of this machine may use."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, len(os.sched_getaffinity(0)) // processes)


def set_up_process(args: MtBertTrainingArguments) -> None:
    """Set threads and memory of a process that trains on a CPU.

    Raises:
        InputTypeError: for arguments of another class.
        InputError: if one process would train on several GPUs.
    """
    if not isinstance(args, MtBertTrainingArguments):
        raise InputTypeError(f"args must be MtBertTrainingArguments, got {type(args).__name__}")
    if args.n_gpu > 1:
        raise InputError(
            f"{args.n_gpu} GPUs in one process would mean DataParallel, which cannot split packed batches; start "
            "with `accelerate launch --num_processes N` or `torchrun`, or show one GPU (CUDA_VISIBLE_DEVICES=0)"
        )
    if args.device.type == "cpu":
        keep_freed_memory()
        if args.cpu_threads is not None:
            torch.set_num_threads(args.cpu_threads)


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for the next step instead of returning it to the system.

    Every step frees its gradients and allocates them again. By default the system then maps and clears tens of
    thousands of pages a step, which takes about a seventh of the time of training on a CPU.

    Returns:
        Whether the C library accepted the settings; False if it is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    accepted = [mallopt(parameter, value) for parameter, value in _KEPT.items()]
    return all(accepted)
