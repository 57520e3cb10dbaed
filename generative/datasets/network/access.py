"""How a database is asked: time-outs, bounded retries with exponential backoff and Retry-After, rate, size limits.

One `Access` is one database's politeness. The Materials Project and OPTIMADE clients speak through `requests`, AFLUX
through httpx; both get their connection from here, so that every database is asked in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from generative.config import NetworkSource
from generative.datasets.network.errors import NetworkError

if TYPE_CHECKING:
    import httpx
    import requests


class Access:
    """The way to one database.

    Attributes:
        n_requests: requests sent, retries included.
        n_retries: requests sent again.
        waited_s: time spent waiting for rate and retries, s.
        last_error: the last failure a session raised. Clients that swallow exceptions lose its type; here it is.
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
        """
        raise NotImplementedError

    def redacted(self, text: str) -> str:
        """The text with the secret, plain or percent-encoded, replaced by '***'."""
        raise NotImplementedError

    def session_class(self) -> type[requests.Session]:
        """A `requests.Session` class bound to this access; for clients that make their own sessions (OPTIMADE).

        Its `request` sends with this access's time-outs, waits, retries, and reads the body within the limits; it
        returns only complete replies of status 200 to 299 whose body parses as JSON, and raises NetworkError else.
        """
        raise NotImplementedError

    def session(self, headers: Mapping[str, str] | None = None) -> requests.Session:
        """A session of `session_class` with these headers; for clients that take one (mp-api)."""
        raise NotImplementedError

    def get_json(self, url: str, headers: Mapping[str, str] | None = None) -> Any:
        """GET through httpx, in the same way; the parsed JSON of a complete reply.

        Raises:
            NetworkError: see generative.datasets.network.errors.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close connections."""
        raise NotImplementedError
