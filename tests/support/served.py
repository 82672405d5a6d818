"""Servers in processes of their own, and texts to ask them."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from forked import start, wait
from tiny import WORDS

SCRIPT = Path(__file__).with_name("serve_script.py")


@dataclass
class Served:
    """A server that listens."""

    process: BaseProcess
    url: str
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def ask(self, *inputs: Any, tasks: list[str] | None = None, **options: Any) -> httpx.Response:
        """Answer to one request."""
        body = {"inputs": list(inputs)} | ({} if tasks is None else {"tasks": tasks})
        return httpx.post(f"{self.url}/predict", json=body, timeout=60, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **options)

    def metric(self, line: str) -> float:
        """The value of a metric, named with its labels as in the text; 0 if it is not there."""
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def terminate(self) -> None:
        os.kill(self.process.pid, signal.SIGTERM)


@contextmanager
def serving(checkpoint: Path | str, log: Path, *arguments: object) -> Iterator[Served]:
    """A server of a checkpoint on a free port; it is stopped by SIGTERM and must end with status 0."""
    process = start(SCRIPT, checkpoint, "--port", 0, "--device", "cpu", "--threads", 1, *arguments, log=log)
    until = time.monotonic() + 300  # on a busy machine the first one imports everything for minutes
    while not (said := re.search(r"at (http://\S+)", log.read_text() if log.exists() else "")):
        assert process.is_alive() and time.monotonic() < until, log.read_text()
        time.sleep(0.05)
    server = Served(process, said[1], log)
    try:
        yield server
    finally:
        if process.is_alive():
            server.terminate()
        assert wait(process, 60) == 0, log.read_text()


def make_texts(count: int, longest: int = 12, seed: int = 0) -> list[str]:
    """Random texts of 1 to `longest` words, no two alike."""
    random, texts = np.random.default_rng(seed), {}
    while len(texts) < count:
        texts[" ".join(random.choice(WORDS, size=random.integers(1, longest + 1)))] = None
    return list(texts)


def same(answer: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether two answers of an input have the same labels, and numbers within 1e-5."""
    if isinstance(expected, dict):
        return answer.keys() == expected.keys() and all(same(answer[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(answer) == len(expected) and all(map(same, answer, expected))
    if isinstance(expected, float):
        return abs(answer - expected) <= 1e-5
    return answer == expected
