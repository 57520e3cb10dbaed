"""How a request leaves: one `Line` per library, alike in what it gives back, so that politeness is written once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urljoin, urlsplit

from generative.datasets.config import NetworkSource
from generative.datasets.databases.deadlines import CURRENT

if TYPE_CHECKING:
    import socket
    import ssl

    import httpx
    import requests
    from requests.adapters import HTTPAdapter

CHUNK_BYTES = 65536
LOOPBACK = ("localhost", "127.0.0.1", "::1")
USER_AGENT = "hullward"


@dataclass(frozen=True)
class Opened:
    """A reply whose body has not been read.

    Attributes:
        status: HTTP status.
        headers: names in lower case, as they came.
        chunks: the body as it is on the line, packed.
    """

    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]


class Line(Protocol):
    """A way to send one GET request.

    Attributes:
        errors: what the library raises when the connection fails.
        address_errors: what it raises when it will not even try; looked at before `errors`.
    """

    @property
    def errors(self) -> tuple[type[Exception], ...]: ...  # noqa: D102

    @property
    def address_errors(self) -> tuple[type[Exception], ...]: ...  # noqa: D102

    def open(self, url: str, headers: Mapping[str, str]) -> AbstractContextManager[Opened]:
        """Send, follow no redirect, and hold the reply open within `with`."""
        ...


class RequestsLine:
    """Through the adapters of a `requests` session: proxies and certificates of the environment, no netrc, no cookies.

    The session's own `send` is passed by: it reads the body of a redirect without any limit.
    """

    def __init__(self, session: requests.Session, config: NetworkSource, verify: bool | str | None) -> None:
        from requests import exceptions
        from urllib3.exceptions import HTTPError, LocationParseError

        self._session, self._verify = session, verify
        self._timeout = (config.connect_timeout_s, config.read_timeout_s)
        self.errors = (exceptions.RequestException, HTTPError, OSError)
        # All of requests' are ValueErrors: InvalidURL, MissingSchema, InvalidSchema, InvalidHeader.
        self.address_errors = (LocationParseError, ValueError)

    @contextmanager
    def open(self, url: str, headers: Mapping[str, str]) -> Iterator[Opened]:
        """See `Line`."""
        import requests

        prepared = requests.Request("GET", url, headers=dict(headers)).prepare()
        settings = self._session.merge_environment_settings(url, {}, True, self._verify, None)
        if is_loopback(url):
            settings["proxies"] = {}
        adapter = self._session.get_adapter(url)
        response = adapter.send(prepared, timeout=self._timeout, **settings)
        try:
            lower = {name.lower(): value for name, value in response.headers.items()}
            yield Opened(response.status_code, lower, response.raw.stream(CHUNK_BYTES, decode_content=False))
        finally:
            response.close()


class HttpxLine:
    """Through httpx, one client per request under way, each kept for the next."""

    def __init__(self, config: NetworkSource) -> None:
        import httpx

        self._config = config
        self._idle: deque[_HttpxClient] = deque()
        self._lock = threading.Lock()
        self._certificates: ssl.SSLContext | None = None
        self.errors = (httpx.HTTPError, OSError)
        self.address_errors = (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError)

    @contextmanager
    def open(self, url: str, headers: Mapping[str, str]) -> Iterator[Opened]:
        """See `Line`."""
        client = self._client()
        try:
            with client.stream(url, headers) as response:
                lower = {name.lower(): value for name, value in response.headers.items()}
                lower |= response.extensions.get("redirect", {})
                yield Opened(response.status_code, lower, response.iter_raw())
        finally:
            self._idle.append(client)

    def close(self) -> None:
        """Close the clients that are not in use."""
        while self._idle:
            self._idle.pop().close()

    def _client(self) -> _HttpxClient:
        import httpx

        with self._lock:
            if self._idle:
                return self._idle.pop()
            if self._certificates is None:  # read once: it takes longer than a request
                self._certificates = httpx.create_ssl_context()
        return _HttpxClient(self._config, self._certificates)


class _HttpxClient:
    """A client for one request at a time, which knows its sockets, for the deadline."""

    def __init__(self, config: NetworkSource, certificates: ssl.SSLContext) -> None:
        import httpx

        self._sockets: deque[socket.socket] = deque(maxlen=8)
        self._client = httpx.Client(
            verify=certificates,
            timeout=httpx.Timeout(config.read_timeout_s, connect=config.connect_timeout_s),
            limits=httpx.Limits(max_connections=1),
            mounts={f"all://{f'[{host}]' if ':' in host else host}": None for host in LOOPBACK},  # past any proxy
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "gzip"},
            event_hooks={"response": [_set_redirect_aside]},
        )

    @contextmanager
    def stream(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        for connection in self._sockets:
            _cover(connection)
        with self._client.stream("GET", url, headers=dict(headers), extensions={"trace": self._note}) as response:
            yield response

    def close(self) -> None:
        self._client.close()

    def _note(self, event: str, details: Mapping[str, Any]) -> None:
        if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            connection = details["return_value"].get_extra_info("socket")
            self._sockets.append(connection)
            _cover(connection)


def _set_redirect_aside(response: httpx.Response) -> None:
    """Hide a redirect from httpx, which reads its address, and fails on a bad one, even when it is not to follow it."""
    if "location" in response.headers:
        response.extensions["redirect"] = {"location": response.headers.pop("location")}


def _cover(connection: socket.socket | None) -> None:
    deadline = CURRENT.get()
    if deadline is not None:
        deadline.covers(connection)


def deadline_adapter() -> HTTPAdapter:
    """An adapter of `requests` that retries nothing itself; its connections obey the deadline, headers included."""
    from requests.adapters import HTTPAdapter
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.response import HTTPResponse

    class PlainConnection(HTTPConnection):
        def getresponse(self) -> HTTPResponse:  # type: ignore[override]
            _cover(self.sock)
            return super().getresponse()

    class TlsConnection(HTTPSConnection):
        def getresponse(self) -> HTTPResponse:  # type: ignore[override]
            _cover(self.sock)
            return super().getresponse()

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = PlainConnection

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = TlsConnection

    def covered(manager: PoolManager) -> PoolManager:
        if type(manager) in {PoolManager, ProxyManager}:  # SOCKS has connections of its own
            manager.pool_classes_by_scheme = {"http": PlainPool, "https": TlsPool}
        return manager

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            covered(self.poolmanager)

        def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
            return covered(super().proxy_manager_for(proxy, **kwargs))

    return Adapter(max_retries=0)


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own, which no proxy may be asked for."""
    return urlsplit(url).hostname in LOOPBACK


def host_of(url: str) -> str:
    """Host and port, for messages: no user, path or query, which may hold keys."""
    try:
        parts = urlsplit(url)
        return f"{parts.hostname}:{parts.port}" if parts.port else f"{parts.hostname}"
    except ValueError:
        return "the endpoint"


def redirect_target(url: str, location: str) -> str | None:
    """Where a redirect leads; None if to no address on the web."""
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        return target if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def headers_elsewhere(url: str, target: str, headers: Mapping[str, str], secret: str) -> dict[str, str]:
    """The headers that may follow a redirect: to another host (scheme, port) none that says who is asking."""
    if _origin(url) == _origin(target) or _origin(target) == _upgraded(url):
        return dict(headers)
    private = {"authorization", "cookie", "proxy-authorization", "x-api-key", "host"}
    return {
        name: value
        for name, value in headers.items()
        if name.lower() not in private and not (secret and secret in value)
    }


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _upgraded(url: str) -> tuple[str, str | None, int | None] | None:
    """Where the same host speaks TLS; the one change of origin that gives a key to nobody else."""
    scheme, host, port = _origin(url)
    return ("https", host, 443) if (scheme, port) == ("http", 80) else None
