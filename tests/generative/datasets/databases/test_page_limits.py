"""Servers that hand out fewer records at once than asked for: all come, or what is missing is said."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from generative.datasets.config import AflowSource, FilterConfig
from generative.datasets.databases import aflow
from generative.datasets.databases.aflow import Aflow
from generative.datasets.databases.database import Database
from generative.datasets.databases.errors import BrokenReplyError
from generative.datasets.databases.harvest import Harvest
from generative.datasets.databases.optimade_records import STRUCTURE_FIELDS
from generative.datasets.databases.store import Store
from tests.servers import materials_project_client, optimade_client
from tests.servers.aflux import Aflux, Entry, walk
from tests.servers.loopback import Loopback, Reply, Request
from tests.servers.materials_project import MaterialsProjectServer

SYSTEM = ("B", "Ta", "W")


@dataclass
class Direct:
    """Stands in for Access: asks a server that is not running by calling it."""

    server: Aflux
    n_requests: int = 0
    n_retries: int = 0

    def get_json(self, url: str, headers: Any = None) -> Any:
        self.n_requests += 1
        return self.server.answer(Request("GET", url.removeprefix(self.server.url), Message()))

    def close(self) -> None:
        pass


def entries(n: int) -> list[Entry]:
    """Entries of all seven subsets of the system."""
    cell = {"geometry": [4, 4, 4, 90, 90, 90], "positions_fractional": [[0, 0, 0]]}
    subsets = [[e for k, e in enumerate(SYSTEM) if mask >> k & 1] for mask in range(1, 8)]
    return [
        {"auid": f"aflow:{k:016x}", "species": species, "nspecies": len(species), "composition": [1], **cell}
        for k in range(n)
        for species in [subsets[k * k % 7]]
    ]


def afluxes(seed: int) -> Iterator[tuple[Aflux, int, random.Random]]:
    """Servers of random lengths, limits and habits, and a page size; one in three has its limit below that."""
    rng = random.Random(seed)
    for _ in range(25):
        page_size = rng.randint(1, 40)
        page_max = rng.choice([page_size, rng.randint(1, page_size), rng.randint(page_size, 60)])
        n = rng.choice([rng.randint(0, 130), page_max * rng.randint(1, 3), page_size * rng.randint(1, 3), page_max + 1])
        form, steps = rng.choice(["list", "dictionary", "text"]), rng.choice(["granted", "asked"])
        server = Aflux(entries(n), form, page_max, steps, counts=rng.random() < 0.7)
        yield server, page_size, rng
        server._server.server_close()


def source(
    server: Aflux, page_size: int, elements: tuple[str, ...] | None = None, access: Direct | None = None
) -> tuple[Aflow, Direct]:
    access = access or Direct(server)
    config = AflowSource(endpoint=server.endpoint, page_size=page_size)
    return Aflow(config, FilterConfig(), elements, access), access  # type: ignore[arg-type]


def harvested(database: Database, access: Any, folder: Path) -> tuple[set[str], tuple[str, ...]]:
    """Ids in the store, and the warnings; the last progress told is held against the ids."""
    told: list[tuple[int, int | None]] = []
    harvest = Harvest(database, access, folder)
    harvest.download(progress=lambda name, n, expected: told.append((n, expected)))
    with Store.opened(harvest.path, write=False) as store:
        found = {record.id for record in store.records()}
    assert told[-1][0] == len(found)
    return found, harvest.record().warnings


@pytest.mark.parametrize("seed", range(6))
def test_all_entries_of_aflow_come_whatever_its_limit(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aflow, "COUNTING_PAGE", 24)
    monkeypatch.setattr(aflow, "LISTING_PAGE", 30)
    for place, (server, page_size, rng) in enumerate(afluxes(seed)):
        truth = {entry["auid"] for entry in server.entries}
        database, access = source(server, page_size, rng.choice([None, SYSTEM]))
        assert harvested(database, access, tmp_path / str(place)) == (truth, ())
        assert database.count() == len(truth)
        assert [name for part in database.stamps() for name in part] != [] or not truth
        assert {name for part in database.stamps() for name in part} == truth
        wanted = rng.sample(sorted(truth), min(len(truth), database.fetch_size))
        assert {record.id for record in database.fetch([*wanted, "aflow:ffff"])} == set(wanted)


@pytest.mark.parametrize("seed", range(3))
def test_a_download_of_aflow_goes_on_in_another_process_at_any_page(seed: int) -> None:
    for server, page_size, rng in afluxes(seed):
        elements, cursor, found = rng.choice([None, SYSTEM]), None, list[str]()
        while True:
            page = source(server, page_size, elements)[0].page(cursor)
            found += [record.id for record in page.records]
            cursor = page.cursor
            if cursor is None:
                break
        assert sorted(found) == sorted(entry["auid"] for entry in server.entries), "none lost, none twice"
        assert page.total == len(found)


@dataclass
class Lowering(Direct):
    """A server whose limit falls once, before request number `at`."""

    at: int = 0

    def get_json(self, url: str, headers: Any = None) -> Any:
        if self.n_requests == self.at and self.server.page_max is not None:
            self.server.page_max = -(-self.server.page_max // 2)
        return super().get_json(url, headers)


def test_a_limit_that_is_lowered_under_way_costs_no_entry_in_silence(tmp_path: Path) -> None:
    n_whole = 0
    for place, (server, page_size, rng) in enumerate([*afluxes(11), *afluxes(12)]):
        database, access = source(server, page_size, access=Lowering(server, at=rng.randint(1, 6)))
        try:
            found, warnings = harvested(database, access, tmp_path / str(place))
        except BrokenReplyError:
            continue  # one sentence, and what has come is kept
        assert found == {entry["auid"] for entry in server.entries}
        n_whole += not warnings
    assert n_whole >= 45


def test_a_limit_costs_a_few_small_requests() -> None:
    """64 of 300: at first nobody knows that 64 is the limit; then pages are of 64."""
    server = Aflux(entries(300), page_max=64)
    database, access = source(server, 400)
    assert [len(page.records) for page in walk(database)] == [64, 64, 64, 64, 44]
    n_pages, n_probes, n_counting = 5, 2, 9
    assert access.n_requests <= n_pages + n_probes + n_counting
    server._server.server_close()


class CappedProject(MaterialsProjectServer):
    """A Materials Project that hands out at most `page_max` documents, and still counts all."""

    page_max = 1000

    def answer(self, request: Request) -> Any:
        granted = re.sub(r"_limit=(\d+)", lambda found: f"_limit={min(int(found[1]), self.page_max)}", request.path)
        return super().answer(replace(request, path=granted))


def test_all_materials_with_their_energies_come_whatever_the_limit_of_the_api() -> None:
    rng = random.Random(0)
    with CappedProject(60) as server:
        everything = dict(server.summaries)
        for page_size, page_max in [(20, 7), (20, 20), (20, 21), (50, 1), (7, 3), (60, 59)]:
            server.summaries = dict(rng.sample(sorted(everything.items()), rng.choice([21, 40, 60])))
            server.page_max = 1000
            truth = materials_project_client.records_of(materials_project_client.project(server.url, page_size=60))
            assert sum(record.body["thermo"] is not None for record in truth) > 10
            server.page_max = page_max
            database = materials_project_client.project(server.url, page_size=page_size)
            assert materials_project_client.records_of(database) == truth
            assert {name for part in database.stamps() for name in part} == {record.id for record in truth}
            assert sorted(database.fetch([record.id for record in truth]), key=lambda record: record.id) == truth


class SmallOptimade(Loopback):
    """Just enough of OPTIMADE to page through ids, in every habit of providers.

    Attributes:
        n: structures.
        page_max: most of them per page.
        links: whether a page names the next one.
        counts: what data_returned is: of the query, of the page, or missing.
        flags: whether more_data_available is told.
    """

    def __init__(self, n: int, page_max: int, links: bool = True, counts: str = "query", flags: bool = True) -> None:
        super().__init__()
        self.n, self.page_max, self.links, self.counts, self.flags = n, page_max, links, counts, flags

    def answer(self, request: Request) -> Reply | Any:
        if request.route != "/v1/structures":
            return Reply({"errors": [{"detail": "no such page"}]}, status=404)
        asked = re.findall(r'"(id-\d+)"', request.query.get("filter", ""))
        names = [name for name in (f"id-{k:03d}" for k in range(self.n)) if not asked or name in asked]
        start = int(request.query.get("page_offset", 0))
        end = start + min(int(request.query["page_limit"]), self.page_max)
        data = [
            {"id": name, "type": "structures", "attributes": dict.fromkeys(STRUCTURE_FIELDS)}
            for name in names[start:end]
        ]
        path = re.sub(r"&page_offset=\d+", "", request.path)
        meta: dict[str, Any] = {"api_version": "1.2.0", "query": {"representation": request.path}}
        if self.flags:
            meta["more_data_available"] = end < len(names)
        if self.counts != "missing":
            meta["data_returned"] = len(names) if self.counts == "query" else len(data)
        more = self.links and end < len(names)
        return {"data": data, "meta": meta, "links": {"next": f"{self.url}{path}&page_offset={end}" if more else None}}


def test_all_structures_come_where_links_lead_on_and_a_count_of_each_page_is_said(tmp_path: Path) -> None:
    rng = random.Random(5)
    for place in range(18):
        page_size = rng.randint(4, 30)
        page_max = rng.choice([page_size, rng.randint(3, page_size), rng.randint(page_size, 40)])
        n = rng.choice([rng.randint(0, 70), page_max * rng.randint(1, 3)])
        counts = ("query", "page", "missing")[place % 3]
        with SmallOptimade(n, page_max, counts=counts, flags=rng.random() < 0.5) as server:
            database = optimade_client.database(server.url, page_size=page_size)
            found, warnings = harvested(database, database._access, tmp_path / str(place))
        assert found == {f"id-{k:03d}" for k in range(n)}
        n_last = n - (n - 1) // min(page_size, page_max) * min(page_size, page_max) if n else 0
        said = [f"the database counts {n_last} records, but gives {n} when all are asked for"]
        assert list(warnings) == (said if counts == "page" and n_last != n else [])


@pytest.mark.parametrize("flags", [True, False])
def test_a_provider_that_counts_more_than_its_pages_hold_is_refused_with_both_numbers(
    flags: bool, tmp_path: Path
) -> None:
    with SmallOptimade(30, 8, links=False, flags=flags) as server:
        database = optimade_client.database(server.url, page_size=10)
        with pytest.raises(BrokenReplyError, match="pages end after 8 of the 30 structures it counts.* limit to 8"):
            harvested(database, database._access, tmp_path)


def test_records_that_do_not_come_by_id_are_said(tmp_path: Path) -> None:
    class Forgetful(SmallOptimade):
        """Lists and pages through all, but knows every third by id no more."""

        def answer(self, request: Request) -> Reply | Any:
            reply = super().answer(request)
            if isinstance(reply, dict) and "id-" in request.path:
                reply["data"] = [body for body in reply["data"] if int(body["id"][3:]) % 3]
            return reply

    with Forgetful(30, 100) as server:
        database = optimade_client.database(server.url, page_size=10)
        harvest = Harvest(database, database._access, tmp_path)
        harvest.download()
        assert harvest.record().warnings == ()
        harvest = Harvest(database, database._access, tmp_path)
        harvest.download(refresh=True)  # without dates, all are asked for again
    assert harvest.record().warnings == (
        "10 of 30 records that the database lists, such as 'id-000', did not come when asked for by id: refresh the "
        "download later",
    )
