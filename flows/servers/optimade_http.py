"""What OPTIMADE's server says to requests that are none: always a document of OPTIMADE, with the right status.

Where the server's own layers meet such a request, some end in an exception of their own, which becomes a 500.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, cast
from urllib.parse import parse_qs

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from optimade.exceptions import BadRequest, OptimadeHTTPException
from optimade.models import Warnings
from optimade.server.exception_handlers import general_exception
from optimade.server.middleware import AddWarnings, HandleApiHint
from optimade.server.routers.utils import JSONAPIResponse
from optimade.warnings import LocalOptimadeWarning, OptimadeWarning
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response

URL_MAX = 200_000
"""Most characters of an address: a filter of tasks.optimade.filter.LENGTH_MAX with every character encoded."""

Next = Callable[[Request], Awaitable[Response]]


class _UriTooLong(OptimadeHTTPException):  # type: ignore[misc]
    status_code = 414
    title = "URI Too Long"


class _Refusals(BaseHTTPMiddleware):
    """Answers what the layers below refuse by an exception, and addresses that are too long."""

    async def dispatch(self, request: Request, call_next: Next) -> Response:
        length = len(request.scope.get("raw_path") or b"") + len(request.scope["query_string"])
        try:
            if length > URL_MAX:
                request.scope["query_string"] = b""  # else the reply would repeat it
                raise _UriTooLong(detail=f"the address has {length} characters, {URL_MAX} at most are read")
            return await call_next(request)
        except OptimadeHTTPException as error:
            refusal: Response = general_exception(request, error)
            return refusal


class _Warnings(BaseHTTPMiddleware):
    """Puts the warnings of a request into its reply.

    The server's own layer mixes those of requests that are under way together, takes pages of HTML for documents, and
    prints every warning as well, so that a terminal that nobody reads would hold it up.
    """

    async def dispatch(self, request: Request, call_next: Next) -> Response:
        given: list[dict[str, Any]] = []
        _GIVEN.set(given)
        response: Any = await call_next(request)
        if not given or "json" not in response.headers.get("content-type", ""):
            return cast(Response, response)
        document = json.loads(b"".join([part async for part in response.body_iterator]))
        document["meta"]["warnings"] = given
        headers = {name: value for name, value in response.headers.items() if name != "content-length"}
        answer: Response = JSONAPIResponse(document, response.status_code, headers)
        return answer


_GIVEN: ContextVar[list[dict[str, Any]]] = ContextVar("warnings of the request under way")


def _note(message: Warning | str, *where: Any, **more: Any) -> None:
    """Called for every warning; those that are not for clients are for developers, who do not look here."""
    given = _GIVEN.get(None)
    if given is not None and isinstance(message, OptimadeWarning) and not isinstance(message, LocalOptimadeWarning):
        title, detail = message.title or type(message).__name__, message.detail or str(message)
        given.append(Warnings(type="warning", title=title, detail=detail).model_dump(exclude_none=True))


class _ApiHint(HandleApiHint):  # type: ignore[misc]
    """Refuses a newer version. The server's own sends others elsewhere, and undoes the encoding of the query there."""

    async def dispatch(self, request: Request, call_next: Next) -> Response:
        hints = parse_qs(request.url.query, keep_blank_values=True).get("api_hint")
        if hints and not self.is_versioned_base_url(request.app.state.config, str(request.url)):
            try:
                self.handle_api_hint(hints)
            except ValueError:  # a version of thousands of digits
                raise BadRequest(
                    detail=f"api_hint has {len(hints[0])} characters, expected a version such as v1"
                ) from None
        return await call_next(request)


def _invalid_parameter(request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    refusal: Response = general_exception(
        request, BadRequest(detail=f"{field}: {first['msg']}: {first.get('input')!s:.100}")
    )
    return refusal


def harden(app: FastAPI, hosts: list[str]) -> None:
    """Give the server these layers in place of its own, and the process's warnings to the replies that they are about.

    Args:
        app: OPTIMADE's server, not yet started.
        hosts: names under which it may be asked; no page of another host can read it either, for CORS is off.
    """
    instead: dict[Any, list[Any]] = {
        CORSMiddleware: [],
        AddWarnings: [_Warnings, _Refusals],
        HandleApiHint: [_ApiHint],
    }
    layers = [(kind, one) for one in app.user_middleware for kind in instead.get(one.cls, [one.cls])]
    app.user_middleware = []
    for kind, one in reversed(layers):
        app.add_middleware(kind, *one.args, **({} if one.cls in instead else one.kwargs))
    warnings.showwarning = _note
    warnings.simplefilter("always", OptimadeWarning)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    app.add_exception_handler(RequestValidationError, _invalid_parameter)  # type: ignore[arg-type]
