"""What can go wrong with the Materials Project: each fault ends in all the data, or in one error of one class."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.structure import Structure

from generative.datasets.databases.database import Record
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
from tests.servers.materials_project import (
    BARRED_KEY,
    KEY,
    MaterialsProjectServer,
    has_gga,
    is_mislabelled,
)
from tests.servers.materials_project_client import Clock, project, read, records_of, told

N_RECORDS, PAGE_SIZE = 330, 80


@pytest.fixture(scope="module")
def server() -> Iterator[MaterialsProjectServer]:
    with MaterialsProjectServer(N_RECORDS) as running:
        yield running
        assert running.errors == []


@pytest.fixture(scope="module")
def downloaded(server: MaterialsProjectServer) -> list[Record]:
    return records_of(project(server.url, page_size=PAGE_SIZE))


@pytest.fixture
def own_server() -> Iterator[MaterialsProjectServer]:
    with MaterialsProjectServer(120) as running:
        yield running
        assert running.errors == []


@pytest.fixture
def proxy(server: MaterialsProjectServer) -> Iterator[FaultProxy]:
    with FaultProxy(server.url) as running:
        yield running
        assert running.failures == []


# The key


@pytest.mark.parametrize("ask", ["version", "count", "page"])
def test_without_a_key_nothing_is_asked(ask: str, own_server: MaterialsProjectServer) -> None:
    database = project(own_server.url, key=None)
    with pytest.raises(AccessDeniedError, match="no key .* was given.*MP_API_KEY"):
        {"version": database.version, "count": database.count, "page": lambda: database.page(None)}[ask]()
    assert own_server.seen == []


def test_a_key_in_the_clients_own_variable_is_not_taken_unasked(
    own_server: MaterialsProjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MP_API_KEY", KEY)
    with pytest.raises(AccessDeniedError):
        project(own_server.url, key=None).count()


@pytest.mark.parametrize("key", [KEY[:-1], KEY + "K", KEY + "\n", "\r\n" + KEY[2:], KEY[:-1] + "\u00e9"])
def test_a_key_of_another_form_is_refused_unseen(key: str, own_server: MaterialsProjectServer) -> None:
    with pytest.raises(AccessDeniedError, match="expected 32|cannot be sent") as caught:
        project(own_server.url, key=key).count()
    assert key.strip()[:20] not in told(caught.value)
    assert own_server.seen == []


@pytest.mark.parametrize(("key", "status"), [("w" * 31 + "W", "401"), (BARRED_KEY, "403")])
def test_a_wrong_key_is_one_sentence_that_does_not_show_it(
    key: str, status: str, own_server: MaterialsProjectServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(AccessDeniedError, match=status) as caught:
        project(own_server.url, key=key).page(None)
    assert len(own_server.seen) == 1
    assert key not in told(caught.value) + caplog.text


def test_a_key_that_a_server_sends_back_is_not_shown(
    proxy: FaultProxy, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = f'{{"detail": "key {KEY} is not valid here"}}'.encode()
    proxy.spoil(lambda request: True, Status(400, body=echo), times=9)
    database = project(proxy.url)
    with pytest.raises(RefusedQueryError) as caught:
        database.page(None)
    out = capfd.readouterr()
    assert KEY not in told(caught.value) + caplog.text + out.out + out.err + repr(database) + database.query
    assert proxy.seen[0].headers["x-api-key"] == KEY


def test_a_download_writes_nothing_to_the_terminal(
    server: MaterialsProjectServer, capfd: pytest.CaptureFixture[str]
) -> None:
    records_of(project(server.url, page_size=PAGE_SIZE))
    out = capfd.readouterr()
    assert (out.out, out.err) == ("", "")


# Faults


def asks(route: str, query: str = "") -> Callable[[Any], bool]:
    return lambda request: request.route == f"/materials/{route}/" and query in request.path


PASSING: dict[str, tuple[Callable[[Any], bool], Any]] = {
    "429 with Retry-After": (asks("summary", "_skip=160"), Status(429, {"Retry-After": "7"})),
    "500": (asks("summary", "_skip=160"), Status(500)),
    "503 in the middle of paging": (asks("summary", "_skip=240"), Status(503)),
    "503 of the energies": (asks("thermo"), Status(503)),
    "a closed connection": (asks("summary", "_skip=80"), Refuse()),
    "silence": (asks("summary", "_skip=80"), Stall(2)),
    "a line that goes down": (asks("summary", "_skip=240"), Truncate()),
    "cut JSON": (asks("summary", "_skip=240"), TruncatedJson()),
    "cut JSON of the energies": (asks("thermo"), TruncatedJson()),
    "a page for people": (asks("summary", "_skip=0"), WrongType()),
    "cut gzip": (asks("summary", "_skip=80"), CutGzip()),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_costs_no_record(name: str, proxy: FaultProxy, downloaded: list[Record]) -> None:
    matches, fault = PASSING[name]
    proxy.spoil(matches, fault)
    clock = Clock()
    database = project(proxy.url, page_size=PAGE_SIZE, clock=clock, **limits_of(fault))
    assert records_of(database) == downloaded
    n_requests = 2 * -(-len(downloaded) // PAGE_SIZE) + 1
    # A busy machine may be silent so long once more.
    assert len(proxy.seen) == n_requests or (isinstance(fault, Stall) and len(proxy.seen) > n_requests)
    if "Retry-After" in name:
        assert max(clock.waits_s) >= 7


LASTING: dict[str, tuple[Any, type[NetworkError]]] = {
    "404": (Status(404), NotFoundError),
    "414": (Status(414), RefusedQueryError),
    "422": (Status(422), RefusedQueryError),
    "429": (Status(429), BusyError),
    "429 until tomorrow": (Status(429, {"Retry-After": "86400"}), BusyError),
    "500": (Status(500), ServerFaultError),
    "503": (Status(503), ServerFaultError),
    "a closed connection": (Refuse(), UnreachableError),
    "silence": (Stall(2), UnreachableError),
    "a line that goes down": (Truncate(), BrokenReplyError),
    "cut JSON": (TruncatedJson(), BrokenReplyError),
    "a page for people": (WrongType(), BrokenReplyError),
    "cut gzip": (CutGzip(), BrokenReplyError),
    "a page that never ends": (Endless(), EndlessReplyError),
    "a small page that never ends when unpacked": (Endless(packed=True), EndlessReplyError),
    "a page a byte at a time": (Drip(0.05), EndlessReplyError),
    "JSON that is no reply": (Edit(lambda reply: []), SchemaChangedError),
    "a reply without data": (Edit(lambda reply: {"meta": reply["meta"]}), SchemaChangedError),
    "a reply without data's number": (Edit(lambda reply: {"data": reply["data"], "meta": {}}), SchemaChangedError),
    "a reply without meta": (Edit(lambda reply: {"data": reply["data"]}), SchemaChangedError),
    "data that is null": (Edit(lambda reply: reply | {"data": None}), SchemaChangedError),
    "texts for documents": (Edit(lambda reply: reply | {"data": ["mp-1"]}), SchemaChangedError),
    "documents without id": (Edit(lambda reply: _without(reply, "material_id")), SchemaChangedError),
}


def _without(reply: Any, field: str) -> Any:
    return reply | {"data": [{k: v for k, v in document.items() if k != field} for document in reply["data"]]}


@pytest.mark.parametrize("route", ["summary", "thermo"])
@pytest.mark.parametrize("name", LASTING)
def test_a_fault_that_lasts_is_one_error_of_its_class(name: str, route: str, proxy: FaultProxy) -> None:
    fault, kind = LASTING[name]
    proxy.spoil(asks(route), fault, times=99)
    database = project(proxy.url, page_size=20, attempts=2, reply_mb_max=4, backoff_s=0, **limits_of(fault))
    with pytest.raises(NetworkError) as caught:
        database.page(None)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert KEY not in told(caught.value)


@pytest.mark.parametrize("field", ["structure", "last_updated"])
def test_a_summary_that_lost_a_field_is_a_changed_database(field: str, proxy: FaultProxy) -> None:
    proxy.spoil(asks("summary"), Edit(lambda reply: _without(reply, field)), times=99)
    with pytest.raises(SchemaChangedError, match=field):
        project(proxy.url, page_size=20).page(None)


@pytest.mark.parametrize("field", ["energy_per_atom", "formation_energy_per_atom", "energy_above_hull", "energy_type"])
def test_energies_under_another_name_are_a_changed_database(field: str, proxy: FaultProxy) -> None:
    proxy.spoil(asks("thermo"), Edit(lambda reply: _without(reply, field)), times=99)
    with pytest.raises(SchemaChangedError, match=field):
        project(proxy.url, page_size=20).page(None)


def test_energies_of_other_materials_are_a_changed_database(proxy: FaultProxy) -> None:
    def renamed(reply: Any) -> Any:
        return reply | {"data": [doc | {"material_id": "mp-abcdefgh" + doc["material_id"]} for doc in reply["data"]]}

    proxy.spoil(asks("thermo"), Edit(renamed), times=99)
    with pytest.raises(SchemaChangedError, match="mp-abcdefgh"):
        project(proxy.url, page_size=20).page(None)


def test_an_empty_page_before_the_end_is_not_taken_for_the_end(proxy: FaultProxy) -> None:
    proxy.spoil(asks("summary", "_skip=80"), Edit(lambda reply: reply | {"data": []}), times=99)
    with pytest.raises(BrokenReplyError, match="nothing came after 80 of"):
        records_of(project(proxy.url, page_size=PAGE_SIZE))


def test_energies_that_came_in_part_are_not_taken_for_all(proxy: FaultProxy) -> None:
    proxy.spoil(asks("thermo"), Edit(lambda reply: reply | {"data": reply["data"][:-3]}), times=99)
    with pytest.raises(BrokenReplyError, match="documents came"):
        project(proxy.url).page(None)


def test_a_page_shorter_than_asked_for_skips_nothing(proxy: FaultProxy, downloaded: list[Record]) -> None:
    proxy.spoil(asks("summary", "_skip=80"), Edit(lambda reply: reply | {"data": reply["data"][:50]}))
    assert records_of(project(proxy.url, page_size=PAGE_SIZE)) == downloaded


def test_pages_turned_round_bring_the_same_records(proxy: FaultProxy, downloaded: list[Record]) -> None:
    proxy.spoil(asks("summary"), Edit(lambda reply: reply | {"data": reply["data"][::-1]}), times=99)
    proxy.spoil(asks("thermo"), Edit(lambda reply: reply | {"data": reply["data"][::-1]}), times=99)
    came = records_of(project(proxy.url, page_size=PAGE_SIZE))
    assert sorted(came, key=lambda record: record.id) == downloaded


def test_a_page_sent_twice_leaves_a_gap_that_shows_and_can_be_filled(
    proxy: FaultProxy, downloaded: list[Record]
) -> None:
    proxy.spoil(asks("summary", "_skip=160"), Rewrite(lambda path: path.replace("_skip=160", "_skip=80")))
    database = project(proxy.url, page_size=PAGE_SIZE)
    came = {record.id: record for record in records_of(database)}
    assert len(came) == len(downloaded) - PAGE_SIZE
    missing = [name for part in database.stamps() for name in part if name not in came]
    came |= {record.id: record for record in database.fetch(missing)}
    assert [came[name] for name in sorted(came)] == downloaded


# Records that are wrong by themselves

FLAT = [[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 3.0]]


def _with_lattice(structure: dict[str, Any], matrix: list[list[float]]) -> dict[str, Any]:
    return structure | {"lattice": {"matrix": matrix, "pbc": [True] * 3}}


def _with_element(structure: dict[str, Any], symbol: str) -> dict[str, Any]:
    first = structure["sites"][0] | {"species": [{"element": symbol, "occu": 1}], "label": symbol}
    return structure | {"sites": [first, *structure["sites"][1:]]}


BAD_STRUCTURES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "an unknown element": (lambda s: _with_element(s, "Xx"), "'Xx' is not a chemical element"),
    "a cell without volume": (lambda s: _with_lattice(s, FLAT), "volume is 0 A^3"),
    "no structure": (lambda s: None, "not readable as a pymatgen Structure"),
    "no sites": (lambda s: s | {"sites": []}, "at least 1 site"),
    "a lattice of text": (lambda s: s | {"lattice": "cubic"}, "not readable as a pymatgen Structure"),
}


@pytest.mark.parametrize("name", BAD_STRUCTURES)
def test_one_bad_crystal_is_refused_and_costs_no_other(name: str, own_server: MaterialsProjectServer) -> None:
    spoil, reason = BAD_STRUCTURES[name]
    database = project(own_server.url)
    _, refused_before = read(database, records_of(database))
    victim = next(material for material in own_server.ids if material not in refused_before)
    own_server.update(victim, summary={"structure": spoil(own_server.summaries[victim]["structure"])})
    rows, refused = read(database, records_of(database))
    assert set(refused) - set(refused_before) == {victim}
    assert reason in refused[victim]
    assert set(rows) | set(refused) == set(own_server.ids)


def test_a_left_handed_cell_is_the_same_crystal(own_server: MaterialsProjectServer) -> None:
    victim = next(name for name in own_server.ids if not is_mislabelled(name))
    structure = own_server.summaries[victim]["structure"]
    before = Structure.from_dict(structure)
    turned = structure | {
        "lattice": {"matrix": before.lattice.matrix[[1, 0, 2]].tolist(), "pbc": [True] * 3},
        "sites": [site | {"abc": [site["abc"][i] for i in (1, 0, 2)]} for site in structure["sites"]],
    }
    assert np.linalg.det(turned["lattice"]["matrix"]) < 0
    own_server.update(victim, summary={"structure": turned})
    database = project(own_server.url)
    rows, _ = read(database, records_of(database))
    lattice = np.array(rows[victim]["lattice_ang"]).reshape(3, 3)
    assert np.linalg.det(lattice) > 0
    coordinates = np.array(rows[victim]["frac_coords"]).reshape(-1, 3)
    after = Structure(lattice, rows[victim]["atomic_numbers"], coordinates)
    assert StructureMatcher(scale=False).fit(after, before)


@pytest.mark.parametrize(
    ("value", "energy"), [(None, None), ("nan", None), ("-1.5", -1.5)], ids=["null", "not a number", "a text"]
)
def test_an_energy_that_is_no_number_leaves_the_crystal(
    value: Any, energy: float | None, own_server: MaterialsProjectServer
) -> None:
    victim = next(name for name in own_server.ids if has_gga(name) and not is_mislabelled(name))
    own_server.update(victim, thermo={"energy_per_atom": value})
    database = project(own_server.url)
    rows, _ = read(database, records_of(database))
    assert rows[victim]["energy_ev_per_atom"] == energy
    assert rows[victim]["formation_energy_ev_per_atom"] is not None


def test_an_energy_of_words_is_refused(own_server: MaterialsProjectServer) -> None:
    victim = next(name for name in own_server.ids if has_gga(name) and not is_mislabelled(name))
    own_server.update(victim, thermo={"energy_per_atom": "low"})
    database = project(own_server.url)
    _, refused = read(database, records_of(database))
    assert refused[victim] == "energy_per_atom is 'low': expected a number in eV/atom or nothing"


def test_an_energy_whose_calculation_is_not_stated_is_refused(own_server: MaterialsProjectServer) -> None:
    victim = next(name for name in own_server.ids if has_gga(name) and not is_mislabelled(name))
    own_server.update(victim, thermo={"energy_type": None})
    database = project(own_server.url)
    _, refused = read(database, records_of(database))
    assert "energy_type is None" in refused[victim]
