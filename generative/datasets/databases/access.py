"""How a database is asked: time-outs, bounded retries with exponential backoff and Retry-After, rate, size limits.

One `Access` is one database's politeness. The Materials Project and OPTIMADE clients speak through `requests`, AFLOW
through httpx; both get their connection from here, so that every database is asked in the same way.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from generative.datasets.config import NetworkSource
from generative.datasets.databases.bodies import UnusableBodyError, as_utf8, parse_json, read_body
from generative.datasets.databases.connections import (
    HttpxLine,
    Line,
    Opened,
    headers_elsewhere,
    host_of,
    redirect_target,
)
from generative.datasets.databases.deadlines import Deadline
from generative.datasets.databases.errors import (
    AccessDeniedError,
    BrokenReplyError,
    EndlessReplyError,
    NetworkError,
    UnreachableError,
)
from generative.datasets.databases.failures import (
    Failure,
    broken,
    endless,
    is_silence,
    lost,
    of_status,
    too_long,
    unreachable,
    unusable_address,
)
from generative.datasets.databases.redaction import Redactor, is_sendable

if TYPE_CHECKING:
    import requests
    from requests.adapters import HTTPAdapter

REDIRECTS = {301, 302, 303, 307, 308}
REDIRECTS_MAX = 5
ENDLESS_TRIES = 2
"""A reply without end costs its whole limit each time."""
BACKOFF_MAX_S = 300.0
JITTER = 0.25
"""Waits are up to this much longer, so that many who were refused together do not come back together."""
ERROR_BODY_BYTES = 65536


@dataclass(frozen=True)
class Answer:
    """A complete reply.

    Attributes:
        url: where it came from, after redirects.
        status: 200 to 299.
        headers: names in lower case, without keys.
        body: unpacked UTF-8, without keys.
        json: the body, parsed.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    json: Any


@dataclass(frozen=True)
class _Redirect:
    location: str


class Access:
    """The way to one database. It may be used from several threads.

    Attributes:
        n_requests: requests sent, retries and redirects included.
        n_retries: requests sent again.
        waited_s: time spent waiting for rate and retries, s.
        last_error: the last failure raised. Clients that swallow exceptions lose its type; here it is.
    """

    def __init__(
        self,
        config: NetworkSource,
        database: str,
        secret: SecretStr | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is opened yet.

        Args:
            config: attempts, time-outs, rate, limits.
            database: its name, for messages.
            secret: the API key, if there is one; replaced by '***' wherever it might come back (bodies, messages).
            sleep: waits, s; replaced in tests.
            clock: seconds from any start.

        Raises:
            AccessDeniedError: the key holds a character that cannot be sent.
        """
        if secret is not None and not is_sendable(secret):
            raise AccessDeniedError(
                f"{database}: the API key holds a blank, a line end or another character that cannot be sent: "
                "copy it again, without what stands around it"
            )
        self.n_requests, self.n_retries, self.waited_s = 0, 0, 0.0
        self.last_error: NetworkError | None = None
        self._config, self._database, self._secret = config, database, secret
        self._redactor = Redactor(secret)
        self._sleep, self._clock = sleep, clock
        self._rng = random.Random(database)
        self._lock = threading.Lock()
        self._next_start_s = float("-inf")
        self._httpx: HttpxLine | None = None
        self._adapter: HTTPAdapter | None = None

    def __repr__(self) -> str:
        key = "with a key" if self._secret else "without a key"
        return f"Access({self._database!r}, {key}, {self.n_requests} requests)"

    def redacted(self, text: str) -> str:
        """The text with the secret, plain or percent-encoded, replaced by '***'."""
        return self._redactor.text(text)

    def session_class(self) -> type[requests.Session]:
        """A `requests.Session` class bound to this access; for clients that make their own sessions (OPTIMADE).

        Its `request` sends with this access's time-outs, waits, retries, and reads the body within the limits; it
        returns only complete replies of status 200 to 299 whose body parses as JSON, and raises NetworkError else.
        Its connections outlive it: they are closed by `close` of this access.
        """
        from generative.datasets.databases.connections import deadline_adapter
        from generative.datasets.databases.polite_session import polite_session_class

        with self._lock:
            self._adapter = self._adapter or deadline_adapter()
        return polite_session_class(self, self._adapter, self._config)

    def session(self, headers: Mapping[str, str] | None = None) -> requests.Session:
        """A session of `session_class` with these headers; for clients that take one (mp-api)."""
        session = self.session_class()()
        session.headers.update(headers or {})
        return session

    def get_json(self, url: str, headers: Mapping[str, str] | None = None) -> Any:
        """GET through httpx, in the same way; the parsed JSON of a complete reply.

        Raises:
            NetworkError: see generative.datasets.databases.errors.
        """
        with self._lock:
            line = self._httpx = self._httpx or HttpxLine(self._config)
        return self.ask(line, url, headers or {}).json

    def close(self) -> None:
        """Close connections."""
        with self._lock:
            line, self._httpx = self._httpx, None
            adapter, self._adapter = self._adapter, None
        if line is not None:
            line.close()
        if adapter is not None:
            adapter.close()

    def ask(self, line: Line, url: str, headers: Mapping[str, str]) -> Answer:
        """GET over a line, again and again if that may help.

        Raises:
            NetworkError: when no try, or no further try, brings a complete reply. It has neither cause nor context:
                the libraries' own exceptions hold the request with its headers.
        """
        n_tries = n_endless = 0
        while True:
            n_tries += 1
            url_now, outcome = self._follow(line, url, headers)
            if isinstance(outcome, Answer):
                return outcome
            if outcome.again and (outcome.wait_s or 0) > self._config.retry_after_max_s:
                outcome = too_long(outcome, self._config.retry_after_max_s)
            n_endless += outcome.kind is EndlessReplyError
            if not outcome.again or n_tries >= self._config.attempts or n_endless >= ENDLESS_TRIES:
                break
            self._wait(self._backoff_s(n_tries - 1) if outcome.wait_s is None else outcome.wait_s)
            with self._lock:
                self.n_retries += 1
        raise self.noted(outcome.error(self._database, host_of(url_now), n_tries))

    def noted(self, error: NetworkError) -> NetworkError:
        """The error without keys, kept as the last one."""
        self.last_error = type(error)(self.redacted(str(error)))
        return self.last_error

    def _follow(self, line: Line, url: str, headers: Mapping[str, str]) -> tuple[str, Answer | Failure]:
        """One try, through redirects; where it ended, and how."""
        secret = self._secret.get_secret_value() if self._secret else ""
        for _ in range(REDIRECTS_MAX + 1):
            self._pace()
            outcome = self._once(line, url, headers)
            if not isinstance(outcome, _Redirect):
                return url, outcome
            target = redirect_target(url, outcome.location)
            if target is None:
                return url, lost("redirects to what is no web address")
            headers = headers_elsewhere(url, target, headers, secret)
            url = target
        return url, lost(f"redirects more than {REDIRECTS_MAX} times")

    def _once(self, line: Line, url: str, headers: Mapping[str, str]) -> Answer | Failure | _Redirect:
        with Deadline(self._config.reply_timeout_s) as deadline:
            outcome = self._exchange(line, url, headers)
        # What was whole when the time ran out counts as whole.
        if deadline.passed and isinstance(outcome, Failure) and outcome.kind in {UnreachableError, BrokenReplyError}:
            return endless(f"took longer than {self._config.reply_timeout_s:g} s for a reply (reply_timeout_s)")
        return outcome

    def _exchange(self, line: Line, url: str, headers: Mapping[str, str]) -> Answer | Failure | _Redirect:
        try:
            with line.open(url, headers) as opened:
                return self._read(line, url, opened)
        except line.address_errors as error:
            return unusable_address(error)
        except line.errors as error:
            return unreachable(error, self._config.connect_timeout_s, self._config.read_timeout_s)

    def _read(self, line: Line, url: str, opened: Opened) -> Answer | Failure | _Redirect:
        if opened.status in REDIRECTS and "location" in opened.headers:
            return _Redirect(opened.headers["location"])
        headers = {name: self.redacted(value) for name, value in opened.headers.items()}
        is_good = 200 <= opened.status < 300
        n_bytes_max = int(self._config.reply_mb_max * 1e6) if is_good else ERROR_BODY_BYTES
        body, failure = b"", None
        try:
            body = self._redactor.data(as_utf8(read_body(opened.chunks, opened.headers, n_bytes_max)))
            if is_good:
                parsed, body = parse_json(body, headers.get("content-type", ""))
                return Answer(url, opened.status, headers, body, parsed)
        except UnusableBodyError as error:
            failure = error.failure
        except line.errors as error:
            failure = self._cut_off(error)
        if failure is not None and is_good:
            return failure
        said = body.decode("utf-8", "replace")
        return of_status(opened.status, headers, said, self._database, self._secret is not None)

    def _cut_off(self, error: Exception) -> Failure:
        if is_silence(error):
            return unreachable(error, self._config.connect_timeout_s, self._config.read_timeout_s)
        return broken("ended the connection before its reply was complete")

    def _backoff_s(self, n_retries: int) -> float:
        with self._lock:
            jitter = 1 + JITTER * self._rng.random()
        return min(self._config.backoff_s * 2.0**n_retries * jitter, BACKOFF_MAX_S)

    def _pace(self) -> None:
        """Wait until the next request may start, and count it."""
        with self._lock:
            now_s = self._clock()
            start_s = max(now_s, self._next_start_s)
            self._next_start_s = start_s + 1 / self._config.requests_per_second
            self.n_requests += 1
        if start_s > now_s:
            self._wait(start_s - now_s)

    def _wait(self, seconds: float) -> None:
        with self._lock:
            self.waited_s += seconds
        self._sleep(seconds)
