"""What a run on a CPU takes of its machine."""

import ctypes
import os
import platform

import pytest
import torch

from mtbert import MtBertTrainingArguments
from mtbert.training.distributed.machine import keep_freed_memory, share_cores


def arguments(folder, **values):
    return MtBertTrainingArguments(output_dir=str(folder), report_to="none", use_cpu=True, **values)


def test_cores_are_shared_out_among_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    args = arguments(tmp_path)
    share_cores(args)
    assert args.cpu_threads == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    args = arguments(tmp_path)
    share_cores(args)
    assert args.cpu_threads == 2
    args = arguments(tmp_path, cpu_threads=5)
    share_cores(args)
    assert args.cpu_threads == 5


def test_trainer_sets_the_threads(make_trainer):
    make_trainer(cpu_threads=2)
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_glibc_takes_the_settings():
    assert keep_freed_memory()


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
