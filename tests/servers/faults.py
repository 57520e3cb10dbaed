"""A proxy on loopback that stands before any server and spoils chosen replies, as the network and its servers do.

    with FaultProxy(upstream) as proxy:            # upstream such as 'http://127.0.0.1:8123'
        proxy.spoil(lambda request: "_skip=200" in request.path, Status(503), times=2)
        ...                                        # talk to proxy.url instead of upstream
        assert proxy.seen[3].path == "/materials/summary/?..."

Absolute links to the upstream in replies (OPTIMADE's links.next) are rewritten to the proxy.
"""

from __future__ import annotations

import gzip
import http.client
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from tests.servers.loopback import Connection, Loopback, Reply, Request, head

Ask = Callable[[str], Reply]
"""The upstream's reply to a path, unpacked."""


class Fault(Protocol):
    """One way in which a request goes wrong."""

    def happen(self, request: Request, connection: Connection, ask: Ask) -> None: ...


@dataclass(frozen=True)
class Status:
    """A refusal that does not come from the upstream."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"detail": "spoilt"}'

    def happen(self, request: Request, connection: Connection, ask: Ask) -> None:
        connection.reply(request, Reply(self.body, self.code, self.headers))


@dataclass(frozen=True)
class Stall:
    """The request is taken, then silence; after `seconds` the connection is closed."""

    seconds: float

    def happen(self, request: Request, connection: Connection, ask: Ask) -> None:
        connection.end()
        connection.closing.wait(self.seconds)


@dataclass(frozen=True)
class Refuse:
    """The connection is closed without an answer."""

    def happen(self, request: Request, connection: Connection, ask: Ask) -> None:
        connection.end()


@dataclass(frozen=True)
class Truncate:
    """The line goes down within the body: Content-Length of the whole, `fraction` of the bytes."""

    fraction: float = 0.5

    def happen(self, request: Request, connection: Connection, ask: Ask) -> None:
        reply = ask(request.path)
        connection.end()
        send(connection, reply.content_type, reply.body[: int(self.fraction * len(reply.body))], len(reply.body))


@dataclass(frozen=True)
class TruncatedJson:
    """A server that died while writing: `fraction` of the body, and a length that says so."""

    fraction: float = 0.5

    def happen(self, request: Request, connection: Connection, ask: Ask) -> None:
        reply = ask(request.path)
        send(connection, reply.content_type, reply.body[: int(self.fraction * len(reply.body))])


@dataclass(frozen=True)
class WrongType:
    """A page for people, such as a login form or a maintenance notice, with status 200."""

    content_type: str = "text/html"
    body: bytes = b"<!doctype html><title>Down for maintenance</title>"

    def happen(self, request: Request, connection: Connection, ask: Ask) -> None:
        connection.reply(request, Reply(self.body, content_type=self.content_type))


@dataclass(frozen=True)
class CutGzip:
    """A gzip stream without its end, of matching length."""

    fraction: float = 0.5

    def happen(self, request: Request, connection: Connection, ask: Ask) -> None:
        reply = ask(request.path)
        packed = gzip.compress(reply.body, mtime=0)
        packed = packed[: int(self.fraction * len(packed))]
        send(connection, reply.content_type, packed, encoding="gzip")


@dataclass(frozen=True)
class Endless:
    """Bytes for ever, until the client goes; packed, they cost the line a thousandth of what they unpack to."""

    packed: bool = False

    def happen(self, request: Request, connection: Connection, ask: Ask) -> None:
        connection.end()
        packer = zlib.compressobj(wbits=31) if self.packed else None
        encoding = {"Content-Encoding": "gzip"} if self.packed else {}
        connection.send(head(200, {"Content-Type": "application/json", "Connection": "close"} | encoding))
        while not connection.closing.is_set():
            block = b" " * 65536
            connection.send(packer.compress(block) + packer.flush(zlib.Z_SYNC_FLUSH) if packer else block)


@dataclass(frozen=True)
class Drip:
    """A byte now and then, for ever."""

    interval_s: float

    def happen(self, request: Request, connection: Connection, ask: Ask) -> None:
        connection.end()
        connection.send(head(200, {"Content-Type": "application/json", "Connection": "close"}))
        while not connection.closing.wait(self.interval_s):
            connection.send(b" ")


def limits_of(fault: object) -> dict[str, float]:
    """Settings of a client that meets a fault soon, without taking a busy machine for another: limits in time are short
    only where the fault is one of time.
    """
    if isinstance(fault, Stall):
        return {"read_timeout_s": 0.25}
    return {"reply_timeout_s": 0.6} if isinstance(fault, Endless | Drip) else {}


@dataclass(frozen=True)
class Rewrite:
    """Another page than the one asked for: `path` maps the path asked for to the one answered."""

    path: Callable[[str], str]

    def happen(self, request: Request, connection: Connection, ask: Ask) -> None:
        connection.reply(request, ask(self.path(request.path)))


@dataclass(frozen=True)
class Edit:
    """The upstream's JSON, changed; `json` may change what it gets or give something new, and returns it."""

    json: Callable[[Any], Any]

    def happen(self, request: Request, connection: Connection, ask: Ask) -> None:
        reply = ask(request.path)
        connection.reply(request, Reply(self.json(json.loads(reply.body)), reply.status, reply.headers))


def send(
    connection: Connection, content_type: str, body: bytes, length: int | None = None, encoding: str | None = None
) -> None:
    """Status 200 and these bytes, under a Content-Length that may be a lie."""
    headers: dict[str, object] = {
        "Content-Type": content_type,
        "Content-Length": len(body) if length is None else length,
    }
    connection.send(head(200, headers | ({"Content-Encoding": encoding} if encoding else {})) + body)


@dataclass
class _Rule:
    matches: Callable[[Request], bool]
    fault: Fault
    times: int


class FaultProxy(Loopback):
    """The proxy; see the head of this file.

    Attributes:
        url: talk to this instead of the upstream.
        seen: every request: method, path with its query, headers.
        failures: exceptions of faults themselves (an Edit that raised); empty unless a test is wrong.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self._upstream = upstream.rstrip("/")
        self._rules: list[_Rule] = []
        self.failures: list[Exception] = []

    def spoil(self, matches: Callable[[Request], bool] | int, fault: Fault, times: int = 1) -> None:
        """Let the next `times` requests that match go wrong.

        Rules are tried in the order given and the first one not used up decides, so that two rules with the same
        match happen one after the other.

        Args:
            matches: a predicate; or a number: the n-th request from 0 on, and those after it until `times` is used up.
            fault: what happens instead of the upstream's reply.
            times: how often.
        """
        first = matches
        predicate = (lambda request: request.index >= first) if isinstance(first, int) else first
        with self._lock:
            self._rules.append(_Rule(predicate, fault, times))

    def converse(self, request: Request, connection: Connection) -> None:
        fault = self._fault(request)
        try:
            if fault is None:
                connection.reply(request, self._ask(request, request.path))
            else:
                fault.happen(request, connection, lambda path: self._ask(request, path))
        except (OSError, http.client.HTTPException):
            connection.end()  # either side went away
        except Exception as error:  # a test must see what its fault did wrong, not a hanging client
            self.failures.append(error)
            connection.end()

    def _fault(self, request: Request) -> Fault | None:
        with self._lock:
            for rule in self._rules:
                if rule.times > 0 and rule.matches(request):
                    rule.times -= 1
                    return rule.fault
        return None

    def _ask(self, request: Request, path: str) -> Reply:
        parts = urlsplit(self._upstream)
        upstream = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        own = {"host", "connection", "accept-encoding", "content-length"}
        headers = {name: value for name, value in request.headers.items() if name.lower() not in own}
        try:
            upstream.request(request.method, parts.path + path, request.body or None, headers)
            answer = upstream.getresponse()
            return self._here(answer, answer.read())
        finally:
            upstream.close()

    def _here(self, answer: http.client.HTTPResponse, body: bytes) -> Reply:
        """The upstream's reply, with links to it turned into links to here."""
        there, here = self._upstream, self.url
        escaped = there.replace("/", "\\/").encode(), here.replace("/", "\\/").encode()
        body = body.replace(there.encode(), here.encode()).replace(*escaped)
        own = {"content-length", "transfer-encoding", "connection", "content-encoding", "content-type"}
        headers = {name: value.replace(there, here) for name, value in answer.getheaders() if name.lower() not in own}
        return Reply(body, answer.status, headers, answer.headers.get("content-type", "application/json"))
