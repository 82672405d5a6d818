"""The server's metrics for Prometheus. No label holds a text: they are routes, statuses, lanes and task names."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from .lanes import LANES, Lanes

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
NAMES = (*(f"up to {bound} tokens" for bound in LANES), f"over {LANES[-1]} tokens")


class Metrics:
    """Counters, gauges and histograms of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("mtbert_requests", "Answered requests", ["route", "status"], registry=registry)
        latency = "Seconds from the first byte of a request to its answer"
        self._latency = Histogram("mtbert_request_seconds", latency, ["route"], buckets=SECONDS, registry=registry)
        self._queue = Gauge("mtbert_queue_tokens", "Tokens that wait for the model", ["lane"], registry=registry)
        self.active = Gauge("mtbert_requests_in_progress", "Requests that are being answered", registry=registry)
        sizes: dict[str, Any] = {"buckets": COUNTS, "registry": registry}
        self._rows = Histogram("mtbert_batch_rows", "Rows of a pass of the encoder", **sizes)
        self._tokens = Histogram("mtbert_batch_tokens", "Tokens of a pass of the encoder", **sizes)
        passes = "Seconds of a pass, with those of the shorter texts that it let pass"
        self._seconds = Histogram("mtbert_batch_seconds", passes, ["lane"], buckets=SECONDS, registry=registry)
        self._answers = Counter("mtbert_answers", "Answers of a task", ["task"], registry=registry)
        self._cut = Counter("mtbert_truncated", "Answers for inputs that were cut", ["task"], registry=registry)

    def watch(self, lanes: Lanes) -> None:
        """Show the numbers of waiting tokens of these lanes."""
        for lane, name in enumerate(NAMES):
            self._queue.labels(name).set_function(partial(_waiting, lanes, lane))

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    @contextmanager
    def batch(self, lane: int, rows: int, tokens: int) -> Iterator[None]:
        """Context manager that measures a pass."""
        self._rows.observe(rows)
        self._tokens.observe(tokens)
        start = time.perf_counter()
        yield
        self._seconds.labels(NAMES[lane]).observe(time.perf_counter() - start)

    def predicted(self, task: str, answers: Sequence[dict[str, Any]]) -> None:
        """Count the answers of a task."""
        self._answers.labels(task).inc(len(answers))
        self._cut.labels(task).inc(sum("truncated" in answer for answer in answers))

    def text(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type, in the format that a client accepts."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


def _waiting(lanes: Lanes, lane: int) -> float:
    return lanes.tokens[lane]
