"""Where a key goes and where it must not: other hosts, messages, exceptions, logs, replies; whose proxies are used."""

from __future__ import annotations

import gc
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from generative.datasets.config import AflowSource
from generative.datasets.databases.access import Access
from generative.datasets.databases.errors import AccessDeniedError, NetworkError, NotFoundError
from tests.servers.faults import (
    CutGzip,
    Endless,
    Fault,
    FaultProxy,
    Refuse,
    Stall,
    Status,
    Truncate,
    WrongType,
    limits_of,
)
from tests.servers.loopback import Loopback, Reply, Request

KEY = "Zq7/k+9=Xw 4mT".replace(" ", "%")
SPELLINGS = (KEY, quote(KEY), quote(KEY, safe=""), quote(KEY, safe="").replace("%2F", "%2f"))

Get = Callable[[Access, str], Any]


def access(**changed: Any) -> Access:
    quick = {"attempts": 2, "backoff_s": 0.0, "reply_mb_max": 1}
    config = AflowSource.model_validate(quick | {"requests_per_second": 1000} | changed)
    return Access(config, "materials-project", SecretStr(KEY), sleep=lambda _: None)


@pytest.fixture(params=["requests", "httpx"])
def get(request: pytest.FixtureRequest) -> Get:
    headers = {"X-API-KEY": KEY, "Authorization": f"Bearer {KEY}", "X-Other": f"key={KEY}", "X-Plain": "kept"}
    if request.param == "httpx":
        return lambda way, url: way.get_json(url, headers)
    return lambda way, url: way.session(headers).get(url).json()


@pytest.fixture
def echo() -> Iterator[Loopback]:
    """Sends the key back in each of its spellings."""
    with Loopback(lambda request: {"key": list(SPELLINGS), "path": request.path, "kept": 1}) as server:
        yield server


def holds_key(text: str) -> bool:
    return any(spelling in text for spelling in SPELLINGS)


def all_of(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def test_the_key_comes_back_from_no_reply(get: Get, echo: Loopback) -> None:
    reply = get(access(), f"{echo.url}/data?key={quote(KEY, safe='')}")
    assert reply == {"key": ["***"] * len(SPELLINGS), "path": "/data?key=***", "kept": 1}
    assert echo.seen[0].headers["x-api-key"] == KEY


def test_the_key_is_not_in_the_text_and_headers_of_a_session_reply() -> None:
    with Loopback(lambda _: Reply({"a": KEY}, headers={"X-Echo": KEY})) as server:
        response = access().session({"x-api-key": KEY}).get(server.url)
    assert not holds_key(response.text + str(response.headers) + repr(response))
    assert json.loads(response.content) == {"a": "***"}


FAULTS: list[Fault] = [
    Status(401, body=KEY.encode()),
    Status(422, body=b"x" * 195 + KEY.encode()),
    Status(503, {"X-Echo": KEY}, quote(KEY, safe="").encode()),
    Status(429, {"Retry-After": "4000"}, f"wait, {KEY}".encode()),
    Status(302, {"Location": f"gopher://{quote(KEY, safe='')}/"}),
    WrongType(f"text/{quote(KEY, safe='')}", f"<p>{KEY}".encode()),
    WrongType("text/html", b"y" * 75 + KEY.encode()),
    Stall(30),
    Refuse(),
    Truncate(),
    CutGzip(),
    Endless(),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_the_key_is_in_no_message_exception_log_or_repr(
    get: Get, echo: Loopback, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    way = access(**limits_of(fault))
    with FaultProxy(echo.url) as proxy, caplog.at_level(logging.DEBUG):
        proxy.spoil(0, fault, times=9)
        with pytest.raises(NetworkError) as caught:
            get(way, f"{proxy.url}/data")
        assert proxy.seen[0].headers["x-api-key"] == KEY
    chain = list(all_of(caught.value))
    assert chain == [caught.value]
    assert chain[0] is way.last_error
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(way) + repr(way.last_error)
    assert not holds_key(shown + str(vars(caught.value)))
    # httpcore writes reply headers as they came at level DEBUG; a server that repeats a key there is its own fault.
    lines = [record.getMessage() for record in caplog.records if "receive_response_headers" not in record.getMessage()]
    assert lines
    assert not [line for line in lines if holds_key(line)]
    assert "with a key" in repr(way)


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY}", "käse-1234", "a\x00b"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(AccessDeniedError, match="cannot be sent") as caught:
        Access(AflowSource(), "materials-project", SecretStr(key))
    assert key.strip() not in str(caught.value)


def test_a_given_key_that_is_refused_is_said_to_be_wrong(get: Get, echo: Loopback) -> None:
    with FaultProxy(echo.url) as proxy:
        proxy.spoil(0, Status(403))
        with pytest.raises(AccessDeniedError, match="MP_API_KEY.*one was given"):
            get(access(), proxy.url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_on_the_same_host_is_followed_with_the_key(get: Get, status: int) -> None:
    def answer(request: Request) -> Reply:
        return Reply({"here": 1}) if request.route == "/b/new" else Reply(b"", status, {"Location": "../b/new?x=1"})

    with Loopback(answer) as server:
        assert get(access(), f"{server.url}/a/old") == {"here": 1}
    assert [request.path for request in server.seen] == ["/a/old", "/b/new?x=1"]
    assert [request.headers["x-api-key"] for request in server.seen] == [KEY, KEY]


def test_a_redirect_to_another_host_is_followed_without_anything_that_says_who_asks(get: Get) -> None:
    there = Loopback(lambda _: {"there": 1})
    here = Loopback(lambda _: Reply(b"", 302, {"Location": f"{there.url}/data"}))
    with there, here:
        assert get(access(), f"{here.url}/data") == {"there": 1}
    (seen,) = there.seen
    assert not holds_key(str(seen.headers))
    assert seen.headers["x-plain"] == "kept"
    assert "authorization" not in seen.headers
    assert seen.headers["host"] == there.url.removeprefix("http://")


def test_a_key_dropped_on_the_way_does_not_come_back_on_the_way_back(get: Get) -> None:
    there = Loopback(lambda _: Reply(b"", 302, {"Location": f"{here.url}/back"}))
    here = Loopback(lambda r: {"end": 1} if r.route == "/back" else Reply(b"", 302, {"Location": there.url}))
    with there, here:
        assert get(access(), f"{here.url}/data") == {"end": 1}
    assert "x-api-key" not in here.seen[1].headers


def test_five_redirects_are_followed_and_six_are_not(get: Get) -> None:
    def answer(request: Request) -> Reply:
        n = int(request.route[1:])
        return Reply(b"", 302, {"Location": f"/{n - 1}"}) if n else Reply({"end": 1})

    with Loopback(answer) as server:
        way = access()
        assert get(way, f"{server.url}/5") == {"end": 1}
        assert (way.n_requests, way.n_retries) == (6, 0)
        with pytest.raises(NotFoundError, match="redirects more than 5 times"):
            get(way, f"{server.url}/6")
    assert len(server.seen) == 12


@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://[::1", "http://a:port/", "javascript:1"])
def test_a_redirect_to_what_is_no_web_address_is_final(get: Get, location: str) -> None:
    server = Loopback(lambda _: Reply(b"", 302, {"Location": location}))
    with server, pytest.raises(NotFoundError, match="redirects to what is no web address"):
        get(access(), server.url)
    assert len(server.seen) == 1


def test_the_body_of_a_redirect_is_not_read(get: Get) -> None:
    def answer(request: Request) -> Reply:
        return Reply({"end": 1}) if request.route == "/end" else Reply(b"x" * 5_000_000, 302, {"Location": "/end"})

    with Loopback(answer) as server:
        assert get(access(reply_mb_max=0.001), server.url) == {"end": 1}


def test_loopback_is_asked_past_any_proxy_and_without_a_password_file(
    get: Get, echo: Loopback, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password something\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    way = access()
    assert get(way, echo.url)["kept"] == 1
    way.session().get(echo.url)
    way.get_json(echo.url)
    assert [request.headers.get("authorization") for request in echo.seen] == [f"Bearer {KEY}", None, None]


def test_other_hosts_are_asked_through_the_proxy_of_the_environment(get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Loopback(lambda request: {"for": request.path}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert get(access(), "http://database.invalid/x?y=1") == {"for": "http://database.invalid/x?y=1"}


def test_no_socket_is_left_open_behind(get: Get, echo: Loopback, recwarn: pytest.WarningsRecorder) -> None:
    gc.collect()
    recwarn.clear()  # of what came before
    way = access()
    with FaultProxy(echo.url) as proxy:
        proxy.spoil(0, Truncate())
        get(way, proxy.url)
        way.close()
    del way
    gc.collect()
    assert not [
        str(w.message) for w in recwarn if issubclass(w.category, ResourceWarning) and "socket" in str(w.message)
    ]
