"""What a run on a CPU takes of its machine: cores, and memory that it keeps."""

from __future__ import annotations

import ctypes
import os

import torch

from ...errors import InputError, InputTypeError
from ..arguments import MtBertTrainingArguments

# Parameters of glibc's mallopt (malloc.h), and the values that they are given, in bytes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEPT = {_MMAP_THRESHOLD: 2**30, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26}


def share_cores(args: MtBertTrainingArguments) -> None:
    """Let the processes of this machine compute on all its cores, unless `cpu_threads` says otherwise.

    `accelerate launch` gives a process on a CPU one thread, whatever the machine has.
    """
    if args.device.type == "cpu" and args.cpu_threads is None:
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        args.cpu_threads = max(1, len(os.sched_getaffinity(0)) // processes)


def set_up_process(args: MtBertTrainingArguments) -> None:
    """Prepare this process for training: its threads and its memory on a CPU.

    Raises:
        InputTypeError: for arguments of another class.
        InputError: where one process would train on several GPUs.
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
    """Let glibc keep freed memory for the next step instead of giving it back to the system.

    Every step frees and asks again for its gradients; by default the system then maps and clears tens of thousands of
    pages a step, which costs CPU training about a seventh of its time.

    Returns:
        Whether the C library took the settings; False where it is another than glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    taken = [mallopt(parameter, value) for parameter, value in _KEPT.items()]
    return all(taken)
