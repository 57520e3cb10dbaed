"""The longest time a whole reply may take, kept by ending its connection from outside.

A server that sends a byte now and then never trips a read time-out, neither in its headers nor in its body, and the
libraries have no other. Shutting the socket down ends whatever wait the library is in.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from contextvars import ContextVar
from types import TracebackType
from typing import Self


class Deadline:
    """A time limit for what happens between `with` and its end.

    Attributes:
        passed: whether the time was up before the end.
    """

    def __init__(self, limit_s: float) -> None:
        self.passed = False
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(limit_s, self._pass)
        self._timer.daemon = True

    def covers(self, connection: socket.socket | None) -> None:
        """End this connection when the time is up."""
        if connection is None:
            return
        with self._lock:
            self._sockets.append(connection)
            if self.passed:
                _shut(connection)

    def _pass(self) -> None:
        with self._lock:
            self.passed = True
            for connection in self._sockets:
                _shut(connection)

    def __enter__(self) -> Self:
        self._token = CURRENT.set(self)
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._sockets.clear()  # connections live on for the next request
        CURRENT.reset(self._token)


CURRENT: ContextVar[Deadline | None] = ContextVar("deadline", default=None)
"""The deadline of the request this thread is in: connections are made too deep in the libraries to be handed it."""


def _shut(connection: socket.socket) -> None:
    # The plain socket's method: that of a TLS socket would take away the state that the reading thread is using.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
