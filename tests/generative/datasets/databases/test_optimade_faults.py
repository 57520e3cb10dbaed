"""OPTIMADE when things go wrong: every fault of network and server between the real client and the real server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from generative.datasets.databases.errors import (
    AccessDeniedError,
    BrokenReplyError,
    BusyError,
    EndlessReplyError,
    NetworkError,
    NotFoundError,
    RefusedQueryError,
    SchemaChangedError,
    ServerFaultError,
    UnreachableError,
)
from tests.servers.faults import (
    CutGzip,
    Edit,
    Endless,
    FaultProxy,
    Refuse,
    Stall,
    Status,
    Truncate,
    TruncatedJson,
    WrongType,
    limits_of,
)
from tests.servers.loopback import Request
from tests.servers.optimade import OptimadeServer, alexandria_entry
from tests.servers.optimade_client import Clock, database, is_page, pages_of, records_of
from tests.servers.real import RealRecord, real_records

PAGE_SIZE = 80

ERROR_BODY = b'{"errors": [{"status": "400", "title": "Bad Request", "detail": "the reason is told here"}], "meta": {}}'


@pytest.fixture(scope="module")
def real() -> tuple[RealRecord, ...]:
    return real_records()[:240]


@pytest.fixture(scope="module")
def server(real: tuple[RealRecord, ...]) -> Iterator[OptimadeServer]:
    with OptimadeServer([alexandria_entry(record) for record in real]) as running:
        yield running


@pytest.fixture
def proxy(server: OptimadeServer) -> Iterator[FaultProxy]:
    with FaultProxy(server.url) as running:
        yield running
    assert running.failures == []


def is_second_page(request: Request) -> bool:
    return is_page(request) and "page_offset=80" in request.path


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, RefusedQueryError), (401, AccessDeniedError), (403, AccessDeniedError), (404, NotFoundError)],
)
def test_a_refusal_is_told_with_the_server_s_reason_and_not_repeated(
    proxy: FaultProxy, status: int, kind: type[NetworkError]
) -> None:
    asked = database(proxy.url, page_size=PAGE_SIZE)
    first = asked.page(None)
    n_before = len(proxy.seen)
    proxy.spoil(is_second_page, Status(status, body=ERROR_BODY))
    with pytest.raises(kind, match="the reason is told here"):
        asked.page(first.cursor)
    assert len(proxy.seen) == n_before + 1


def test_a_page_larger_than_the_server_allows_is_a_refused_query_that_names_the_setting(
    real: tuple[RealRecord, ...],
) -> None:
    with OptimadeServer([alexandria_entry(real[0])], page_limit_max=50) as running:
        with pytest.raises(RefusedQueryError, match="page_limit is 50.*lower page_size, now 51"):
            database(running.url, page_size=51).page(None)
        assert len(database(running.url, page_size=50).page(None).records) == 1


@pytest.mark.parametrize(
    "fault",
    [
        Status(429, {"Retry-After": "7"}),
        Status(500),
        Status(503),
        Refuse(),
        Stall(5.0),
        TruncatedJson(),
        Truncate(),
        WrongType(),
        CutGzip(),
    ],
    ids=lambda fault: f"{type(fault).__name__}{getattr(fault, 'code', '')}",
)
def test_a_fault_in_the_middle_of_paging_that_passes_costs_no_record(proxy: FaultProxy, fault: Any) -> None:
    clock, times = Clock(), 1 if isinstance(fault, Stall) else 2
    proxy.spoil(is_second_page, fault, times=times)
    asked = database(proxy.url, page_size=PAGE_SIZE, clock=clock, **limits_of(fault))
    records = records_of(asked)
    assert len(records) == len({record.id for record in records}) == 240
    n_requests = sum(map(is_second_page, proxy.seen))
    assert n_requests == times + 1 or (isinstance(fault, Stall) and n_requests > times)  # a busy machine's own silence
    if isinstance(fault, Status) and fault.headers:
        assert sum(wait_s >= 7 for wait_s in clock.waits_s) == 2


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Status(429), BusyError),
        (Status(500, body=ERROR_BODY), ServerFaultError),
        (Status(503), ServerFaultError),
        (Refuse(), UnreachableError),
        (TruncatedJson(), BrokenReplyError),
        (WrongType(), BrokenReplyError),
        (CutGzip(), BrokenReplyError),
        (Endless(), EndlessReplyError),
    ],
    ids=lambda value: f"{type(value).__name__}{getattr(value, 'code', '')}",
)
def test_a_fault_that_stays_ends_in_its_own_error_and_the_page_can_be_asked_later(
    proxy: FaultProxy, fault: Any, kind: type[NetworkError]
) -> None:
    asked = database(proxy.url, page_size=PAGE_SIZE, reply_mb_max=1.0)
    first = asked.page(None)
    proxy.spoil(is_second_page, fault, times=3)
    with pytest.raises(kind) as raised:
        asked.page(first.cursor)
    assert "\n" not in str(raised.value)
    later = database(proxy.url, page_size=PAGE_SIZE).page(first.cursor)
    assert len(later.records) == 80


def test_an_old_failure_is_not_taken_for_a_new_one(proxy: FaultProxy) -> None:
    asked = database(proxy.url, page_size=PAGE_SIZE)
    asked.page(None)
    proxy.spoil(is_page, Status(404))
    with pytest.raises(NotFoundError):
        asked.page(None)
    proxy.spoil(is_page, Edit(lambda page: ["no", "document"]))
    with pytest.raises(SchemaChangedError, match="no OPTIMADE document"):
        asked.page(None)
    assert len(asked.page(None).records) == 80


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        with pytest.raises(UnreachableError):
            database(f"http://127.0.0.1:{taken.getsockname()[1]}").page(None)


def test_a_page_that_comes_twice_leaves_ids_that_stamps_and_fetch_bring(
    proxy: FaultProxy, real: tuple[RealRecord, ...]
) -> None:
    asked = database(proxy.url, page_size=PAGE_SIZE)
    first = asked.page(None)
    repeated = [dict(record.body) for record in first.records]
    proxy.spoil(is_second_page, Edit(lambda page: page | {"data": repeated[::-1]}))
    pages = pages_of(asked)
    got = {record.id for page in pages for record in page.records}
    assert pages[-1].total == 240
    assert len(got) == 160
    missing = sorted({name for part in asked.stamps() for name in part} - got)
    for start in range(0, len(missing), asked.fetch_size):
        got |= {record.id for record in asked.fetch(missing[start : start + asked.fetch_size])}
    assert got == {record.material_id for record in real}


def _next(link: Any) -> Edit:
    return Edit(lambda page: page | {"links": {"next": link}})


def test_a_page_that_names_itself_as_the_next_one_is_no_page(proxy: FaultProxy) -> None:
    asked = database(proxy.url, page_size=PAGE_SIZE)
    asked.page(None)
    proxy.spoil(is_page, _next(proxy.seen[-1].path))
    with pytest.raises(EndlessReplyError, match="names itself"):
        asked.page(None)


def test_stamps_that_lead_in_a_circle_end(proxy: FaultProxy) -> None:
    asked = database(proxy.url, page_size=100)
    links = {"100": "200", "200": "100"}

    def circle(page: Any) -> Any:
        here = page["meta"]["query"]["representation"].rpartition("page_offset=")[2]
        if here in links:
            path = page["meta"]["query"]["representation"].replace(f"page_offset={here}", f"page_offset={links[here]}")
            page["links"]["next"] = f"{proxy.url}/v1{path}"
        return page

    proxy.spoil(is_page, Edit(circle), times=50)
    with pytest.raises(EndlessReplyError, match="circle"):
        list(asked.stamps())
    assert len(proxy.seen) < 10


@pytest.mark.parametrize(
    "link", ["http://evil.example/v1/structures?page_offset=80", "//evil.example/x", "ftp://127.0.0.1/x"]
)
def test_a_link_to_another_host_is_not_followed(proxy: FaultProxy, link: str) -> None:
    asked = database(proxy.url, page_size=PAGE_SIZE)
    proxy.spoil(is_page, _next(link))
    with pytest.raises(SchemaChangedError, match="expected 127.0.0.1"):
        asked.page(None)


def test_a_cursor_leads_to_the_source_s_own_server_whatever_stands_in_it(proxy: FaultProxy) -> None:
    with pytest.raises(NotFoundError):
        database(proxy.url, page_size=PAGE_SIZE).page("//evil.example/v1/structures")
    assert proxy.seen[-1].path.endswith("/evil.example/v1/structures")


def _without(*names: str) -> Edit:
    def edit(page: Any) -> Any:
        for entry in page["data"]:
            for name in names:
                entry["attributes"].pop(name)
        return page

    return Edit(edit)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (_without("lattice_vectors"), "has the field 'lattice_vectors'"),
        (_without("cartesian_site_positions", "species"), "has the field 'cartesian_site_positions'"),
        (Edit(lambda page: page | {"data": None}), "no OPTIMADE document"),
        (Edit(lambda page: page | {"data": {"id": "x"}}), "expected a list of structures"),
        (Edit(lambda page: page | {"data": [{"no": "id"}]}), "expected an object with an id"),
        (Edit(lambda page: page | {"data": ["text"]}), "expected an object with an id"),
        (Edit(lambda page: {"results": page["data"]}), "no OPTIMADE document"),
        (Edit(lambda page: {"data": page["data"]}), "no OPTIMADE document"),
        (Edit(lambda page: page | {"meta": "text"}), "no OPTIMADE document"),
        (Edit(lambda page: page | {"links": {"next": 7}}), "links.next is 7"),
        (Edit(lambda page: page | {"links": {"next": "http://[0"}}), "links.next is"),
        (Edit(lambda page: page | {"links": "none"}), "no OPTIMADE document"),
        (Edit(lambda page: page | {"links": {}, "meta": {"more_data_available": True}}), "expected links.next"),
    ],
)
def test_another_form_of_reply_is_told_as_such_and_no_end_of_the_data(
    proxy: FaultProxy, fault: Edit, said: str
) -> None:
    asked = database(proxy.url, page_size=PAGE_SIZE)
    asked.page(None)
    proxy.spoil(is_page, fault)
    with pytest.raises(SchemaChangedError, match=said):
        asked.page(None)


def test_an_empty_page_that_promises_more_is_no_end_of_the_data(proxy: FaultProxy) -> None:
    asked = database(proxy.url, page_size=PAGE_SIZE)
    first = asked.page(None)
    proxy.spoil(is_second_page, Edit(lambda page: page | {"data": []}))
    with pytest.raises(EndlessReplyError, match="empty page"):
        asked.page(first.cursor)


def test_errors_under_status_200_are_errors(proxy: FaultProxy) -> None:
    asked = database(proxy.url, page_size=PAGE_SIZE)
    asked.page(None)
    body = {"meta": {"api_version": "1.2.0"}, "errors": [{"title": "Oops", "detail": "the disk is full"}]}
    proxy.spoil(is_page, Edit(lambda page: body))
    with pytest.raises(ServerFaultError, match="the disk is full"):
        asked.page(None)
