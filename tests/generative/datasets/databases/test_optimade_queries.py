"""Settings as OPTIMADE queries, over HTTP: what the server finds is what a search through all crystals finds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pymatgen.core.structure import Structure

from generative.datasets.config import FilterConfig
from generative.datasets.databases.errors import RefusedQueryError
from generative.datasets.databases.optimade import UNMAPPED_FIELDS_MAX
from tests.servers.faults import Edit, FaultProxy, Status
from tests.servers.optimade import OptimadeServer, alexandria_entry, structure_entry
from tests.servers.optimade_client import NOWHERE, database, ids_of, systems
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


@pytest.mark.parametrize("n_elements", [2, 3, 6, 7, 12])
def test_a_chemical_system_gives_what_a_search_through_all_crystals_gives(
    server: OptimadeServer, real: tuple[RealRecord, ...], n_elements: int
) -> None:
    elements = systems(real, n_elements)
    truth = {record.material_id for record in real if set(record.elements) <= set(elements)}
    asked = database(server.url, elements=elements)
    assert truth
    assert ids_of(asked) == truth
    assert asked.count() == len(truth)


def test_single_elements_of_a_system_belong_to_it() -> None:
    cells = {
        symbol: Structure([[3, 0, 0], [0, 3, 0], [0, 0, 3]], [symbol], [[0, 0, 0]]) for symbol in ("Cu", "Fe", "W")
    }
    with OptimadeServer([structure_entry(symbol, cell) for symbol, cell in cells.items()]) as running:
        assert ids_of(database(running.url, elements=("Fe", "W"))) == {"Fe", "W"}
        assert ids_of(database(running.url, elements=("W",))) == {"W"}
        assert ids_of(database(running.url, FilterConfig(n_elements_max=1), elements=("Cu", "O"))) == {"Cu"}


@pytest.mark.parametrize("n_elements", [5, 9])
@pytest.mark.parametrize(("low", "high"), [(2, 2), (2, 10), (1, 2), (3, 3)])
def test_bounds_on_the_number_of_elements_hold_within_a_system(
    server: OptimadeServer, real: tuple[RealRecord, ...], n_elements: int, low: int, high: int
) -> None:
    elements = systems(real, n_elements)
    truth = {r.material_id for r in real if set(r.elements) <= set(elements) and low <= len(r.elements) <= high}
    filters = FilterConfig(n_elements_min=low, n_elements_max=high)
    assert truth
    assert ids_of(database(server.url, filters, elements)) == truth


def test_bounds_without_a_system_are_sent_too(server: OptimadeServer, real: tuple[RealRecord, ...]) -> None:
    filters = FilterConfig(n_elements_min=2, n_elements_max=2)
    asked = database(server.url, filters, n_sites_min=4, n_sites_max=6)
    truth = {r.material_id for r in real if len(r.elements) == 2 and 4 <= len(r.structure) <= 6}
    assert 0 < len(truth) < len(real)
    assert ids_of(asked) == truth


def test_the_run_s_system_and_the_filters_elements_both_hold(
    server: OptimadeServer, real: tuple[RealRecord, ...]
) -> None:
    first, second = systems(real, 5), systems(real, 8)[2:]
    truth = {r.material_id for r in real if set(r.elements) <= set(first) & set(second)}
    assert truth
    assert ids_of(database(server.url, FilterConfig(elements=second), first)) == truth


def test_formulas_match_however_they_are_written(server: OptimadeServer, real: tuple[RealRecord, ...]) -> None:
    chosen = [record.structure.composition for record in real[:400:40]]
    # Reversed and doubled: the standard's spelling is alphabetic and reduced, whatever the settings say.
    spelled = ["".join(f"{e}{int(2 * n)}" for e, n in reversed(list(c.items()))) for c in chosen]
    wanted = {composition.reduced_formula for composition in chosen}
    truth = {record.material_id for record in real if record.structure.composition.reduced_formula in wanted}
    assert len(truth) >= len(chosen)
    assert ids_of(database(server.url, FilterConfig(formulas=tuple(spelled)))) == truth


def test_a_formula_of_one_element_is_reduced_to_its_symbol() -> None:
    asked = database(NOWHERE, FilterConfig(formulas=("O2", "Ti2O4")))
    assert '(chemical_formula_reduced="O" OR chemical_formula_reduced="O2Ti")' in asked.query


def test_a_further_condition_joins_the_others_by_and(server: OptimadeServer, real: tuple[RealRecord, ...]) -> None:
    elements = systems(real, 6)
    where = 'elements HAS "O" OR nsites=2'  # without parentheses its OR would reach beyond it
    truth = {
        record.material_id
        for record in real
        if set(record.elements) <= set(elements) and ("O" in record.elements or len(record.structure) == 2)
    }
    assert truth
    assert ids_of(database(server.url, elements=elements, where=where)) == truth


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ("nelements==2", "at character 11"),
        ("nelements=2 AND", "at its end"),
        ("nelements=2) OR (nelements=3", "at character 12"),
        ("  ", "at its end"),
    ],
)
def test_a_condition_not_in_the_language_is_refused_with_its_place_before_anything_is_asked(
    proxy: FaultProxy, where: str, place: str
) -> None:
    with pytest.raises(RefusedQueryError, match=place):
        database(proxy.url, where=where)
    assert proxy.seen == []


@pytest.mark.parametrize(
    ("filters", "elements", "said"),
    [
        (FilterConfig(elements=("Al",)), ("Ta", "W"), "share no element"),
        (FilterConfig(n_elements_min=3), ("Ta", "W"), "nothing can match"),
    ],
)
def test_what_nothing_can_match_is_refused(filters: FilterConfig, elements: tuple[str, ...] | None, said: str) -> None:
    with pytest.raises(RefusedQueryError, match=said):
        database(NOWHERE, filters, elements)


def test_special_characters_of_addresses_reach_the_server_as_they_are(proxy: FaultProxy) -> None:
    where = 'chemical_formula_descriptive="a&b#c+d%20e"'
    assert database(proxy.url, where=where).page(None).records == ()
    assert proxy.seen[-1].query["filter"] == f"({where})"


def test_pages_are_sorted_where_the_server_says_it_can(proxy: FaultProxy) -> None:
    def unsortable(info: Any) -> Any:
        info["data"]["properties"]["id"]["sortable"] = False
        return info

    database(proxy.url, page_size=2).page(None)
    assert proxy.seen[-1].query["sort"] == "id"
    proxy.spoil(lambda request: "/info/" in request.path, Edit(unsortable))
    database(proxy.url, page_size=2).page(None)
    assert "sort" not in proxy.seen[-1].query


def test_unmapped_fields_are_asked_for_up_to_a_bound_and_only_simple_ones(proxy: FaultProxy) -> None:
    def many(info: Any) -> Any:
        info["data"]["properties"] |= {f"_x_{i:03}": {"type": "float"} for i in range(300)}
        info["data"]["properties"] |= {"_a_list": {"type": "list"}, "_a_none": {}}
        return info

    proxy.spoil(lambda request: "/info/" in request.path, Edit(many))
    database(proxy.url, page_size=2).page(None)
    fields = proxy.seen[-1].query["response_fields"].split(",")
    assert len(fields) == len(set(fields))
    assert not {"_a_list", "_a_none"} & set(fields)
    mapped = 5
    own = [name for name in fields if name.startswith("_")]
    assert mapped < len(own) <= UNMAPPED_FIELDS_MAX + mapped


def test_without_a_list_of_fields_the_known_ones_are_asked_for(proxy: FaultProxy) -> None:
    proxy.spoil(lambda request: "/info/" in request.path, Status(404))
    asked = database(proxy.url)
    raw = asked.raw_record(asked.page(None).records[0])
    assert raw.properties["band_gap_ev"][1] is not None
    assert sum("/info/" in request.path for request in proxy.seen) == 1
