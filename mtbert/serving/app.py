"""The web app: routes, and what each of them answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .edges import GONE, Edges, problem
from .lanes import Job, QueueFullError
from .limits import Limits
from .metrics import Metrics
from .openapi import describe
from .requests import InvalidRequestError, Question, read
from .security import Keys
from .served_model import ServedModel
from .worker import Worker

PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
MANY_CHARACTERS = 4096  # the tokens of longer requests are counted in a thread, so that others need not wait for it


class Service:
    """The endpoints of one model.

    Args:
        model: the model.
        limits: what the server accepts.
        keys: the keys of clients; none: everybody may ask.
        workers: number of batches that run at a time.
    """

    def __init__(self, model: ServedModel, limits: Limits, keys: Keys, workers: int = 1):
        self.model, self.limits, self.keys = model, limits, keys
        self.metrics = Metrics()
        self.worker = Worker(model, limits, self.metrics, workers)
        self.counting = ThreadPoolExecutor(1, "tokens")
        self.description = describe(limits, bool(keys))
        self.explained = {
            400: "the Host header names another host; start the server with --allowed_hosts to answer under more names",
            413: f"the body has more than {limits.max_body:,} bytes; send several requests",
        }

    def app(self, hosts: Sequence[str]) -> Starlette:
        """The app, which answers under these names of the host."""
        routes = [
            Route("/predict", self.predict, methods=["POST"], max_body_size=self.limits.max_body),
            Route("/health", self.health),
            Route("/ready", self.ready),
            Route("/metrics", self.show_metrics),
            Route("/openapi.json", self.openapi),
            Route("/favicon.ico", no_icon),
            *(Route(path, partial(show_file, name=name, kind=kind)) for path, (name, kind) in PAGE.items()),
        ]
        paths = frozenset(route.path for route in routes)
        middleware = [
            Middleware(Edges, routes=paths, metrics=self.metrics, explained=self.explained),
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
        ]
        app = Starlette(routes=routes, middleware=middleware, exception_handlers={HTTPException: self.explain})
        app.state.stopping = False
        return app

    async def predict(self, request: Request) -> Response:
        """Answer the inputs of a request with every task that is asked and fits."""
        if not self.keys.allow(request.headers.get("authorization")):
            return no_key()
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return problem(403, "a page of another site may not ask this server")
        try:
            async with asyncio.timeout(self.limits.body_timeout):
                body = await request.body()
            count, questions = read(body, self.model.tasks, self.limits.max_texts)
            jobs = await self._jobs(questions)
        except TimeoutError:
            return problem(408, f"the body did not arrive within {self.limits.body_timeout:g} s")
        except ClientDisconnect:
            return Response(status_code=GONE)
        except InvalidRequestError as error:
            return problem(422, str(error))
        return await self._answer(request, count, questions, jobs)

    async def _jobs(self, questions: list[Question]) -> dict[Job, asyncio.Future[None]]:
        """A job for each question, with a future of its end; raise InvalidRequestError if there are too many tokens."""
        jobs, total, loop = {}, 0, asyncio.get_running_loop()
        for question in questions:
            if sum(len(text) for row in question.rows for text in row if text) > MANY_CHARACTERS:
                counts = await loop.run_in_executor(self.counting, self.model.count_tokens, question.rows)
            else:
                counts = self.model.count_tokens(question.rows)
            total += sum(counts)
            encodings = self.model.encodings(question.tasks)
            tokens = [min(count, self.model.longest) * len(encodings) for count in counts]
            names = tuple(task.name for task in question.tasks)
            done: asyncio.Future[None] = loop.create_future()
            tell = partial(loop.call_soon_threadsafe, _end, done)
            jobs[Job(question.rows, tokens, names, encodings, tell)] = done
        if total > self.limits.max_tokens:
            limit = f"{total:,} tokens, but may have {self.limits.max_tokens:,}"
            raise InvalidRequestError(f"inputs has {limit}; send several requests, or shorter texts")
        return jobs

    async def _answer(
        self, request: Request, count: int, questions: list[Question], jobs: dict[Job, asyncio.Future[None]]
    ) -> Response:
        try:
            self.worker.submit(list(jobs))
        except QueueFullError:
            wait = "too many tokens wait for the model already; come again later, or ask another replica"
            return problem(429, wait, **{"retry-after": "1"})
        status = await self._wait(request, list(jobs.values()))
        if status is not None:
            for job in jobs:
                job.cancelled = True
            late = f"the model had no answer within {self.limits.timeout:g} s; come again later, or ask another replica"
            return Response(status_code=GONE) if status == GONE else problem(status, late, **{"retry-after": "5"})
        for job in jobs:
            if job.problem is not None:
                return problem(500, job.problem)
        predictions: list[Any] = [None] * count
        for question, job in zip(questions, jobs, strict=True):
            for place, answer in zip(question.places, job.answers, strict=True):
                predictions[place] = answer
        return JSONResponse({"predictions": predictions})

    async def _wait(self, request: Request, futures: list[asyncio.Future[None]]) -> int | None:
        """Wait for all answers; return 503 if they take too long, 499 if the client has gone, else None."""
        if not futures:
            return None
        answered: asyncio.Future[Any] = asyncio.gather(*futures)
        gone: asyncio.Future[Any] = asyncio.ensure_future(_until_gone(request))
        try:
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait({answered, gone}, timeout=self.limits.timeout, return_when=first)
            if answered.done():
                return None
            return GONE if gone.done() else 503
        finally:
            gone.cancel()
            answered.cancel()

    async def health(self, request: Request) -> Response:
        """Whether the process works."""
        if self.worker.alive:
            return JSONResponse({"status": "ok"})
        return problem(503, "the thread of the model has ended; start the server again")

    async def ready(self, request: Request) -> Response:
        """Whether the server takes requests."""
        if request.app.state.stopping:
            return problem(503, "the server is stopping")
        return await self.health(request)

    async def show_metrics(self, request: Request) -> Response:
        """The metrics, for those who have a key."""
        if not self.keys.allow(request.headers.get("authorization")):
            return no_key()
        text, content_type = self.metrics.text(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    async def explain(self, request: Request, error: Any) -> Response:
        """The framework's HTTPException, in the form of our errors."""
        message = self.explained.get(error.status_code, error.detail)
        return problem(error.status_code, message, **dict(error.headers or {}))

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI description."""
        return JSONResponse(self.description)


def _end(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


async def _until_gone(request: Request) -> None:
    """Wait until the client closes the connection, or the answer is sent; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def no_key() -> Response:
    """The answer to a request without a valid key."""
    return problem(401, "send a key: Authorization: Bearer KEY", **{"www-authenticate": "Bearer"})


async def no_icon(request: Request) -> Response:
    """The icon that browsers ask for: there is none."""
    return Response(status_code=204)


async def show_file(request: Request, name: str, kind: str) -> Response:
    """A file of the page."""
    return Response(files(__package__).joinpath("page", name).read_bytes(), media_type=kind)
