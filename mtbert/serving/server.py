"""Run the app with uvicorn, and stop it without losing a request."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from ..errors import InputError
from .app import Service

# Seconds after the signal to stop in which requests on open connections are still taken; each answer then closes its
# connection.
LINGER = 1.0


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address; port 0 takes a free one.

    Raises:
        InputError: the address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise InputError(f"--host {host} --port {port} cannot be used: {error.strerror or error}") from error
    return bound


class Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready, and stops without losing a request.

    Args:
        service: the endpoints.
        hosts: names of the host under which it answers.
        ready: called once when the server listens.
    """

    def __init__(self, service: Service, hosts: list[str], ready: Callable[[], None]):
        self.service, self.app, self.ready = service, service.app(hosts), ready
        super().__init__(
            uvicorn.Config(
                self.app,
                log_config=None,
                access_log=False,  # it would hold what clients write behind the path
                lifespan="off",
                ws="none",
                server_header=False,
                proxy_headers=False,
                limit_concurrency=service.limits.max_connections,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=int(service.limits.timeout) + 5,
            )
        )

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop at the first signal, and end at once at the second; the process ends with status 0."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.service.worker.start()
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer all requests that were taken, and those that are on their way on open connections."""
        self.app.state.stopping = True
        await asyncio.sleep(0)  # connections that the system has taken for us are accepted first
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        until = loop.time() + LINGER
        while self.server_state.connections and loop.time() < until and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)
        if not self.force_exit:
            await asyncio.to_thread(self.service.worker.stop)


def serve(service: Service, bound: socket.socket, hosts: list[str], ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        service: the endpoints.
        bound: the socket to listen on.
        hosts: names of the host under which it answers.
        ready: called once when the server listens.
    """
    gc.collect()
    gc.freeze()  # a collection need not look at the model and the libraries
    Server(service, hosts, ready).run([bound])
