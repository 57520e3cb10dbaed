from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from generative.datasets.config import AflowSource, FilterConfig
from generative.datasets.databases import aflow
from generative.datasets.databases.aflow import Aflow
from generative.datasets.databases.aflow_query import legs, parse_where
from generative.datasets.databases.errors import (
    EndlessReplyError,
)
from generative.datasets.records import Form, interpret
from generative.datasets.sources import SourceError
from tests.servers.aflux import (
    Aflux,
    Entry,
    asked,
    database,
    download,
    ids,
    real_entries,
    structure_of,
    walk,
)


@dataclass
class Listing:
    """Stands in for Access: a server of n records that sends plain lists, in memory."""

    n: int
    requests: list[str] = field(default_factory=list)

    def get_json(self, url: str, headers: Any = None) -> Any:
        self.requests.append(url)
        number, size = map(int, re.findall(r"\$paging\((\d+),(\d+)\)", url)[0])
        return [{"auid": f"aflow:{k:016x}"} for k in range(self.n)[(number - 1) * size : number * size]]


@pytest.mark.parametrize("form", ["list", "dictionary", "text"])
def test_every_crystal_and_energy_arrives_as_the_server_holds_it(form: Any) -> None:
    entries = real_entries()
    assert len(entries) >= 1000
    with Aflux(entries, form) as server:
        source = database(server.endpoint)
        records = download(source)
    assert set(records) == ids(entries)
    for entry in entries:
        raw = source.raw_record(records[entry["auid"]])
        assert (raw.form, raw.reason) == (Form.CRYSTAL, "")
        truth = structure_of(entry)
        np.testing.assert_allclose(raw.content.lattice_ang, truth.lattice.matrix, atol=1e-9)
        apart = raw.content.frac - truth.frac_coords
        np.testing.assert_allclose(apart - np.round(apart), 0, atol=1e-9)
        assert raw.content.atomic_numbers.tolist() == list(truth.atomic_numbers)
        assert raw.content.frac.min() >= 0
        assert raw.content.frac.max() < 1
        assert raw.elements == set(entry["species"])


def test_the_table_holds_what_the_entries_state() -> None:
    entries = {entry["auid"]: entry for entry in real_entries()[:300]}
    with Aflux(list(entries.values()), "text") as server:
        source = database(server.endpoint)
        raws = [source.raw_record(record) for record in download(source).values()]
    batches = list(interpret(iter(raws), source.name, source.method, None))
    assert sum(len(batch.rejected) for batch in batches) == 0
    rows = {row["source_id"]: row for batch in batches for row in batch.rows.to_pylist()}
    assert set(rows) == set(entries)
    for auid, entry in entries.items():
        row = rows[auid]
        assert row["energy_ev_per_atom"] == entry["energy_atom"]
        assert row["formation_energy_ev_per_atom"] == entry["enthalpy_formation_atom"]
        assert row["band_gap_ev"] == entry["Egap"]
        assert row["spacegroup"] == entry["spacegroup_relax"]
        assert row["formula"] == structure_of(entry).composition.reduced_formula
        assert row["method"] == ("PBE+U (AFLOW)" if entry["ldau_type"] else "PBE (AFLOW)")


def test_a_record_says_its_calculation_its_date_and_where_it_lies() -> None:
    plus_u = next(entry for entry in real_entries() if entry["ldau_type"] and isinstance(entry["aflowlib_date"], list))
    with Aflux([plus_u]) as server:
        (record,) = download(database(server.endpoint)).values()
    raw = database(server.endpoint).raw_record(record)
    assert raw.run_type == "PAW_PBE+U"
    assert raw.last_modified == record.stamp == plus_u["aflowlib_date"][-1]
    expected = (
        "aurl",
        "catalog",
        "compound",
        "dft_type",
        "ldau_TLUJ",
        "ldau_type",
        "Pearson_symbol_relax",
        "volume_cell",
    )
    assert dict(raw.extra) == {name: plus_u[name] for name in expected}


def test_the_query_is_readable_orders_by_id_and_never_asks_for_page_zero() -> None:
    filters = FilterConfig(n_elements_max=2)
    settings = {"n_sites_min": 4, "n_sites_max": 60, "catalogs": ("ICSD", "LIB2"), "where": "Egap(0.5*,*2)"}
    with Aflux(real_entries()) as server:
        source = database(server.endpoint, ("W", "Ta"), filters, **settings)
        download(source)
        source.count()
        list(source.stamps())
        source.fetch(["aflow:0123456789abcdef"])
    assert server.errors == []
    for request in server.seen:
        query = request.path.split("?", 1)[1]
        assert query.startswith("auid")
        assert "$paging(" in query
        assert "$paging(0" not in query
        assert query.endswith("$format(json)")
    first = asked(server)[0]
    for part in (
        "species(Ta)",
        "nspecies(1)",
        "natoms(4*,*60)",
        "catalog('ICSD':'LIB2')",
        "Egap(0.5*,*2)",
        "$paging(1,400)",
    ):
        assert f",{part}," in first
    for part in ("species(Ta),nspecies(1)", "species(Ta,W),nspecies(2)", "natoms(4*,*60)", "catalog('ICSD':'LIB2')"):
        assert part in source.query
    assert server.endpoint not in source.query


def test_the_address_is_aflows_own_unless_another_is_set() -> None:
    listing = Listing(0)
    Aflow(AflowSource(), FilterConfig(), None, listing).page(None)  # type: ignore[arg-type]
    assert listing.requests[0].startswith("https://aflow.org/API/aflux/?auid,nspecies(1*,*10),aurl,")


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize(("low", "high"), [(1, 10), (2, 3), (4, 4)])
def test_the_legs_are_exactly_the_subsets(n: int, low: int, high: int) -> None:
    system = ("Ta", "B", "W", "O", "Al", "Fe", "C")[:n]
    masks = ({e for k, e in enumerate(system) if mask >> k & 1} for mask in range(1, 2**n))
    truth = {f"species({','.join(sorted(s))}),nspecies({len(s)})" for s in masks if low <= len(s) <= high}
    found = [",".join(leg.values()) for leg in legs(FilterConfig(n_elements_min=low, n_elements_max=high), system)]
    assert set(found) == truth
    assert len(found) == len(truth)


def test_the_order_of_the_elements_does_not_change_the_query() -> None:
    assert legs(FilterConfig(), ("Ta", "B", "W")) == legs(FilterConfig(elements=("W", "Ta", "B")), None)


def test_too_many_subsets_are_refused_with_a_remedy() -> None:
    everything = ("H", "He", "Li", "Be", "B", "C", "N", "O")
    with pytest.raises(
        SourceError, match=r"255 sets of elements apart: expected at most 127; lower filters\.n_elements"
    ):
        legs(FilterConfig(), everything)
    assert len(legs(FilterConfig(n_elements_max=3), everything)) == 8 + 28 + 56


@pytest.mark.parametrize("system", [("F", "O", "V"), ("Li", "Mn", "O", "F"), ("Mg", "Y", "Li", "Cu", "Te")])
def test_a_chemical_system_brings_its_crystals_and_no_others(system: tuple[str, ...]) -> None:
    entries = real_entries()
    truth = ids(entry for entry in entries if set(entry["species"]) <= set(system))
    with Aflux(entries) as server:
        source = database(server.endpoint, system, page_size=3)
        pages = list(walk(source))
        assert source.count() == len(truth)
    found = [record.id for page in pages for record in page.records]
    assert sorted(found) == sorted(truth)
    assert truth
    assert pages[-1].total == len(truth)


def passes(entry: Entry, name: str) -> bool:
    return {
        "n_elements": len(entry["species"]) == 2,
        "n_sites": 4 <= entry["natoms"] <= 6,
        "n_sites_min": entry["natoms"] >= 12,
        "catalogs": entry["catalog"] in ("ICSD", "LIB2"),
        "where": 1 <= entry["Egap"] <= 3 and entry["spacegroup_relax"] not in (225, 12),
    }[name]


@pytest.mark.parametrize(
    ("name", "filters", "settings"),
    [
        ("n_elements", {"n_elements_min": 2, "n_elements_max": 2}, {}),
        ("n_sites", {}, {"n_sites_min": 4, "n_sites_max": 6}),
        ("n_sites_min", {}, {"n_sites_min": 12}),
        ("catalogs", {}, {"catalogs": ("ICSD", "LIB2")}),
        ("where", {}, {"where": "Egap(1*,*3), !spacegroup_relax(225:12)"}),
    ],
)
def test_what_is_asked_for_equals_a_filter_over_all(name: str, filters: Any, settings: Any) -> None:
    entries = real_entries()
    truth = ids(entry for entry in entries if passes(entry, name))
    with Aflux(entries) as server:
        source = database(server.endpoint, None, FilterConfig(**filters), **settings)
        assert set(download(source)) == truth
        assert source.count() == len(truth)
    assert 0 < len(truth) < len(entries)


def test_formulas_are_asked_for_by_their_elements() -> None:
    entries = real_entries()
    formulas = sorted({structure_of(entry).composition.reduced_formula for entry in entries[:40]})[:8]
    wanted = ids(e for e in entries if structure_of(e).composition.reduced_formula in formulas)
    with Aflux(entries) as server:
        source = database(server.endpoint, None, FilterConfig(formulas=tuple(formulas)))
        found = download(source)
    assert wanted <= set(found)
    systems = {frozenset(e["species"]) for e in entries if e["auid"] in wanted}
    assert set(found) == ids(e for e in entries if frozenset(e["species"]) in systems)


def test_formulas_outside_the_chemical_system_cost_no_request() -> None:
    with Aflux([]) as server:
        source = database(server.endpoint, ("Ta", "B"), FilterConfig(formulas=("TiO2",)))
        page = source.page(None)
        assert (page.records, page.cursor, page.total, source.count()) == ((), None, 0, 0)
        assert list(source.stamps()) == []
        assert server.seen == []


@pytest.mark.parametrize(
    ("where", "keywords"),
    [
        ("", []),
        ("  ", []),
        ("Egap(1*,*2)", ["Egap"]),
        ("prototype, !Egap(0), ldau_type(*)", ["prototype", "Egap", "ldau_type"]),
        ("compound('a,(b:c'),spacegroup_relax((225:227),!226)", ["compound", "spacegroup_relax"]),
    ],
)
def test_further_conditions_are_read_by_keyword(where: str, keywords: list[str]) -> None:
    assert list(parse_where(where)) == keywords


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("Egap(1*),$paging(0)", r"contains '\$'"),
        ("paging(0)", "the directive 'paging'"),
        ("Egap(1*),FORMAT(html)", "the directive 'FORMAT'"),
        ("Egap(1*", "balanced parentheses"),
        ("Egap)1*(", "balanced parentheses"),
        ("compound('Ta", "balanced parentheses and quotes"),
        ("Egap(1*):catalog(ICSD)", "contains ':'"),
        ("Egap(1*),Egap(*2)", "names 'Egap' twice"),
        ("Egap(1*),,catalog", "contains ''"),
        ("Egap > 1", "contains 'Egap > 1'"),
    ],
)
def test_a_condition_that_is_none_is_refused(where: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        parse_where(where)


@pytest.mark.parametrize("where", ["auid('aflow:1')", "species(O)", "nspecies(3)", "natoms(2)", "catalog(LIB3)"])
def test_one_keyword_never_has_two_conditions(where: str) -> None:
    with pytest.raises(SourceError, match=f"where restricts '{where.split('(')[0]}', which Hullward asks for itself"):
        database("http://127.0.0.1:1/", ("Ta", "W"), where=where, n_sites_min=2, catalogs=("ICSD",))


def test_a_field_asked_for_besides_is_kept_with_the_record() -> None:
    entry = real_entries()[0] | {"prototype": "AB_cF8_225_a_b"}
    with Aflux([entry]) as server:
        source = database(server.endpoint, where="prototype")
        (record,) = download(source).values()
    assert source.raw_record(record).extra["prototype"] == "AB_cF8_225_a_b"


def test_a_count_found_by_probing_is_right_for_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aflow, "COUNTING_PAGE", 4)
    for n in [*range(70), 1023, 1024, 1025, 10**6, 10**6 + 3]:
        listing = Listing(n)
        source = Aflow(AflowSource(), FilterConfig(), None, listing)  # type: ignore[arg-type]
        assert source.count() == n
        assert len(listing.requests) <= 3 + 2 * math.log2(max(1, n / 4))


def test_counting_a_database_without_end_ends() -> None:
    class Circle(Listing):
        def get_json(self, url: str, headers: Any = None) -> Any:
            return super().get_json(re.sub(r"paging\(\d+", "paging(1", url))

    with pytest.raises(EndlessReplyError, match="expected an end"):
        Aflow(AflowSource(), FilterConfig(), None, Circle(1000)).count()  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["list", "dictionary"])
def test_a_last_page_that_is_full_is_followed_by_the_end(form: Any) -> None:
    entries = real_entries()[:40]
    with Aflux(entries, form) as server:
        pages = list(walk(database(server.endpoint, page_size=20)))
    assert [len(page.records) for page in pages] == ([20, 20, 0] if form == "list" else [20, 20])
    assert [record.id for page in pages for record in page.records] == sorted(ids(entries))
    assert pages[-1].total == 40
    assert pages[0].total == (None if form == "list" else 40)


def test_any_page_may_be_asked_for_again_and_with_another_page_size() -> None:
    entries = real_entries()[:100]
    with Aflux(entries) as server:
        source = database(server.endpoint, page_size=30)
        first, second, *_ = walk(source)
        assert source.page(first.cursor) == second
        assert source.page(None) == first
        # A process that stopped after one page of 30 goes on with pages of 7: some come twice, none is lost.
        rest = [r.id for page in walk(database(server.endpoint, page_size=7), first.cursor) for r in page.records]
    assert {record.id for record in first.records} | set(rest) == ids(entries)
    assert len(rest) < 100 - 30 + 7


@pytest.mark.parametrize("cursor", ["3:0", "0", "0:-1", "nonsense"])
def test_a_cursor_of_another_query_is_refused(cursor: str) -> None:
    with pytest.raises(SourceError, match="names no page of this query"):
        database("http://127.0.0.1:1/", ("Ta", "W")).page(cursor)


def test_stamps_are_those_of_the_pages_and_show_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aflow, "LISTING_PAGE", 500)
    entries = real_entries()
    with Aflux(entries) as server:
        source = database(server.endpoint)
        records = download(source)
        before = {name: stamp for part in source.stamps() for name, stamp in part.items()}
        assert before == {record.id: record.stamp for record in records.values()}
        assert None not in before.values()
        gone, changed = server.entries[17]["auid"], server.entries[20]["auid"]
        server.entries[20] = server.entries[20] | {
            "aflowlib_date": ["20200101_00:00:00_GMT-5", "20260101_00:00:00_GMT-5"]
        }
        del server.entries[17]
        after = {name: stamp for part in source.stamps() for name, stamp in part.items()}
        assert before.keys() - after.keys() == {gone}
        assert [name for name in after if after[name] != before[name]] == [changed]
        fetched = source.fetch([changed, gone, "aflow:0000000000000000"])
    assert [(record.id, record.stamp) for record in fetched] == [(changed, "20260101_00:00:00_GMT-5")]
    assert fetched[0].body["geometry"] == next(e for e in entries if e["auid"] == changed)["geometry"]


@pytest.mark.parametrize("form", ["list", "dictionary", "text"])
def test_records_fetched_by_id_equal_those_of_the_pages(form: Any) -> None:
    entries = real_entries()[:60]
    with Aflux(entries, form) as server:
        source = database(server.endpoint, catalogs=("ICSD", "LIB2", "LIB3"), where="Egap(*9),prototype")
        records = download(source)
        names = list(records)[: source.fetch_size]
        assert len(names) == source.fetch_size
        assert {record.id: record for record in source.fetch(names)} == {name: records[name] for name in names}
        assert source.fetch([]) == []


def test_an_id_that_could_break_out_of_the_query_is_refused() -> None:
    with pytest.raises(SourceError, match="is no id of AFLOW"):
        database("http://127.0.0.1:1/").fetch(["aflow:1'),$paging(0"])


def test_aflow_states_no_release() -> None:
    assert database("http://127.0.0.1:1/").version() is None


def test_subsets_are_asked_one_request_each_when_they_are_small() -> None:
    system = ("B", "Ta", "W")
    with Aflux([]) as server:
        source = database(server.endpoint, system)
        assert [page.cursor for page in walk(source)] == [*(f"{leg}:0" for leg in range(1, 7)), None]
    pages = [query for query in asked(server) if "$paging(1,400)" in query]
    subsets = [",".join(subset) for size in (1, 2, 3) for subset in combinations(system, size)]
    assert [re.search(r"[^n]species\(([^)]*)\)", query)[1] for query in pages] == subsets  # type: ignore[index]
