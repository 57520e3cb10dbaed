"""The Materials Project through the real client, against a server on loopback that holds real crystals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.structure import Structure

from generative.datasets.config import FilterConfig
from generative.datasets.databases.database import Record
from generative.datasets.databases.errors import (
    RefusedQueryError,
)
from generative.datasets.records import Form, interpret
from generative.datasets.sources import SourceError
from tests.servers.materials_project import (
    GGA,
    KEY,
    MIXED,
    R2SCAN,
    R2SCAN_SHIFT_EV,
    MaterialsProjectServer,
    gga_energy_ev_per_atom,
    gga_run_type,
    has_gga,
    has_r2scan,
    id_number,
    is_deprecated,
    is_mislabelled,
)
from tests.servers.materials_project_client import project, read, records_of
from tests.servers.real import RealRecord, real_records


@pytest.fixture(scope="module")
def server() -> Iterator[MaterialsProjectServer]:
    with MaterialsProjectServer() as running:
        yield running
        assert running.errors == []


@pytest.fixture(scope="module")
def real() -> dict[str, RealRecord]:
    return {record.material_id: record for record in real_records() if not is_deprecated(record.material_id)}


@pytest.fixture(scope="module")
def downloaded(server: MaterialsProjectServer) -> dict[str, list[Record]]:
    return {scheme: records_of(project(server.url, thermo_type=scheme)) for scheme in (GGA, R2SCAN, MIXED)}


@pytest.fixture(scope="module")
def gga(server: MaterialsProjectServer, downloaded: dict[str, list[Record]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Rows and reasons of refusal of the GGA scheme, by id."""
    return read(project(server.url), downloaded[GGA])


@pytest.fixture
def own_server() -> Iterator[MaterialsProjectServer]:
    with MaterialsProjectServer(120) as running:
        yield running
        assert running.errors == []


# Content


def test_a_thousand_crystals_come_as_the_database_holds_them(
    server: MaterialsProjectServer, downloaded: dict[str, list[Record]], real: dict[str, RealRecord]
) -> None:
    database = project(server.url)
    assert len(real) > 1000
    assert [record.id for record in downloaded[GGA]] == sorted(real)
    for record in downloaded[GGA]:
        raw = database.raw_record(record)
        if raw.form is Form.REFUSED:
            continue
        came, held = Structure.from_dict(raw.content), real[record.id].structure
        assert came.species == held.species
        np.testing.assert_array_equal(came.lattice.matrix, held.lattice.matrix)
        np.testing.assert_array_equal(came.frac_coords, held.frac_coords)


def test_rows_hold_the_same_crystals_and_properties_as_the_database(
    gga: tuple[dict[str, Any], dict[str, str]], real: dict[str, RealRecord]
) -> None:
    rows, refused = gga
    assert set(rows) == set(real) - set(refused)
    matcher = StructureMatcher(scale=False)
    for number, (name, row) in enumerate(rows.items()):
        held = real[name]
        assert row["formula"] == held.structure.composition.reduced_formula
        assert (row["spacegroup"], row["band_gap_ev"]) == (held.spacegroup, held.band_gap_ev)
        assert row["extra"] is not None
        assert f'"structure_task_id":"mp-{id_number(name) + 2}"' in row["extra"]
        if has_gga(name):
            assert row["energy_ev_per_atom"] == gga_energy_ev_per_atom(held)
            assert row["formation_energy_ev_per_atom"] == held.formation_energy_ev_per_atom
            assert row["e_above_hull_ev_per_atom"] == held.e_above_hull_ev_per_atom
            assert row["last_modified"].startswith("2025-04-")
        if number % 20 == 0:
            lattice = np.array(row["lattice_ang"]).reshape(3, 3)
            crystal = Structure(lattice, row["atomic_numbers"], np.array(row["frac_coords"]).reshape(-1, 3))
            assert matcher.fit(crystal, held.structure)


def test_a_material_without_energies_of_the_scheme_is_still_a_crystal(
    gga: tuple[dict[str, Any], dict[str, str]], real: dict[str, RealRecord]
) -> None:
    rows, _ = gga
    without = {name for name in real if not has_gga(name)}
    assert len(without) > 50
    for name in without:
        energies = ("energy_ev_per_atom", "formation_energy_ev_per_atom", "e_above_hull_ev_per_atom", "run_type")
        assert [rows[name][column] for column in energies] == [None] * 4


# Paging


def test_pages_of_any_size_bring_the_same_records(
    server: MaterialsProjectServer, downloaded: dict[str, list[Record]]
) -> None:
    assert records_of(project(server.url, page_size=1000)) == downloaded[GGA]
    binary = records_of(project(server.url, page_size=30, filters=FilterConfig(n_elements_max=2)))
    assert binary == [r for r in downloaded[GGA] if len(r.body["summary"]["elements"]) <= 2]


def test_any_page_may_be_asked_for_at_any_time(
    server: MaterialsProjectServer, downloaded: dict[str, list[Record]]
) -> None:
    page = project(server.url, page_size=100).page("300")
    assert list(page.records) == downloaded[GGA][300:400]
    assert (page.cursor, page.total) == ("400", len(downloaded[GGA]))


def test_no_address_is_longer_than_servers_take(server: MaterialsProjectServer) -> None:
    first = len(server.seen)
    database = project(server.url, page_size=1000, elements=("B", "C", "N", "O", "Si", "Ti", "Ta"))
    records_of(database)
    list(database.stamps())
    assert max(len(request.path) for request in server.seen[first:]) < 4000


def test_the_count_is_that_of_the_records(server: MaterialsProjectServer, downloaded: dict[str, list[Record]]) -> None:
    first = len(server.seen)
    assert project(server.url).count() == len(downloaded[GGA])
    assert len(server.seen) - first == 1


# Filters that are sent along

OXIDES = ("Ti", "O", "Al", "Fe", "Cu", "S")
Test = Callable[[RealRecord], bool]
FILTERED: dict[str, tuple[dict[str, Any], Test]] = {
    "chemical system": ({"elements": OXIDES}, lambda r: set(r.elements) <= set(OXIDES)),
    "elements of run and filters": (
        {"elements": OXIDES, "filters": FilterConfig(elements=("S", "Fe", "Cu", "Se"))},
        lambda r: set(r.elements) <= {"Fe", "Cu", "S"},
    ),
    "number of elements in a system": (
        {"elements": OXIDES, "filters": FilterConfig(n_elements_min=2, n_elements_max=2)},
        lambda r: set(r.elements) <= set(OXIDES) and len(r.elements) == 2,
    ),
    "number of elements": ({"filters": FilterConfig(n_elements_max=2)}, lambda r: len(r.elements) <= 2),
    "formulas": (
        {"filters": FilterConfig(formulas=("TiO2", "O2Ti", "GaTe", "ScAl"))},
        lambda r: r.structure.composition.reduced_formula in ("TiO2", "GaTe", "ScAl"),
    ),
    "cell sizes": ({"n_sites_min": 3, "n_sites_max": 5}, lambda r: 3 <= len(r.structure) <= 5),
    "conditions of one's own": (
        {"where": "is_metal=true&volume_max=80"},
        lambda r: r.band_gap_ev == 0 and r.structure.volume <= 80,
    ),
    "energy above hull of the mixed scheme": (
        {"filters": FilterConfig(e_above_hull_max_ev_per_atom=0.02), "thermo_type": MIXED},
        lambda r: r.e_above_hull_ev_per_atom + 0.01 * has_r2scan(r.material_id) <= 0.02,
    ),
}


@pytest.mark.parametrize("name", FILTERED)
def test_a_filter_sent_along_brings_what_filtering_all_records_would(
    name: str, server: MaterialsProjectServer, real: dict[str, RealRecord]
) -> None:
    settings, test = FILTERED[name]
    wanted = sorted(name for name, record in real.items() if test(record))
    database = project(server.url, **settings)
    assert 0 < len(wanted) < len(real)
    assert [record.id for record in records_of(database)] == wanted
    assert database.count() == len(wanted)
    assert [name for part in database.stamps() for name in part] == wanted


def test_the_summarys_energy_above_hull_filters_no_other_scheme(
    server: MaterialsProjectServer, downloaded: dict[str, list[Record]]
) -> None:
    database = project(server.url, filters=FilterConfig(e_above_hull_max_ev_per_atom=0.02))
    assert database.count() == len(downloaded[GGA])
    assert "energy above hull" in database.query.split(";")[1]


def test_a_system_too_large_for_an_address_is_filtered_afterwards(server: MaterialsProjectServer) -> None:
    elements = ("Al", "B", "C", "Cu", "Fe", "N", "O", "S", "Si", "Ta", "Ti", "W")
    database = project(server.url, elements=elements, n_sites_max=4)
    records = records_of(database)
    raw = (database.raw_record(record) for record in records)
    batches = list(interpret(raw, database.name, database.method, elements))
    rows = [row for batch in batches for row in batch.rows["chemsys"].to_pylist()]
    assert "chemsys=" not in database.query
    assert "Al-B-C-Cu-Fe-N-O-S-Si-Ta-Ti-W is filtered after the download" in database.query
    assert 0 < len(rows) < len(records)
    assert all(set(system.split("-")) <= set(elements) for system in rows)


def test_the_query_says_what_is_asked() -> None:
    filters = FilterConfig(n_elements_min=2, formulas=("TaB2",))
    database = project(
        "http://127.0.0.1:1", elements=("Ta", "B"), filters=filters, n_sites_max=8, where="is_metal=true"
    )
    assert database.query == (
        "summary?deprecated=False&chemsys=B-Ta&formula=TaB2&nsites_max=8&is_metal=true "
        "with thermo?thermo_types=GGA_GGA+U"
    )


@pytest.mark.parametrize(
    "where",
    ["band_gap_min", "_limit=5", "_fields=structure", "api_key=" + KEY, "X-API-KEY=1", "deprecated=true", "a=1&a=2"],
)
def test_a_condition_that_is_none_is_refused_before_anything_is_asked(where: str) -> None:
    with pytest.raises(SourceError, match="where") as caught:
        project("http://127.0.0.1:1", where=where)
    assert KEY not in str(caught.value)


def test_a_key_pasted_into_a_condition_is_refused_unseen() -> None:
    with pytest.raises(SourceError, match="contains the API key") as caught:
        project("http://127.0.0.1:1", where="formula=" + KEY)
    assert KEY not in str(caught.value)


def test_a_condition_the_database_does_not_know_is_its_refusal(server: MaterialsProjectServer) -> None:
    with pytest.raises(RefusedQueryError, match="band_gpa_min"):
        project(server.url, where="band_gpa_min=1").page(None)


def test_elements_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(SourceError, match="0 in common"):
        project("http://127.0.0.1:1", elements=("Ta", "B"), filters=FilterConfig(elements=("O",)))


# Schemes of energies


def test_an_energy_of_another_calculation_is_refused_in_the_gga_scheme(
    gga: tuple[dict[str, Any], dict[str, str]], real: dict[str, RealRecord]
) -> None:
    rows, refused = gga
    assert set(refused) == {name for name in real if is_mislabelled(name)}
    assert len(refused) > 20
    assert all("energy_type is 'r2SCAN': expected GGA or GGA+U" in reason for reason in refused.values())
    assert {name: row["run_type"] for name, row in rows.items() if has_gga(name)} == {
        name: gga_run_type(real[name].elements) for name in rows if has_gga(name)
    }


def test_the_r2scan_scheme_has_r2scan_energies_only(
    server: MaterialsProjectServer, downloaded: dict[str, list[Record]], real: dict[str, RealRecord]
) -> None:
    rows, refused = read(project(server.url, thermo_type=R2SCAN), downloaded[R2SCAN])
    assert refused == {}
    energies = {name: row["energy_ev_per_atom"] for name, row in rows.items() if row["energy_ev_per_atom"] is not None}
    assert energies == {n: gga_energy_ev_per_atom(real[n]) + R2SCAN_SHIFT_EV for n in real if has_r2scan(n)}
    assert {rows[name]["run_type"] for name in energies} == {"r2SCAN"}
    assert {row["method"] for row in rows.values()} == {"r2SCAN (Materials Project)"}


def test_the_mixed_scheme_says_of_each_row_which_calculation_it_is(
    server: MaterialsProjectServer, downloaded: dict[str, list[Record]], real: dict[str, RealRecord]
) -> None:
    rows, refused = read(project(server.url, thermo_type=MIXED), downloaded[MIXED])
    assert refused == {}
    assert {name: row["run_type"] for name, row in rows.items()} == {
        name: "r2SCAN" if has_r2scan(name) else gga_run_type(record.elements) for name, record in real.items()
    }


def test_documents_may_spell_r2scan_either_way(own_server: MaterialsProjectServer) -> None:
    before = records_of(project(own_server.url, thermo_type=R2SCAN))
    own_server.thermos = {
        key: {**thermo, "thermo_type": "r2SCAN"} if key[1] == R2SCAN else thermo
        for key, thermo in own_server.thermos.items()
    }
    database = project(own_server.url, thermo_type=R2SCAN)
    rows, refused = read(database, records_of(database))
    assert refused == {}
    assert sum(row["energy_ev_per_atom"] is not None for row in rows.values()) == sum(
        record.body["thermo"] is not None for record in before
    )


def test_a_document_of_another_scheme_than_asked_for_is_refused(downloaded: dict[str, list[Record]]) -> None:
    rows, refused = read(project("http://127.0.0.1:1", thermo_type=GGA), downloaded[MIXED])
    assert rows == {}
    assert all("thermo_type is 'GGA_GGA+U_R2SCAN': expected 'GGA_GGA+U'" in reason for reason in refused.values())


# Release, stamps, records by id


def test_the_release_is_asked_anew_each_time(own_server: MaterialsProjectServer) -> None:
    database = project(own_server.url)
    assert database.version() == "2026.11.05"
    own_server.version = "2026.12.01"
    assert database.version() == "2026.12.01"


def test_listed_stamps_are_those_of_the_records(
    server: MaterialsProjectServer, downloaded: dict[str, list[Record]]
) -> None:
    stamps = {name: stamp for part in project(server.url).stamps() for name, stamp in part.items()}
    assert stamps == {record.id: record.stamp for record in downloaded[GGA]}


def test_a_change_of_crystal_or_energy_shows_in_the_stamp_and_comes_by_id(own_server: MaterialsProjectServer) -> None:
    database = project(own_server.url)
    before = {record.id: record for record in records_of(database)}
    with_gga = [name for name in before if has_gga(name)]
    crystal, energy, gone, untouched = with_gga[0], with_gga[1], with_gga[2], with_gga[3]
    own_server.update(crystal, summary={"band_gap": 9.5})
    own_server.update(energy, thermo={"energy_per_atom": -99.0})
    own_server.remove(gone)
    own_server.copy(untouched, "mp-999999")
    stamps = {name: stamp for part in database.stamps() for name, stamp in part.items()}
    assert {name for name in stamps if name not in before or stamps[name] != before[name].stamp} == {
        crystal,
        energy,
        "mp-999999",
    }
    assert set(before) - set(stamps) == {gone}
    fetched = {record.id: record for record in database.fetch([crystal, energy, gone, "mp-999999"])}
    assert set(fetched) == {crystal, energy, "mp-999999"}
    assert fetched[crystal].body["summary"]["band_gap"] == 9.5
    assert fetched[energy].body["thermo"]["energy_per_atom"] == -99.0
    assert {name: record.stamp for name, record in fetched.items()} == {name: stamps[name] for name in fetched}


def test_as_many_ids_as_may_be_fetched_at_once_can_be(
    server: MaterialsProjectServer, downloaded: dict[str, list[Record]]
) -> None:
    database = project(server.url)
    wanted = downloaded[GGA][500 : 500 + database.fetch_size]
    fetched = database.fetch([record.id for record in wanted])
    assert sorted(fetched, key=lambda record: record.id) == wanted


def test_records_are_read_without_key_and_network(downloaded: dict[str, list[Record]]) -> None:
    database = project("http://127.0.0.1:1", key=None)
    assert database.raw_record(downloaded[GGA][0]).source_id == downloaded[GGA][0].id


def test_a_database_given_back_can_be_asked_and_given_back_again(own_server: MaterialsProjectServer) -> None:
    database = project(own_server.url)
    before = records_of(database)
    database.close()
    assert records_of(database) == before
    assert own_server._server._open
    database.close()
    deadline_s = time.monotonic() + 10
    while own_server._server._open and time.monotonic() < deadline_s:
        time.sleep(0.01)  # the server's threads see the end of a connection a moment later
    assert not own_server._server._open
