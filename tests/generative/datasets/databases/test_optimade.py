"""OPTIMADE over HTTP: the reference implementation's client against its own server, with real crystals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from optimade.filterparser import LarkParser
from pydantic import ValidationError

from generative.crystal.crystals import Crystal
from generative.datasets.config import OptimadeSource
from generative.datasets.databases.database import Page
from generative.datasets.databases.errors import RefusedQueryError
from generative.datasets.databases.optimade_filter import filter_of_ids
from generative.datasets.records import Form, interpret
from generative.datasets.sources import SourceError
from tests.servers.faults import Edit, FaultProxy, Status
from tests.servers.loopback import Request
from tests.servers.optimade import OptimadeServer, alexandria_entry, mp_entry, structure_entry
from tests.servers.optimade_client import NOWHERE, database, is_page, pages_of, records_of, systems
from tests.servers.real import RealRecord, real_records


@pytest.fixture(scope="module")
def real() -> tuple[RealRecord, ...]:
    return real_records()


@pytest.fixture(scope="module")
def server(real: tuple[RealRecord, ...]) -> Iterator[OptimadeServer]:
    with OptimadeServer([alexandria_entry(record) for record in real]) as running:
        yield running


@pytest.fixture
def proxy(server: OptimadeServer) -> Iterator[FaultProxy]:
    with FaultProxy(server.url) as running:
        yield running
    assert running.failures == []


def test_a_thousand_real_crystals_come_over_http_as_they_are(
    server: OptimadeServer, real: tuple[RealRecord, ...]
) -> None:
    asked = database(server.url)
    pages = pages_of(asked)
    assert len(real) >= 1000
    assert [len(page.records) for page in pages] == [400, 400, 400]
    assert {page.total for page in pages} == {len(real)}
    records = {record.id: record for page in pages for record in page.records}
    assert set(records) == {record.material_id for record in real}
    for truth in real:
        raw = asked.raw_record(records[truth.material_id])
        assert raw.form is Form.CRYSTAL
        crystal: Crystal = raw.content
        np.testing.assert_array_equal(crystal.lattice_ang, truth.structure.lattice.matrix)
        assert crystal.atomic_numbers.tolist() == list(truth.structure.atomic_numbers)
        apart = crystal.frac - truth.structure.frac_coords
        # Through Cartesian coordinates and back: some rounding of numbers up to 50 A.
        np.testing.assert_allclose(apart - np.round(apart), 0.0, atol=1e-12)


def test_energies_and_symmetry_become_columns(server: OptimadeServer, real: tuple[RealRecord, ...]) -> None:
    asked = database(server.url)
    raws = (asked.raw_record(record) for record in records_of(asked))
    batches = list(interpret(raws, asked.name, asked.method, None))
    rows = {row["source_id"]: row for batch in batches for row in batch.rows.to_pylist()}
    assert sum(batch.rejected.num_rows for batch in batches) == 0
    assert len(rows) == len(real)
    for truth in real:
        row = rows[truth.material_id]
        assert row["formation_energy_ev_per_atom"] == truth.formation_energy_ev_per_atom
        assert row["e_above_hull_ev_per_atom"] == truth.e_above_hull_ev_per_atom
        assert row["band_gap_ev"] == truth.band_gap_ev
        assert row["spacegroup"] == truth.spacegroup
        assert row["energy_ev_per_atom"] == pytest.approx(-3.5, abs=1e-12)  # stated per cell
        assert row["method"] == "PBE/PBE+U (Alexandria)"
        assert row["last_modified"] == "2024-05-01T12:00:00Z"
        assert row["extra"] is not None
        assert "_alexandria_magnetization" in row["extra"]


def test_fields_of_the_provider_that_fill_no_column_are_kept_under_their_names(server: OptimadeServer) -> None:
    asked = database(server.url)
    raw = asked.raw_record(asked.page(None).records[0])
    n_atoms = len(raw.content.atomic_numbers)
    assert raw.extra == {"_alexandria_magnetization": 0.25, "_alexandria_energy_corrected": -3.5 * n_atoms}


def test_the_materials_project_s_energies_are_those_of_one_scheme(real: tuple[RealRecord, ...]) -> None:
    with OptimadeServer([mp_entry(record) for record in real[:20]], prefix="mp") as running:
        asked = database(running.url, provider="mp")
        records = records_of(asked)
    assert len(records) == 20
    for truth, record in zip(real[:20], records, strict=True):
        raw = asked.raw_record(record)
        assert raw.properties["formation_energy_ev_per_atom"][1] == truth.formation_energy_ev_per_atom
        assert raw.properties["e_above_hull_ev_per_atom"][1] == truth.e_above_hull_ev_per_atom
        assert raw.extra["_mp_stability"]["r2scan"]["energy_above_hull"] == 99.0


def test_fields_of_the_settings_come_before_the_known_ones(real: tuple[RealRecord, ...]) -> None:
    paths = {
        "e_above_hull_ev_per_atom": "_mp_stability.r2scan.energy_above_hull",
        "band_gap_ev": "_mp_stability.gga_gga+u.energy_above_hull",
    }
    with OptimadeServer([mp_entry(real[0])], prefix="mp") as running:
        asked = database(running.url, provider="mp", fields=paths, method="r2SCAN")
        raw = asked.raw_record(asked.page(None).records[0])
    assert raw.properties["e_above_hull_ev_per_atom"] == (paths["e_above_hull_ev_per_atom"], 99.0)
    assert raw.properties["band_gap_ev"][1] == real[0].e_above_hull_ev_per_atom
    assert raw.properties["formation_energy_ev_per_atom"][1] == real[0].formation_energy_ev_per_atom
    assert asked.method == "r2SCAN"


def test_a_provider_of_one_s_own_needs_an_address_and_gets_its_fields_mapped(server: OptimadeServer) -> None:
    with pytest.raises(ValidationError, match="'my-lab' is not known.*alexandria.*endpoint"):
        OptimadeSource(provider="my-lab")
    asked = database(
        server.url + "/v1/", provider="my-lab", fields={"band_gap_ev": "_alexandria_band_gap"}, page_size=1
    )
    raw = asked.raw_record(asked.page(None).records[0])
    assert (asked.name, asked.method, asked.endpoint) == ("optimade-my-lab", "unknown", server.url)
    assert isinstance(raw.properties["band_gap_ev"][1], float)
    assert "_alexandria_hull_distance" in raw.extra


def test_a_column_that_no_field_may_fill_is_refused_by_name() -> None:
    with pytest.raises(SourceError, match="'formula'.*expected one of energy_ev_per_atom"):
        database(NOWHERE, fields={"formula": "_x_formula"})


def test_any_page_can_be_asked_for_again(server: OptimadeServer) -> None:
    first = database(server.url, page_size=300).page(None)
    assert first.cursor is not None
    assert "127.0.0.1" not in first.cursor
    again = [database(server.url, page_size=300).page(first.cursor) for _ in range(2)]
    assert again[0] == again[1]
    assert not {r.id for r in first.records} & {r.id for r in again[0].records}


@pytest.mark.parametrize("shape", ["relative", "object", "other scheme"])
def test_links_to_the_next_page_may_be_relative_or_objects_or_of_another_scheme(proxy: FaultProxy, shape: str) -> None:
    shapes: dict[str, Callable[[str], Any]] = {
        "relative": lambda link: link.removeprefix(proxy.url),
        "object": lambda link: {"href": link, "meta": {}},
        "other scheme": lambda link: link.replace("http:", "https:"),
    }

    def edit(page: Any) -> Any:
        link = page["links"]["next"]
        return page | {"links": {"next": None if link is None else shapes[shape](link)}}

    proxy.spoil(is_page, Edit(edit), times=10)
    asked = database(proxy.url, page_size=40, where="nsites<=4")
    pages = pages_of(asked)
    assert len(pages) > 1
    assert len({record.id for page in pages for record in page.records}) == pages[0].total


def test_an_empty_result_is_one_empty_page(server: OptimadeServer) -> None:
    asked = database(server.url, where='elements HAS "Lr"')
    assert asked.page(None) == Page((), None, 0)
    assert asked.count() == 0
    assert list(asked.stamps()) == [{}]


def test_stamps_list_every_id_without_the_records(proxy: FaultProxy, real: tuple[RealRecord, ...]) -> None:
    elements = systems(real, 10)
    asked = database(proxy.url, elements=elements, page_size=20)
    listed = list(asked.stamps())
    truth = {r.material_id: "2024-05-01T12:00:00Z" for r in real if set(r.elements) <= set(elements)}
    assert len(listed) == -(-len(truth) // 20) > 1
    assert {name: stamp for part in listed for name, stamp in part.items()} == truth
    assert proxy.seen[-1].query["response_fields"] == "id,last_modified"


def test_records_are_fetched_by_id_and_lost_ones_left_out(server: OptimadeServer, real: tuple[RealRecord, ...]) -> None:
    asked = database(server.url)
    by_id = {record.id: record for record in asked.page(None).records}
    ids = list(by_id)[10 : 10 + asked.fetch_size - 2]
    fetched = asked.fetch([*ids, "mp-0", 'quoted " and \\ back'])
    assert {record.id: record for record in fetched} == {name: by_id[name] for name in ids}
    assert asked.fetch([]) == []


def test_ids_with_special_characters_are_found(real: tuple[RealRecord, ...]) -> None:
    names = ["e/f&g", "h i", "j+k#l", "m%20n"]
    with OptimadeServer([structure_entry(name, real[0].structure) for name in names]) as running:
        assert {record.id for record in database(running.url).fetch(names)} == set(names)


def test_quotes_in_ids_are_escaped_as_the_language_has_it() -> None:
    # The reference server compares such strings without undoing the escape, so the parser is the judge.
    text = filter_of_ids(['a "b"', "c\\d"])
    strings = [str(t) for t in LarkParser().parse(text).scan_values(lambda t: t.type == "ESCAPED_STRING")]
    assert [json.loads(string) for string in strings] == ['a "b"', "c\\d"]


def test_a_fetch_larger_than_the_server_s_pages_follows_its_links(real: tuple[RealRecord, ...]) -> None:
    entries = [alexandria_entry(record) for record in real[:25]]
    with OptimadeServer(entries) as running, FaultProxy(running.url) as limited:
        # A server may give fewer than were asked for.
        limited.spoil(is_page, SmallerPages(10), times=10)
        fetched = database(limited.url).fetch([entry["id"] for entry in entries])
    assert sorted(record.id for record in fetched) == sorted(entry["id"] for entry in entries)


class SmallerPages:
    """The upstream's page for a smaller page_limit than asked for."""

    def __init__(self, page_limit: int) -> None:
        self.page_limit = page_limit

    def happen(self, request: Request, connection: Any, ask: Callable[[str], Any]) -> None:
        connection.reply(request, ask(re.sub(r"page_limit=\d+", f"page_limit={self.page_limit}", request.path)))


def test_changed_new_and_removed_records_show_in_stamps(real: tuple[RealRecord, ...]) -> None:
    with OptimadeServer([alexandria_entry(record) for record in real[:5]]) as running:
        asked = database(running.url)
        (before,), version = asked.stamps(), asked.version()
        running.replace(alexandria_entry(real[0]) | {"last_modified": "2026-01-01T00:00:00Z"})
        running.replace(alexandria_entry(real[9]))
        running.remove(real[1].material_id)
        running.remove(real[2].material_id)
        (after,) = asked.stamps()
        assert before.keys() - after.keys() == {real[1].material_id, real[2].material_id}
        assert after.keys() - before.keys() == {real[9].material_id}
        assert [name for name in before.keys() & after.keys() if before[name] != after[name]] == [real[0].material_id]
        assert version != asked.version()


def test_the_version_names_the_software_and_the_number_of_structures(server: OptimadeServer) -> None:
    from optimade import __version__

    assert database(server.url).version() == f"software {__version__}, structures 1200"


def test_a_version_of_the_database_is_told_where_there_is_one(proxy: FaultProxy) -> None:
    def edit(page: Any) -> Any:
        page["meta"] = {"api_version": "1.2.0", "database": {"id": "main", "version": "2026.10"}}
        return page

    proxy.spoil(is_page, Edit(edit))
    assert database(proxy.url).version() == "database 2026.10"


def test_nothing_is_printed(proxy: FaultProxy, capfd: pytest.CaptureFixture[str]) -> None:
    asked = database(proxy.url, page_size=3)
    asked.page(None)
    proxy.spoil(is_page, Status(400))
    with pytest.raises(RefusedQueryError):
        asked.page(None)
    assert capfd.readouterr() == ("", "")
