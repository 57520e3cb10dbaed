"""Every fault of a network, over both libraries, against a real server on loopback; waits by a clock of our own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import requests

from generative.datasets.config import AflowSource, NetworkSource
from generative.datasets.databases.access import BACKOFF_MAX_S, JITTER, Access
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
from tests.servers.faults import (
    Ask,
    CutGzip,
    Drip,
    Edit,
    Endless,
    Fault,
    FaultProxy,
    Refuse,
    Rewrite,
    Stall,
    Status,
    Truncate,
    TruncatedJson,
    WrongType,
    limits_of,
)
from tests.servers.loopback import Connection, Loopback, Reply, Request, head

ATTEMPTS = 3
DATA = {"data": [{"id": f"mp-{i}", "energy": -i / 7} for i in range(200)]}

Get = Callable[[Access, str], Any]


class OwnTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waits_s: list[float] = []

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.waits_s.append(seconds)


@dataclass(frozen=True)
class HeaderDrip:
    """A header that never ends, a byte at a time."""

    def happen(self, request: Request, connection: Connection, ask: Ask) -> None:
        connection.end()
        connection.send(b"HTTP/1.1 200 OK\r\nX-Filler: ")
        while not connection.closing.wait(0.05):
            connection.send(b"x")


@dataclass(frozen=True)
class EndlessRefusal:
    """A 503 whose explanation never ends."""

    def happen(self, request: Request, connection: Connection, ask: Ask) -> None:
        connection.end()
        connection.send(head(503, {"Content-Type": "text/plain"}))
        while not connection.closing.is_set():
            connection.send(b"sorry " * 10000)


def settings(**changed: Any) -> NetworkSource:
    quick = {
        "attempts": ATTEMPTS,
        "backoff_s": 0.5,
        "reply_mb_max": 2.0,
        "requests_per_second": 1000.0,
    }
    return AflowSource.model_validate(quick | changed)


def access(time: OwnTime | None = None, database: str = "aflow", **changed: Any) -> Access:
    time = time or OwnTime()
    return Access(settings(**changed), database, sleep=time.sleep, clock=time.clock)


def limits(fault: Fault) -> dict[str, float]:
    """As of tests.servers.faults, for the faults made here too."""
    return {"reply_timeout_s": 0.6} if isinstance(fault, HeaderDrip | EndlessRefusal) else limits_of(fault)


@pytest.fixture(params=["requests", "httpx"])
def get(request: pytest.FixtureRequest) -> Get:
    if request.param == "httpx":
        return lambda way, url: way.get_json(url)
    return lambda way, url: way.session().get(url).json()


@pytest.fixture(scope="module")
def upstream():
    with Loopback(lambda request: DATA if request.route == "/data" else {"asked": request.path}) as server:
        yield server


@pytest.fixture
def proxy(upstream: Loopback):
    with FaultProxy(upstream.url) as proxy:
        yield proxy
    assert not proxy.failures


TRANSIENT = [
    (Status(429), BusyError),
    (Status(500), ServerFaultError),
    (Status(502), ServerFaultError),
    (Status(503), ServerFaultError),
    (Status(504), ServerFaultError),
    (Status(503, body=b"x" * 200_000), ServerFaultError),
    (Stall(60), UnreachableError),
    (Refuse(), UnreachableError),
    (Truncate(0.0), BrokenReplyError),
    (Truncate(0.5), BrokenReplyError),
    (TruncatedJson(), BrokenReplyError),
    (WrongType(), BrokenReplyError),
    (WrongType("application/json", b""), BrokenReplyError),
    (WrongType("application/json", b"\xff\xfe\x00"), BrokenReplyError),
    (CutGzip(0.5), BrokenReplyError),
    (CutGzip(0.99), BrokenReplyError),
]
WITHOUT_END = [Endless(), Endless(packed=True), Drip(0.05), HeaderDrip()]


@pytest.mark.parametrize("fault", [fault for fault, _ in TRANSIENT] + [*WITHOUT_END, EndlessRefusal()], ids=str)
def test_a_fault_that_passes_leaves_the_data_as_if_it_had_not_been(get: Get, proxy: FaultProxy, fault: Fault) -> None:
    way = access(**limits(fault))
    proxy.spoil(0, fault)
    assert get(way, f"{proxy.url}/data") == DATA
    assert (way.n_requests, way.n_retries, len(proxy.seen)) == (2, 1, 2)


@pytest.mark.parametrize(("fault", "kind"), TRANSIENT, ids=str)
def test_a_fault_that_stays_ends_after_the_attempts_with_its_own_error(
    get: Get, proxy: FaultProxy, fault: Fault, kind: type[NetworkError]
) -> None:
    way = access(**limits(fault))
    proxy.spoil(0, fault, times=99)
    with pytest.raises(
        NetworkError, match=r"^aflow: 127\.0\.0\.1:\d+ .* \(tried 3 times\); what has come is kept"
    ) as e:
        get(way, f"{proxy.url}/data?query=long")
    assert type(e.value) is kind
    assert len(proxy.seen) == ATTEMPTS
    assert way.n_retries == ATTEMPTS - 1
    assert type(way.last_error) is kind
    assert "query" not in str(e.value)


@pytest.mark.parametrize("fault", WITHOUT_END, ids=str)
def test_a_reply_without_end_is_left_in_time_and_tried_once_more_only(
    get: Get, proxy: FaultProxy, fault: Fault
) -> None:
    proxy.spoil(0, fault, times=99)
    with pytest.raises(EndlessReplyError, match="page_size"):
        get(access(**limits(fault)), f"{proxy.url}/data")
    assert len(proxy.seen) == 2


def test_a_connection_kept_from_a_good_reply_is_under_the_time_limit_too(get: Get, proxy: FaultProxy) -> None:
    way = access(reply_timeout_s=0.6)
    proxy.spoil(1, HeaderDrip(), times=2)
    assert get(way, f"{proxy.url}/data") == DATA
    with pytest.raises(EndlessReplyError, match=r"longer than 0\.6 s"):
        get(way, f"{proxy.url}/data")
    assert get(way, f"{proxy.url}/data") == DATA


@pytest.mark.parametrize(
    ("status", "kind", "remedy"),
    [
        (400, RefusedQueryError, "where"),
        (401, AccessDeniedError, "none was given"),
        (403, AccessDeniedError, "none was given"),
        (404, NotFoundError, "endpoint"),
        (405, RefusedQueryError, "where"),
        (410, NotFoundError, "endpoint"),
        (413, RefusedQueryError, "page_size"),
        (414, RefusedQueryError, "page_size"),
        (422, RefusedQueryError, "where"),
        (501, ServerFaultError, "endpoint"),
    ],
)
def test_a_refusal_is_final_and_says_what_the_server_said_and_what_to_do(
    get: Get, proxy: FaultProxy, status: int, kind: type[NetworkError], remedy: str
) -> None:
    proxy.spoil(0, Status(status, body=b"no such\n\tfield: e_hul" + b"l" * 300))
    with pytest.raises(NetworkError, match=remedy) as caught:
        get(access(), f"{proxy.url}/data")
    assert type(caught.value) is kind
    said = "no such field: e_hul" + "l" * 180
    assert f" {status} " in str(caught.value)
    assert f"('{said}…')" in str(caught.value)
    assert len(proxy.seen) == 1


def test_a_refused_key_is_explained_by_where_the_key_comes_from(get: Get, proxy: FaultProxy) -> None:
    proxy.spoil(0, Status(401))
    with pytest.raises(AccessDeniedError, match="MP_API_KEY.*Secret 'materials-project-api-key': none was given"):
        get(access(database="materials-project"), f"{proxy.url}/data")


def test_a_port_that_nobody_listens_on_is_tried_as_often_as_allowed_and_named(get: Get) -> None:
    with Loopback(lambda _: {}) as gone:
        url = gone.url
    way = access()
    with pytest.raises(UnreachableError, match=r"Connection refused\) \(tried 3 times\)"):
        get(way, url)
    assert way.n_requests == ATTEMPTS


@pytest.mark.parametrize("address", ["gopher://127.0.0.1/", "http://", "http://[::1/", "no address"])
def test_an_address_that_cannot_be_asked_is_not_tried_again(get: Get, address: str) -> None:
    way = access()
    with pytest.raises(NetworkError, match="endpoint"):
        get(way, address)
    assert way.n_retries == 0


def test_waits_double_from_the_first_with_a_jitter_that_the_database_name_fixes(get: Get, proxy: FaultProxy) -> None:
    def waits_s(database: str) -> list[float]:
        time = OwnTime()
        with pytest.raises(ServerFaultError):
            get(access(time, database, attempts=6), f"{proxy.url}/data")
        return time.waits_s

    proxy.spoil(0, Status(503), times=99)
    waited_s = waits_s("aflow")
    assert len(waited_s) == 5
    for k, wait_s in enumerate(waited_s):
        assert 0.5 * 2**k <= wait_s <= 0.5 * 2**k * (1 + JITTER)
    assert waits_s("aflow") == waited_s
    assert waits_s("oqmd") != waited_s


def test_the_doubled_wait_is_bounded_and_all_waits_are_counted(get: Get, proxy: FaultProxy) -> None:
    time = OwnTime()
    way = access(time, attempts=20, backoff_s=60)
    proxy.spoil(0, Status(503), times=99)
    with pytest.raises(ServerFaultError):
        get(way, f"{proxy.url}/data")
    assert len(time.waits_s) == 19
    assert time.waits_s[4:] == [BACKOFF_MAX_S] * 15
    assert way.waited_s == pytest.approx(sum(time.waits_s))


def test_a_server_that_says_how_long_to_wait_is_waited_for_exactly_so_long(get: Get, proxy: FaultProxy) -> None:
    time = OwnTime()
    date = {"Date": "Wed, 01 Jan 2020 00:00:10 GMT", "Retry-After": "Wed, 01 Jan 2020 00:02:00 GMT"}
    past = {"Date": "Wed, 01 Jan 2020 00:00:10 GMT", "Retry-After": "Wed, 01 Jan 2020 00:00:00 GMT"}
    for headers in ({"Retry-After": "7"}, {"Retry-After": "1.5"}, date, past, {"Retry-After": "300"}):
        proxy.spoil(0, Status(429, headers))
    for unreadable in ("soon", "", "nan", "-inf", "Wed, 99 Foo"):
        proxy.spoil(0, Status(503, {"Retry-After": unreadable}))
    way = access(time, attempts=20, backoff_s=0.0, requests_per_second=1000)
    assert get(way, f"{proxy.url}/data") == DATA
    waits_s = [round(wait_s, 6) for wait_s in time.waits_s if wait_s > 0.0011]  # without those of the rate
    assert waits_s == [7, 1.5, 110, 300]
    assert way.n_retries == 10


def test_a_server_that_asks_for_too_long_a_wait_is_left_at_once_with_its_wish(get: Get, proxy: FaultProxy) -> None:
    time = OwnTime()
    proxy.spoil(0, Status(503, {"Retry-After": "3600"}))
    with pytest.raises(BusyError, match=r"asks to wait 3600 s, longer than retry_after_max_s \(300 s\)"):
        get(access(time), f"{proxy.url}/data")
    assert time.waits_s == []
    assert len(proxy.seen) == 1


def test_requests_start_no_closer_together_than_the_rate_allows(get: Get, proxy: FaultProxy) -> None:
    time = OwnTime()
    way = access(time, requests_per_second=4)
    starts_s = []
    for _ in range(5):
        get(way, f"{proxy.url}/data")
        starts_s.append(time.now_s)
        time.now_s += 0.1  # work between requests counts as waiting
    assert starts_s == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    time.now_s += 10
    get(way, f"{proxy.url}/data")
    get(way, f"{proxy.url}/data")
    assert time.now_s == pytest.approx(11.1 + 0.25)  # a pause is no credit for a burst


def test_threads_share_one_rate_and_one_count(get: Get, proxy: FaultProxy) -> None:
    waits_s: list[float] = []
    way = Access(settings(requests_per_second=2), "aflow", sleep=waits_s.append, clock=lambda: 0.0)
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(get(way, f"{proxy.url}/data"))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [DATA] * 12
    assert sorted(waits_s) == pytest.approx([0.5 * k for k in range(1, 12)])
    assert way.n_requests == 12


def test_repeated_and_edited_pages_pass_as_they_are(get: Get, proxy: FaultProxy) -> None:
    proxy.spoil(0, Rewrite(lambda path: path.replace("page=2", "page=1")))
    proxy.spoil(0, Edit(lambda body: body | {"more": None}))
    assert get(access(), f"{proxy.url}/list?page=2") == {"asked": "/list?page=1"}
    assert get(access(), f"{proxy.url}/list?page=2") == {"asked": "/list?page=2", "more": None}


def test_json_under_a_wrong_type_or_behind_a_byte_order_mark_is_json(get: Get) -> None:
    bodies = [b' \r\n{"a":\t1}\n', b'\xef\xbb\xbf{"a": 1}', '{"a": 1}'.encode("utf-16"), b'{"a": 1, "a": 1}']
    for body in bodies:
        with Loopback(lambda _, body=body: Reply(body, content_type="text/html")) as server:
            assert get(access(), server.url) == {"a": 1}


def test_a_reply_that_is_no_json_is_told_by_its_type_and_its_beginning(get: Get) -> None:
    page = b"<html>\n<h1>Sign in</h1>" + b"." * 500
    with Loopback(lambda _: Reply(page, content_type="text/html; charset=utf-8")) as server:
        expected = f"sent text/html that is no complete JSON ('<html> <h1>Sign in</h1>{'.' * 57}')"
        with pytest.raises(BrokenReplyError) as caught:
            get(access(attempts=1), server.url)
    assert expected in str(caught.value)


def test_the_literal_nan_comes_as_null_so_that_strict_readers_do_not_stumble(get: Get) -> None:
    with Loopback(lambda _: Reply(b'{"e": NaN, "f": [Infinity, -Infinity, 1]}')) as server:
        assert get(access(), server.url) == {"e": None, "f": [None, None, 1]}


def test_a_session_is_a_session_to_clients_whatever_they_say_of_time_outs(proxy: FaultProxy) -> None:
    way = access(read_timeout_s=0.25)
    session_class = way.session_class()
    assert issubclass(session_class, requests.Session)
    proxy.spoil(0, Stall(60))
    with session_class() as session:
        session.headers.update({"x-one": "1"})
        response = session.get(
            url=f"{proxy.url}/data", params={"_limit": 1}, headers={"x-two": "2"}, timeout=(500, 500), verify=True
        )
    assert isinstance(response, requests.Response)
    assert (response.status_code, response.ok, response.reason) == (200, True, "OK")
    assert response.url == response.request.url == f"{proxy.url}/data?_limit=1"
    assert response.json() == json.loads(response.text) == json.loads(response.content) == DATA
    assert [(r.headers["x-one"], r.headers["x-two"], r.headers["user-agent"]) for r in proxy.seen] == [
        ("1", "2", "hullward")
    ] * 2


def test_the_text_of_a_session_reply_is_what_a_strict_reader_takes() -> None:
    body = b'\xef\xbb\xbf{"n": "\xc3\xa9", "e": NaN}'
    with Loopback(lambda _: Reply(body, content_type="text/plain")) as server:
        response = access().session().get(server.url)
    assert orjson.loads(response.text) == orjson.loads(response.content) == {"n": "é", "e": None}


def test_only_reading_goes_through_a_session() -> None:
    way = access()
    with pytest.raises(RefusedQueryError, match="'POST'"):
        way.session().post("http://127.0.0.1/", json={})
    assert isinstance(way.last_error, RefusedQueryError)
    assert way.n_requests == 0


def test_an_access_that_was_closed_opens_its_connections_again(get: Get, proxy: FaultProxy) -> None:
    way = access()
    assert get(way, f"{proxy.url}/data") == DATA
    way.close()
    way.close()
    assert get(way, f"{proxy.url}/data") == DATA
