"""Servers of `mtbert serve` and the load of benchmarks/serving.py. Its client does little, as it shares their cores."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

START = 300  # seconds in which a server must listen


@dataclass
class Server:
    """A server that listens."""

    process: subprocess.Popen[bytes]
    url: str


def start_servers(options: Mapping[Path, Sequence[str]]) -> list[Server]:
    """Start a server for each checkpoint, all at once.

    Args:
        options: checkpoint → options of its server.
    """
    started = []
    for checkpoint, own in options.items():
        log = tempfile.TemporaryFile()  # noqa: SIM115 (the process writes to it)
        command = [sys.executable, "-m", "mtbert", "serve", str(checkpoint), "--port", "0", *own]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        started.append((subprocess.Popen(command, stdout=log, stderr=log, env=environment), log))
    return [Server(process, _url(process, log)) for process, log in started]


def _url(process: subprocess.Popen[bytes], log) -> str:
    until = time.monotonic() + START
    while time.monotonic() < until:
        log.seek(0)
        text = log.read().decode()
        if said := re.search(r"at (http://\S+)", text):
            return said[1]
        if process.poll() is not None:
            raise RuntimeError(text)
        time.sleep(0.1)
    raise RuntimeError(f"a server did not start within {START} s: {text}")


def stop_servers(servers: Sequence[Server]) -> None:
    """Stop all servers by SIGTERM."""
    for server in servers:
        server.process.send_signal(signal.SIGTERM)
    for server in servers:
        if server.process.wait(60) != 0:
            raise RuntimeError(f"a server ended with status {server.process.returncode}")


@dataclass(frozen=True)
class Load:
    """Requests at random times: their texts, and how many come in a second."""

    texts: Sequence[str]
    rate: float


@dataclass
class Latencies:
    """What a load has measured.

    Attributes:
        seconds: how long it lasted.
        values: seconds of each answered request.
        refused: number of requests with another status than 200.
    """

    seconds: float = 0.0
    values: list[float] = field(default_factory=list)
    refused: int = 0

    def summary(self) -> dict[str, float]:
        """Answered requests per second, quantiles in milliseconds, and the number that were refused."""
        names = ("p50", "p95", "p99")
        values = np.quantile(self.values or [np.nan], (0.5, 0.95, 0.99)) * 1000
        rate = len(self.values) / self.seconds
        return {
            "rate": round(rate, 2),
            **dict(zip(names, values.round(2).tolist(), strict=True)),
            "refused": self.refused,
        }


class Connection:
    """A connection to a server that is kept open."""

    def __init__(self, url: str):
        self.host, port = url.removeprefix("http://").split(":")
        self.port = int(port)
        self.streams = None

    async def ask(self, body: bytes) -> int:
        """Send a request, read its whole answer, and return its status."""
        if self.streams is None:
            self.streams = await asyncio.open_connection(self.host, self.port)
        reader, writer = self.streams
        writer.write(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        await reader.readexactly(int(length[1]))
        return int(head[9:12])

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()


def bodies(texts: Sequence[str]) -> list[bytes]:
    """The requests of single texts."""
    return [json.dumps({"inputs": [text]}).encode() for text in texts]


async def closed_loop(urls: Sequence[str], texts: Sequence[str], clients: int, seconds: float) -> Latencies:
    """Clients that each ask all servers at once, and again as soon as the last of them has answered."""
    requests, found = bodies(texts), Latencies()
    start = time.perf_counter()
    until = start + seconds

    async def client(number: int) -> None:
        connections = [Connection(url) for url in urls]
        while (asked := time.perf_counter()) < until:
            body = requests[number % len(requests)]
            statuses = await asyncio.gather(*(connection.ask(body) for connection in connections))
            if set(statuses) == {200}:
                found.values.append(time.perf_counter() - asked)
            else:
                found.refused += 1
            number += clients
        for connection in connections:
            connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    found.seconds = time.perf_counter() - start
    return found


async def open_loop(url: str, loads: Mapping[str, Load], seconds: float, seed: int) -> dict[str, Latencies]:
    """Requests at random times (a Poisson process), whatever was answered; latency counts from when they are due."""
    found = {name: Latencies(seconds) for name in loads}
    idle: list[Connection] = []
    start = time.perf_counter() + 0.1

    async def ask(name: str, body: bytes, due: float) -> None:
        connection = idle.pop() if idle else Connection(url)
        status = await connection.ask(body)
        if status == 200:
            found[name].values.append(time.perf_counter() - start - due)
        else:
            found[name].refused += 1
        idle.append(connection)

    tasks = []
    for due, name, body in _schedule(loads, seconds, seed):
        await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(name, body, due)))
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return found


def _schedule(loads: Mapping[str, Load], seconds: float, seed: int) -> list[tuple[float, str, bytes]]:
    """When each request is due, its kind and its body; the times of a kind do not depend on the other kinds."""
    events = []
    for place, (name, load) in enumerate(loads.items()):
        random, requests = np.random.default_rng([seed, place]), bodies(load.texts)
        times = random.exponential(1 / load.rate, size=int(2 * seconds * load.rate) + 20).cumsum()
        times = times[times < seconds]
        events += [(float(due), name, requests[number % len(requests)]) for number, due in enumerate(times)]
    return sorted(events)
