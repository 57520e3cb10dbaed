"""What a try at a database may end in, and what is said about it: one sentence with cause and remedy, no keys."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import responses

from generative.datasets.databases.errors import (
    AccessDeniedError,
    BrokenReplyError,
    BusyError,
    EndlessReplyError,
    NetworkError,
    NotFoundError,
    RefusedQueryError,
    ServerFaultError,
    UnreachableError,
)

KEPT = "what has come is kept and the same command goes on from there"
QUOTED_CHARACTERS = 200
KEY_HINTS = {
    "materials-project": "the key is taken from the environment variable MP_API_KEY or the Prefect Secret "
    "'materials-project-api-key'"
}

_UNSUPPORTED = {501, 505}  # the server will never be able to; all other 5xx may pass
_KINDS: dict[int, type[NetworkError]] = {
    401: AccessDeniedError,
    403: AccessDeniedError,
    404: NotFoundError,
    408: ServerFaultError,
    410: NotFoundError,
    429: BusyError,
}


@dataclass(frozen=True)
class Failure:
    """One try that brought no reply of use.

    Attributes:
        kind: the error it becomes.
        what: what happened, to follow the host's name.
        advice: what to do.
        again: whether trying again may help.
        wait_s: how long the server asks to wait before that, s; None if it does not say.
    """

    kind: type[NetworkError]
    what: str
    advice: str = KEPT
    again: bool = True
    wait_s: float | None = None

    def error(self, database: str, host: str, n_tries: int) -> NetworkError:
        """The error with its one sentence."""
        tries = f" (tried {n_tries} times)" if n_tries > 1 else ""
        return self.kind(f"{database}: {host} {self.what}{tries}; {self.advice}")


def of_status(status: int, headers: Mapping[str, str], said: str, database: str, has_key: bool) -> Failure:
    """The failure that a status outside 200 to 299 means.

    Args:
        status: HTTP status.
        headers: of the reply, names in lower case.
        said: the body as text, without keys.
        database: its name.
        has_key: whether a key was sent.
    """
    kind = _KINDS.get(status) or (ServerFaultError if status >= 500 else RefusedQueryError)
    what = f"answered {status} {responses.get(status, '')}".rstrip() + quoted(reason_in(said))
    again = status in {408, 429} or (status >= 500 and status not in _UNSUPPORTED)
    advice = KEPT if again else _advice(kind, status, database, has_key)
    return Failure(kind, what, advice, again, retry_after_s(headers) if again else None)


def _advice(kind: type[NetworkError], status: int, database: str, has_key: bool) -> str:
    if kind is AccessDeniedError:
        given = "one was given, so it is wrong or lacks the right" if has_key else "none was given"
        return f"{KEY_HINTS.get(database, 'a key is sent to databases that have one')}: {given}"
    if kind is NotFoundError:
        return "check `endpoint` in this source's settings"
    if status in {413, 414}:
        return "ask for less at once: a smaller `page_size`, or a narrower `where`"
    if kind is RefusedQueryError:
        return "check `where`, `filters` and `fields` in this source's settings"
    return "this server cannot answer such a request: check `endpoint` in this source's settings"


def too_long(failure: Failure, most_s: float) -> Failure:
    """The server asks for a longer wait than is waited for."""
    asked = f"{failure.what} and asks to wait {failure.wait_s:.0f} s, longer than retry_after_max_s ({most_s:g} s)"
    return Failure(BusyError, asked, f"{KEPT} when that time has passed", again=False)


def unreachable(error: BaseException, connect_timeout_s: float, read_timeout_s: float) -> Failure:
    """No connection, or silence. Of the library's own text only the system's reason is used: the rest may hold keys."""
    names = {type(cause).__name__ for cause in causes(error)}
    text = " ".join(str(cause) for cause in causes(error))
    if "CERTIFICATE_VERIFY_FAILED" in text:
        remedy = "check `endpoint`, or name the certificates to trust in the environment variable SSL_CERT_FILE"
        return Failure(UnreachableError, "shows a certificate that cannot be verified", remedy, again=False)
    if names & {"ConnectTimeout", "ConnectTimeoutError"}:
        return Failure(UnreachableError, f"took no connection within {connect_timeout_s:g} s")
    if is_silence(error):
        return Failure(UnreachableError, f"was silent for {read_timeout_s:g} s")
    if names & {"RemoteDisconnected", "RemoteProtocolError", "ProtocolError", "ConnectionResetError"}:
        return Failure(UnreachableError, "ended the connection without an answer")
    reason = next((c.strerror for c in causes(error) if isinstance(c, OSError) and isinstance(c.strerror, str)), None)
    return Failure(UnreachableError, f"cannot be reached ({reason or type(error).__name__})")


def is_silence(error: BaseException) -> bool:
    """Whether a read time-out was the cause."""
    return any(type(c).__name__ in {"ReadTimeout", "ReadTimeoutError", "TimeoutError"} for c in causes(error))


def unusable_address(error: BaseException) -> Failure:
    """An address that the library refuses; its text may hold the address, so only its type is told."""
    return lost(f"has an address that cannot be asked ({type(error).__name__})")


def lost(what: str) -> Failure:
    """An address under which there is no database."""
    return Failure(NotFoundError, what, "check `endpoint` in this source's settings", again=False)


def broken(what: str) -> Failure:
    """A reply that is no complete JSON."""
    return Failure(BrokenReplyError, what)


def endless(what: str) -> Failure:
    """A reply beyond the allowed size or time."""
    return Failure(EndlessReplyError, what, f"ask for less at once with a smaller `page_size`; {KEPT}")


def causes(error: BaseException) -> list[BaseException]:
    """The exception and those within it, outermost first: chained, as arguments, or as urllib3's `reason`."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting and len(found) < 50:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and not any(one is seen for seen in found):
            found.append(one)
            waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
    return found


def reason_in(said: str) -> str:
    """Titles and details of a JSON:API error body (OPTIMADE's), where they stand far behind; else the whole body."""
    try:
        body = json.loads(said)
    except (ValueError, RecursionError):
        return said
    errors = body.get("errors") if isinstance(body, dict) else None
    if not isinstance(errors, list):
        return said
    told = [[e[k] for k in ("title", "detail") if isinstance(e.get(k), str)] for e in errors if isinstance(e, dict)]
    return "; ".join(": ".join(parts) for parts in told if parts) or said


def quoted(said: str) -> str:
    """The beginning of what a server said, on one line, to follow what happened."""
    line = " ".join("".join(c if c.isprintable() else " " for c in said).split())
    return f" ('{line[:QUOTED_CHARACTERS]}{'…' if len(line) > QUOTED_CHARACTERS else ''}')" if line else ""


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the header Retry-After asks to wait; None if it is absent or cannot be read.

    A date counts from the server's own Date header if there is one: its clock need not be right, only its difference.
    """
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        then, now = _date(text), _date(headers.get("date", "")) or datetime.now(UTC)
        seconds = math.nan if then is None else (then - now).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
