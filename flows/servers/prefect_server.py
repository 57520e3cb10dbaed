"""Prefect's API, services and UI on a socket of loopback that was given to it, for as long as its parent lives.

    python -m flows.servers.prefect_server DESCRIPTOR PARENT

It ends when its standard input ends or its parent is gone, and in no other way: whoever stops a job signals all of its
processes at once, and the run has to tell this server that it has crashed. Settings come from the environment.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flows.servers.environment import origins
from flows.servers.own_host import is_own_host, is_own_origin

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOK_S = 1.0
"""How often the parent is looked for; the end of standard input is seen at once."""

SHUTDOWN_S = 5
"""Longest wait for replies under way, and again for records to be written."""

ROOM_S = 120.0
"""Longest wait of a record for room in the queue before the database; without any, Prefect throws it away."""


class OwnPagesOnly:
    """Refuses, with 403, what another name of this machine or a page of another origin asks.

    Its own pages may ask no other server in turn: Prefect's would fetch the settings of a service for usage statistics
    each time that they open, whatever PREFECT_SERVER_ANALYTICS_ENABLED says.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.app, self.port = app, port
        # Not every browser takes the WebSocket of events for 'self'.
        events = " ".join(origin.replace("http", "ws", 1) for origin in origins(port))
        self.policy = f"connect-src 'self' data: blob: {events}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", self.policy)]
            await send(message)

        if scope["type"] == "lifespan" or self._is_own(scope):
            await self.app(scope, receive, with_policy)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            from starlette.responses import PlainTextResponse

            await PlainTextResponse("asked by another host or another page", 403)(scope, receive, send)

    def _is_own(self, scope: Scope) -> bool:
        given: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            given.setdefault(name, []).append(value.decode("latin-1"))
        hosts, asked_by = given.get(b"host", []), given.get(b"origin", [])
        if len(hosts) != 1 or len(asked_by) > 1 or not is_own_host(hosts[0]):
            return False
        return is_own_origin(asked_by[0] if asked_by else None, hosts[0], self.port)


@contextmanager
def one_at_a_time(home: Path) -> Iterator[None]:
    """Servers that share a folder begin one after the other: two that make its database at once fail, one or both."""
    descriptor = os.open(home / ".server-starts", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def wait_for_the_end(parent: int) -> None:
    """Return when nobody holds the other end of standard input any more, or the parent is another process."""
    # Both: a process that the parent forked may hold the pipe after its death.
    while os.getppid() == parent and not select.select([sys.stdin], [], [], LOOK_S)[0]:
        pass


def wait_for_room() -> None:
    """Have who sends a record wait while 10,000 others wait for the database, and so have its process keep the rest.

    Prefect 3.8 throws away what comes then, with a warning in the server's log: of 10,000 short tasks in one run the
    page later shows a part.
    """
    from prefect.server.utilities.messaging import memory

    class PatientSubscription(memory.Subscription):
        async def deliver(self, message: memory.MemoryMessage) -> None:
            deadline = time.monotonic() + ROOM_S
            while self._queue.full() and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            await super().deliver(message)

    memory.Subscription = PatientSubscription  # type: ignore[misc]


def main() -> None:
    """Serve until the parent's end."""
    listener, parent = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    serving: list[uvicorn.Server] = []

    def end() -> None:
        wait_for_the_end(parent)
        for server in serving:
            server.should_exit = True
            time.sleep(2 * SHUTDOWN_S)
        os._exit(0)

    threading.Thread(target=end, daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    wait_for_room()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            with one_at_a_time(get_current_settings().home):
                await super().startup(sockets)

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    settings = get_current_settings().server
    config = uvicorn.Config(
        OwnPagesOnly(create_app(final=True), listener.getsockname()[1]),
        log_level=settings.logging_level.lower(),
        timeout_keep_alive=settings.api.keepalive_timeout,
        timeout_graceful_shutdown=SHUTDOWN_S,
        lifespan="on",
    )
    server = Server(config)
    serving.append(server)
    server.run(sockets=[listener])
    logging.shutdown()
    os._exit(0 if server.started else 1)  # all is written: nothing waits for threads of the database that sleep


if __name__ == "__main__":
    main()
