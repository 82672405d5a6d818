"""The outermost layer of the app: counts every answer, sets its headers, and words errors alike."""

from __future__ import annotations

import logging
import time
import traceback
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import Metrics
from .security import HEADERS

logger = logging.getLogger("mtbert.serving")
CLOSES = (408, 413)  # the rest of such a request's body is not read
GONE = 499  # the status in the metrics of a client that did not wait for its answer


def problem(status: int, message: str, **headers: str) -> JSONResponse:
    """An answer that says what is wrong."""
    return JSONResponse({"error": message}, status, headers)


class Edges:
    """Middleware around everything else.

    Args:
        app: the inner app.
        routes: the paths that metrics name; others are `other`.
        metrics: where answers are counted.
        explained: status → message of errors that the framework words itself.
    """

    def __init__(self, app: ASGIApp, routes: frozenset[str], metrics: Metrics, explained: dict[int, str]):
        self.app, self.routes, self.metrics, self.explained = app, routes, metrics, explained

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in self.routes else "other"
        answer, start = _Answer(scope, receive, send, self.explained), time.perf_counter()
        with self.metrics.active.track_inprogress():
            try:
                await self.app(scope, receive, answer.send)
            except Exception as error:  # its message may hold a text, and is not logged
                frames = traceback.extract_tb(error.__traceback__)[-3:]
                where = ", ".join(f"{frame.filename}:{frame.lineno}" for frame in frames)
                logger.error("%s failed: %s at %s", route, type(error).__name__, where)
                if answer.status == GONE:
                    await problem(500, "the server failed on this request")(scope, receive, answer.send)
        self.metrics.request(route, answer.status, time.perf_counter() - start)


class _Answer:
    """Sends the answer of one request, with our headers; replaces a plain text that says what is wrong by JSON."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, explained: dict[int, str]):
        self.scope, self.receive, self.forward, self.explained = scope, receive, send, explained
        self.status, self.replaced = GONE, False

    async def send(self, message: Message) -> None:
        if self.replaced:
            return
        if message["type"] != "http.response.start":
            await self.forward(message)
            return
        self.status = message["status"]
        headers = MutableHeaders(scope=message)
        plain: Any = headers.get("content-type", "").startswith("text/plain") and self.explained.get(self.status)
        if plain:
            self.replaced = True
            await problem(self.status, plain)(self.scope, self.receive, self._forward_start)
            return
        await self._forward_start(message)

    async def _forward_start(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update({name: value for name, value in HEADERS.items() if name not in headers})
            if self.status in CLOSES or self.scope["app"].state.stopping:
                headers["connection"] = "close"
        await self.forward(message)
