"""A threading HTTP/1.1 server on 127.0.0.1 whose replies come from one function; it speaks as a database does.

    def answer(request: Request) -> Reply:
        if request.headers.get("x-api-key") != "right":
            return Reply({"detail": "no"}, status=401)
        return Reply({"data": [], "meta": {"total_doc": 0}, "asked": request.query})

    with Loopback(answer) as server:
        ...                                  # talk to server.url, look at server.seen

A server of its own state subclasses `Loopback` and overrides `answer`. Many threads may ask at once: `answer` is called
from the thread of each connection.
"""

from __future__ import annotations

import gzip
import json
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.client import responses
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Request:
    """What a client asked.

    Attributes:
        method: such as 'GET'.
        path: with the query, as sent.
        headers: names are compared without case.
        body: bytes sent along.
        index: how many requests came before.
    """

    method: str
    path: str
    headers: Message
    body: bytes = b""
    index: int = 0

    @property
    def route(self) -> str:
        """The path without its query."""
        return urlsplit(self.path).path

    @property
    def query_text(self) -> str:
        """The query as sent, percent-encoded."""
        return urlsplit(self.path).query

    @property
    def query(self) -> dict[str, str]:
        """The query decoded; of a name that comes twice, the last value."""
        return {name: values[-1] for name, values in parse_qs(self.query_text, keep_blank_values=True).items()}

    @property
    def accepts_gzip(self) -> bool:
        return "gzip" in self.headers.get("accept-encoding", "")


@dataclass(frozen=True)
class Reply:
    """What the server says: JSON, or bytes as they are."""

    content: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"

    @property
    def body(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()


class Connection:
    """The raw way back to one client.

    Attributes:
        closing: set when the server goes down; whoever waits, waits on this.
    """

    def __init__(self, socket_: socket.socket, closing: threading.Event) -> None:
        self._socket = socket_
        self.closing = closing
        self.ended = False

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def reply(self, request: Request, reply: Reply) -> None:
        """A whole reply, packed with gzip if the client takes it."""
        body, headers = reply.body, dict(reply.headers)
        if request.accepts_gzip and body:
            body, headers = gzip.compress(body, 1, mtime=0), headers | {"Content-Encoding": "gzip"}
        sent = b"" if request.method == "HEAD" else body
        self.send(
            head(reply.status, {"Content-Type": reply.content_type, "Content-Length": len(body)} | headers) + sent
        )

    def end(self) -> None:
        """No further request is read from this connection."""
        self.ended = True


def head(status: int, headers: Mapping[str, object]) -> bytes:
    """Status line and headers as bytes."""
    lines = [f"HTTP/1.1 {status} {responses.get(status, 'Unknown')}", *(f"{k}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Loopback:
    """A server that runs between `with` and its end.

    Attributes:
        url: such as 'http://127.0.0.1:40123', without a slash at the end.
        seen: every request, in order of arrival.
        errors: exceptions that `answer` raised; the client got 500.
    """

    def __init__(self, answer: Callable[[Request], Reply | Any] | None = None) -> None:
        """`answer` gives a Reply, or anything else to be sent as JSON with status 200."""
        if answer is not None:
            self.answer = answer  # type: ignore[method-assign]
        self.seen: list[Request] = []
        self.errors: list[Exception] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server(self, self._closing)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def answer(self, request: Request) -> Reply | Any:
        """The reply to a request."""
        raise NotImplementedError

    def converse(self, request: Request, connection: Connection) -> None:
        """Answer one request on its connection; overridden by servers that misbehave."""
        try:
            reply = self.answer(request)
        except Exception as error:  # a test must see its server's fault, not a hanging client
            self.errors.append(error)
            reply = Reply({"detail": f"{type(error).__name__}: {error}"}, status=500)
        connection.reply(request, reply if isinstance(reply, Reply) else Reply(reply))

    def note(self, method: str, path: str, headers: Message, body: bytes) -> Request:
        """Put a request on the list."""
        with self._lock:
            request = Request(method, path, headers, body, len(self.seen))
            self.seen.append(request)
        return request

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.drop_connections()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        request = self.server.loopback.note(self.command, self.path, self.headers, body)
        connection = Connection(self.connection, self.server.closing)
        self.server.loopback.converse(request, connection)
        self.close_connection = self.close_connection or connection.ended

    do_GET = do_POST = do_HEAD = do_PATCH = _any  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing: `seen` is the log."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, loopback: Loopback, closing: threading.Event) -> None:
        self.loopback, self.closing = loopback, closing
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the resolver for this machine's name, which may take seconds.
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        """End connections kept alive, so that their threads end too."""
        with self._open_lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away in the middle is what these servers are for.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)
