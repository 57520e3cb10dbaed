"""Prefect's REST API in a few lines: for programs that would wait a second for Prefect's own client to be loaded."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

PAGE = 200

TRIES = 20
"""How often a server is asked, half a second apart, that says 503: another process writes to its database just then."""


@dataclass(frozen=True)
class Api:
    """A server and how to be let in.

    Attributes:
        url: ends in /api.
        password: user:password, or None for a server that asks for none.
    """

    url: str
    password: str | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Api:
        """The server that an environment names."""
        return cls(environment["PREFECT_API_URL"], environment.get("PREFECT_API_AUTH_STRING"))

    def __call__(self, path: str, body: Any = None, method: str | None = None, timeout_s: float = 10) -> Any:
        """The reply to a request, from JSON; None where it is empty. GET without a body, POST with one.

        Raises: OSError (with it urllib.error.URLError): if no server answers, or it refuses.
        """
        headers = {"Content-Type": "application/json"}
        if self.password is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(self.password.encode()).decode()
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, headers, method=method)
        # No proxy stands between this machine and itself.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for tries_left in reversed(range(TRIES)):
            try:
                with opener.open(request, timeout=timeout_s) as reply:
                    return json.loads(reply.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE or not tries_left:
                    raise
            time.sleep(0.5)
        raise AssertionError("unreachable")

    def all(self, kind: str, **wanted: Any) -> Iterator[dict[str, Any]]:
        """Every entry of a kind, such as flow_runs, that matches the filters."""
        offset = 0
        while page := self(f"{kind}/filter", {**wanted, "limit": PAGE, "offset": offset}):
            yield from page
            offset += len(page)
            if len(page) < PAGE:
                return

    def set_state(self, flow_run_id: str, kind: str, name: str, message: str, timeout_s: float = 10) -> None:
        """Put a run into a state, whatever the rules say of its present one."""
        state = {"type": kind, "name": name, "message": message}
        self(f"flow_runs/{flow_run_id}/set_state", {"state": state, "force": True}, timeout_s=timeout_s)
