"""Scripts in processes of their own that need not import everything again: the session has a server that forks them."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
# Installed modules only: before Python 3.13 the server does not know the paths that pytest has added.
CONTEXT.set_forkserver_preload(
    [
        "mtbert.training.checkpoints.stages",
        "mtbert.recipe",
        "mtbert.evaluation.metrics",
        "transformers.models.bert.modeling_bert",
    ]
)


def _run(script: str, arguments: list[str], log: str, environment: dict[str, str]) -> None:
    os.setsid()
    descriptor = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ |= environment
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def start(script: Path, *arguments: object, log: Path, **environment: str) -> BaseProcess:
    """Start `python script arguments`, which prints to the file `log`, in a process group of its own."""
    process = CONTEXT.Process(target=_run, args=(str(script), [*map(str, arguments)], str(log), environment))
    process.start()
    return process


def wait(process: BaseProcess, seconds: float) -> int | str:
    """The exit code of a process, minus a signal's number; one that is still running is killed with its children."""
    process.join(seconds)
    if process.exitcode is not None:
        return process.exitcode
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return f"still running after {seconds} s"
