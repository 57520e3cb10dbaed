"""A `requests` session that sends through an `Access`; for clients that speak through such sessions."""

from __future__ import annotations

from collections.abc import Mapping
from http.client import responses
from typing import TYPE_CHECKING, Any

import requests
from requests.structures import CaseInsensitiveDict

from generative.datasets.config import NetworkSource
from generative.datasets.databases.connections import USER_AGENT, RequestsLine
from generative.datasets.databases.errors import RefusedQueryError

if TYPE_CHECKING:
    from requests.adapters import HTTPAdapter

    from generative.datasets.databases.access import Access, Answer


def polite_session_class(access: Access, adapter: HTTPAdapter, config: NetworkSource) -> type[requests.Session]:
    """A class whose sessions ask through `access` and share the connections of `adapter`."""

    class PoliteSession(requests.Session):
        """GET only; time-outs, retries and limits are the access's, whatever the caller says."""

        def __init__(self) -> None:
            super().__init__()
            self.auth = _nobody
            self.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "gzip"})
            self.mount("http://", adapter)
            self.mount("https://", adapter)

        def request(  # type: ignore[override]
            self,
            method: str,
            url: str,
            params: Any = None,
            headers: Mapping[str, str] | None = None,
            verify: bool | str | None = None,
            **_: Any,
        ) -> requests.Response:
            """A complete reply that holds JSON.

            Raises:
                NetworkError: see generative.datasets.databases.errors.
            """
            prepared = _prepared(self, method, url, params, headers)
            if isinstance(prepared, str):
                raise access.noted(RefusedQueryError(prepared))
            sent = {str(name): str(value) for name, value in prepared.headers.items()}
            answer = access.ask(RequestsLine(self, config, verify), prepared.url or url, sent)
            return _response(answer, prepared)

        def close(self) -> None:
            """Nothing: connections are kept for the next session."""

    return PoliteSession


def _nobody(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Stands where `requests` would otherwise look up a name and password in ~/.netrc."""
    return request


def _prepared(
    session: requests.Session, method: str, url: str, params: Any, headers: Mapping[str, str] | None
) -> requests.PreparedRequest | str:
    """The request, or why there is none."""
    if method.upper() != "GET":
        return f"method {method[:10]!r}: a database is only read, so expected 'GET'"
    try:
        return session.prepare_request(requests.Request("GET", url, params=params, headers=dict(headers or {})))
    except ValueError as error:  # its text may hold a header or an address
        return f"{type(error).__name__}: the address or a header cannot be sent; check `endpoint`"


def _response(answer: Answer, prepared: requests.PreparedRequest) -> requests.Response:
    response = requests.Response()
    response.status_code = answer.status
    response.reason = responses.get(answer.status, "")
    response.url = answer.url
    response.request = prepared
    response.encoding = "utf-8"
    packed = {"content-encoding", "content-length", "transfer-encoding"}
    response.headers = CaseInsensitiveDict({k: v for k, v in answer.headers.items() if k not in packed})
    response._content = answer.body
    response._content_consumed = True  # type: ignore[attr-defined]
    return response
