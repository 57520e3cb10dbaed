from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from generative.datasets.config import AflowSource, FilterConfig
from generative.datasets.databases import aflow
from generative.datasets.databases.access import Access
from generative.datasets.databases.aflow import Aflow
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
from generative.datasets.databases.harvest import Harvest
from generative.datasets.records import Form, interpret
from tests.servers.aflux import (
    QUICK,
    ROUTE,
    Aflux,
    database,
    download,
    ids,
    real_entries,
    walk,
)
from tests.servers.faults import (
    CutGzip,
    Drip,
    Edit,
    Endless,
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


def second_page(request: Any) -> bool:
    return "$paging(2,400)" in unquote(request.path)


@pytest.mark.parametrize(
    "fault",
    [
        Status(429, {"Retry-After": "7"}),
        Status(500),
        Status(503),
        Stall(30),
        Refuse(),
        Truncate(),
        TruncatedJson(),
        WrongType(),
        CutGzip(),
    ],
    ids=lambda fault: type(fault).__name__ + str(getattr(fault, "code", "")),
)
def test_a_fault_that_passes_costs_no_record(fault: Any) -> None:
    entries = real_entries()
    sleeps: list[float] = []
    with Aflux(entries) as server, FaultProxy(server.url) as proxy:
        proxy.spoil(second_page, fault, times=2)
        found = download(database(proxy.url + ROUTE, sleeps=sleeps, **limits_of(fault)))
    assert set(found) == ids(entries)
    n_requests = sum(map(second_page, proxy.seen))
    assert n_requests == 3 or (isinstance(fault, Stall) and n_requests > 3)  # a busy machine's own silence
    assert (max(sleeps) >= 7) == (getattr(fault, "code", 0) == 429)


@pytest.mark.parametrize(
    ("fault", "error", "n_tries"),
    [
        (Status(401), AccessDeniedError, 1),
        (Status(403), AccessDeniedError, 1),
        (Status(404), NotFoundError, 1),
        (Status(400), RefusedQueryError, 1),
        (Status(414), RefusedQueryError, 1),
        (Status(429, {"Retry-After": "9999"}), BusyError, 1),
        (Status(429), BusyError, 3),
        (Status(500), ServerFaultError, 3),
        (Status(503), ServerFaultError, 3),
        (Stall(30), UnreachableError, 3),
        (Refuse(), UnreachableError, 3),
        (TruncatedJson(), BrokenReplyError, 3),
        (Truncate(), BrokenReplyError, 3),
        (CutGzip(), BrokenReplyError, 3),
        (WrongType(), BrokenReplyError, 3),
        (Endless(), EndlessReplyError, 2),
        (Endless(packed=True), EndlessReplyError, 2),
        (Drip(0.1), EndlessReplyError, 2),
    ],
    ids=lambda value: type(value).__name__ + str(getattr(value, "code", "")) if hasattr(value, "happen") else "",
)
def test_a_fault_that_stays_is_one_clear_error_after_a_bounded_number_of_tries(
    fault: Any, error: type[NetworkError], n_tries: int
) -> None:
    with Aflux(real_entries()) as server, FaultProxy(server.url) as proxy:
        proxy.spoil(second_page, fault, times=100)
        pages = walk(database(proxy.url + ROUTE, attempts=3, reply_mb_max=8, **limits_of(fault)))
        assert len(next(pages).records) == 400
        with pytest.raises(error, match="AFLOW") as caught:
            next(pages)
    assert type(caught.value) is error
    assert sum(map(second_page, proxy.seen)) == n_tries


def test_a_database_that_is_not_there_is_said_to_be_unreachable() -> None:
    with Aflux([]) as server:
        endpoint = server.endpoint
    with pytest.raises(UnreachableError):
        database(endpoint, attempts=2).page(None)


def other_page(number: int) -> Rewrite:
    return Rewrite(lambda path: re.sub(r"paging\(\d+", f"paging({number}", path))


def test_a_page_that_came_in_place_of_another_is_made_up_for() -> None:
    entries = real_entries()
    with Aflux(entries) as server, FaultProxy(server.url) as proxy:
        proxy.spoil(second_page, other_page(1))
        source = database(proxy.url + ROUTE)
        *_, last = pages = list(walk(source))
        found = {record.id for page in pages for record in page.records}
        assert len(found) == len(entries) - 400
        assert last.total == len(entries)
        missing = sorted({name for part in source.stamps() for name in part} - found)
        for start in range(0, len(missing), source.fetch_size):
            found |= {record.id for record in source.fetch(missing[start : start + source.fetch_size])}
    assert found == ids(entries)


def test_pages_in_another_order_bring_the_same_records() -> None:
    entries = real_entries()
    with Aflux(entries) as server, FaultProxy(server.url) as proxy:
        proxy.spoil(lambda request: "$paging(1,400)" in unquote(request.path), other_page(2))
        proxy.spoil(second_page, other_page(1))
        assert set(download(database(proxy.url + ROUTE))) == ids(entries)


@pytest.mark.parametrize(
    ("instead", "message"),
    [
        (1, "sent the 400 ids before number 400 of its list again"),
        (3, "sent the 200 ids before number 800 of its list again"),  # page 3 is not full: like a limit of 200
    ],
)
def test_a_list_of_ids_with_holes_never_passes_for_whole(
    instead: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aflow, "LISTING_PAGE", 400)
    with Aflux(real_entries()[:1000]) as server, FaultProxy(server.url) as proxy:
        proxy.spoil(second_page, other_page(instead))
        with pytest.raises(BrokenReplyError, match=message):
            list(database(proxy.url + ROUTE).stamps())


def test_a_record_nobody_asked_for_is_not_taken() -> None:
    entries = real_entries()[:3]
    with Aflux(entries) as server, FaultProxy(server.url) as proxy:
        proxy.spoil(0, Rewrite(lambda path: path.replace("auid(", "auid(!'aflow:0':")))
        (record,) = database(proxy.url + ROUTE).fetch([entries[1]["auid"]])
    assert record.id == entries[1]["auid"]


@pytest.mark.parametrize("form", ["list", "dictionary"])
def test_a_whole_download_survives_faults_of_many_kinds(form: Any, tmp_path: Path) -> None:
    entries = real_entries()
    with Aflux(entries, form) as server, FaultProxy(server.url) as proxy:
        for n, fault in enumerate((Status(503), other_page(1), Truncate(), CutGzip(), Refuse(), other_page(3))):
            proxy.spoil(2 * n, fault)
        config = AflowSource(endpoint=proxy.url + ROUTE, **(QUICK | {"page_size": 150}))
        access = Access(config, "aflow", sleep=lambda seconds: None)
        harvest = Harvest(Aflow(config, FilterConfig(), None, access), access, tmp_path, page_size=150)
        harvest.download()
        told = harvest.record()
    assert told.n_records == len(entries)
    assert told.n_repeated > 0
    assert told.warnings == ()


def without(*names: str) -> Edit:
    return Edit(lambda reply: [{k: v for k, v in body.items() if k not in names} for body in reply])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("positions_fractional"), "none of the 400 records of a page has the field 'positions_fractional'"),
        (without("auid"), "a record whose auid is 'None'"),
        (Edit(lambda reply: {"data": reply}), "a dictionary with the key 'data'"),
        (Edit(lambda reply: [[1, 2]]), r"sent '\[\[1, 2\]\]': expected a list of records"),
        (Edit(lambda reply: None), "sent 'None': expected a list of records"),
        (Edit(lambda reply: reply + reply), "sent 800 records: expected at most 400"),
    ],
)
def test_another_form_than_before_is_named(change: Edit, message: str) -> None:
    with Aflux(real_entries()) as server, FaultProxy(server.url) as proxy:
        proxy.spoil(second_page, change)
        with pytest.raises(SchemaChangedError, match=message):
            download(database(proxy.url + ROUTE))
    assert proxy.failures == []


def test_a_few_entries_without_a_structure_are_refused_one_by_one() -> None:
    with Aflux(real_entries()[:5]) as server, FaultProxy(server.url) as proxy:
        proxy.spoil(0, without("positions_fractional"))
        source = database(proxy.url + ROUTE)
        forms = {source.raw_record(record).form for record in download(source).values()}
    assert forms == {Form.REFUSED}


def test_one_bad_record_among_good_ones_costs_only_itself() -> None:
    bad = {3: {"species": ["Xx"] * 3}, 5: {"volume_cell": -1.0}, 7: {"energy_atom": None}, 9: {"Egap": "wide"}}
    entries = real_entries()[:30]

    def spoil(reply: Any) -> Any:
        return [body | bad.get(place, {}) for place, body in enumerate(reply)]

    with Aflux(entries) as server, FaultProxy(server.url) as proxy:
        proxy.spoil(0, Edit(spoil))
        source = database(proxy.url + ROUTE)
        raws = [source.raw_record(record) for record in download(source).values()]
    (batch,) = interpret(iter(raws), "aflow", "PBE", None)
    reasons = batch.rejected.column("reason").to_pylist()
    assert (len(batch.rows), len(reasons)) == (27, 3)
    for reason, start in zip(reasons, ("species", "volume_cell is -1 A^3", "Egap is 'wide'"), strict=True):
        assert reason.startswith(start)
    assert batch.rows.column("energy_ev_per_atom").to_pylist()[5] is None
